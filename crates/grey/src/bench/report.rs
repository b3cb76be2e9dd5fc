//! The report of a load: tables for people, JSON for programs.

use std::time::Duration;

use serde_json::{Value, json};

use super::{load::Tally, server::Means};
use crate::{
    encoding::{escaped, shown},
    table::table,
};

/// From which share of its threads' time on the load itself may be what is slow.
const BUSY_SHARE: f64 = 0.9;

/// All that a run told.
pub(super) struct Report {
    pub(super) model: String,
    /// None where the latest was asked.
    pub(super) version: Option<String>,
    pub(super) url: String,
    pub(super) connections: u32,
    pub(super) rate: Option<f64>,
    /// Rows of each request.
    pub(super) rows: u64,
    pub(super) threads: u16,
    /// Processor time of this process.
    pub(super) cpu: Duration,
    pub(super) tally: Tally,
    /// None of a server that counts nothing.
    pub(super) server: Option<Means>,
}

impl Report {
    fn seconds(&self) -> f64 {
        self.tally.elapsed.as_secs_f64()
    }

    fn answered(&self) -> u64 {
        self.tally.latency_us.len()
    }

    fn per_second(&self) -> f64 {
        if self.seconds() > 0.0 { self.answered() as f64 / self.seconds() } else { 0.0 }
    }

    /// Mean, median, 90th and 99th percentile and largest latency, in seconds; none without answers.
    fn latencies(&self) -> Option<[f64; 5]> {
        let all = &self.tally.latency_us;
        let at = |q: f64| all.value_at_quantile(q) as f64 / 1e6;
        (!all.is_empty()).then(|| [all.mean() / 1e6, at(0.5), at(0.9), at(0.99), all.max() as f64 / 1e6])
    }

    /// Mean time of a request that the node's clock has not seen: HTTP, the network, the client.
    fn outside(&self) -> Option<f64> {
        let [mean, ..] = self.latencies()?;
        Some((mean - self.server.as_ref()?.all).max(0.0))
    }

    /// Share of the load's own threads that was busy.
    fn busy(&self) -> f64 {
        let all = self.seconds() * f64::from(self.threads);
        if all > 0.0 { self.cpu.as_secs_f64() / all } else { 0.0 }
    }

    pub(super) fn json(&self) -> Value {
        let latency = self
            .latencies()
            .map(|[mean, p50, p90, p99, max]| json!({"mean": mean, "p50": p50, "p90": p90, "p99": p99, "max": max}));
        let server = self.server.as_ref().map(|s| {
            let batches: Vec<Value> = s
                .batches
                .iter()
                .map(|(rows, (runs, seconds))| json!({"rows": rows, "runs": runs, "execute_seconds": seconds}))
                .collect();
            json!({
                "requests": s.requests,
                "failed": s.failed,
                "queue_seconds": s.queue,
                "execute_seconds": s.execute,
                "copy_seconds": s.copies,
                "rest_seconds": s.rest(),
                "all_seconds": s.all,
                "batches": batches,
            })
        });
        let errors: Vec<Value> = self
            .tally
            .failures
            .iter()
            .map(|(kind, (count, example))| json!({"kind": kind, "count": count, "example": example}))
            .collect();
        json!({
            "model": self.model,
            "version": self.version,
            "url": self.url,
            "connections": self.connections,
            "rate": self.rate,
            "rows_per_request": self.rows,
            "seconds": self.seconds(),
            "interrupted": self.tally.is_interrupted,
            "answered": self.answered(),
            "failed": self.tally.failed(),
            "requests_per_second": self.per_second(),
            "rows_per_second": self.per_second() * self.rows as f64,
            "latency_seconds": latency,
            "outside_seconds": self.outside(),
            "server": server,
            "errors": errors,
            "client_busy_share": self.busy(),
        })
    }

    pub(super) fn told(&self) -> String {
        let version = self.version.as_ref().map_or_else(String::new, |v| format!(" version {v}"));
        let plural = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        let rate = self.rate.map_or_else(String::new, |r| format!(", {r} requests/s asked for"));
        let mut out = format!(
            "{}{version}: {}, {} per request{rate}, {:.1} s{}\n\n",
            self.model,
            plural(u64::from(self.connections), "connection"),
            plural(self.rows, "row"),
            self.seconds(),
            if self.tally.is_interrupted { " (interrupted)" } else { "" },
        );
        let mut row = vec![
            self.answered().to_string(),
            self.tally.failed().to_string(),
            format!("{:.1}", self.per_second()),
            format!("{:.1}", self.per_second() * self.rows as f64),
        ];
        match self.latencies() {
            Some(all) => row.extend(all.map(time)),
            None => row.extend(["-"; 5].map(str::to_owned)),
        }
        let header = ["ANSWERED", "FAILED", "REQUESTS/S", "ROWS/S", "MEAN", "P50", "P90", "P99", "MAX"];
        out.push_str(&table(&header, &[row]));
        out.push_str(&self.where_it_goes());
        if !self.tally.failures.is_empty() {
            let rows: Vec<Vec<String>> = self
                .tally
                .failures
                .iter()
                .map(|(kind, (count, example))| vec![count.to_string(), escaped(kind), shown(example)])
                .collect();
            out.push_str(&format!("\n{}", table(&["FAILED", "KIND", "FOR EXAMPLE"], &rows)));
        }
        if self.busy() > BUSY_SHARE {
            out.push_str(&format!(
                "\nthe load itself was busy for {:.0} % of its time: give it more --threads\n",
                self.busy() * 100.0
            ));
        }
        out
    }

    /// The mean request's parts, as the node counted them.
    fn where_it_goes(&self) -> String {
        let Some(s) = &self.server else {
            return "\nthe server counts no times of its own (no /stats)\n".to_owned();
        };
        let (Some([mean, ..]), Some(outside)) = (self.latencies(), self.outside()) else { return String::new() };
        let part = |name: &str, seconds: f64, what: &str| {
            vec![name.to_owned(), time(seconds), format!("{:.0} %", 100.0 * seconds / mean.max(1e-9)), what.to_owned()]
        };
        let rows = [
            part("queue", s.queue, "waiting for its turn, or for a batch"),
            part("execute", s.execute, "the model's run"),
            part("copies", s.copies, "inputs into the host's memory, outputs out of it"),
            part("rest", s.rest(), "of the node: checks, hand-overs"),
            part("outside", outside, "of its clock: HTTP, the network, this client"),
        ];
        let mut out = format!("\n{}", table(&["MEAN REQUEST", "TIME", "SHARE", "WHAT"], &rows));
        if !s.batches.is_empty() {
            let of =
                |(rows, (runs, seconds)): (&u64, &(u64, f64))| vec![rows.to_string(), runs.to_string(), time(*seconds)];
            let rows: Vec<Vec<String>> = s.batches.iter().map(of).collect();
            out.push_str(&format!("\n{}", table(&["ROWS OF A RUN", "RUNS", "EXECUTE"], &rows)));
        }
        out
    }
}

/// A time with three digits or so.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time(0.000_012_4), "12 µs");
        assert_eq!(time(0.012_345), "12.35 ms");
        assert_eq!(time(12.345), "12.35 s");
    }
}
