//! Inputs that nobody sent: values on which a model is probed and self-tested. Where a version has an example
//! request, they are made of that if the model does not run on what is made up of its signature alone.

use bytes::Bytes;
use grey_core::{DType, Dim, ELEMENT_LENGTH_BYTES, Payload, Signature, Tensor};

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
    /// The bytes of one row with this filling, in the place of `like`. Where that is `of_example`, integers and
    /// texts are its own in another order: a model may take no others.
    pub(crate) fn row(self, random: &mut SplitMix64, like: &Tensor, of_example: bool) -> Bytes {
        if of_example && !like.dtype().is_float() {
            return rotated(like, random.next() as usize).into();
        }
        if self == Filling::Thousandfold && like.dtype().is_float() {
            return scaled(like, 1e3).into();
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

/// Where inputs come from: made up in some sizes, at last of the example, if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) signature: Signature,
    example: Option<Vec<Tensor>>,
}

impl Source {
    /// `example`: inputs that fit the signature, in its order.
    pub(crate) fn new(signature: Signature, example: Option<Vec<Tensor>>) -> Source {
        Source { signature, example: example.filter(|e| !e.is_empty()) }
    }

    /// How many kinds of inputs there are to try.
    pub(crate) fn kinds(&self) -> usize {
        sizes_to_try(&self.signature) + usize::from(self.example.is_some())
    }

    /// Whether inputs of this kind are made of the example.
    pub(crate) fn is_example(&self, kind: usize) -> bool {
        self.example.is_some() && kind + 1 == self.kinds()
    }

    /// The kind that is made of the example, if `kind` is another.
    pub(crate) fn example_after(&self, kind: usize) -> Option<usize> {
        let last = self.kinds() - 1;
        (self.is_example(last) && kind < last).then_some(last)
    }

    /// Inputs of `rows` rows, where the signature may have rows; `None` where there are none of this kind.
    pub(crate) fn tensors(&self, rows: u64, kind: usize, random: &mut SplitMix64) -> Option<Vec<Tensor>> {
        match &self.example {
            Some(example) if self.is_example(kind) => match self.signature.batch_candidate() {
                Ok(()) => example.iter().map(|t| with_rows(t, rows)).collect(),
                Err(_) => Some(example.clone()),
            },
            _ => tensors(&self.signature, rows, kind, random),
        }
    }

    /// What the model was run on, after "does not run on".
    pub(crate) fn tried(&self) -> &'static str {
        if self.example.is_some() { "made-up input, nor on its example" } else { "made-up input" }
    }
}

/// `rows` rows: those of the example, then variations of them.
fn with_rows(example: &Tensor, rows: u64) -> Option<Tensor> {
    let there = example.rows().filter(|n| *n > 0)?;
    let mut shape = example.shape().to_vec();
    *shape.first_mut()? = rows;
    grey_core::element_count(&shape).filter(|n| *n <= ELEMENTS_MAX)?;
    let mut data = Payload::default();
    for r in 0..rows {
        let row = example.slice_rows(r % there, r % there + 1)?;
        match r / there {
            0 => row.data().chunks().iter().for_each(|c| data.push(c.clone())),
            // Smaller floats stay in whatever range the example's have.
            round if row.dtype().is_float() => data.push(scaled(&row, 1.0 / (1 + round) as f64).into()),
            round => data.push(rotated(&row, round as usize).into()),
        }
    }
    Tensor::new(example.name(), example.dtype(), shape, data).ok()
}

/// The elements of `t`, each `by` places further on.
fn rotated(t: &Tensor, by: usize) -> Vec<u8> {
    let flat = t.data().to_contiguous();
    let mut elements: Vec<&[u8]> = Vec::new();
    match t.dtype().size() {
        Some(size) => elements.extend(flat.chunks(size)),
        None => {
            // Checked as the tensor was made: each element has its length before it.
            let mut rest = &flat[..];
            while let Some((length, _)) = rest.split_first_chunk::<ELEMENT_LENGTH_BYTES>() {
                let end = (ELEMENT_LENGTH_BYTES + u32::from_le_bytes(*length) as usize).min(rest.len());
                let (element, after) = rest.split_at(end);
                elements.push(element);
                rest = after;
            }
        }
    }
    let by = by.checked_rem(elements.len()).unwrap_or(0);
    elements.rotate_right(by);
    elements.concat()
}

/// Random inputs of these [`shapes`]; `None` where there are none, or a tensor would be too large.
fn tensors(signature: &Signature, rows: u64, size: usize, random: &mut SplitMix64) -> Option<Vec<Tensor>> {
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

fn scaled(t: &Tensor, by: f64) -> Vec<u8> {
    let flat = t.data().to_contiguous();
    let each = |size: usize| flat.chunks_exact(size);
    match t.dtype() {
        DType::Fp16 => each(2)
            .flat_map(|b| half::f16::from_f64(half::f16::from_le_bytes([b[0], b[1]]).to_f64() * by).to_le_bytes())
            .collect(),
        DType::Bf16 => each(2)
            .flat_map(|b| half::bf16::from_f64(half::bf16::from_le_bytes([b[0], b[1]]).to_f64() * by).to_le_bytes())
            .collect(),
        DType::Fp32 => floats32(&flat).flat_map(|f| (f * by as f32).to_le_bytes()).collect(),
        DType::Fp64 => floats64(&flat).flat_map(|f| (f * by).to_le_bytes()).collect(),
        _ => flat.to_vec(),
    }
}

pub(crate) fn floats32(data: &[u8]) -> impl Iterator<Item = f32> + '_ {
    data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

pub(crate) fn floats64(data: &[u8]) -> impl Iterator<Item = f64> + '_ {
    data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use grey_core::TensorSpec;

    use super::*;

    #[test]
    fn an_example_comes_last_and_gives_rows_of_its_own_values() {
        let spec = |name: &str, datatype, shape| TensorSpec { name: name.into(), datatype, shape };
        let signature = Signature {
            inputs: vec![
                spec("ids", DType::Int64, vec![Dim::Any, Dim::Fixed(3)]),
                spec("w", DType::Fp32, vec![Dim::Any]),
                spec("s", DType::Bytes, vec![Dim::Any, Dim::Fixed(2)]),
            ],
            outputs: vec![spec("y", DType::Fp32, vec![Dim::Any])],
        };
        let ids: Vec<u8> = [7i64, 8, 9].iter().flat_map(|n| n.to_le_bytes()).collect();
        let example = vec![
            Tensor::new("ids", DType::Int64, vec![1, 3], ids).unwrap(),
            Tensor::new("w", DType::Fp32, vec![1], 4f32.to_le_bytes().to_vec()).unwrap(),
            Tensor::new("s", DType::Bytes, vec![1, 2], b"\x01\0\0\0a\0\0\0\0".to_vec()).unwrap(),
        ];
        let without = Source::new(signature.clone(), None);
        let source = Source::new(signature, Some(example));
        assert_eq!((without.kinds(), without.example_after(0), source.kinds()), (1, None, 2));
        assert_eq!((source.example_after(0), source.example_after(1)), (Some(1), None));
        let mut random = SplitMix64::new(1);
        let made = source.tensors(2, 1, &mut random).unwrap();
        let flat = |t: &Tensor| t.data().to_contiguous().to_vec();
        let second: Vec<u8> = [9i64, 7, 8].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(flat(&made[0])[24..], second);
        assert_eq!(floats32(&flat(&made[1])).collect::<Vec<_>>(), [4.0, 2.0]);
        assert_eq!(flat(&made[2])[9..], *b"\0\0\0\0\x01\0\0\0a");
        let row = made[0].slice_rows(0, 1).unwrap();
        for filling in [Filling::Zero, Filling::Infinite] {
            let mut found: Vec<[u8; 8]> = filling.row(&mut random, &row, true).as_chunks().0.to_vec();
            found.sort_unstable();
            assert_eq!(found.concat(), [7i64, 8, 9].map(i64::to_le_bytes).concat());
        }
    }
}
