//! What the node counted meanwhile: differences of the protocol's statistics.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{client::Client, failure::Failure};

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Sum {
    count: u64,
    ns: u64,
}

impl Sum {
    fn minus(self, before: Sum) -> Sum {
        Sum { count: self.count.saturating_sub(before.count), ns: self.ns.saturating_sub(before.ns) }
    }

    fn plus(self, other: Sum) -> Sum {
        Sum { count: self.count.saturating_add(other.count), ns: self.ns.saturating_add(other.ns) }
    }

    fn mean_seconds(self) -> f64 {
        if self.count == 0 { 0.0 } else { self.ns as f64 / self.count as f64 / 1e9 }
    }
}

#[derive(Deserialize)]
struct Answer {
    model_stats: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    inference_stats: Times,
    #[serde(default)]
    batch_stats: Vec<Batch>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Times {
    success: Sum,
    fail: Sum,
    queue: Sum,
    compute_input: Sum,
    compute_infer: Sum,
    compute_output: Sum,
}

#[derive(Deserialize)]
struct Batch {
    batch_size: u64,
    compute_infer: Sum,
}

/// Counters at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    times: Times,
    batches: BTreeMap<u64, Sum>,
}

/// Means of what a node counted between two moments, in seconds per request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Means {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// From a request's arrival to its answer.
    pub(super) all: f64,
    pub(super) queue: f64,
    pub(super) execute: f64,
    /// Inputs into the host's memory, and outputs out of it.
    pub(super) copies: f64,
    /// Rows of a run → runs, and their mean seconds.
    pub(super) batches: BTreeMap<u64, (u64, f64)>,
}

impl Means {
    /// What is neither queue nor run nor copies.
    pub(super) fn rest(&self) -> f64 {
        (self.all - self.queue - self.execute - self.copies).max(0.0)
    }
}

/// The counters now; none of a server that counts nothing.
pub(super) fn snapshot(client: &Client, model: &str) -> Result<Option<Snapshot>, Failure> {
    // The protocol's statistics are an extension: another server may not have them.
    let Ok(answer) = client.get(&format!("{model}/stats")) else { return Ok(None) };
    Ok(read(answer))
}

fn read(answer: Value) -> Option<Snapshot> {
    let answer: Answer = serde_json::from_value(answer).ok()?;
    let mut out = Snapshot::default();
    for m in answer.model_stats {
        let (t, s) = (&mut out.times, m.inference_stats);
        t.success = t.success.plus(s.success);
        t.fail = t.fail.plus(s.fail);
        t.queue = t.queue.plus(s.queue);
        t.compute_input = t.compute_input.plus(s.compute_input);
        t.compute_infer = t.compute_infer.plus(s.compute_infer);
        t.compute_output = t.compute_output.plus(s.compute_output);
        for b in m.batch_stats {
            let runs = out.batches.entry(b.batch_size).or_default();
            *runs = runs.plus(b.compute_infer);
        }
    }
    Some(out)
}

impl Snapshot {
    pub(super) fn since(&self, before: &Snapshot) -> Means {
        let (now, then) = (self.times, before.times);
        let mean = |now: Sum, then: Sum| now.minus(then).mean_seconds();
        let of_batch = |(rows, runs): (&u64, &Sum)| {
            let runs = runs.minus(before.batches.get(rows).copied().unwrap_or_default());
            (runs.count > 0).then(|| (*rows, (runs.count, runs.mean_seconds())))
        };
        Means {
            requests: now.success.minus(then.success).count,
            failed: now.fail.minus(then.fail).count,
            all: mean(now.success, then.success),
            queue: mean(now.queue, then.queue),
            execute: mean(now.compute_infer, then.compute_infer),
            copies: mean(now.compute_input, then.compute_input) + mean(now.compute_output, then.compute_output),
            batches: self.batches.iter().filter_map(of_batch).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn counted(requests: u64, ns: u64, runs: u64) -> Snapshot {
        let sum = json!({"count": requests, "ns": ns});
        read(json!({"model_stats": [{
            "inference_stats": {
                "success": {"count": requests, "ns": 10 * ns}, "fail": {"count": 0, "ns": 0}, "queue": sum,
                "compute_input": sum, "compute_infer": sum, "compute_output": sum,
            },
            "batch_stats": [{"batch_size": 4, "compute_infer": {"count": runs, "ns": ns}}],
        }]}))
        .unwrap()
    }

    #[test]
    fn only_the_run_counts() {
        let means = counted(30, 4_000_000_000, 9).since(&counted(10, 2_000_000_000, 4));
        assert_eq!((means.requests, means.queue, means.copies), (20, 0.1, 0.2));
        assert_eq!(means.batches[&4], (5, 0.4));
        assert!((means.rest() - 0.6).abs() < 1e-9, "{means:?}");
        assert_eq!(counted(1, 1, 1).since(&counted(1, 1, 1)).batches.len(), 0);
        assert!(read(json!({"error": "x"})).is_none());
    }
}
