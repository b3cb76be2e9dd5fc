//! Routes: the Open Inference Protocol with Triton's extensions under `/v2`, Grey's own API under
//! `/grey/v1`, and `/metrics`. Handlers translate; the node decides.

mod add;
mod body;
mod console;
mod error;
mod extensions;
mod front;
mod grey_api;
mod guard;
mod infer;
mod linger;
mod metrics;
mod oip;
mod proofs;
mod status;
mod target;
mod upload;
mod verify;

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post, put},
};
use futures_util::FutureExt;
use grey_core::{Error, ErrorKind};
use grey_serving::Node;
use http::{Method, StatusCode, Uri};

use self::error::{ApiError, error_response, shown};
pub(crate) use self::{front::Front, guard::Guard, linger::Lingering};
use crate::{config::Console, server::Connections, settings::Settings};

/// What handlers share.
pub(crate) struct App {
    pub node: Node,
    pub settings: Settings,
    /// The node's name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Room for connections.
    pub connections: Connections,
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
            .route(&format!("{at}/trace/setting"), get(extensions::model_trace).post(extensions::set_model_trace));
    }
    // Everything that changes state lies behind the guard.
    let mut admin = Router::new()
        .route("/v2/repository/models/{model}/load", post(oip::load))
        .route("/v2/repository/models/{model}/unload", post(oip::unload))
        .route("/grey/v1/models", get(grey_api::list))
        .route("/grey/v1/engines", get(grey_api::engines))
        .route("/grey/v1/node", get(grey_api::node))
        .route("/grey/v1/models/{model}", get(grey_api::show).post(add::add).delete(grey_api::remove))
        .route(
            "/grey/v1/models/{model}/versions/{version}",
            get(grey_api::show).post(add::add).delete(grey_api::remove),
        );
    admin =
        admin.route("/grey/v1/models/{model}/labels/{label}", put(grey_api::set_label).delete(grey_api::remove_label));
    for at in ["/grey/v1/models/{model}", "/grey/v1/models/{model}/versions/{version}"] {
        admin = admin
            .route(&format!("{at}/load"), post(grey_api::load))
            .route(&format!("{at}/unload"), post(grey_api::unload))
            .route(&format!("{at}/validate"), post(grey_api::validate));
    }
    let mut regions = Router::new();
    for at in ["/v2/systemsharedmemory", "/v2/cudasharedmemory"] {
        regions = regions
            .route(&format!("{at}/status"), get(extensions::no_regions))
            .route(&format!("{at}/unregister"), post(extensions::unregister))
            .route(&format!("{at}/region/{{region}}/status"), get(extensions::no_region))
            .route(&format!("{at}/region/{{region}}/register"), post(extensions::register))
            .route(&format!("{at}/region/{{region}}/unregister"), post(extensions::unregister));
    }
    let admin = admin.route_layer(middleware::from_fn_with_state(app.clone(), changes));
    // Runs a model at an operator's word, and changes nothing.
    let replay = Router::new()
        .route("/grey/v1/replay", post(proofs::replay))
        .route_layer(middleware::from_fn_with_state(app.clone(), guarded));
    // What the console shows and asks, whatever the method.
    let looks = Router::new()
        .route("/grey/v1/status", get(status::status))
        .route("/grey/v1/verify", post(verify::verify))
        .route("/console/{file}", get(console::file))
        .route_layer(middleware::from_fn_with_state(app.clone(), own_names));
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
        .route("/v2/trace/setting", get(extensions::trace).post(extensions::set_trace))
        .route("/v2/logging", any(extensions::logging))
        .route("/grey/v1/sessions/{digest}", get(proofs::session))
        .route("/metrics", get(metrics::metrics))
        .route("/", get(console::root))
        .merge(models)
        .merge(regions)
        .merge(admin)
        .merge(replay)
        .merge(looks)
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

fn reads(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

async fn guarded(State(app): State<Shared>, request: Request, next: Next) -> Response {
    if !reads(&request)
        && let Err(e) = app.settings.guard(guard::CHANGES, request.headers())
    {
        return ApiError(e).into_response();
    }
    next.run(request).await
}

/// As [`guarded`]; and this node's own page changes something only where that is allowed.
async fn changes(State(app): State<Shared>, request: Request, next: Next) -> Response {
    if !reads(&request) {
        if let Err(e) = app.settings.guard(guard::CHANGES, request.headers()) {
            return ApiError(e).into_response();
        }
        if app.settings.console() != Console::Write && guard::is_from_a_page(request.headers()) {
            let why = "a web page may not change this node: its configuration has no `console: write`";
            return ApiError(Error::new(ErrorKind::PermissionDenied, why)).into_response();
        }
    }
    next.run(request).await
}

async fn own_names(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match app.settings.guard(guard::CONSOLE, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(e) => ApiError(e).into_response(),
    }
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
