//! What a node tells about its models: the types that fronts translate into their protocols.

use std::{collections::BTreeMap, time::Duration};

use grey_core::{Label, ModelId, Signature, Version};
use grey_registry::{Index, Manifest};
use serde::Serialize;

use crate::HistogramView;

/// Whether a version answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// Registered, not loaded; loads when a request or an operator asks.
    Registered,
    /// Being opened.
    Loading,
    /// A request would be answered without loading.
    Ready,
    /// Failed to open, or its hosts die faster than they may be restarted; see the reason.
    Failed,
    /// Unloaded by an operator: refused until `load`.
    Unloaded,
}

impl ModelState {
    /// Stable lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            ModelState::Registered => "registered",
            ModelState::Loading => "loading",
            ModelState::Ready => "ready",
            ModelState::Failed => "failed",
            ModelState::Unloaded => "unloaded",
        }
    }
}

/// One version in the index of models.
#[derive(Clone, Debug, Serialize)]
pub struct ModelStatus {
    /// The model.
    pub id: ModelId,
    /// The version.
    pub version: Version,
    /// Whether requests without a version get this one.
    pub latest: bool,
    /// Labels that mean this version, `latest` among them.
    pub labels: Vec<Label>,
    /// What it does now.
    pub state: ModelState,
    /// Why, where the state needs a reason; else empty.
    pub reason: String,
}

/// All that `model show` tells about one version.
#[derive(Clone, Debug, Serialize)]
pub struct ModelDetails {
    /// Id, version, state.
    #[serde(flatten)]
    pub status: ModelStatus,
    /// Engine name, e.g. `onnxruntime`.
    pub engine: String,
    /// Lower-case hex, and its scheme (`sha256-file`, `sha256-files`).
    pub model_hash: String,
    /// Scheme of `model_hash`.
    pub model_hash_scheme: String,
    /// Path → bytes of the version's files.
    pub files: BTreeMap<String, u64>,
    /// Inputs and outputs.
    pub signature: Signature,
    /// Free metadata given at registration.
    pub metadata: BTreeMap<String, String>,
    /// Whether an example request is kept with it.
    pub example: bool,
    /// When it was registered, Unix seconds.
    pub created: u64,
    /// How requests are batched, and why.
    pub batching: BatchingView,
    /// Whether answers can be proven, as what, and why.
    pub proofs: ProofsView,
    /// Threads of one run, and who chose them.
    pub threads: Option<u32>,
    /// The running hosts, empty if not loaded.
    pub hosts: Vec<HostView>,
}

impl ModelStatus {
    pub(crate) fn of(index: &Index, m: &Manifest, state: ModelState, reason: String) -> ModelStatus {
        ModelStatus {
            id: m.id.clone(),
            version: m.version.clone(),
            latest: index.latest() == Some(&m.version),
            labels: index.labels_of(&m.version),
            state,
            reason,
        }
    }
}

impl ModelDetails {
    /// Of a version that is not loaded.
    pub(crate) fn of(
        index: &Index,
        m: &Manifest,
        status: ModelStatus,
        batching: BatchingView,
        proofs: ProofsView,
    ) -> ModelDetails {
        ModelDetails {
            status,
            engine: m.engine.clone(),
            model_hash: m.model_hash.sha256.to_string(),
            model_hash_scheme: m.model_hash.scheme.name().to_owned(),
            files: m.files.iter().map(|f| (f.path.to_string(), f.size)).collect(),
            signature: m.signature.clone(),
            metadata: m.metadata.clone(),
            example: index.entry.examples.contains_key(&m.version),
            created: m.created,
            batching,
            proofs,
            threads: None,
            hosts: Vec::new(),
        }
    }
}

/// How requests of a version are put together.
#[derive(Clone, Debug, Serialize)]
pub struct BatchingView {
    /// Whether requests share runs.
    pub enabled: bool,
    /// The reason in words, e.g. `rows do not mix (probed)`.
    pub reason: String,
    /// Most rows in one run.
    pub max_batch_size: u32,
    /// `none` or `fill`.
    pub hold: &'static str,
    /// How long a batch may be held back with `fill`.
    pub max_wait_ms: u64,
    /// Batch sizes that runs are padded to; empty if nothing is padded.
    pub buckets: Vec<u32>,
}

/// Whether and as what a version's answers can be proven.
#[derive(Clone, Debug, Serialize)]
pub struct ProofsView {
    /// The option `proofs` of the load.
    pub on: bool,
    /// Determinism class, e.g. `slot`; `None` if no proof is made or the version is not loaded.
    pub class: Option<&'static str>,
    /// Why this class, or why no proof is made.
    pub reason: String,
    /// Whether a proven request shares its run with nobody.
    pub alone: bool,
    /// What the model computes in, e.g. `fp32`; `None` if it is not loaded.
    pub precision: Option<String>,
    /// Determinism switches that are set.
    pub switches: Vec<String>,
    /// What the self-test found; `not ended` while it runs, `none` where there is none.
    pub self_test: String,
}

impl ProofsView {
    /// Of a version of which no more is known than its option.
    pub(crate) fn not_loaded(on: bool) -> Self {
        let reason = "not loaded".into();
        let self_test = "none".into();
        ProofsView { on, class: None, reason, alone: false, precision: None, switches: Vec::new(), self_test }
    }
}

/// One engine host of a version.
#[derive(Clone, Debug, Serialize)]
pub struct HostView {
    /// Process id; `None` where the engine runs inside the node.
    pub pid: Option<u32>,
    /// Runtime and version.
    pub runtime: String,
}

/// Count and total time of one step, as Triton's statistics extension tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatDuration {
    /// How often.
    pub count: u64,
    /// Nanoseconds in all.
    pub ns: u64,
}

impl StatDuration {
    /// Adds `count` events of `each`.
    pub fn add(&mut self, count: u64, each: Duration) {
        self.count = self.count.saturating_add(count);
        let ns = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX).saturating_mul(count);
        self.ns = self.ns.saturating_add(ns);
    }
}

/// Counters of one version since it was first loaded on this node.
#[derive(Clone, Debug, Serialize)]
pub struct ModelStatistics {
    /// The model.
    pub id: ModelId,
    /// The version.
    pub version: Version,
    /// Time of the last finished request, Unix milliseconds; 0 if none.
    pub last_inference_ms: u64,
    /// Rows inferred with success (one per request where the model has no batch axis).
    pub inference_count: u64,
    /// Runs of the model.
    pub execution_count: u64,
    /// Requests answered, with their whole time.
    pub success: StatDuration,
    /// Requests failed, with their whole time.
    pub fail: StatDuration,
    /// Time in the queue, of successful requests.
    pub queue: StatDuration,
    /// Copying inputs in.
    pub compute_input: StatDuration,
    /// Running.
    pub compute_infer: StatDuration,
    /// Copying outputs out.
    pub compute_output: StatDuration,
    /// Per executed batch size (rows before padding).
    pub batches: BTreeMap<u32, BatchStatistics>,
}

/// Counters of one batch size.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BatchStatistics {
    /// Copying inputs in.
    pub compute_input: StatDuration,
    /// Running.
    pub compute_infer: StatDuration,
    /// Copying outputs out.
    pub compute_output: StatDuration,
}

/// What waits for a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueView {
    /// Rows that wait.
    pub rows: u32,
    /// Most rows that may wait.
    pub rows_max: u32,
    /// How long the oldest waiting request has waited; 0 if none waits.
    pub oldest_wait_ms: u64,
}

/// What was counted of a version since the node started, or since the version was registered.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tallies {
    /// From the acceptance of a request to its answer, of those that succeeded.
    pub latency_seconds: HistogramView,
    /// In the queue, of those that succeeded.
    pub queue_seconds: HistogramView,
    /// Runs of the model.
    pub execute_seconds: HistogramView,
    /// Rows per run, before padding.
    pub batch_rows: HistogramView,
    /// Hosts started again after one died.
    pub restarts: u64,
    /// Requests whose inputs were refused from then on.
    pub quarantined: u64,
}

/// What `engine list` tells about one engine on this node.
#[derive(Clone, Debug, Serialize)]
pub struct EngineReport {
    /// Engine name.
    pub engine: String,
    /// Whether it can be used.
    pub usable: bool,
    /// Runtime version, if it was found.
    pub version: Option<String>,
    /// The library file, if it was found.
    pub library: Option<String>,
    /// Where it was found: `option`, `virtualenv`, `managed`, `system`.
    pub source: Option<String>,
    /// Devices.
    pub devices: Vec<String>,
    /// Containment layers: name → whether it holds (and if not, why).
    pub containment: BTreeMap<String, String>,
    /// `process` or `inline`.
    pub isolation: String,
    /// What is wrong, if it cannot be used.
    pub problem: Option<String>,
    /// The exact command that would install what is missing.
    pub install: Option<String>,
    /// Places that were looked at, in order.
    pub searched: Vec<String>,
}

/// Answer to [`crate::Node::finish_add`].
#[derive(Clone, Debug, Serialize)]
pub struct Added {
    /// The version, as `model show` tells it.
    #[serde(flatten)]
    pub details: ModelDetails,
    /// Whether these bytes were registered before, so that nothing changed.
    pub existed: bool,
}
