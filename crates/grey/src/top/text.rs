//! A picture in words, for a screen or a file.

use super::look::{ModelPicture, Picture};
use crate::{
    encoding::{escaped, shown},
    table::table,
};

/// Columns of the table of models.
const HEADER: [&str; 13] = [
    "MODEL", "VERSION", "STATE", "REQ/S", "FAIL/S", "P50", "P99", "BATCH", "QUEUE", "OLDEST", "HOSTS", "CPU", "MEMORY",
];

/// The node in three lines (more, if there are warnings), and the table of models.
pub(crate) struct Lines {
    pub(crate) head: Vec<String>,
    pub(crate) columns: String,
    pub(crate) models: Vec<String>,
}

/// `room`: most models that can be shown. Where that is not all, those that have most to do come first.
pub(crate) fn lines(p: &Picture, url: &str, room: usize) -> Lines {
    let mut models: Vec<&ModelPicture> = p.models.iter().collect();
    if models.len() > room {
        let busy = |m: &ModelPicture| (m.queue_rows as f64, m.requests_per_second.unwrap_or(0.0), m.hosts);
        models.sort_by(|a, b| busy(b).partial_cmp(&busy(a)).unwrap_or(std::cmp::Ordering::Equal));
        models.truncate(room.saturating_sub(1));
    }
    let rows: Vec<Vec<String>> = models.iter().map(|m| row(m)).collect();
    let text = table(&HEADER, &rows);
    let mut lines = text.lines().map(str::to_owned);
    let columns = lines.next().unwrap_or_default();
    let mut models: Vec<String> = lines.collect();
    let left = p.models.len() - models.len();
    if left > 0 {
        models.push(format!("… {left} more"));
    }
    if p.models.is_empty() {
        models.push("no models; register one with: grey model add NAME FILE".to_owned());
    }
    Lines { head: head(p, url), columns, models }
}

fn head(p: &Picture, url: &str) -> Vec<String> {
    let n = &p.node;
    let state = if n.ready { "ready".to_owned() } else { format!("not ready: {}", shown(&n.reason)) };
    let requests = n.requests_per_second.map_or_else(|| "–".to_owned(), rate);
    let cpu = n.cpu_percent.map_or_else(String::new, |c| format!(" (node {c:.0} % of one)"));
    let own = n.rss_bytes.unwrap_or(0);
    let mut lines = vec![
        format!("grey {} at {url}, pid {}, up {}: {state}", shown(&n.version), n.pid, duration(n.uptime_ms)),
        format!(
            "requests {requests}/s   connections {} of {}   cores {}{cpu}",
            n.connections, n.connections_max, n.cores
        ),
        format!(
            "memory {} (node {}, hosts {}) of {}   in flight {} of {}",
            bytes(own + n.hosts_rss_bytes),
            bytes(own),
            bytes(n.hosts_rss_bytes),
            n.memory_bytes.map_or_else(|| "unknown".to_owned(), bytes),
            bytes(n.inflight_bytes),
            bytes(n.inflight_bytes_max),
        ),
    ];
    lines.extend(n.warnings.iter().map(|w| format!("warning: {}", escaped(w))));
    lines
}

fn row(m: &ModelPicture) -> Vec<String> {
    let or_dash = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "–".to_owned(), show);
    let waits = if m.queue_rows == 0 { "–".to_owned() } else { seconds(m.oldest_wait_ms as f64 / 1000.0) };
    let restarts = if m.restarts == 0 { String::new() } else { format!(" (+{})", m.restarts) };
    vec![
        shown(&m.id),
        shown(&m.version),
        shown(&m.state),
        or_dash(m.requests_per_second, rate),
        or_dash(m.failures_per_second, rate),
        or_dash(m.p50_seconds, seconds),
        or_dash(m.p99_seconds, seconds),
        or_dash(m.batch_rows, |n| format!("{n:.1}")),
        m.queue_rows.to_string(),
        waits,
        format!("{}{restarts}", m.hosts),
        or_dash(m.cpu_percent, |c| format!("{c:.0} %")),
        if m.hosts == 0 { "–".to_owned() } else { bytes(m.rss_bytes) },
    ]
}

fn rate(n: f64) -> String {
    if n >= 10.0 || n == 0.0 { format!("{n:.0}") } else { format!("{n:.1}") }
}

fn seconds(s: f64) -> String {
    let (value, unit) = if s < 0.001 {
        (s * 1e6, "µs")
    } else if s < 1.0 {
        (s * 1e3, "ms")
    } else {
        (s, "s")
    };
    if value >= 10.0 || value == 0.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::look::NodePicture, *};

    fn node(warnings: &[&str]) -> NodePicture {
        NodePicture {
            name: "n".into(),
            version: "1".into(),
            pid: 7,
            uptime_ms: 0,
            ready: false,
            reason: "draining\u{1b}[2J".into(),
            cores: 2,
            requests_per_second: None,
            cpu_percent: None,
            rss_bytes: None,
            hosts_rss_bytes: 0,
            memory_bytes: None,
            inflight_bytes: 0,
            inflight_bytes_max: 0,
            connections: 0,
            connections_max: 0,
            warnings: warnings.iter().map(|w| (*w).to_owned()).collect(),
        }
    }

    fn model(id: &str, queue_rows: u64, requests_per_second: f64) -> ModelPicture {
        ModelPicture {
            id: id.into(),
            version: "1".into(),
            state: "ready".into(),
            queue_rows,
            oldest_wait_ms: 12,
            requests_per_second: Some(requests_per_second),
            failures_per_second: None,
            p50_seconds: None,
            p99_seconds: None,
            batch_rows: None,
            hosts: 1,
            cpu_percent: None,
            rss_bytes: 0,
            restarts: 2,
        }
    }

    #[test]
    fn those_that_have_most_to_do_come_first_where_not_all_fit() {
        let models = vec![model("a", 0, 1.0), model("b", 0, 9.0), model("c", 5, 0.0)];
        let picture = Picture { time_ms: 0, interval_ms: 1, node: node(&[]), models };
        let names = |room| {
            let shown = lines(&picture, "u", room).models;
            shown.iter().map(|l| l.split("  ").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(3), ["a", "b", "c"], "all fit: by name");
        assert_eq!(names(2), ["c", "… 2 more"]);
        assert_eq!(names(1), ["… 3 more"]);
        let c = &lines(&picture, "u", 3).models[2];
        assert!(c.contains("5      12 ms   1 (+2)"), "{c}");
    }

    #[test]
    fn a_node_s_texts_do_not_steer_the_terminal() {
        let picture =
            Picture { time_ms: 0, interval_ms: 0, node: node(&["a\nb"]), models: vec![model("\u{9b}1m", 0, 0.0)] };
        let all = lines(&picture, "u", 9);
        let text = [all.head, all.models].concat().join("");
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.contains("not ready: draining\\u{1b}[2J") && text.contains("warning: a\\nb"), "{text}");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([0, 1023, 1536, 200 << 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "200 MiB"]);
        assert_eq!([0.000_238, 0.0031, 0.25, 12.0].map(seconds), ["238 µs", "3.1 ms", "250 ms", "12 s"]);
        assert_eq!([0.0, 0.5, 1234.4].map(rate), ["0", "0.5", "1234"]);
        assert_eq!([5_000, 90_000, 7_300_000, 90_000_000].map(duration), ["5 s", "1 min", "2 h 1 min", "1 d 1 h"]);
    }
}
