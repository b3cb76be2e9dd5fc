//! The page at `/`, and its files. All of it is in the binary, and nothing is asked of any other server.

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use grey_core::Error;
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::json;

use super::{
    Answer, Shared,
    error::{ApiError, json_response, shown},
    guard,
};
use crate::config::Console;

/// What the page may do in a browser: fetch its own files and this node's answers. No inline script or
/// style, nobody's frame, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const INDEX: (&str, &str) = ("text/html; charset=utf-8", include_str!("../../console/index.html"));

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Name → type and content.
const FILES: [(&str, &str, &str); 8] = [
    ("console.js", SCRIPT, include_str!("../../console/console.js")),
    ("dom.js", SCRIPT, include_str!("../../console/dom.js")),
    ("format.js", SCRIPT, include_str!("../../console/format.js")),
    ("histogram.js", SCRIPT, include_str!("../../console/histogram.js")),
    ("infer.js", SCRIPT, include_str!("../../console/infer.js")),
    ("models.js", SCRIPT, include_str!("../../console/models.js")),
    ("console.css", "text/css; charset=utf-8", include_str!("../../console/console.css")),
    ("icon.svg", "image/svg+xml", include_str!("../../console/icon.svg")),
];

/// `GET /`: the page for browsers, and for others where to look.
pub(super) async fn root(State(app): State<Shared>, headers: HeaderMap) -> Answer {
    let vary = [(header::VARY, "accept")];
    if app.settings.console() == Console::Off || !wants_html(&headers) {
        let links = json!({
            "models": "/grey/v1/models",
            "status": "/grey/v1/status",
            "metrics": "/metrics",
            "open_inference_protocol": "/v2",
        });
        let about = json!({"name": "grey", "version": env!("CARGO_PKG_VERSION"), "links": links});
        return Ok((vary, json_response(StatusCode::OK, &about)).into_response());
    }
    app.settings.guard(guard::CONSOLE, &headers)?;
    Ok((vary, answer(INDEX.0, INDEX.1)).into_response())
}

/// `GET /console/{file}`.
pub(super) async fn file(State(app): State<Shared>, Path(name): Path<String>) -> Answer {
    let found = FILES.iter().find(|(known, ..)| app.settings.console() != Console::Off && *known == name);
    let missing = || ApiError(Error::not_found(format!("unknown route '/console/{}'", shown(&name))));
    let (_, kind, content) = found.ok_or_else(missing)?;
    Ok(answer(kind, content))
}

fn answer(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        // Another version of the node may answer here tomorrow.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

/// Whether the client names HTML among what it takes. Browsers do; `*/*` alone is no browser's.
fn wants_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    accepted.flat_map(|v| v.split(',')).any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/html") || kind.eq_ignore_ascii_case("application/xhtml+xml")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_ask_for_html() {
        let wants = |accept: &str| wants_html(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        assert!(
            wants("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8") && wants("a/b, TEXT/HTML;q=1")
        );
        assert!(!wants("*/*") && !wants("application/json") && !wants("text/htmlx") && !wants_html(&HeaderMap::new()));
    }

    /// What the policy forbids would fail in the browser; what it cannot see is looked for here.
    #[test]
    fn nothing_is_inline_and_nothing_is_elsewhere() {
        for (name, text) in FILES.iter().map(|(name, _, text)| (*name, *text)).chain([("index.html", INDEX.1)]) {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in ["://", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "style=\"", "onclick="] {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
        }
    }
}
