//! `GET /grey/v1/status`: the node at a glance, for the console and `grey top`.

use axum::{extract::State, response::IntoResponse};
use grey_serving::NodeOverview;
use http::{StatusCode, header};
use serde::Serialize;

use super::{Answer, App, Shared, error::json_response};
use crate::config::Console;

/// What the node says of itself and of its models. Documented in `docs/console.md`; members are added, never
/// taken away.
#[derive(Serialize)]
struct Status<'a> {
    name: &'a str,
    version: &'static str,
    /// What the page may do: `off`, `read` or `write`.
    console: &'static str,
    connections: usize,
    connections_max: usize,
    #[serde(flatten)]
    overview: NodeOverview,
}

/// See the module.
pub(super) async fn status(State(app): State<Shared>) -> Answer {
    let mut overview = app.node.overview().await?;
    overview.warnings.splice(0..0, warnings(&app));
    let status = Status {
        name: &app.name,
        version: env!("CARGO_PKG_VERSION"),
        console: app.settings.console().name(),
        connections: app.connections.open(),
        connections_max: app.connections.max(),
        overview,
    };
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((headers, json_response(StatusCode::OK, &status)).into_response())
}

/// What follows from where and how the node listens.
fn warnings(app: &App) -> Vec<String> {
    let mut warnings = Vec::new();
    if !app.address.ip().is_loopback() {
        warnings.push(format!(
            "listens on {}, which other machines may reach, and nobody has to authenticate (insecure)",
            app.address
        ));
        if app.settings.console() == Console::Write {
            warnings.push("whoever reaches this page can load, unload and remove models (console: write)".into());
        }
    }
    warnings
}
