//! The vocabulary of Grey: dtypes, tensors, signatures, model names, requests, responses and
//! error kinds with their HTTP and gRPC codes.
//!
//! Every other crate speaks in these types; this one depends on no other crate of Grey, performs
//! no I/O and reads no clock. A value that exists here is valid: constructors check, and nothing
//! later re-checks.

mod dtype;
mod error;
mod infer;
mod name;
mod nearest;
pub mod oip;
mod payload;
mod signature;
mod tensor;

pub use dtype::{DType, UnknownDType};
pub use error::{Error, ErrorKind, Result};
pub use infer::{AnswerProof, InferRequest, InferResponse, NONCE_BYTES, Parameter, Parameters, ProofRequest};
pub use name::{Label, ModelId, ModelRef, Tenant, Version, VersionChoice};
pub use nearest::nearest;
pub use payload::{Cursor, Payload};
pub use signature::{BatchAxis, Dim, RANK_MAX, SIGNATURE_TENSORS_MAX, Signature, TensorSpec};
pub use tensor::{ELEMENT_LENGTH_BYTES, Tensor, element_count, payload_len};
