//! Routes: the Open Inference Protocol with Triton's extensions under `/v2`, Grey's own API under
//! `/grey/v1`, and `/metrics`. Handlers translate; the node decides.

mod body;
mod error;
mod front;
mod grey_api;
mod guard;
mod infer;
mod linger;
mod oip;
mod proofs;
mod target;
mod upload;

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use futures_util::FutureExt;
use grey_core::{Error, ErrorKind};
use grey_serving::Node;
use http::{Method, StatusCode, Uri, header};

use self::error::{ApiError, error_response, shown};
pub(crate) use self::{front::Front, guard::Guard, linger::Lingering};
use crate::settings::Settings;

/// What handlers share.
pub(crate) struct App {
    pub node: Node,
    pub settings: Settings,
}

/// State of the router. Cheap to clone.
pub(crate) type Shared = Arc<App>;
/// What handlers return.
type Answer = std::result::Result<Response, ApiError>;

/// All routes.
fn router(app: Shared, room: Lingering) -> Router {
    let mut models = Router::new();
    for at in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        models = models
            .route(at, get(oip::metadata))
            .route(&format!("{at}/ready"), get(oip::model_ready))
            .route(&format!("{at}/infer"), post(infer::infer))
            .route(&format!("{at}/config"), get(oip::config))
            .route(&format!("{at}/stats"), get(oip::stats))
            .route(&format!("{at}/trace/setting"), any(oip::unsupported));
    }
    // Everything that changes state lies behind the guard.
    let mut admin = Router::new()
        .route("/v2/repository/models/{model}/load", post(oip::load))
        .route("/v2/repository/models/{model}/unload", post(oip::unload))
        .route("/grey/v1/models", get(grey_api::list))
        .route("/grey/v1/engines", get(grey_api::engines))
        .route("/grey/v1/node", get(grey_api::node))
        .route("/grey/v1/replay", post(proofs::replay))
        .route("/grey/v1/models/{model}", get(grey_api::show).post(grey_api::add).delete(grey_api::remove))
        .route(
            "/grey/v1/models/{model}/versions/{version}",
            get(grey_api::show).post(grey_api::add).delete(grey_api::remove),
        );
    for at in ["/grey/v1/models/{model}", "/grey/v1/models/{model}/versions/{version}"] {
        admin = admin
            .route(&format!("{at}/load"), post(grey_api::load))
            .route(&format!("{at}/unload"), post(grey_api::unload));
    }
    let admin = admin.route_layer(middleware::from_fn_with_state(app.clone(), guarded));
    let router = Router::new()
        .route("/v2", get(oip::server))
        .route("/v2/health/live", get(oip::live))
        .route("/v2/health/ready", get(oip::ready))
        .route("/v2/models", get(oip::models))
        .route("/v2/models/stats", get(oip::all_stats))
        .route("/v2/repository/index", post(oip::index))
        .route("/v2/repository/{repository}/index", post(oip::named_repository))
        .route("/v2/repository/{repository}/models/{model}/load", post(oip::named_repository))
        .route("/v2/repository/{repository}/models/{model}/unload", post(oip::named_repository))
        .route("/v2/systemsharedmemory/{*rest}", any(oip::unsupported))
        .route("/v2/cudasharedmemory/{*rest}", any(oip::unsupported))
        .route("/v2/trace/setting", any(oip::unsupported))
        .route("/v2/logging", any(oip::unsupported))
        .route("/grey/v1/sessions/{digest}", get(proofs::session))
        .route("/metrics", get(metrics))
        .merge(models)
        .merge(admin)
        .with_state(app);
    with_edges(router, room)
}

/// JSON for what no handler answers: unknown routes, wrong methods, panics.
pub(crate) fn with_edges(router: Router, room: Lingering) -> Router {
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(contain_panics))
        .layer(middleware::from_fn_with_state(room, linger::linger))
}

async fn guarded(State(app): State<Shared>, request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD)
        && let Err(e) = app.settings.guard(request.headers())
    {
        return ApiError(e).into_response();
    }
    next.run(request).await
}

async fn contain_panics(request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    contained(method, uri, next.run(request)).await
}

/// The answer, or what a handler that panics is answered with. No `async fn`: that would hold
/// `answer` twice, once as its argument and once as what it waits for.
fn contained(method: Method, uri: Uri, answer: impl Future<Output = Response>) -> impl Future<Output = Response> {
    // The handler's state is dropped on the way; what handlers share is locked by types that a
    // panic does not poison into inconsistency.
    AssertUnwindSafe(answer).catch_unwind().map(move |answered| {
        answered.unwrap_or_else(|panic| {
            let what = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            tracing::error!(%method, path = uri.path(), panic = what, "a handler panicked");
            ApiError(Error::internal("internal error: see the node's log")).into_response()
        })
    })
}

async fn unknown_route(request: Request) -> Response {
    error_response(StatusCode::NOT_FOUND, &format!("unknown route '{}'", shown(request.uri().path())))
}

async fn wrong_method(request: Request) -> Response {
    let message =
        format!("method {} is not allowed for '{}'", shown(request.method().as_str()), shown(request.uri().path()));
    error_response(StatusCode::METHOD_NOT_ALLOWED, &message)
}

async fn metrics(State(app): State<Shared>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.node.metrics_text()).into_response()
}

fn unsupported(what: &str) -> ApiError {
    ApiError(Error::new(ErrorKind::Unsupported, format!("{what} is not supported by this server")))
}
