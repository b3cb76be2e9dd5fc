//! Histograms that the node can read as well as export: Prometheus's own type shows its buckets to nobody
//! but its encoder. Observing takes no lock.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};
use serde::Serialize;

/// What was observed, counted by size. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: &'static [f64],
    /// One more than bounds: the last counts what is above all of them.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// With these upper bounds, ascending.
    pub(crate) fn new(bounds: &'static [f64]) -> Histogram {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Histogram(Arc::new(Inner { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }))
    }

    pub(crate) fn observe(&self, value: f64) {
        let at = self.0.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.0.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
        // Always some, so never an error.
        let _before = self.0.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// What was observed so far. While others observe, sum and counts may be one of theirs apart.
    pub(crate) fn view(&self) -> HistogramView {
        let counts: Vec<u64> = self.0.counts.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        HistogramView {
            bounds: self.0.bounds.to_vec(),
            count: counts.iter().sum(),
            counts,
            sum: f64::from_bits(self.0.sum.load(Ordering::Relaxed)),
        }
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        let view = self.view();
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(view.counts).collect();
        encoder.encode_histogram::<NoLabelSet>(view.sum, view.count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistogramView {
    /// Upper bounds of the buckets, ascending; in seconds or rows, as the histogram's name says.
    pub bounds: Vec<f64>,
    /// What fell into each bucket and into no smaller one. One more than `bounds`: the last is above all.
    pub counts: Vec<u64>,
    /// How much was observed in all.
    pub count: u64,
    /// The sum of all values.
    pub sum: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_first_bucket_that_holds_them() {
        let h = Histogram::new(&[1.0, 2.0, 4.0]);
        for value in [0.5, 1.0, 1.5, 4.0, 9.0] {
            h.clone().observe(value);
        }
        let view = HistogramView { bounds: vec![1.0, 2.0, 4.0], counts: vec![2, 1, 1, 1], count: 5, sum: 16.0 };
        assert_eq!(h.view(), view);
    }
}
