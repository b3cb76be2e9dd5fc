//! What a request's path and query name.

use axum::extract::{FromRequestParts, RawPathParams};
use grey_core::{Error, Label, ModelId, ModelRef, Result, Version, VersionChoice};
use grey_serving::Node;
use http::request::Parts;

use super::error::{ApiError, shown};

/// The model, and the version if the path has one. No version is not the latest: where a change can
/// be to all versions, it is to all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub id: ModelId,
    pub version: Option<VersionChoice>,
}

impl Target {
    /// The model where one version is meant: the latest if none is named.
    pub fn model(self) -> ModelRef {
        ModelRef { id: self.id, version: self.version.unwrap_or_default() }
    }

    /// The version that the path names, a label being the one that it means now; `None` if it names none.
    pub async fn named(&self, node: &Node) -> Result<Option<Version>> {
        match &self.version {
            None => Ok(None),
            Some(version) => {
                let named = ModelRef { id: self.id.clone(), version: version.clone() };
                Ok(Some(node.show(&named).await?.status.version))
            }
        }
    }

    /// The one version that the path names, else [`VersionChoice::Latest`], which the node's changes
    /// and statistics take for all versions.
    pub async fn one_or_all(self, node: &Node) -> Result<ModelRef> {
        let version = self.named(node).await?.map_or(VersionChoice::Latest, VersionChoice::Exact);
        Ok(ModelRef { id: self.id, version })
    }
}

impl Target {
    /// What the path of an inference request names; `None` for other paths, and for those that are
    /// percent-encoded, which the router knows as well.
    pub fn of_inference(path: &str) -> Option<Result<Target>> {
        let named = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
        let (id, version) = match named.split_once('/') {
            None => (named, None),
            Some((id, rest)) => (id, Some(rest.strip_prefix("versions/")?)),
        };
        let odd = |part: &str| part.is_empty() || part.contains(['/', '%']);
        if odd(id) || version.is_some_and(odd) {
            return None;
        }
        Some(ModelId::new(id).and_then(|id| Ok(Target { id, version: version.map(str::parse).transpose()? })))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|e| Error::invalid(format!("the path is not valid: {e}")))?;
        let (mut id, mut version) = (None, None);
        for (name, value) in &params {
            match name {
                "model" => id = Some(ModelId::new(value)?),
                "version" => version = Some(value.parse()?),
                _ => {}
            }
        }
        let id = id.ok_or_else(|| Error::internal("the route names no model"))?;
        Ok(Target { id, version })
    }
}

/// A label of a model, as the path names it.
pub(crate) struct Labelled {
    pub id: ModelId,
    pub label: Label,
}

impl<S: Send + Sync> FromRequestParts<S> for Labelled {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, ApiError> {
        let id = Target::from_request_parts(parts, state).await?.id;
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|e| Error::invalid(format!("the path is not valid: {e}")))?;
        let label = params.iter().find(|(name, _)| *name == "label").map(|(_, value)| value);
        let label = label.ok_or_else(|| Error::internal("the route names no label"))?;
        Ok(Labelled { id, label: Label::new(label)? })
    }
}

/// The query's pairs, decoded, in order.
pub(crate) struct Query(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, ApiError> {
        let pairs = parts.uri.query().unwrap_or("").split('&').filter(|p| !p.is_empty());
        let decoded = pairs.map(|p| {
            let (key, value) = p.split_once('=').unwrap_or((p, ""));
            Ok((decode(key)?, decode(value)?))
        });
        Ok(Query(decoded.collect::<Result<_>>()?))
    }
}

/// Percent-decoding of one key or value (`+` is a space, as forms write it).
fn decode(text: &str) -> Result<String> {
    let bad = || Error::invalid(format!("the query has a wrong percent-encoding in '{}'", shown(text)));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(bad);
                (digit()? * 16 + digit()?) as u8
            }
            b => b,
        });
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, extract::Request, routing::get};
    use http_body_util::BodyExt;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn no_version_is_not_the_latest() {
        async fn shown(target: Target) -> String {
            format!("{} {:?}", target.id, target.version)
        }
        let router = Router::new().route("/{model}", get(shown)).route("/{model}/versions/{version}", get(shown));
        let service = TowerToHyperService::new(router);
        for (path, expected) in [
            ("/m", "m None"),
            ("/m/versions/latest", "m Some(Latest)"),
            ("/m/versions/7", "m Some(Exact(Version(\"7\")))"),
            ("/m/versions/%20", "{\"error\":\"invalid version ' '"),
            ("/.m", "{\"error\":\"invalid model name '.m'"),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let body = service.call(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).starts_with(expected), "{path}: {body:?}");
        }
    }

    #[test]
    fn paths_of_inference() {
        let of = |path| Target::of_inference(path).map(|t| t.map(|t| format!("{} {:?}", t.id, t.version)));
        assert_eq!(of("/v2/models/m/infer").unwrap().unwrap(), "m None");
        assert_eq!(of("/v2/models/m/versions/7/infer").unwrap().unwrap(), "m Some(Exact(Version(\"7\")))");
        assert_eq!(of("/v2/models/m/versions/latest/infer").unwrap().unwrap(), "m Some(Latest)");
        for error in ["/v2/models/.m/infer", "/v2/models/m/versions/ /infer"] {
            assert!(of(error).unwrap().is_err(), "{error}");
        }
        for other in [
            "/v2/models//infer",
            "/v2/models/m%20/infer",
            "/v2/models/m/versions//infer",
            "/v2/models/m/versions/1/2/infer",
            "/v2/models/m/stats/infer",
            "/v2/models/m/infer/",
            "/v2/models/infer",
            "/v2/infer",
        ] {
            assert!(of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(decode("a%20b+c%C3%a9").unwrap(), "a b cé");
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
