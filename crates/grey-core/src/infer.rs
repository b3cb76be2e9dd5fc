use std::{collections::BTreeMap, time::Duration, time::Instant};

use bytes::Bytes;

use crate::{ModelId, ModelRef, Tenant, Tensor, Version};

/// Value of a request or response parameter of the Open Inference Protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number that is no integer.
    Float(f64),
    /// Text.
    Text(String),
}

/// Parameters by name, in byte order.
pub type Parameters = BTreeMap<String, Parameter>;

/// Bytes of a client's nonce (proof format, claim 10).
pub const NONCE_BYTES: std::ops::RangeInclusive<usize> = 8..=64;

/// That an answer is to be proven, and how (proof format, § Where proofs appear).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProofRequest {
    /// The client's nonce, of [`NONCE_BYTES`], which the proof repeats.
    pub nonce: Option<Vec<u8>>,
    /// The client's salt for the hashes of inputs and outputs that could be guessed.
    pub salt: Option<[u8; 32]>,
}

/// A proven answer's proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerProof {
    /// The encoded proof.
    pub proof: Bytes,
    /// Names the session that signed it.
    pub session: [u8; 32],
}

/// One inference request, decoded and validated as far as that goes without the model.
#[derive(Clone, Debug)]
pub struct InferRequest {
    /// The client's id, returned as it came; empty if none was given.
    pub id: String,
    /// The model asked for.
    pub model: ModelRef,
    /// The inputs, in the client's order.
    pub inputs: Vec<Tensor>,
    /// Names of the outputs to return, in order; empty for all.
    pub outputs: Vec<String>,
    /// Parameters that the model may see (those that the fronts understand are taken out).
    pub parameters: Parameters,
    /// Who asks.
    pub tenant: Tenant,
    /// When the caller stops caring. The request leaves the queue then, or its answer is dropped.
    pub deadline: Option<Instant>,
    /// Set where the answer is to be proven.
    pub proof: Option<ProofRequest>,
}

/// The answer to an [`InferRequest`].
#[derive(Clone, Debug)]
pub struct InferResponse {
    /// The request's id.
    pub id: String,
    /// The model that ran.
    pub model: ModelId,
    /// The version that ran.
    pub version: Version,
    /// The outputs asked for, in the order asked for (else the model's).
    pub outputs: Vec<Tensor>,
    /// Response parameters.
    pub parameters: Parameters,
    /// The proof, where one was asked for.
    pub proof: Option<AnswerProof>,
    /// Time from acceptance to the start of the run (of the last one, if the request was split).
    pub queue_time: Duration,
    /// Time in which the run that answered had the host.
    pub execute_time: Duration,
}
