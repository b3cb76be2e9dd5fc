//! What a request's path and query name.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, RawPathParams};
use grey_core::{Error, ModelId, ModelRef, Result, VersionChoice};
use http::request::Parts;

use super::error::{ApiError, shown};

/// The model, and the version if the path has one.
pub(crate) struct Target(pub ModelRef);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|e| Error::invalid(format!("the path is not valid: {e}")))?;
        let (mut id, mut version) = (None, VersionChoice::Latest);
        for (name, value) in &params {
            match name {
                "model" => id = Some(ModelId::new(value)?),
                "version" => version = value.parse()?,
                _ => {}
            }
        }
        let id = id.ok_or_else(|| Error::internal("the route names no model"))?;
        Ok(Target(ModelRef { id, version }))
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

/// The method and path, for messages.
pub(crate) struct Path(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Path {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Infallible> {
        Ok(Path(shown(parts.uri.path())))
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
    use super::decode;

    #[test]
    fn percent_encoding() {
        assert_eq!(decode("a%20b+c%C3%a9").unwrap(), "a b cé");
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }
}
