use std::collections::BTreeMap;
use std::fmt;

use grey_core::Tensor;
use sha2::{Digest, Sha256};

use crate::cbor::Writer;
use crate::error::shown;

const DOMAIN: &[u8] = b"grey.tensor.v1\0";
const DOMAIN_SALTED: &[u8] = b"grey.tensor.v1+salt\0";

/// How a request's input and output hashes are made (§1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorScheme {
    /// `grey-tensor-v1`.
    Plain,
    /// `grey-tensor-v1+salt`: for values that could be guessed. The salt is the client's.
    Salted,
}

impl TensorScheme {
    /// The name in the claims.
    pub const fn name(self) -> &'static str {
        match self {
            TensorScheme::Plain => "grey-tensor-v1",
            TensorScheme::Salted => "grey-tensor-v1+salt",
        }
    }
}

/// Tensors that have no hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashError {
    /// Two tensors have this name.
    NameTwice(String),
    /// The dimensions of the tensor with this name do not all fit in 63 bits.
    DimensionTooLarge(String),
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashError::NameTwice(name) => write!(f, "expected unique tensor names, found {} twice", shown(name)),
            HashError::DimensionTooLarge(name) => {
                write!(f, "tensor {}: expected dimensions of at most 2^63-1, found a larger one", shown(name))
            }
        }
    }
}

impl std::error::Error for HashError {}

/// `input_hash` or `output_hash` of §1: SHA-256 over the tensors in byte order of their names, bit
/// for bit. With the client's `salt` the scheme is [`TensorScheme::Salted`], without it
/// [`TensorScheme::Plain`]. The chunks of a payload are hashed where they lie.
///
/// # Errors
/// Two tensors of one name, or a dimension above 2^63−1.
pub fn hash_tensors(tensors: &[Tensor], salt: Option<&[u8; 32]>) -> Result<[u8; 32], HashError> {
    let mut by_name: BTreeMap<&[u8], &Tensor> = BTreeMap::new();
    for t in tensors {
        if t.shape().iter().any(|d| i64::try_from(*d).is_err()) {
            return Err(HashError::DimensionTooLarge(t.name().to_owned()));
        }
        if by_name.insert(t.name().as_bytes(), t).is_some() {
            return Err(HashError::NameTwice(t.name().to_owned()));
        }
    }
    let mut hash = Sha256::new();
    match salt {
        None => hash.update(DOMAIN),
        Some(salt) => {
            hash.update(DOMAIN_SALTED);
            hash.update(salt);
        }
    }
    hash.update(Writer::encode(|w| {
        w.list(by_name.values(), |w, t| {
            let mut data = Sha256::new();
            t.data().chunks().iter().for_each(|chunk| data.update(chunk));
            w.array(4);
            w.text(t.name());
            w.text(t.dtype().name());
            w.list(t.shape().iter(), |w, d| w.uint(*d));
            w.bytes(&data.finalize());
        });
    }));
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use grey_core::{DType, Payload};

    use super::*;

    fn sha(parts: &[&[u8]]) -> [u8; 32] {
        Sha256::digest(parts.concat()).into()
    }

    fn tensor(name: &str, dtype: DType, shape: &[u64], data: &[u8]) -> Tensor {
        Tensor::new(name, dtype, shape.to_vec(), data.to_vec()).unwrap()
    }

    /// Every byte that goes into the hash, written out by hand.
    #[test]
    fn known_answers() {
        let x = [0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x00, 0x80]; // 1.0, −0.0
        let a = tensor("x", DType::Fp32, &[1, 2], &x);
        let element = [&[0x84, 0x61, b'x', 0x64][..], b"FP32", &[0x82, 0x01, 0x02, 0x58, 0x20], &sha(&[&x])].concat();
        assert_eq!(hash_tensors(std::slice::from_ref(&a), None), Ok(sha(&[b"grey.tensor.v1\0", &[0x81], &element])));
        let salt = [7; 32];
        assert_eq!(
            hash_tensors(std::slice::from_ref(&a), Some(&salt)),
            Ok(sha(&[b"grey.tensor.v1+salt\0", &salt, &[0x81], &element]))
        );
        assert_eq!(hash_tensors(&[], None), Ok(sha(&[b"grey.tensor.v1\0", &[0x80]])));
    }

    #[test]
    fn scalars_empty_tensors_and_bytes() {
        let scalar = tensor("s", DType::Int64, &[], &5i64.to_le_bytes());
        let element = [&[0x84, 0x61, b's', 0x65][..], b"INT64", &[0x80, 0x58, 0x20], &sha(&[&5i64.to_le_bytes()])];
        assert_eq!(hash_tensors(&[scalar], None), Ok(sha(&[b"grey.tensor.v1\0", &[0x81], &element.concat()])));
        let empty = tensor("e", DType::Bool, &[0, 300], &[]);
        let element = [&[0x84, 0x61, b'e', 0x64][..], b"BOOL", &[0x82, 0x00, 0x19, 0x01, 0x2c, 0x58, 0x20], &sha(&[])];
        assert_eq!(hash_tensors(&[empty], None), Ok(sha(&[b"grey.tensor.v1\0", &[0x81], &element.concat()])));
        let raw = [2, 0, 0, 0, b'h', b'i', 0, 0, 0, 0];
        let text = tensor("t", DType::Bytes, &[2], &raw);
        let element = [&[0x84, 0x61, b't', 0x65][..], b"BYTES", &[0x81, 0x02, 0x58, 0x20], &sha(&[&raw])];
        assert_eq!(hash_tensors(&[text], None), Ok(sha(&[b"grey.tensor.v1\0", &[0x81], &element.concat()])));
    }

    #[test]
    fn bits_count_and_order_does_not() {
        let of = |bits: u32| hash_tensors(&[tensor("x", DType::Fp32, &[1], &bits.to_le_bytes())], None).unwrap();
        assert_ne!(of(0), of(0x8000_0000), "0.0 and −0.0");
        assert_ne!(of(0x7fc0_0000), of(0x7fc0_0001), "two payloads of NaN");
        // Byte order of the names: upper case before lower, and a short name before its extension.
        let names = ["b", "a", "Z", "aa", "é"];
        let mut tensors: Vec<_> = names.iter().map(|n| tensor(n, DType::Uint8, &[1], &[1])).collect();
        let one = hash_tensors(&tensors, None).unwrap();
        tensors.reverse();
        assert_eq!(hash_tensors(&tensors, None), Ok(one));
        let part = |n: &str| {
            let name = [&[0x60 + n.len() as u8][..], n.as_bytes()].concat();
            [&[0x84][..], &name, &[0x65], b"UINT8", &[0x81, 0x01, 0x58, 0x20], &sha(&[&[1]])].concat()
        };
        let sorted: Vec<u8> = ["Z", "a", "aa", "b", "é"].iter().flat_map(|n| part(n)).collect();
        assert_eq!(one, sha(&[b"grey.tensor.v1\0", &[0x85], &sorted]));
    }

    #[test]
    fn how_a_payload_is_cut_does_not_count() {
        let cut: Payload = [Bytes::from_static(&[1, 2, 3]), Bytes::from_static(&[4])].into_iter().collect();
        let cut = Tensor::new("x", DType::Uint8, vec![4], cut).unwrap();
        assert_eq!(hash_tensors(&[cut], None), hash_tensors(&[tensor("x", DType::Uint8, &[4], &[1, 2, 3, 4])], None));
    }

    #[test]
    fn refuses_a_name_twice_and_dimensions_beyond_63_bits() {
        let t = tensor("x", DType::Uint8, &[1], &[1]);
        assert_eq!(hash_tensors(&[t.clone(), t], None), Err(HashError::NameTwice("x".into())));
        let t = tensor("x", DType::Uint8, &[0, 1 << 63], &[]);
        assert_eq!(hash_tensors(&[t], None), Err(HashError::DimensionTooLarge("x".into())));
    }
}
