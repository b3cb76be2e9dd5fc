//! Tensors as requests and answers have them, for the verifier of proofs.

use grey_core::Tensor;
use grey_proof::KnownTensor;

/// Tensors as the verifier takes them, in an order that does not depend on the text they came in.
pub fn known_tensors(tensors: &[Tensor]) -> Vec<KnownTensor> {
    let one = |t: &Tensor| KnownTensor {
        name: t.name().to_owned(),
        datatype: t.dtype().name().to_owned(),
        shape: t.shape().iter().map(|d| i128::from(*d)).collect(),
        data: t.data().to_contiguous(),
    };
    let mut known: Vec<KnownTensor> = tensors.iter().map(one).collect();
    known.sort_by(|a, b| a.name.cmp(&b.name));
    known
}
