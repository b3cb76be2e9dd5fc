//! Engine hosts: the protocol between a node and the processes in which models live, shared
//! memory, supervision, and the engines themselves. Depends on `grey-core` alone; knows nothing of
//! HTTP, registries, tenants or queues.

mod clock;
pub mod contain;
pub mod discover;
pub mod engine;
pub mod engines;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod host;
mod launch;
mod link;
pub mod memory;
pub mod protocol;
mod spare;
pub mod supervise;
mod watch;
mod wire;

pub use engine::{Determinism, EngineInfo, EngineKind, LoadOptions, Repeats};
pub use handle::{Artifact, Hello, Host, HostError, LoadedModel, RunError};
pub use host::{OpenEngine, host_main};
pub use launch::{HostCommand, Isolation, Launcher};
pub use link::{BatchInput, RunOutput, RunOutputs};
pub use memory::{SealedFile, SealedFileWriter};
pub use protocol::ModelHandle;
pub use watch::HostExit;
