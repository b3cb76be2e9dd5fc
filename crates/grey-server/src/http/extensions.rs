//! Triton's extensions that this server has not, and does not advertise: shared memory, traces, settings of
//! the log. What can be answered truthfully without them is, as Triton answers it, since clients ask it before
//! they do anything else; the rest is refused with what to do instead.

use axum::{
    extract::{RawPathParams, Request, State},
    response::Response,
};
use grey_core::{Error, ErrorKind};
use http::StatusCode;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{json, value::RawValue};

use super::{
    Answer, Shared,
    error::{json_response, shown},
    oip::json_body,
    target::Target,
};
use crate::oip::json::{each_parameter, expecting_parameters};

/// `GET /v2/{system,cuda}sharedmemory/status`: no region is registered.
pub(super) async fn no_regions() -> Response {
    json_response(StatusCode::OK, &json!([]))
}

/// `GET …/region/{region}/status`.
pub(super) async fn no_region(params: RawPathParams) -> Answer {
    let region = params.iter().find(|(key, _)| *key == "region").map_or("", |(_, name)| name);
    Err(Error::not_found(format!(
        "no shared memory region '{}' is registered: this server takes none; {INSTEAD_OF_REGIONS}",
        shown(region)
    ))
    .into())
}

/// `POST …[/region/{region}]/unregister`: afterwards it is not registered, which it never was.
pub(super) async fn unregister() -> Response {
    json_response(StatusCode::OK, &json!({}))
}

/// `POST …/region/{region}/register`.
pub(super) async fn register() -> Answer {
    Err(unsupported(&format!("shared memory is not supported by this server: {INSTEAD_OF_REGIONS}")))
}

const INSTEAD_OF_REGIONS: &str = "send tensors as binary data in the body";

/// `GET /v2/trace/setting`.
pub(super) async fn trace() -> Response {
    json_response(StatusCode::OK, &json!({"trace_level": ["OFF"]}))
}

/// `GET /v2/models/{m}/trace/setting`.
pub(super) async fn model_trace(State(app): State<Shared>, target: Target) -> Answer {
    app.node.show(&target.model()).await?;
    Ok(trace().await)
}

/// `POST /v2/trace/setting`: no trace may be asked for, and settings may be cleared.
pub(super) async fn set_trace(State(app): State<Shared>, request: Request) -> Answer {
    let (TraceSettings(asked), _permit) = json_body(&app, request).await?;
    match asked {
        None => Ok(trace().await),
        Some(key) => Err(unsupported(&format!(
            "the trace setting '{}' is not supported: this server makes no traces, so trace_level is OFF and \
             nothing else can be set",
            shown(&key)
        ))),
    }
}

/// The first setting that asks for anything but no traces.
#[derive(Default)]
struct TraceSettings(Option<String>);

impl<'de> Deserialize<'de> for TraceSettings {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Settings;
        impl<'de> Visitor<'de> for Settings {
            type Value = TraceSettings;

            expecting_parameters!();

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut asked = None;
                each_parameter(map, |key, map| {
                    let value: &RawValue = map.next_value()?;
                    let value = value.get().split_ascii_whitespace().collect::<String>();
                    if value != "null" && (key != "trace_level" || value != r#"["OFF"]"#) {
                        asked.get_or_insert_with(|| key.into_owned());
                    }
                    Ok(())
                })?;
                Ok(TraceSettings(asked))
            }
        }
        d.deserialize_any(Settings)
    }
}

/// `POST /v2/models/{m}/trace/setting`.
pub(super) async fn set_model_trace(State(app): State<Shared>, target: Target, request: Request) -> Answer {
    app.node.show(&target.model()).await?;
    set_trace(State(app), request).await
}

/// `/v2/logging`.
pub(super) async fn logging() -> Answer {
    Err(unsupported(
        "the settings of the log are not read or changed over the protocol: a node takes them when it starts \
         (grey serve --log FILTER --log-format text|json)",
    ))
}

fn unsupported(why: &str) -> super::ApiError {
    Error::new(ErrorKind::Unsupported, why).into()
}
