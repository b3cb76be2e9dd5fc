//! A client of one Grey node: inference over the Open Inference Protocol with binary tensors, the registry,
//! proofs and their verification on arrival, replays.
//!
//! [`Client`] is cheap to clone and keeps a pool of connections. Every call has a deadline that covers all of
//! it: waiting for a connection, sending, the node's work, reading, and what is sent again. What is
//! sent again, and when, is decided in [`retry`] alone. Whatever a server answers is read as if it were
//! hostile: lengths are checked before anything is allocated by them, and what does not fit is an
//! [`Error`] that says so.
//!
//! Dropping the future of a call ends its connection, which the node sees.

mod address;
mod answer;
mod body;
mod client;
mod clock;
mod config;
mod connection;
mod error;
mod form;
mod pool;
mod proof;
mod request;
mod retry;
mod text;
mod views;

pub use address::Address;
pub use answer::{Answer, decode};
pub use client::{AddRequest, Client};
pub use config::{Config, Limit};
pub use error::{Error, Refusal, Rejected, Result};
pub use proof::{ProveRequest, Proven};
pub use request::InferCall;
pub use views::{
    Added, Batching, Difference, HashPair, Host, ModelDetails, ModelList, ModelMetadata, ModelName, ModelStatus,
    NodeInfo, NodeProofs, Proofs, Replay, TensorMetadata,
};
