//! What two looks at a node say together: rates, percentiles and use since the one before. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `GET /grey/v1/status` tells, as far as it is shown here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    name: String,
    version: String,
    pid: u32,
    time_ms: u64,
    started: u64,
    uptime_ms: u64,
    ready: bool,
    reason: String,
    cores: u32,
    memory_bytes: Option<u64>,
    usage: Option<Usage>,
    inflight_bytes: u64,
    inflight_bytes_max: u64,
    connections: u64,
    connections_max: u64,
    warnings: Vec<String>,
    models: Vec<Model>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Usage {
    rss_bytes: u64,
    cpu_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Model {
    id: String,
    version: String,
    state: String,
    queue: Queue,
    hosts: Vec<Host>,
    answered: u64,
    failed: u64,
    restarts: u64,
    latency_seconds: Histogram,
    batch_rows: Histogram,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Queue {
    rows: u64,
    oldest_wait_ms: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Host {
    pid: Option<u32>,
    usage: Option<Usage>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// What was counted since `then`.
    fn since(&self, then: Option<&Histogram>) -> Histogram {
        let Some(then) = then.filter(|t| t.count <= self.count) else { return self.clone() };
        let before = |i: usize| then.counts.get(i).copied().unwrap_or(0);
        Histogram {
            bounds: self.bounds.clone(),
            counts: self.counts.iter().enumerate().map(|(i, n)| n.saturating_sub(before(i))).collect(),
            count: self.count - then.count,
            sum: self.sum - then.sum,
        }
    }

    /// The value below which the share `q` lies, by interpolation within a bucket.
    fn quantile(&self, q: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().sum();
        let (rank, mut below) = (q * total as f64, 0.0);
        for (i, n) in self.counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let here = *n as f64;
            if below + here >= rank {
                let low = i.checked_sub(1).and_then(|i| self.bounds.get(i)).copied().unwrap_or(0.0);
                let high = self.bounds.get(i).copied().unwrap_or(low);
                return Some(low + (high - low) * ((rank - below) / here));
            }
            below += here;
        }
        None
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// A node between two looks. Documented in `docs/console.md`: members are added, never taken away.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Picture {
    /// When: Unix milliseconds, by the node's clock.
    pub(crate) time_ms: u64,
    /// How long rates were measured; 0 where this is the first look, and rates are `null`.
    pub(crate) interval_ms: u64,
    pub(crate) node: NodePicture,
    pub(crate) models: Vec<ModelPicture>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct NodePicture {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_ms: u64,
    pub(crate) ready: bool,
    pub(crate) reason: String,
    pub(crate) cores: u32,
    pub(crate) requests_per_second: Option<f64>,
    /// Of one core.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) hosts_rss_bytes: u64,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) inflight_bytes: u64,
    pub(crate) inflight_bytes_max: u64,
    pub(crate) connections: u64,
    pub(crate) connections_max: u64,
    pub(crate) warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ModelPicture {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) state: String,
    pub(crate) queue_rows: u64,
    pub(crate) oldest_wait_ms: u64,
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) failures_per_second: Option<f64>,
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p99_seconds: Option<f64>,
    /// Mean rows per run.
    pub(crate) batch_rows: Option<f64>,
    pub(crate) hosts: usize,
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) rss_bytes: u64,
    pub(crate) restarts: u64,
}

/// The picture of `now`, with rates since `then`.
pub(crate) fn picture(now: &Status, then: Option<&Status>) -> Picture {
    // A node that was started anew has counted from zero.
    let then = then.filter(|t| t.started == now.started && t.pid == now.pid && t.time_ms < now.time_ms);
    let interval_ms = then.map_or(0, |t| now.time_ms - t.time_ms);
    let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 * 1000.0 / interval_ms as f64;
    let before: BTreeMap<(&str, &str), &Model> =
        then.iter().flat_map(|t| &t.models).map(|m| ((m.id.as_str(), m.version.as_str()), m)).collect();
    // Milliseconds per second are a tenth of percent.
    let cpu = |now: Option<Usage>, then: Option<Usage>| Some(per_second(now?.cpu_ms, then?.cpu_ms) / 10.0);
    let model = |m: &Model| {
        let old = before.get(&(m.id.as_str(), m.version.as_str())).copied();
        let usage_then = |pid| old?.hosts.iter().find(|h| h.pid == pid)?.usage;
        let recent = m.latency_seconds.since(old.map(|o| &o.latency_seconds));
        let shares: Vec<f64> = m.hosts.iter().filter_map(|h| cpu(h.usage, usage_then(h.pid))).collect();
        // Without a look before, all since the node's start would pass for what happens now.
        let is_recent = then.is_some();
        ModelPicture {
            id: m.id.clone(),
            version: m.version.clone(),
            state: m.state.clone(),
            queue_rows: m.queue.rows,
            oldest_wait_ms: m.queue.oldest_wait_ms,
            requests_per_second: is_recent.then(|| per_second(m.answered, old.map_or(0, |o| o.answered))),
            failures_per_second: is_recent.then(|| per_second(m.failed, old.map_or(0, |o| o.failed))),
            p50_seconds: recent.quantile(0.5).filter(|_| is_recent),
            p99_seconds: recent.quantile(0.99).filter(|_| is_recent),
            batch_rows: m.batch_rows.since(old.map(|o| &o.batch_rows)).mean().filter(|_| is_recent),
            hosts: m.hosts.len(),
            cpu_percent: (!shares.is_empty()).then(|| shares.iter().sum()),
            rss_bytes: m.hosts.iter().filter_map(|h| h.usage).map(|u| u.rss_bytes).sum(),
            restarts: m.restarts,
        }
    };
    let models: Vec<ModelPicture> = now.models.iter().map(model).collect();
    let node = NodePicture {
        name: now.name.clone(),
        version: now.version.clone(),
        pid: now.pid,
        uptime_ms: now.uptime_ms,
        ready: now.ready,
        reason: now.reason.clone(),
        cores: now.cores,
        requests_per_second: then.map(|_| models.iter().filter_map(|m| m.requests_per_second).sum()),
        cpu_percent: cpu(now.usage, then.and_then(|t| t.usage)),
        rss_bytes: now.usage.map(|u| u.rss_bytes),
        hosts_rss_bytes: models.iter().map(|m| m.rss_bytes).sum(),
        memory_bytes: now.memory_bytes,
        inflight_bytes: now.inflight_bytes,
        inflight_bytes_max: now.inflight_bytes_max,
        connections: now.connections,
        connections_max: now.connections_max,
        warnings: now.warnings.clone(),
    };
    Picture { time_ms: now.time_ms, interval_ms, node, models }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(time_ms: u64, answered: u64, counts: [u64; 3], sum: f64) -> Status {
        let usage = json!({"rss_bytes": 1000, "anonymous_bytes": 10, "cpu_ms": time_ms / 4});
        let histogram =
            json!({"bounds": [1.0, 2.0], "counts": counts, "count": counts.iter().sum::<u64>(), "sum": sum});
        let model = json!({
            "id": "m", "version": "1", "state": "ready", "queue": {"rows": 3, "oldest_wait_ms": 7, "rows_max": 9},
            "hosts": [{"pid": 5, "runtime": "r", "usage": usage}, {"pid": null, "runtime": "r", "usage": null}],
            "answered": answered, "failed": 0, "restarts": 0, "latency_seconds": histogram, "batch_rows": histogram,
        });
        let value: Value = json!({
            "name": "n", "version": "1", "pid": 1, "time_ms": time_ms, "started": 1, "uptime_ms": 0, "ready": true,
            "reason": "", "cores": 2, "memory_bytes": null, "usage": null, "inflight_bytes": 0,
            "inflight_bytes_max": 1, "connections": 0, "connections_max": 1, "warnings": [], "models": [model],
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn rates_are_those_since_the_look_before() {
        let then = status(10_000, 100, [100, 0, 0], 50.0);
        let now = status(12_000, 300, [100, 200, 0], 350.0);
        let [m] = &picture(&now, Some(&then)).models[..] else { panic!() };
        assert_eq!((m.requests_per_second, m.batch_rows), (Some(100.0), Some(1.5)));
        assert_eq!((m.p50_seconds, m.p99_seconds), (Some(1.5), Some(1.99)));
        assert_eq!((m.cpu_percent, m.rss_bytes, m.queue_rows), (Some(25.0), 1000, 3));
    }

    #[test]
    fn the_first_look_and_the_first_at_a_new_node_have_no_rates() {
        let now = status(12_000, 300, [100, 200, 0], 350.0);
        let other = Status { started: 2, ..status(10_000, 100, [100, 0, 0], 50.0) };
        for then in [None, Some(&other)] {
            let p = picture(&now, then);
            let m = &p.models[0];
            assert_eq!((p.interval_ms, m.requests_per_second, m.p50_seconds, m.cpu_percent), (0, None, None, None));
        }
    }

    #[test]
    fn what_lies_above_all_buckets_is_at_least_their_last_bound() {
        let h = Histogram { bounds: vec![1.0, 2.0], counts: vec![0, 0, 4], count: 4, sum: 99.0 };
        assert_eq!(h.quantile(0.5), Some(2.0));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
