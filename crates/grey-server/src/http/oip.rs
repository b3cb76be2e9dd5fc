//! The protocol's routes besides inference.

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use grey_core::{Error, Payload, Result, VersionChoice};
use grey_serving::BytesPermit;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Answer, Shared,
    error::{json_response, shown},
    infer::read_body,
    target::{Path, Target},
    upload,
};
use crate::oip::views;

/// `GET /v2`.
pub(super) async fn server() -> Response {
    json_response(StatusCode::OK, &views::server_metadata())
}

/// `GET /v2/health/live`: that the process answers is all there is to tell.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// `GET /v2/health/ready`.
pub(super) async fn ready(State(app): State<Shared>) -> Answer {
    app.node.ready()?;
    Ok(StatusCode::OK.into_response())
}

/// `GET /v2/models`.
pub(super) async fn models(State(app): State<Shared>) -> Answer {
    let mut names: Vec<_> = app.node.list().await?.into_iter().map(|m| m.id).collect();
    names.dedup();
    Ok(json_response(StatusCode::OK, &json!({"models": names})))
}

/// `GET /v2/models/{m}`.
pub(super) async fn metadata(State(app): State<Shared>, Target(model): Target) -> Answer {
    let details = app.node.show(&model).await?;
    let versions = match &model.version {
        VersionChoice::Exact(v) => vec![v.to_string()],
        VersionChoice::Latest => app.node.versions(&model.id).await?.iter().map(ToString::to_string).collect(),
    };
    Ok(json_response(StatusCode::OK, &views::model_metadata(&details, &versions)))
}

/// `GET …/ready`.
pub(super) async fn model_ready(State(app): State<Shared>, Target(model): Target) -> Answer {
    app.node.model_ready(&model).await?;
    Ok(StatusCode::OK.into_response())
}

/// `GET …/config`.
pub(super) async fn config(State(app): State<Shared>, Target(model): Target) -> Answer {
    Ok(json_response(StatusCode::OK, &views::model_config(&app.node.show(&model).await?)))
}

/// `GET …/stats`.
pub(super) async fn stats(State(app): State<Shared>, Target(model): Target) -> Answer {
    Ok(json_response(StatusCode::OK, &views::statistics(&app.node.statistics(Some(&model)).await?)))
}

/// `GET /v2/models/stats`.
pub(super) async fn all_stats(State(app): State<Shared>) -> Answer {
    Ok(json_response(StatusCode::OK, &views::statistics(&app.node.statistics(None).await?)))
}

/// `POST /v2/repository/index`.
pub(super) async fn index(State(app): State<Shared>, request: Request) -> Answer {
    let (body, _permit) = control_body(&app, request).await?;
    let ready = match body.get("ready") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(other) => {
            return Err(
                Error::invalid(format!("ready is {}, expected true or false", shown(&other.to_string()))).into()
            );
        }
    };
    Ok(json_response(StatusCode::OK, &views::index(&app.node.list().await?, ready)))
}

/// `POST /v2/repository/models/{m}/load`. With `file:VERSION/PATH` parameters (Triton's model
/// repository extension, where the node allows it) the files are registered first.
pub(super) async fn load(State(app): State<Shared>, Target(model): Target, request: Request) -> Answer {
    let (mut body, mut permit) = control_body(&app, request).await?;
    let parameters = match body.remove("parameters") {
        None | Some(Value::Null) => serde_json::Map::new(),
        Some(Value::Object(p)) => p,
        Some(other) => {
            let found = shown(&other.to_string());
            return Err(Error::invalid(format!("parameters is {found}, expected an object")).into());
        }
    };
    if parameters.is_empty() {
        app.node.load(&model).await?;
        return Ok(json_response(StatusCode::OK, &json!({})));
    }
    if !app.allow_upload {
        return Err(upload::refused(&parameters).into());
    }
    let upload = upload::parse(&model.id, &parameters)?;
    permit.grow(upload.bytes())?;
    for (version, files) in upload.versions {
        app.node.add_files(model.id.clone(), version, files).await?;
    }
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// `POST /v2/repository/models/{m}/unload`. No model depends on another here, so
/// `unload_dependents` changes nothing.
pub(super) async fn unload(State(app): State<Shared>, Target(model): Target, request: Request) -> Answer {
    control_body(&app, request).await?;
    app.node.unload(&model).await?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// Extensions that this server has not, and does not advertise.
pub(super) async fn unsupported(Path(path): Path) -> Answer {
    Err(super::unsupported(&format!("'{path}'")))
}

/// The JSON object of a control request, and the permit for its bytes; nothing at all counts as `{}`.
async fn control_body(app: &Shared, request: Request) -> Result<(serde_json::Map<String, Value>, BytesPermit)> {
    let (parts, incoming) = request.into_parts();
    let (body, mut permit): (Payload, _) = read_body(app, &parts.headers, incoming).await?;
    let text = body.to_contiguous();
    if text.trim_ascii().is_empty() {
        return Ok((serde_json::Map::new(), permit));
    }
    // The parsed texts are copies.
    permit.grow(text.len())?;
    let object =
        serde_json::from_slice(&text).map_err(|e| Error::invalid(format!("the body is not a JSON object: {e}")))?;
    Ok((object, permit))
}
