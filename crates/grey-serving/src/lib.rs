//! From an admitted request to an answer: loaded models, batcher, probe, run permits, budgets.
//! Uses `grey-core`, `grey-registry` and `grey-engine`; knows nothing of HTTP or gRPC.

mod adding;
pub mod api;
mod assemble;
pub mod batcher;
mod budget;
mod clock;
mod config;
mod determinism;
mod engines;
mod example;
mod hashing;
mod histogram;
mod identity;
mod isa;
mod machine;
mod madeup;
mod metrics;
mod model;
mod node;
mod offline;
mod opener;
mod order;
mod overview;
pub mod permits;
pub mod probe;
mod probing;
mod profile;
mod proving;
mod quarantine;
mod queue;
pub mod random;
mod replay;
pub mod selftest;
mod stats;
mod unanswered;
mod usage;
mod validate;
mod wanted;
mod work;

pub use adding::{Adding, NewVersion};
pub use budget::BytesPermit;
pub use config::{
    BatchingConfig, HoldPolicy, INFLIGHT_BYTES_FALLBACK, ISSUER_DEFAULT, LOAD_TIMEOUT_DEFAULT, MAX_BATCH_SIZE_DEFAULT,
    MAX_WAIT_DEFAULT, ModelConfig, QUEUE_ROWS_MAX_DEFAULT, RUN_TIMEOUT_FACTOR, RUN_TIMEOUT_MIN, ServingConfig,
    THREADS_AUTO_MAX, THREADS_AUTO_ROW_TIME,
};
pub use engines::{Engines, main_file};
pub use histogram::HistogramView;
pub use identity::Identity;
pub use machine::{LimitedBy, Machine};
pub use metrics::MetricsFormat;
pub use node::Node;
pub use offline::Offline;
pub use overview::{HostOverview, ModelOverview, NodeOverview};
pub use replay::{ProfileDifference, Replay, ReplayRequest, Replayed};
pub use usage::ProcessUsage;
pub use validate::{RunView, TensorView, Validation};
