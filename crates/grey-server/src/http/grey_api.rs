//! Grey's own API: the registry of this node, and the node itself.

use std::collections::BTreeMap;

use axum::{
    extract::{Request, State},
    response::Response,
};
use grey_core::{Error, ModelRef};
use http::StatusCode;
use serde_json::json;

use super::{
    Answer, Shared, add, body,
    error::{json_response, shown},
    target::{Labelled, Query, Target},
};

/// `GET /grey/v1/models`.
pub(super) async fn list(State(app): State<Shared>) -> Answer {
    let unreadable: BTreeMap<_, _> = app.node.unreadable().iter().map(|(id, e)| (id, e.message())).collect();
    Ok(json_response(StatusCode::OK, &json!({"models": app.node.list().await?, "unreadable": unreadable})))
}

/// `GET /grey/v1/models/{m}[/versions/{v}]`.
pub(super) async fn show(State(app): State<Shared>, target: Target) -> Answer {
    Ok(json_response(StatusCode::OK, &app.node.show(&target.model()).await?))
}

/// `POST …/load`.
pub(super) async fn load(State(app): State<Shared>, target: Target) -> Answer {
    Ok(json_response(StatusCode::OK, &app.node.load(&target.model()).await?))
}

/// `POST …/unload`.
pub(super) async fn unload(State(app): State<Shared>, target: Target) -> Answer {
    app.node.unload(&target.one_or_all(&app.node).await?).await?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// `DELETE /grey/v1/models/{m}[/versions/{v}]`.
pub(super) async fn remove(State(app): State<Shared>, target: Target) -> Answer {
    let version = target.named(&app.node).await?;
    let removed = app.node.remove(&target.id, version.as_ref()).await?;
    Ok(json_response(StatusCode::OK, &json!({"removed": removed})))
}

/// `PUT /grey/v1/models/{m}/labels/{label}?version=V`: the label means that version (a name, or another label)
/// from now on.
pub(super) async fn set_label(State(app): State<Shared>, at: Labelled, Query(query): Query) -> Answer {
    let mut version = None;
    for (key, value) in query {
        match key.as_str() {
            "version" => version = Some(value.parse()?),
            k => {
                return Err(Error::invalid(format!("unknown query parameter '{}', expected version", shown(k))).into());
            }
        }
    }
    let version = version
        .ok_or_else(|| Error::invalid("the query has no 'version', expected the version that the label is to mean"))?;
    let model = ModelRef { id: at.id.clone(), version };
    app.node.label(&at.id, &at.label, Some(&model)).await?;
    Ok(json_response(StatusCode::OK, &app.node.show(&model).await?))
}

/// `DELETE /grey/v1/models/{m}/labels/{label}`.
pub(super) async fn remove_label(State(app): State<Shared>, at: Labelled) -> Answer {
    app.node.label(&at.id, &at.label, None).await?;
    Ok(json_response(StatusCode::OK, &json!({"removed": [at.label]})))
}

/// `POST /grey/v1/models/{m}[/versions/{v}]/validate`: the body may be an example request, which takes the
/// place of the version's own.
pub(super) async fn validate(State(app): State<Shared>, target: Target, request: Request) -> Answer {
    let (parts, incoming) = request.into_parts();
    let limit = app.settings.body_bytes_max().min(add::EXAMPLE_BYTES_MAX);
    let announced = body::announced(&parts.headers, limit)?.unwrap_or(0);
    let mut permit = app.node.take_bytes(announced)?;
    let given = body::read(incoming, limit, announced, &mut permit).await?;
    let example = match given.is_empty() {
        true => None,
        false => Some(add::example(&target.id, given.to_contiguous(), &mut permit)?),
    };
    Ok(json_response(StatusCode::OK, &app.node.validate(&target.model(), example).await?))
}

/// `GET /grey/v1/engines`.
pub(super) async fn engines(State(app): State<Shared>) -> Answer {
    Ok(json_response(StatusCode::OK, &json!({"engines": app.node.engines().await})))
}

/// `GET /grey/v1/node`.
pub(super) async fn node(State(app): State<Shared>) -> Response {
    let ready = app.node.ready();
    json_response(
        StatusCode::OK,
        &json!({
            "name": "grey",
            "version": env!("CARGO_PKG_VERSION"),
            "ready": ready.is_ok(),
            "reason": ready.err().map(|e| e.message().to_owned()).unwrap_or_default(),
            "proofs": app.node.identity(),
        }),
    )
}
