//! Errors as HTTP: the kind's status, its name in a header, `{"error": "..."}`, and `Retry-After` where it is known.

use axum::response::{IntoResponse, Response};
use grey_core::{Error, ErrorKind, oip::ERROR_KIND_HEADER};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

pub(crate) use crate::oip::shown;

/// Kinds that share a status are told apart by it.
static KIND: HeaderName = HeaderName::from_static(ERROR_KIND_HEADER);

/// What handlers fail with.
#[derive(Debug)]
pub(crate) struct ApiError(pub Error);

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        ApiError(e)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.0.kind() == ErrorKind::Internal {
            tracing::error!(error = %self.0, "request failed");
        }
        let mut response = error_response(status, self.0.message());
        response.headers_mut().insert(KIND.clone(), HeaderValue::from_static(self.0.kind().name()));
        if let Some(after) = self.0.retry_after() {
            // Whole seconds, at least one: 0 would invite a busy loop.
            let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON answer.
pub(crate) fn json_response<T: serde::Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(e) => ApiError(Error::internal(format!("cannot write JSON: {e}"))).into_response(),
    }
}

/// An error that has no kind of its own, e.g. 405.
pub(crate) fn error_response(status: StatusCode, message: &str) -> Response {
    json_response(status, &json!({"error": message}))
}
