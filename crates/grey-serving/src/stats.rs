//! Counters of one version, in the shape that Triton's statistics extension reports.

use std::{collections::BTreeMap, time::Duration};

use grey_core::{ModelId, Version};

use crate::api::{BatchStatistics, ModelStatistics, StatDuration};

/// Counters of one version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    last_inference_ms: u64,
    inference_count: u64,
    execution_count: u64,
    success: StatDuration,
    fail: StatDuration,
    queue: StatDuration,
    compute_input: StatDuration,
    compute_infer: StatDuration,
    compute_output: StatDuration,
    // Bounded: see `batch_key`.
    batches: BTreeMap<u32, BatchStatistics>,
}

/// Durations of one run of the model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunTimes {
    pub(crate) copy_in: Duration,
    pub(crate) execute: Duration,
    pub(crate) copy_out: Duration,
}

/// Batch sizes up to this one have an entry each; larger ones, which only requests that run alone
/// reach, share one per power of two.
const BATCH_SIZES_EXACT: u32 = 256;

fn batch_key(rows: u32) -> u32 {
    if rows <= BATCH_SIZES_EXACT { rows } else { rows.checked_next_power_of_two().unwrap_or(u32::MAX) }
}

impl Stats {
    /// A run of `rows` rows (before padding) ended well.
    pub(crate) fn ran(&mut self, rows: u32, times: RunTimes) {
        self.execution_count += 1;
        let b = self.batches.entry(batch_key(rows)).or_default();
        b.compute_input.add(1, times.copy_in);
        b.compute_infer.add(1, times.execute);
        b.compute_output.add(1, times.copy_out);
    }

    /// A request was answered.
    pub(crate) fn answered(&mut self, now_ms: u64, rows: u32, total: Duration, queue: Duration, times: RunTimes) {
        self.last_inference_ms = self.last_inference_ms.max(now_ms);
        self.inference_count += u64::from(rows);
        self.success.add(1, total);
        self.queue.add(1, queue);
        self.compute_input.add(1, times.copy_in);
        self.compute_infer.add(1, times.execute);
        self.compute_output.add(1, times.copy_out);
    }

    /// A request failed after it was accepted.
    pub(crate) fn failed(&mut self, now_ms: u64, total: Duration) {
        self.last_inference_ms = self.last_inference_ms.max(now_ms);
        self.fail.add(1, total);
    }

    pub(crate) fn view(&self, id: &ModelId, version: &Version) -> ModelStatistics {
        ModelStatistics {
            id: id.clone(),
            version: version.clone(),
            last_inference_ms: self.last_inference_ms,
            inference_count: self.inference_count,
            execution_count: self.execution_count,
            success: self.success,
            fail: self.fail,
            queue: self.queue,
            compute_input: self.compute_input,
            compute_infer: self.compute_infer,
            compute_output: self.compute_output,
            batches: self.batches.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_runs_are_counted_apart() {
        let mut s = Stats::default();
        let times = RunTimes { execute: Duration::from_nanos(7), ..RunTimes::default() };
        s.ran(3, times);
        s.answered(5, 1, Duration::from_nanos(20), Duration::from_nanos(2), times);
        s.answered(6, 2, Duration::from_nanos(30), Duration::from_nanos(3), times);
        s.failed(4, Duration::from_nanos(1));
        let v = s.view(&ModelId::new("m").unwrap(), &Version::new("1").unwrap());
        assert_eq!((v.inference_count, v.execution_count, v.last_inference_ms), (3, 1, 6));
        assert_eq!((v.success.count, v.success.ns, v.fail.count, v.queue.ns), (2, 50, 1, 5));
        assert_eq!(v.batches[&3].compute_infer, StatDuration { count: 1, ns: 7 });
    }
}
