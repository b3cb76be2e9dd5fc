//! From an admitted request to an answer: loaded models, batcher, probe, run permits, budgets.
//! Uses `grey-core`, `grey-registry` and `grey-engine`; knows nothing of HTTP or gRPC.

pub mod api;
mod assemble;
pub mod batcher;
mod budget;
mod clock;
mod config;
mod determinism;
mod engines;
mod hashing;
mod identity;
mod isa;
mod machine;
mod madeup;
mod metrics;
mod model;
mod node;
mod opener;
mod order;
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
mod wanted;
mod work;

pub use budget::BytesPermit;
pub use config::{
    BatchingConfig, HoldPolicy, INFLIGHT_BYTES_FALLBACK, ISSUER_DEFAULT, LOAD_TIMEOUT_DEFAULT, MAX_BATCH_SIZE_DEFAULT,
    MAX_WAIT_DEFAULT, ModelConfig, QUEUE_ROWS_MAX_DEFAULT, RUN_TIMEOUT_FACTOR, RUN_TIMEOUT_MIN, ServingConfig,
    THREADS_AUTO_MAX, THREADS_AUTO_ROW_TIME,
};
pub use engines::Engines;
pub use identity::Identity;
pub use machine::{LimitedBy, Machine};
pub use node::{AddRequest, Node};
pub use replay::{ProfileDifference, Replay, ReplayRequest, Replayed};
