//! Hashes of tensors, and where they are computed.

use grey_core::{Error, Result, Tensor};
use grey_proof::hash_tensors;

/// Tensors up to this many bytes are hashed where they are; more would hold up a thread that serves
/// others (0.2 ms with SHA instructions), and go to the blocking pool.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// Bytes of all tensors.
pub(crate) fn bytes_of(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|t| t.data().len()).sum()
}

/// Whether so many bytes may be hashed on a thread that serves others.
pub(crate) fn is_small(bytes: usize) -> bool {
    bytes <= INLINE_BYTES_MAX
}

/// The input or output hash (proof format, §1).
pub(crate) fn hash(tensors: &[Tensor], salt: Option<&[u8; 32]>) -> Result<[u8; 32]> {
    // Names are unique and dimensions bounded in whatever a request or a model brings.
    hash_tensors(tensors, salt).map_err(|e| Error::internal(e.to_string()))
}

/// The same, of large tensors on the blocking pool.
pub(crate) async fn hash_off(tensors: &[Tensor], salt: Option<[u8; 32]>) -> Result<[u8; 32]> {
    if is_small(bytes_of(tensors)) {
        return hash(tensors, salt.as_ref());
    }
    let tensors = tensors.to_vec();
    let hashed = tokio::task::spawn_blocking(move || hash(&tensors, salt.as_ref())).await;
    hashed.map_err(|e| Error::internal(format!("hashing failed: {e}")))?
}
