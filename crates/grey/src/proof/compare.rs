//! By how much two answers differ.

use std::collections::BTreeMap;

use grey_core::{DType, ELEMENT_LENGTH_BYTES, Tensor};
use half::{bf16, f16};
use serde::Serialize;

use crate::encoding::escaped;

/// The difference of one output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Difference {
    pub(super) name: String,
    /// Set where the two cannot be compared element by element, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) incomparable: Option<String>,
    pub(super) elements: usize,
    /// Elements of other bytes.
    pub(super) differing: usize,
    /// Of numbers that are finite in both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) largest_absolute: Option<f64>,
    /// Over the recorded value; where that is 0, infinite and left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) largest_relative: Option<f64>,
    /// Of floats: how many others lie between, plus one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) largest_ulps: Option<u64>,
}

/// Compares by name; `recorded` first in every pair.
pub(super) fn compare(recorded: &[Tensor], here: &[Tensor]) -> Vec<Difference> {
    let by_name = |tensors: &'_ [Tensor]| -> BTreeMap<String, Tensor> {
        tensors.iter().map(|t| (t.name().to_owned(), t.clone())).collect()
    };
    let (recorded, here) = (by_name(recorded), by_name(here));
    let names: std::collections::BTreeSet<&String> = recorded.keys().chain(here.keys()).collect();
    names
        .into_iter()
        .map(|name| match (recorded.get(name), here.get(name)) {
            (Some(a), Some(b)) => one(a, b),
            (Some(_), None) => incomparable(name, "the replay has no such output".to_owned()),
            (None, _) => incomparable(name, "the recorded answer has no such output".to_owned()),
        })
        .collect()
}

fn incomparable(name: &str, why: String) -> Difference {
    Difference {
        name: name.to_owned(),
        incomparable: Some(why),
        elements: 0,
        differing: 0,
        largest_absolute: None,
        largest_relative: None,
        largest_ulps: None,
    }
}

fn one(a: &Tensor, b: &Tensor) -> Difference {
    if (a.dtype(), a.shape()) != (b.dtype(), b.shape()) {
        let why = format!("recorded {} {:?}, here {} {:?}", a.dtype().name(), a.shape(), b.dtype().name(), b.shape());
        return incomparable(a.name(), why);
    }
    let (bytes_a, bytes_b) = (a.data().to_contiguous(), b.data().to_contiguous());
    let (items_a, items_b) = (items(a.dtype(), &bytes_a), items(a.dtype(), &bytes_b));
    let mut out = Difference { incomparable: None, elements: items_a.len(), ..incomparable(a.name(), String::new()) };
    for (x, y) in items_a.iter().zip(&items_b).filter(|(x, y)| x != y) {
        out.differing += 1;
        let (Some(x), Some(y)) = (number(a.dtype(), x), number(a.dtype(), y)) else { continue };
        let most = |known: Option<f64>, new: f64| Some(known.map_or(new, |k| k.max(new)));
        let (absolute, recorded) = x.distance(&y);
        if absolute.is_finite() {
            out.largest_absolute = most(out.largest_absolute, absolute);
            if recorded != 0.0 {
                out.largest_relative = most(out.largest_relative, absolute / recorded);
            }
        }
        out.largest_ulps = x.ulps(&y).map(|n| out.largest_ulps.map_or(n, |k| k.max(n))).or(out.largest_ulps);
    }
    out
}

/// The bytes of each element.
fn items(dtype: DType, data: &[u8]) -> Vec<&[u8]> {
    if let Some(size) = dtype.size() {
        return data.chunks(size).collect();
    }
    let (mut rest, mut out) = (data, Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<ELEMENT_LENGTH_BYTES>() {
        let Some((item, after)) = tail.split_at_checked(u32::from_le_bytes(*head) as usize) else { break };
        out.push(item);
        rest = after;
    }
    out
}

/// An element as a number.
enum Number {
    Int(i128),
    /// The value, and its place among the floats of its format in their order.
    Float(f64, i64),
}

impl Number {
    /// The distance, and the size of the first.
    fn distance(&self, other: &Number) -> (f64, f64) {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => ((a - b).unsigned_abs() as f64, a.unsigned_abs() as f64),
            (Number::Float(a, _), Number::Float(b, _)) => ((a - b).abs(), a.abs()),
            _ => (f64::NAN, f64::NAN),
        }
    }

    fn ulps(&self, other: &Number) -> Option<u64> {
        match (self, other) {
            (Number::Float(a, i), Number::Float(b, j)) if a.is_finite() && b.is_finite() => Some(i.abs_diff(*j)),
            _ => None,
        }
    }
}

/// Bits of a float, as integers in the order of the floats; both zeros are 0.
fn place(bits: u64, sign: u64) -> i64 {
    let magnitude = i64::try_from(bits & !sign).unwrap_or(i64::MAX);
    if bits & sign == 0 { magnitude } else { -magnitude }
}

fn number(dtype: DType, bytes: &[u8]) -> Option<Number> {
    fn read<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.try_into().ok()
    }
    let float = |value: f64, bits: u64, sign: u64| Some(Number::Float(value, place(bits, sign)));
    match dtype {
        DType::Bool | DType::Bytes => None,
        DType::Uint8 => read(bytes).map(|b| Number::Int(u8::from_le_bytes(b).into())),
        DType::Uint16 => read(bytes).map(|b| Number::Int(u16::from_le_bytes(b).into())),
        DType::Uint32 => read(bytes).map(|b| Number::Int(u32::from_le_bytes(b).into())),
        DType::Uint64 => read(bytes).map(|b| Number::Int(u64::from_le_bytes(b).into())),
        DType::Int8 => read(bytes).map(|b| Number::Int(i8::from_le_bytes(b).into())),
        DType::Int16 => read(bytes).map(|b| Number::Int(i16::from_le_bytes(b).into())),
        DType::Int32 => read(bytes).map(|b| Number::Int(i32::from_le_bytes(b).into())),
        DType::Int64 => read(bytes).map(|b| Number::Int(i64::from_le_bytes(b).into())),
        DType::Fp16 => {
            let v = f16::from_le_bytes(read(bytes)?);
            float(v.to_f64(), v.to_bits().into(), 1 << 15)
        }
        DType::Bf16 => {
            let v = bf16::from_le_bytes(read(bytes)?);
            float(v.to_f64(), v.to_bits().into(), 1 << 15)
        }
        DType::Fp32 => {
            let v = f32::from_le_bytes(read(bytes)?);
            float(v.into(), v.to_bits().into(), 1 << 31)
        }
        DType::Fp64 => {
            let v = f64::from_le_bytes(read(bytes)?);
            float(v, v.to_bits(), 1 << 63)
        }
    }
}

impl Difference {
    pub(super) fn told(&self) -> String {
        let name = escaped(&self.name);
        if let Some(why) = &self.incomparable {
            return format!("output {name}: {why}");
        }
        if self.differing == 0 {
            return format!("output {name}: the same bytes, {} elements", self.elements);
        }
        let mut out = format!("output {name}: {} of {} elements differ", self.differing, self.elements);
        let mut largest = Vec::new();
        largest.extend(self.largest_absolute.map(|d| format!("{d:.3e} absolute")));
        largest.extend(self.largest_relative.map(|d| format!("{d:.3e} relative")));
        largest
            .extend(self.largest_ulps.map(|n| format!("{n} unit{} in the last place", if n == 1 { "" } else { "s" })));
        if !largest.is_empty() {
            out.push_str(&format!("; at most by {}", largest.join(", ")));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(name: &str, values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(name, DType::Fp32, vec![values.len() as u64], data).unwrap()
    }

    #[test]
    fn floats_differ_by_amounts() {
        let next = f32::from_bits(1.0f32.to_bits() + 3);
        let [d] = &compare(&[f32s("y", &[1.0, 0.0, 2.0, f32::NAN])], &[f32s("y", &[next, -0.0, 2.0, 1.0])])[..] else {
            panic!()
        };
        assert_eq!((d.elements, d.differing, d.largest_ulps), (4, 3, Some(3)));
        assert_eq!(d.largest_absolute, Some(f64::from(next) - 1.0));
        assert_eq!(d.largest_relative, d.largest_absolute);
        let [d] = &compare(&[f32s("y", &[f32::from_bits(1)])], &[f32s("y", &[-f32::from_bits(1)])])[..] else {
            panic!()
        };
        assert_eq!((d.largest_ulps, d.largest_relative), (Some(2), Some(2.0)));
        assert_eq!(
            compare(&[f32s("y", &[1.0])], &[f32s("y", &[1.0])])[0].told(),
            "output y: the same bytes, 1 elements"
        );
    }

    #[test]
    fn other_kinds_are_counted() {
        let int = |v: i64| Tensor::new("n", DType::Int64, vec![1], v.to_le_bytes().to_vec()).unwrap();
        let [d] = &compare(&[int(i64::MIN)], &[int(i64::MAX)])[..] else { panic!() };
        assert_eq!((d.largest_absolute, d.largest_ulps), (Some(18_446_744_073_709_551_615.0), None));
        let text = |s: &str| {
            let data = [&u32::try_from(s.len()).unwrap().to_le_bytes()[..], s.as_bytes()].concat();
            Tensor::new("s", DType::Bytes, vec![1], data).unwrap()
        };
        let [d] = &compare(&[text("a")], &[text("bc")])[..] else { panic!() };
        assert_eq!(d.told(), "output s: 1 of 1 elements differ");
        let told: Vec<String> =
            compare(&[f32s("y", &[1.0]), text("a")], &[f32s("y", &[1.0, 2.0])]).iter().map(Difference::told).collect();
        assert_eq!(told, ["output s: the replay has no such output", "output y: recorded FP32 [1], here FP32 [2]"]);
    }
}
