//! `GET /metrics`, in the format that the scraper likes best.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use grey_serving::MetricsFormat;
use http::{HeaderMap, HeaderValue, header};

use super::{Answer, Shared, body};

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Shared>, headers: HeaderMap) -> Answer {
    let format = accepted_format(&headers);
    let text = app.node.metrics(format)?;
    let coding = body::accepted_coding(&headers).filter(|_| body::worth_compressing(text.len()));
    let mut response = match coding {
        Some(coding) => {
            let mut response = body::compress(coding, &[text.into()])?.into_response();
            response.headers_mut().insert(header::CONTENT_ENCODING, body::coding_value(coding));
            response
        }
        None => Response::new(text.into()),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    Ok(response)
}

/// The format with the greatest weight, the first among equals. Whoever asks for nothing that is known, or for
/// nothing in particular (browsers, `curl`), gets the one that people and the oldest scrapers read.
fn accepted_format(headers: &HeaderMap) -> MetricsFormat {
    let mut best = (0.0, MetricsFormat::Text);
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    for item in values.flat_map(|v| v.split(',')) {
        let mut parts = item.split(';').map(|p| p.trim().to_ascii_lowercase());
        let kind = parts.next().unwrap_or_default();
        let (mut weight, mut version, mut encoding, mut message) = (1.0f32, None, None, None);
        for (key, value) in parts.filter_map(|p| p.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))) {
            let value = value.trim_matches('"').to_owned();
            match key.as_str() {
                "q" => weight = value.parse().unwrap_or(0.0),
                "version" => version = Some(value),
                "encoding" => encoding = Some(value),
                "proto" => message = Some(value),
                _ => {}
            }
        }
        let is = |given: &Option<String>, known: &str| given.as_deref().is_none_or(|g| g == known);
        let format = match kind.as_str() {
            "application/openmetrics-text" if is(&version, "1.0.0") => MetricsFormat::OpenMetrics,
            "application/vnd.google.protobuf"
                if encoding.as_deref() == Some("delimited")
                    && message.as_deref() == Some("io.prometheus.client.metricfamily") =>
            {
                MetricsFormat::Protobuf
            }
            "text/plain" if is(&version, "0.0.4") => MetricsFormat::Text,
            "text/*" | "*/*" => MetricsFormat::Text,
            _ => continue,
        };
        if weight > best.0 {
            best = (weight, format);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_that_is_liked_best() {
        use MetricsFormat::{OpenMetrics, Protobuf, Text};
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        // What Prometheus 2.42 and 3 send, without and with native histograms.
        let old = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                   application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                   escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            ("", Text),
            ("*/*", Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Text),
            ("application/json", Text),
            ("text/plain", Text),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Text),
            ("application/openmetrics-text;version=1.0.0;q=0.1, text/plain;q=0.2", Text),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;q=x", Text),
            (old, OpenMetrics),
            (new, OpenMetrics),
            (protobuf, Protobuf),
            (&format!("{protobuf},{old}"), Protobuf),
            (&format!("{protobuf};q=0.2,{new}"), OpenMetrics),
            ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", Text),
            ("application/vnd.google.protobuf", Text),
            (";;=,,q=,;q", Text),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            assert_eq!(accepted_format(&headers), expected, "{accept}");
        }
        assert_eq!(accepted_format(&HeaderMap::new()), Text);
    }
}
