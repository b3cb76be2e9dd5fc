//! Names and limits of the Open Inference Protocol v2 and of Grey's extensions, which a server and a client
//! must agree on. Source: <https://github.com/kserve/open-inference-protocol>, `inference_rest.md`, and Triton's
//! binary tensor extension.

use crate::SIGNATURE_TENSORS_MAX;

/// Request and response header that says where JSON ends and binary data begins.
pub const HEADER_LENGTH_HEADER: &str = "inference-header-content-length";
/// Request header that names the tenant, until authentication exists.
pub const TENANT_HEADER: &str = "grey-tenant";
/// Request header that asks for a proof, as the parameter `grey_prove` does.
pub const PROVE_HEADER: &str = "grey-prove";
/// Response header with the [`name`](crate::ErrorKind::name) of an error's kind: several kinds share a status.
pub const ERROR_KIND_HEADER: &str = "grey-error-kind";

/// Most inputs of one request: as many as a model may have.
pub const INPUTS_MAX: usize = SIGNATURE_TENSORS_MAX;
/// Most outputs that one request may choose, and an answer may hold.
pub const OUTPUTS_MAX: usize = SIGNATURE_TENSORS_MAX;
/// Most parameters of one object: far above any real request.
pub const PARAMETERS_MAX: usize = 1024;
/// Longest name of an input or output: no model has a longer one, and errors repeat it.
pub const TENSOR_NAME_BYTES_MAX: usize = 4096;
/// Longest `timeout` that means anything, a day in microseconds.
pub const TIMEOUT_US_MAX: u64 = 86_400_000_000;
