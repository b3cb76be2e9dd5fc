//! How a node serves, as typed and checked values. Fronts parse their files and flags into these.

use std::{collections::BTreeMap, time::Duration};

use grey_core::{BatchAxis, ModelId};

use crate::Machine;

/// Most rows of one run, unless configured: the field's usual default (the user's document: 32).
pub const MAX_BATCH_SIZE_DEFAULT: u32 = 32;
/// Longest hold of a batch with [`Hold::Fill`], unless configured.
pub const MAX_WAIT_DEFAULT: Duration = Duration::from_millis(100);
/// Rows that may wait per version, unless configured: some thousand batches of the default size,
/// beyond which a wait outlasts any caller's patience.
pub const QUEUE_ROWS_MAX_DEFAULT: u32 = 65_536;
/// Longest time for opening a model, unless configured: large files come from slow disks.
pub const LOAD_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// Least run timeout where none is configured (the design, §4).
pub const RUN_TIMEOUT_MIN: Duration = Duration::from_secs(10);
/// The automatic run timeout is this many times the slowest measured bucket.
pub const RUN_TIMEOUT_FACTOR: u32 = 20;
/// Most threads that `auto` gives one run.
pub const THREADS_AUTO_MAX: u32 = 4;
/// A run of one row shorter than this gets one thread from `auto`: splitting it costs more than it gains.
pub const THREADS_AUTO_ROW_TIME: Duration = Duration::from_millis(1);
/// The node's name in proofs, unless configured.
pub const ISSUER_DEFAULT: &str = "grey";
/// What a node takes in flight if it cannot learn how much memory there is.
pub const INFLIGHT_BYTES_FALLBACK: u64 = 1 << 30;

/// Whether a batch is held back to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldPolicy {
    /// An idle instance takes what is there at once.
    None,
    /// It waits for a full batch, or until the oldest row has waited this long.
    Fill(Duration),
}

/// How requests of one version are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchingConfig {
    /// Most rows of one run; 1 turns batching off.
    pub max_batch_size: u32,
    /// Whether a batch is held back.
    pub hold: HoldPolicy,
    /// Pad runs to multiples of this instead of powers of two.
    pub pad_to_multiple: Option<u32>,
}

impl Default for BatchingConfig {
    fn default() -> Self {
        BatchingConfig { max_batch_size: MAX_BATCH_SIZE_DEFAULT, hold: HoldPolicy::None, pad_to_multiple: None }
    }
}

/// How one model is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// How its requests are put together.
    pub batching: BatchingConfig,
    /// Threads of one run; `None` lets the node measure.
    pub threads: Option<u32>,
    /// Hosts per version, on one queue; at least 1.
    pub instances: u32,
    /// The operator's word on the batch axis; `None` lets the node probe.
    pub batch_axis: Option<BatchAxis>,
    /// When a run's host is ended; `None`: max([`RUN_TIMEOUT_MIN`], [`RUN_TIMEOUT_FACTOR`] × the
    /// slowest measured bucket).
    pub run_timeout: Option<Duration>,
    /// Whether answers are to be provable (`proofs: on` or `off`). Sets the engine's switches, so it
    /// is fixed for the life of a host.
    pub proofs: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            batching: BatchingConfig::default(),
            threads: None,
            instances: 1,
            batch_axis: None,
            run_timeout: None,
            proofs: true,
        }
    }
}

/// How a node serves.
#[derive(Clone, Debug)]
pub struct ServingConfig {
    /// What this node may use: as many run permits as cores.
    pub machine: Machine,
    /// Bytes of bodies, tensors and results in flight.
    pub inflight_bytes_max: u64,
    /// Rows that may wait per version.
    pub queue_rows_max: u32,
    /// Longest time for opening a model.
    pub load_timeout: Duration,
    /// Whether readiness waits for the restored models.
    pub strict_ready: bool,
    /// The node's name, as its proofs state it (claim 1).
    pub issuer: String,
    /// Key of the tenants' tags in proofs; `None`: one that is drawn once and kept in the data folder.
    pub tenant_tag_key: Option<[u8; 32]>,
    /// How models are served that have no entry of their own.
    pub defaults: ModelConfig,
    /// Models with settings of their own.
    pub models: BTreeMap<ModelId, ModelConfig>,
}

impl Default for ServingConfig {
    fn default() -> Self {
        let machine = Machine::read();
        ServingConfig {
            inflight_bytes_max: machine.memory_bytes.map_or(INFLIGHT_BYTES_FALLBACK, |m| m / 4),
            machine,
            queue_rows_max: QUEUE_ROWS_MAX_DEFAULT,
            load_timeout: LOAD_TIMEOUT_DEFAULT,
            strict_ready: false,
            issuer: ISSUER_DEFAULT.into(),
            tenant_tag_key: None,
            defaults: ModelConfig::default(),
            models: BTreeMap::new(),
        }
    }
}

impl ServingConfig {
    /// How `id` is served.
    pub fn model(&self, id: &ModelId) -> &ModelConfig {
        self.models.get(id).unwrap_or(&self.defaults)
    }
}
