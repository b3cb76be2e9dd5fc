//! The protocol's routes besides inference.

use axum::{
    extract::{RawPathParams, Request, State},
    response::Response,
};
use grey_core::{Error, Payload, Result};
use grey_serving::BytesPermit;
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Answer, Shared,
    error::{json_response, shown},
    infer::read_body,
    target::Target,
    upload,
};
use crate::oip::{
    json::{self, Given, Scalar},
    views,
};

/// `GET /v2`.
pub(super) async fn server() -> Response {
    json_response(StatusCode::OK, &views::server_metadata())
}

/// `GET /v2/health/live`: that the process answers is all there is to tell.
pub(super) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({"live": true}))
}

/// `GET /v2/health/ready`.
pub(super) async fn ready(State(app): State<Shared>) -> Answer {
    app.node.ready()?;
    Ok(json_response(StatusCode::OK, &json!({"ready": true})))
}

/// `GET /v2/models`.
pub(super) async fn models(State(app): State<Shared>) -> Answer {
    let mut names: Vec<_> = app.node.list().await?.into_iter().map(|m| m.id).collect();
    names.dedup();
    Ok(json_response(StatusCode::OK, &json!({"models": names})))
}

/// `GET /v2/models/{m}`.
pub(super) async fn metadata(State(app): State<Shared>, target: Target) -> Answer {
    let (id, all) = (target.id.clone(), target.version.is_none());
    let details = app.node.show(&target.model()).await?;
    let versions = if all { app.node.versions(&id).await? } else { vec![details.status.version.clone()] };
    let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
    Ok(json_response(StatusCode::OK, &views::model_metadata(&details, &versions)))
}

/// `GET …/ready`.
pub(super) async fn model_ready(State(app): State<Shared>, target: Target) -> Answer {
    let model = target.model();
    app.node.model_ready(&model).await?;
    Ok(json_response(StatusCode::OK, &json!({"name": model.id, "ready": true})))
}

/// `GET …/config`.
pub(super) async fn config(State(app): State<Shared>, target: Target) -> Answer {
    Ok(json_response(StatusCode::OK, &views::model_config(&app.node.show(&target.model()).await?)))
}

/// `GET …/stats`.
pub(super) async fn stats(State(app): State<Shared>, target: Target) -> Answer {
    let model = target.one_or_all(&app.node).await?;
    Ok(json_response(StatusCode::OK, &views::statistics(&app.node.statistics(Some(&model)).await?)))
}

/// `GET /v2/models/stats`.
pub(super) async fn all_stats(State(app): State<Shared>) -> Answer {
    Ok(json_response(StatusCode::OK, &views::statistics(&app.node.statistics(None).await?)))
}

/// `POST /v2/repository/index`.
pub(super) async fn index(State(app): State<Shared>, request: Request) -> Answer {
    let (body, _permit) = control_body(&app, request).await?;
    let ready = match body.ready {
        None | Some(Scalar::Null) => false,
        Some(Scalar::Bool(b)) => b,
        Some(other) => {
            return Err(Error::invalid(format!("ready is {}, expected true or false", other.shown())).into());
        }
    };
    Ok(json_response(StatusCode::OK, &views::index(&app.node.list().await?, ready)))
}

/// `POST /v2/repository/models/{m}/load`. With `file:VERSION/PATH` parameters (Triton's model
/// repository extension, where the node allows it) the files are registered first.
pub(super) async fn load(State(app): State<Shared>, target: Target, request: Request) -> Answer {
    let model = target.model();
    let (body, mut permit) = control_body(&app, request).await?;
    let parameters = body.parameters.unwrap_or_default().0;
    if parameters.is_empty() {
        app.node.load(&model).await?;
        return Ok(json_response(StatusCode::OK, &json!({})));
    }
    if !app.settings.allow_upload() {
        return Err(upload::refused(&parameters).into());
    }
    let upload = upload::parse(&model.id, &parameters, &mut |bytes| permit.grow(bytes))?;
    drop(parameters);
    for (version, files) in upload.versions {
        let named = format!("version '{version}'");
        app.node.add_files(model.id.clone(), version, files).await.map_err(|e| e.context(named))?;
    }
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// `POST /v2/repository/models/{m}/unload`. No model depends on another here, so
/// `unload_dependents` changes nothing.
pub(super) async fn unload(State(app): State<Shared>, target: Target, request: Request) -> Answer {
    control_body(&app, request).await?;
    app.node.unload(&target.one_or_all(&app.node).await?).await?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// Routes with the repository's name, which is optional where there are several.
pub(super) async fn named_repository(params: RawPathParams) -> Answer {
    let name = params.iter().find(|(key, _)| *key == "repository").map_or("", |(_, name)| name);
    Err(Error::not_found(format!(
        "unknown repository '{}': this server has one repository, which has no name; leave the name out of the path",
        shown(name)
    ))
    .into())
}

/// What control requests may say; other keys are left unread.
#[derive(Default, Deserialize)]
struct ControlBody {
    #[serde(default, deserialize_with = "json::owned")]
    ready: Option<Scalar<'static>>,
    #[serde(default)]
    parameters: Option<Given>,
}

/// The control request, and the permit for its bytes; nothing at all counts as `{}`.
async fn control_body(app: &Shared, request: Request) -> Result<(ControlBody, BytesPermit)> {
    json_body(app, request).await
}

/// The JSON object of a request, and the permit for its bytes; nothing at all counts as `{}`.
pub(super) async fn json_body<T: Default + DeserializeOwned>(
    app: &Shared,
    request: Request,
) -> Result<(T, BytesPermit)> {
    let (parts, incoming) = request.into_parts();
    let (body, mut permit): (Payload, _) = read_body(app, &parts.headers, incoming).await?;
    let data = json::contiguous(&body, &mut |bytes| permit.grow(bytes))?;
    drop(body);
    if data.trim_ascii().is_empty() {
        return Ok((T::default(), permit));
    }
    let bad = |why: String| Error::invalid(format!("the body is not a valid JSON object: {why}"));
    let text = std::str::from_utf8(&data).map_err(|e| bad(e.to_string()))?;
    // The parsed texts are copies.
    permit.grow(text.len().saturating_add(json::survey(text).map_err(bad)?))?;
    Ok((json::object(text).map_err(bad)?, permit))
}
