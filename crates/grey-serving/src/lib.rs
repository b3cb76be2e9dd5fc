//! From an admitted request to an answer: loaded models, batcher, probe, run permits, budgets.
//! Uses `grey-core`, `grey-registry` and `grey-engine`; knows nothing of HTTP or gRPC.

pub mod api;
mod node;

pub use node::{AddRequest, BytesPermit, Node};
