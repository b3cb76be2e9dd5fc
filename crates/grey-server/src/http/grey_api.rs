//! Grey's own API: the registry of this node, and the node itself.

use std::{collections::BTreeMap, pin::Pin};

use axum::{
    extract::{Request, State},
    response::Response,
};
use futures_util::{Stream, StreamExt, stream};
use grey_core::{Error, ErrorKind, Result, Version, VersionChoice};
use grey_serving::AddRequest;
use http::StatusCode;
use serde_json::json;
use tokio::time::timeout;

use super::{
    Answer, Shared, body,
    error::{json_response, shown},
    target::{Query, Target},
};

/// Largest file that an upload may have: beyond any model that one machine opens today.
const UPLOAD_BYTES_MAX: u64 = 1 << 40;

/// `GET /grey/v1/models`.
pub(super) async fn list(State(app): State<Shared>) -> Answer {
    let unreadable: BTreeMap<_, _> = app.node.unreadable().iter().map(|(id, e)| (id, e.message())).collect();
    Ok(json_response(StatusCode::OK, &json!({"models": app.node.list().await?, "unreadable": unreadable})))
}

/// `GET /grey/v1/models/{m}[/versions/{v}]`.
pub(super) async fn show(State(app): State<Shared>, target: Target) -> Answer {
    Ok(json_response(StatusCode::OK, &app.node.show(&target.model()).await?))
}

/// `POST /grey/v1/models/{m}[/versions/{v}]?version=&file=NAME&load=true|false&meta.K=V`: the
/// body is the file's bytes. 201 for a new version, 200 for bytes that were there.
pub(super) async fn add(State(app): State<Shared>, target: Target, Query(query): Query, request: Request) -> Answer {
    if body::content_coding(request.headers())?.is_some() {
        return Err(Error::new(
            ErrorKind::UnsupportedMedia,
            "a model's file is taken as it is: send it without Content-Encoding",
        )
        .into());
    }
    let mut version = match target.version {
        None => None,
        Some(VersionChoice::Exact(v)) => Some(v),
        // Which version that will be is for the registry to say, not for the caller: no name.
        Some(VersionChoice::Latest) => Some(Version::new("latest")?),
    };
    let (mut file_name, mut load, mut metadata) = (None, true, BTreeMap::new());
    for (key, value) in query {
        match key.as_str() {
            "version" if value.is_empty() => {}
            "version" => {
                let asked = Version::new(&value)?;
                if version.as_ref().is_some_and(|v| *v != asked) {
                    return Err(Error::invalid("the path and the query name different versions").into());
                }
                version = Some(asked);
            }
            "file" => file_name = Some(value),
            "load" => load = flag("load", &value)?,
            k => match k.strip_prefix("meta.").filter(|k| !k.is_empty()) {
                Some(k) => {
                    metadata.insert(k.to_owned(), value);
                }
                None => {
                    return Err(Error::invalid(format!(
                        "unknown query parameter '{}', expected version, file, load or meta.NAME",
                        shown(k)
                    ))
                    .into());
                }
            },
        }
    }
    let file_name = file_name
        .ok_or_else(|| Error::invalid("the query has no 'file', expected the file's name, e.g. file=model.onnx"))?;
    let what = AddRequest { id: target.id, version, file_name, metadata, load, bytes_max: UPLOAD_BYTES_MAX };
    let added = app.node.add(what, chunks(request)).await?;
    let status = if added.existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok(json_response(status, &added))
}

/// The body's chunks; a body that breaks off or stops ends with an error, never as if complete.
fn chunks(request: Request) -> Pin<Box<dyn Stream<Item = Result<bytes::Bytes>> + Send>> {
    let data = request.into_body().into_data_stream();
    Box::pin(stream::unfold(Some(data), |state| async move {
        let mut data = state?;
        match timeout(body::BODY_IDLE, data.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(data))),
            Ok(Some(Err(e))) => Some((Err(Error::invalid(format!("the body was cut short: {e}"))), None)),
            Err(_) => {
                let why = format!("the body stopped for {} s", body::BODY_IDLE.as_secs());
                Some((Err(Error::new(ErrorKind::DeadlineExceeded, why)), None))
            }
        }
    }))
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "" => Ok(true),
        "false" => Ok(false),
        other => Err(Error::invalid(format!("query parameter '{name}' is '{}', expected true or false", shown(other)))),
    }
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
