//! Example requests of versions: the form in which the registry keeps them, and what they must fit.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use grey_core::{DType, Error, ErrorKind, Result, Signature, Tensor};
use serde::{Deserialize, Serialize};

/// Format of kept examples that this build writes.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    inputs: Vec<KeptTensor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptTensor {
    name: String,
    datatype: DType,
    shape: Vec<u64>,
    /// Base64 of its bytes, as requests carry them in binary.
    data: String,
}

/// The bytes that the registry keeps.
pub(crate) fn encode(inputs: &[Tensor]) -> Result<Bytes> {
    let tensor = |t: &Tensor| KeptTensor {
        name: t.name().to_owned(),
        datatype: t.dtype(),
        shape: t.shape().to_vec(),
        data: STANDARD.encode(t.data().to_contiguous()),
    };
    let kept = Kept { format: FORMAT, inputs: inputs.iter().map(tensor).collect() };
    let text = serde_json::to_vec(&kept);
    Ok(text.map_err(|e| Error::internal(format!("the example cannot be written as JSON: {e}")))?.into())
}

/// The inputs again, in the order of `signature`.
pub(crate) fn decode(kept: &[u8], model: &str, signature: &Signature) -> Result<Vec<Tensor>> {
    let bad = |why: String| {
        let m = format!("the example of model '{model}' is not what Grey wrote: {why}; give it again");
        Error::new(ErrorKind::FailedPrecondition, m)
    };
    let kept: Kept = serde_json::from_slice(kept).map_err(|e| bad(e.to_string()))?;
    if kept.format != FORMAT {
        return Err(bad(format!("it has format {}, this Grey reads {FORMAT}", kept.format)));
    }
    let tensors: Result<Vec<Tensor>> = kept
        .inputs
        .into_iter()
        .map(|t| {
            let data = STANDARD.decode(&t.data).map_err(|e| bad(e.to_string()))?;
            Tensor::new(t.name, t.datatype, t.shape, data)
        })
        .collect();
    ordered(tensors.map_err(|e| bad(e.message().to_owned()))?, model, signature)
}

/// `inputs` in the order of `signature`; the error says which input does not fit, and how.
pub(crate) fn ordered(mut inputs: Vec<Tensor>, model: &str, signature: &Signature) -> Result<Vec<Tensor>> {
    signature.check_inputs(model, &inputs).map_err(|e| e.context("the example"))?;
    let at = |name: &str| signature.inputs.iter().position(|s| s.name == name);
    inputs.sort_by_key(|t| at(t.name()));
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use grey_core::{Dim, TensorSpec};

    use super::*;

    #[test]
    fn what_is_kept_is_read_again_in_the_signature_s_order() {
        let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![Dim::Any] };
        let inputs = vec![spec("a", DType::Fp32), spec("b", DType::Bytes)];
        let signature = Signature { inputs, outputs: Vec::new() };
        let a = Tensor::new("a", DType::Fp32, vec![1], 1f32.to_le_bytes().to_vec()).unwrap();
        let b = Tensor::new("b", DType::Bytes, vec![1], b"\x01\0\0\0x".to_vec()).unwrap();
        let kept = encode(&[b.clone(), a.clone()]).unwrap();
        assert_eq!(decode(&kept, "m", &signature).unwrap(), [a.clone(), b]);
        let missing = decode(&encode(&[a]).unwrap(), "m", &signature).unwrap_err();
        assert!(missing.message().starts_with("the example: input 'b' for model 'm' is missing"), "{missing}");
        for bad in ["", "[]", "{\"format\":2,\"inputs\":[]}", "{\"format\":1,\"inputs\":[{}]}"] {
            assert!(decode(bad.as_bytes(), "m", &signature).is_err(), "{bad}");
        }
    }
}
