//! Prometheus metrics under the names of the design, §9.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use grey_core::{Error, ErrorKind, ModelId, Tenant, Version};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_protobuf, prometheus_text, text as openmetrics},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    api::Tallies,
    histogram::{Histogram, HistogramView},
};

/// Distinct tenant labels; later ones share [`OTHER_TENANTS`]. Each costs a time series per model
/// and status.
const TENANT_LABELS_MAX: usize = 100;
/// Label of tenants beyond the cap.
const OTHER_TENANTS: &str = "_other";

/// Upper bounds of latency buckets in seconds, 100 µs to 30 s.
const SECONDS: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Upper bounds of batch-size buckets in rows.
const ROWS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InferenceLabels {
    model: String,
    version: String,
    tenant: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FormLabels {
    form: &'static str,
}

/// How metrics are written: what Prometheus and its relatives read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.0, text.
    OpenMetrics,
    /// The Prometheus text format, version 0.0.4.
    Text,
    /// `io.prometheus.client.MetricFamily` messages, each behind its length.
    Protobuf,
}

impl MetricsFormat {
    /// The `Content-Type` of this format.
    pub fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            MetricsFormat::Text => prometheus_text::CONTENT_TYPE,
            MetricsFormat::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

type Histograms = Family<ModelLabels, Histogram, fn() -> Histogram>;

/// All metrics of a node.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    duration: Histograms,
    queue: Histograms,
    execute: Histograms,
    batch_size: Histograms,
    inferences: Family<InferenceLabels, Counter>,
    /// The labels in use of each version, so that they go with it.
    inference_labels: Mutex<HashMap<ModelLabels, HashSet<InferenceLabels>>>,
    restarts: Family<ModelLabels, Counter>,
    quarantined: Family<ModelLabels, Counter>,
    queue_rows: Family<ModelLabels, Gauge>,
    rejected: Family<ReasonLabels, Counter>,
    proofs: Family<FormLabels, Counter>,
    proof_seconds: Histogram,
    inflight_bytes: Gauge,
    models_loaded: Gauge,
    tenants: Mutex<HashSet<Tenant>>,
}

fn cannot_write(why: &dyn std::fmt::Display) -> Error {
    Error::internal(format!("cannot write the metrics: {why}"))
}

fn seconds() -> Histogram {
    Histogram::new(&SECONDS)
}

fn rows() -> Histogram {
    Histogram::new(&ROWS)
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let m = Metrics {
            registry: Mutex::new(Registry::with_prefix("grey_ai")),
            duration: Family::new_with_constructor(seconds),
            queue: Family::new_with_constructor(seconds),
            execute: Family::new_with_constructor(seconds),
            batch_size: Family::new_with_constructor(rows),
            inferences: Family::default(),
            inference_labels: Mutex::default(),
            restarts: Family::default(),
            quarantined: Family::default(),
            queue_rows: Family::default(),
            rejected: Family::default(),
            proofs: Family::default(),
            proof_seconds: seconds(),
            inflight_bytes: Gauge::default(),
            models_loaded: Gauge::default(),
            tenants: Mutex::default(),
        };
        {
            let mut r = m.registry.lock();
            r.register(
                "inference_duration_seconds",
                "Time from the acceptance of a request to its answer",
                m.duration.clone(),
            );
            r.register("queue_duration_seconds", "Time of a request in the queue", m.queue.clone());
            r.register("execute_duration_seconds", "Time of one run of a model", m.execute.clone());
            r.register("batch_size", "Rows of one run, before padding", m.batch_size.clone());
            r.register("inferences", "Requests by outcome", m.inferences.clone());
            r.register("engine_restarts", "Engine hosts started again after they died", m.restarts.clone());
            r.register(
                "quarantined",
                "Requests that harmed others and whose inputs were refused from then on, for a minute",
                m.quarantined.clone(),
            );
            r.register("queue_rows", "Rows waiting in the queue", m.queue_rows.clone());
            r.register("rejected", "Requests refused before they were accepted, by reason", m.rejected.clone());
            r.register("proofs", "Proofs made, by form", m.proofs.clone());
            r.register("proof_duration_seconds", "Time for the proofs of one run", m.proof_seconds.clone());
            r.register("inflight_bytes", "Bytes of bodies, tensors and results in flight", m.inflight_bytes.clone());
            r.register("models_loaded", "Versions that are ready", m.models_loaded.clone());
        }
        Arc::new(m)
    }

    /// The handles of one version.
    pub(crate) fn model(self: &Arc<Self>, id: &ModelId, version: &Version) -> ModelMetrics {
        let labels = ModelLabels { model: id.to_string(), version: version.to_string() };
        ModelMetrics {
            duration: self.duration.get_or_create_owned(&labels),
            queue: self.queue.get_or_create_owned(&labels),
            execute: self.execute.get_or_create_owned(&labels),
            batch_size: self.batch_size.get_or_create_owned(&labels),
            restarts: self.restarts.get_or_create_owned(&labels),
            quarantined: self.quarantined.get_or_create_owned(&labels),
            queue_rows: self.queue_rows.get_or_create_owned(&labels),
            outcomes: Mutex::default(),
            all: self.clone(),
            labels,
        }
    }

    /// The handles of the node's prover.
    pub(crate) fn proofs(&self) -> ProofMetrics {
        let of = |form| self.proofs.get_or_create_owned(&FormLabels { form });
        ProofMetrics { single: of("single"), batch: of("batch"), seconds: self.proof_seconds.clone() }
    }

    /// Drops the series of a version that was removed.
    pub(crate) fn forget(&self, id: &ModelId, version: &Version) {
        let labels = ModelLabels { model: id.to_string(), version: version.to_string() };
        for family in [&self.duration, &self.queue, &self.execute, &self.batch_size] {
            family.remove(&labels);
        }
        self.restarts.remove(&labels);
        self.quarantined.remove(&labels);
        self.queue_rows.remove(&labels);
        for series in self.inference_labels.lock().remove(&labels).unwrap_or_default() {
            self.inferences.remove(&series);
        }
    }

    /// What was counted of one version, in all its loads on this node.
    pub(crate) fn tallies(&self, id: &ModelId, version: &Version) -> Tallies {
        let labels = ModelLabels { model: id.to_string(), version: version.to_string() };
        let of = |family: &Histograms, new: fn() -> Histogram| -> HistogramView {
            family.get(&labels).map_or_else(|| new().view(), |h| h.view())
        };
        let count = |family: &Family<ModelLabels, Counter>| family.get(&labels).map_or(0, |c| c.get());
        Tallies {
            latency_seconds: of(&self.duration, seconds),
            queue_seconds: of(&self.queue, seconds),
            execute_seconds: of(&self.execute, seconds),
            batch_rows: of(&self.batch_size, rows),
            restarts: count(&self.restarts),
            quarantined: count(&self.quarantined),
        }
    }

    pub(crate) fn rejected(&self, kind: ErrorKind) {
        self.rejected.get_or_create(&ReasonLabels { reason: kind.name() }).inc();
    }

    /// Everything, in this format.
    pub(crate) fn encode(
        &self,
        format: MetricsFormat,
        inflight_bytes: u64,
        models_loaded: usize,
    ) -> grey_core::Result<Vec<u8>> {
        self.inflight_bytes.set(i64::try_from(inflight_bytes).unwrap_or(i64::MAX));
        self.models_loaded.set(i64::try_from(models_loaded).unwrap_or(i64::MAX));
        let registry = self.registry.lock();
        let mut text = String::new();
        let written = match format {
            MetricsFormat::OpenMetrics => openmetrics::encode(&mut text, &registry).map(|()| text.into_bytes()),
            MetricsFormat::Text => prometheus_text::encode(&mut text, &registry).map(|()| text.into_bytes()),
            MetricsFormat::Protobuf => {
                return prometheus_protobuf::encode_to_vec(&registry).map_err(|e| cannot_write(&e));
            }
        };
        written.map_err(|e| cannot_write(&e))
    }

    fn tenant_label(&self, tenant: &Tenant) -> String {
        let mut known = self.tenants.lock();
        if known.contains(tenant) || (known.len() < TENANT_LABELS_MAX && known.insert(tenant.clone())) {
            tenant.to_string()
        } else {
            OTHER_TENANTS.to_owned()
        }
    }
}

/// What a prover counts.
pub(crate) struct ProofMetrics {
    pub(crate) single: Counter,
    pub(crate) batch: Counter,
    /// Per run, all its proofs together.
    pub(crate) seconds: Histogram,
}

/// The metrics of one version, looked up once.
pub(crate) struct ModelMetrics {
    pub(crate) queue: Histogram,
    pub(crate) execute: Histogram,
    pub(crate) batch_size: Histogram,
    pub(crate) restarts: Counter,
    pub(crate) quarantined: Counter,
    pub(crate) queue_rows: Gauge,
    duration: Histogram,
    // Tenants here are bounded as labels are; a tenant beyond the cap maps to the shared counter.
    outcomes: Mutex<HashMap<Tenant, BTreeMap<&'static str, Counter>>>,
    all: Arc<Metrics>,
    labels: ModelLabels,
}

impl ModelMetrics {
    /// A request ended: `ok` or the error's kind.
    pub(crate) fn finished(&self, tenant: &Tenant, outcome: Result<Duration, ErrorKind>) {
        let status = match outcome {
            Ok(total) => {
                self.duration.observe(total.as_secs_f64());
                "ok"
            }
            Err(kind) => kind.name(),
        };
        let mut outcomes = self.outcomes.lock();
        if let Some(counter) = outcomes.get(tenant).and_then(|of| of.get(status)) {
            counter.inc();
            return;
        }
        let tenant_label = self.all.tenant_label(tenant);
        let capped = tenant_label == OTHER_TENANTS;
        let labels = InferenceLabels {
            model: self.labels.model.clone(),
            version: self.labels.version.clone(),
            tenant: tenant_label,
            status,
        };
        let counter = self.all.inferences.get_or_create_owned(&labels);
        self.all.inference_labels.lock().entry(self.labels.clone()).or_default().insert(labels);
        counter.inc();
        if !capped {
            outcomes.entry(tenant.clone()).or_default().insert(status, counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(all: &Metrics, format: MetricsFormat) -> String {
        String::from_utf8(all.encode(format, 7, 1).unwrap()).unwrap()
    }

    #[test]
    fn text_has_the_documented_names_and_capped_tenants() {
        let all = Metrics::new();
        let m = all.model(&ModelId::new("digits").unwrap(), &Version::new("1").unwrap());
        for i in 0..=TENANT_LABELS_MAX {
            m.finished(&Tenant::new(format!("t{i}")).unwrap(), Ok(Duration::from_millis(2)));
        }
        m.finished(&Tenant::default(), Err(ErrorKind::ModelFailed));
        m.batch_size.observe(8.0);
        all.rejected(ErrorKind::Overloaded);
        let text = written(&all, MetricsFormat::Text);
        for line in [
            r#"grey_ai_inferences_total{model="digits",version="1",tenant="t0",status="ok"} 1"#,
            r#"grey_ai_inferences_total{model="digits",version="1",tenant="_other",status="ok"} 1"#,
            r#"grey_ai_inferences_total{model="digits",version="1",tenant="_other",status="model_failed"} 1"#,
            r#"grey_ai_inference_duration_seconds_count{model="digits",version="1"} 101"#,
            r#"grey_ai_batch_size_bucket{model="digits",version="1",le="8"} 1"#,
            r#"grey_ai_rejected_total{reason="overloaded"} 1"#,
            "grey_ai_inflight_bytes 7",
            "grey_ai_models_loaded 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        all.forget(&ModelId::new("digits").unwrap(), &Version::new("1").unwrap());
        let left = written(&all, MetricsFormat::Text);
        assert!(!left.contains("model=\"digits\""), "nothing is left of a version that is gone");
    }
    #[test]
    fn formats_differ_where_they_must() {
        let all = Metrics::new();
        all.rejected(ErrorKind::Overloaded);
        let (open, text) = (written(&all, MetricsFormat::OpenMetrics), written(&all, MetricsFormat::Text));
        // In OpenMetrics a counter's family has no suffix and the text has an end.
        assert!(open.contains("# TYPE grey_ai_rejected counter\n") && open.ends_with("# EOF\n"), "{open}");
        assert!(text.contains("# TYPE grey_ai_rejected_total counter\n") && !text.contains("# EOF"), "{text}");
        let binary = all.encode(MetricsFormat::Protobuf, 7, 1).unwrap();
        assert!(binary.windows(22).any(|w| w == b"grey_ai_rejected_total"), "{binary:?}");
    }
}
