//! Inputs that nobody sent: values on which a model is probed and self-tested.

use bytes::Bytes;
use grey_core::{DType, Dim, Signature, Tensor};

use crate::random::SplitMix64;

/// Sizes tried for dimensions that may vary beside the batch axis: most models take some sequence
/// length or image side among these.
const FREE_DIM_SIZES: [u64; 4] = [16, 1, 64, 224];
/// Largest tensor that is made up, in elements.
const ELEMENTS_MAX: usize = 64 << 20;

/// What stands in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    Random,
    Thousandfold,
    Zero,
    Infinite,
    NotANumber,
}

impl Filling {
    /// The bytes of one row with this filling, in the place of `like`.
    pub(crate) fn row(self, random: &mut SplitMix64, like: &Tensor) -> Bytes {
        if self == Filling::Thousandfold && like.dtype().is_float() {
            return scaled(like).into();
        }
        values(random, like.dtype(), like.row_elements(), self).into()
    }
}

/// How many values of `size` [`shapes`] takes for this signature.
pub(crate) fn sizes_to_try(signature: &Signature) -> usize {
    let first = usize::from(signature.batch_candidate().is_ok());
    let free = signature.inputs.iter().any(|s| s.shape.iter().skip(first).any(Dim::is_dynamic));
    if free { FREE_DIM_SIZES.len() } else { 1 }
}

/// Shapes of inputs in the signature's order. `rows` is the first dimension where a batch axis is
/// possible; every other dimension that may vary has the `size`-th of the sizes that are tried.
/// `None` if there is no such size.
pub(crate) fn shapes(signature: &Signature, rows: u64, size: usize) -> Option<Vec<Vec<u64>>> {
    let size = *FREE_DIM_SIZES.get(size)?;
    let rowwise = signature.batch_candidate().is_ok();
    let dim = |(axis, d): (usize, &Dim)| match d {
        Dim::Fixed(n) => *n,
        _ if axis == 0 && rowwise => rows,
        _ => size,
    };
    Some(signature.inputs.iter().map(|spec| spec.shape.iter().enumerate().map(dim).collect()).collect())
}

/// Random inputs of these [`shapes`]; `None` where there are none, or a tensor would be too large.
pub(crate) fn tensors(signature: &Signature, rows: u64, size: usize, random: &mut SplitMix64) -> Option<Vec<Tensor>> {
    let shapes = shapes(signature, rows, size)?;
    signature
        .inputs
        .iter()
        .zip(shapes)
        .map(|(spec, shape)| {
            let elements = grey_core::element_count(&shape).filter(|n| *n <= ELEMENTS_MAX)?;
            let data = values(random, spec.datatype, elements, Filling::Random);
            Tensor::new(spec.name.clone(), spec.datatype, shape, data).ok()
        })
        .collect()
}

/// `n` elements. Integers are 0 or 1, since larger ids may be out of a table's range.
fn values(random: &mut SplitMix64, dtype: DType, n: usize, filling: Filling) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..n {
        let bits = random.next();
        let float = match filling {
            Filling::Random | Filling::Thousandfold => (bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0,
            Filling::Zero => 0.0,
            Filling::Infinite if bits & 1 == 0 => f64::NEG_INFINITY,
            Filling::Infinite => f64::INFINITY,
            Filling::NotANumber => f64::NAN,
        };
        let int = match filling {
            Filling::Zero => 0u8,
            Filling::Infinite => 1,
            _ => (bits >> 32) as u8 & 1,
        };
        match dtype {
            DType::Fp16 => out.extend_from_slice(&half::f16::from_f64(float).to_le_bytes()),
            DType::Bf16 => out.extend_from_slice(&half::bf16::from_f64(float).to_le_bytes()),
            DType::Fp32 => out.extend_from_slice(&(float as f32).to_le_bytes()),
            DType::Fp64 => out.extend_from_slice(&float.to_le_bytes()),
            DType::Bytes => {
                let text = match filling {
                    Filling::Zero => String::new(),
                    _ => format!("{:x}", bits >> 40),
                };
                out.extend_from_slice(&(text.len() as u32).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            fixed => {
                out.push(int);
                out.extend(std::iter::repeat_n(0, fixed.size().unwrap_or(1) - 1));
            }
        }
    }
    out
}

fn scaled(t: &Tensor) -> Vec<u8> {
    let flat = t.data().to_contiguous();
    let each = |size: usize| flat.chunks_exact(size);
    match t.dtype() {
        DType::Fp16 => each(2)
            .flat_map(|b| half::f16::from_f64(half::f16::from_le_bytes([b[0], b[1]]).to_f64() * 1e3).to_le_bytes())
            .collect(),
        DType::Bf16 => each(2)
            .flat_map(|b| half::bf16::from_f64(half::bf16::from_le_bytes([b[0], b[1]]).to_f64() * 1e3).to_le_bytes())
            .collect(),
        DType::Fp32 => floats32(&flat).flat_map(|f| (f * 1e3).to_le_bytes()).collect(),
        DType::Fp64 => floats64(&flat).flat_map(|f| (f * 1e3).to_le_bytes()).collect(),
        _ => flat.to_vec(),
    }
}

pub(crate) fn floats32(data: &[u8]) -> impl Iterator<Item = f32> + '_ {
    data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

pub(crate) fn floats64(data: &[u8]) -> impl Iterator<Item = f64> + '_ {
    data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b))
}
