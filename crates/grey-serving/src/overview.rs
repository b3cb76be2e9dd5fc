//! The node at one moment, as the console and `grey top` show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use grey_core::{ModelId, Result, Version};
use serde::Serialize;

use crate::{
    Identity, Node,
    api::{BatchingView, ModelDetails, ModelState, ModelStatistics, ModelStatus, ProofsView, QueueView, Tallies},
    clock,
    model::Model,
    usage::ProcessUsage,
};

/// Everything that an operator looks at. Counts and histograms only grow as long as the node lives and a
/// version is registered; rates are differences of two overviews.
#[derive(Clone, Debug, Serialize)]
pub struct NodeOverview {
    /// When this was so: Unix milliseconds.
    pub time_ms: u64,
    /// Process id of the node.
    pub pid: u32,
    /// Since when it runs: Unix seconds.
    pub started: u64,
    /// For how long it has been running.
    pub uptime_ms: u64,
    /// Whether it takes requests.
    pub ready: bool,
    /// Why not; else empty.
    pub reason: String,
    /// Cores that runs may use.
    pub cores: u32,
    /// Memory that the node and its hosts may use, if it can be told.
    pub memory_bytes: Option<u64>,
    /// What the node's own process uses.
    pub usage: Option<ProcessUsage>,
    /// Bytes of bodies, tensors and results in flight.
    pub inflight_bytes: u64,
    /// Most of them.
    pub inflight_bytes_max: u64,
    /// What verifiers may expect of this node.
    pub proofs: Identity,
    /// What an operator should know, in words.
    pub warnings: Vec<String>,
    /// All registered versions, by model and version.
    pub models: Vec<ModelOverview>,
    /// Models whose registry entries cannot be read, and why.
    pub unreadable: BTreeMap<ModelId, String>,
}

/// One registered version.
#[derive(Clone, Debug, Serialize)]
pub struct ModelOverview {
    /// Id, version, state.
    #[serde(flatten)]
    pub status: ModelStatus,
    /// Engine name.
    pub engine: String,
    /// Lower-case hex.
    pub model_hash: String,
    /// Scheme of `model_hash`.
    pub model_hash_scheme: String,
    /// When it was registered, Unix seconds.
    pub created: u64,
    /// How requests are batched, and why.
    pub batching: BatchingView,
    /// Whether answers can be proven, as what, and why.
    pub proofs: ProofsView,
    /// Threads of one run; `None` if it is not loaded.
    pub threads: Option<u32>,
    /// What waits.
    pub queue: QueueView,
    /// The running hosts.
    pub hosts: Vec<HostOverview>,
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed after they were accepted.
    pub failed: u64,
    /// Rows inferred with success.
    pub rows: u64,
    /// Runs of the model.
    pub runs: u64,
    /// Time of the last finished request, Unix milliseconds; 0 if none.
    pub last_inference_ms: u64,
    /// Histograms and further counts.
    #[serde(flatten)]
    pub tallies: Tallies,
}

/// One engine host.
#[derive(Clone, Debug, Serialize)]
pub struct HostOverview {
    /// Process id; `None` where the engine runs inside the node.
    pub pid: Option<u32>,
    /// Runtime and version.
    pub runtime: String,
    /// What the process uses; `None` where it has none of its own, or has just ended.
    pub usage: Option<ProcessUsage>,
}

impl Node {
    /// The node now. No lock is held for longer than it takes to copy some numbers, and `/proc` is read on
    /// the blocking pool.
    ///
    /// # Errors
    /// Only what the registry says of an entry that it cannot read.
    pub async fn overview(&self) -> Result<NodeOverview> {
        let mut models = Vec::new();
        let mut uncontained = BTreeSet::new();
        for status in self.list().await? {
            let (id, version) = (status.id.clone(), status.version.clone());
            // Removed since it was listed: then it is not there.
            let Ok(details) = self.show_version(&id, &version).await else { continue };
            let model = self.loaded_model(&id, &version);
            uncontained.extend(model.iter().flat_map(|m| m.uncontained()));
            models.push(self.one(details, model));
        }
        let pids: Vec<u32> = models.iter().flat_map(|m| &m.hosts).filter_map(|h| h.pid).collect();
        let read = move || {
            let usage = |pid| ProcessUsage::of(pid).map(|usage| (pid, usage));
            let hosts: BTreeMap<u32, ProcessUsage> = pids.into_iter().filter_map(usage).collect();
            (ProcessUsage::of(std::process::id()), hosts)
        };
        let memory_bytes = self.memory_bytes();
        let (usage, hosts) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        for host in models.iter_mut().flat_map(|m| &mut m.hosts) {
            host.usage = host.pid.and_then(|pid| hosts.get(&pid).copied());
        }
        let ready = self.ready();
        let (now, since_epoch) = (clock::now(), clock::since_epoch());
        let began = self.began();
        let uptime = now.saturating_duration_since(began.at);
        let (inflight_bytes, inflight_bytes_max) = self.bytes_in_flight();
        let unreadable: BTreeMap<ModelId, String> =
            self.unreadable().iter().map(|(id, e)| (id.clone(), e.message().to_owned())).collect();
        Ok(NodeOverview {
            time_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            pid: std::process::id(),
            started: began.unix_seconds,
            uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
            ready: ready.is_ok(),
            reason: ready.err().map(|e| e.message().to_owned()).unwrap_or_default(),
            cores: self.cores(),
            memory_bytes,
            usage,
            inflight_bytes,
            inflight_bytes_max,
            proofs: self.identity().clone(),
            warnings: warnings(&models, &unreadable, &uncontained),
            models,
            unreadable,
        })
    }

    fn one(&self, d: ModelDetails, model: Option<Arc<Model>>) -> ModelOverview {
        let statistics = self.counted(&d.status.id, &d.status.version);
        let count = |of: fn(&ModelStatistics) -> u64| statistics.as_ref().map_or(0, of);
        let host = |h: crate::api::HostView| HostOverview { pid: h.pid, runtime: h.runtime, usage: None };
        ModelOverview {
            answered: count(|s| s.success.count),
            failed: count(|s| s.fail.count),
            rows: count(|s| s.inference_count),
            runs: count(|s| s.execution_count),
            last_inference_ms: count(|s| s.last_inference_ms),
            tallies: self.tallies(&d.status.id, &d.status.version),
            queue: model.map(|m| m.queue_view(clock::now())).unwrap_or_default(),
            status: d.status,
            engine: d.engine,
            model_hash: d.model_hash,
            model_hash_scheme: d.model_hash_scheme,
            created: d.created,
            batching: d.batching,
            proofs: d.proofs,
            threads: d.threads,
            hosts: d.hosts.into_iter().map(host).collect(),
        }
    }
}

fn warnings(
    models: &[ModelOverview],
    unreadable: &BTreeMap<ModelId, String>,
    uncontained: &BTreeSet<(String, String)>,
) -> Vec<String> {
    let of = |m: &ModelOverview| named(&m.status.id, &m.status.version);
    let failed = models
        .iter()
        .filter(|m| m.status.state == ModelState::Failed)
        .map(|m| format!("{} failed: {}", of(m), m.status.reason));
    let entries = unreadable.iter().map(|(id, why)| format!("the registry's entries of {id} cannot be read: {why}"));
    let layers =
        uncontained.iter().map(|(layer, why)| format!("models are not contained by {layer} on this machine: {why}"));
    failed.chain(entries).chain(layers).collect()
}

fn named(id: &ModelId, version: &Version) -> String {
    format!("{id} version {version}")
}
