//! What travels with a request through the queue: who may stand beside it, the proof that was
//! ordered with it, its answer, and that answer while it waits for the proof.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use grey_core::{AnswerProof, Result, Tensor};
use grey_engine::EngineInfo;
use tokio::sync::oneshot;

use crate::{
    batcher::{BatcherConfig, Segment},
    determinism::ModelDeterminism,
    hashing::{bytes_of, hash, is_small},
    stats::RunTimes,
};

/// Who may stand in a run beside a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// Whoever has the same key.
    Any,
    /// Nobody; it is cut into full batches and padded as others are.
    Nobody,
    /// Nobody, and it runs in one piece, unpadded.
    NobodyWhole,
}

/// A proof that was ordered with a request.
pub(crate) struct Order {
    pub(crate) nonce: Option<Vec<u8>>,
    pub(crate) tenant_tag: [u8; 16],
    pub(crate) inputs: Arc<Inputs>,
    pub(crate) determinism: Arc<ModelDeterminism>,
    /// How requests were put together when it was ordered.
    pub(crate) batcher: BatcherConfig,
}

/// Inputs as the client sent them, and their hash once somebody has needed it.
pub(crate) struct Inputs {
    tensors: Vec<Tensor>,
    salt: Option<[u8; 32]>,
    hash: OnceLock<Result<[u8; 32]>>,
}

impl Inputs {
    pub(crate) fn new(tensors: Vec<Tensor>, salt: Option<[u8; 32]>) -> Inputs {
        Inputs { tensors, salt, hash: OnceLock::new() }
    }

    /// The client's.
    pub(crate) fn salt(&self) -> Option<&[u8; 32]> {
        self.salt.as_ref()
    }

    pub(crate) fn hash(&self) -> Result<[u8; 32]> {
        self.hash.get_or_init(|| hash(&self.tensors, self.salt.as_ref())).clone()
    }

    /// Hashes them now, or on the blocking pool if they are large: the request has time for it while
    /// it waits and runs.
    pub(crate) fn hash_ahead(self: Arc<Self>) {
        if is_small(bytes_of(&self.tensors)) {
            drop(self.hash());
        } else {
            tokio::task::spawn_blocking(move || drop(self.hash()));
        }
    }

    /// Bytes that are still to be hashed.
    pub(crate) fn unhashed_bytes(&self) -> usize {
        if self.hash.get().is_some() { 0 } else { bytes_of(&self.tensors) }
    }
}

/// An answer that waits for its proof.
pub(crate) struct Unproven {
    pub(crate) reply: oneshot::Sender<Result<Answer>>,
    pub(crate) answer: Answer,
    pub(crate) order: Order,
    pub(crate) segments: Vec<Segment>,
    /// The runtimes of its runs, one per run.
    pub(crate) engines: Vec<Arc<EngineInfo>>,
}

/// What a run gave to one request.
pub(crate) struct Answer {
    pub(crate) outputs: Vec<Tensor>,
    pub(crate) queue_time: Duration,
    /// Of the last run, if the request was split.
    pub(crate) times: RunTimes,
    pub(crate) proof: Option<AnswerProof>,
}
