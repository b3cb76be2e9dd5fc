use compact_str::CompactString;

use crate::{DType, Error, Payload, Result};

/// Bytes of the little-endian length before each element of a `BYTES` tensor.
pub const ELEMENT_LENGTH_BYTES: usize = 4;

/// A named tensor: row-major, little-endian elements of one dtype.
///
/// # Invariants
/// - the product of `shape` fits in `usize`, and times the element size it is `data.len()`;
/// - `BOOL` elements are 0 or 1;
/// - `BYTES` data holds exactly as many length-prefixed elements as the shape says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    name: CompactString,
    dtype: DType,
    shape: Vec<u64>,
    data: Payload,
}

impl Tensor {
    /// Checks the invariants above. The error names the tensor, what was found and expected.
    pub fn new(
        name: impl Into<CompactString>,
        dtype: DType,
        shape: Vec<u64>,
        data: impl Into<Payload>,
    ) -> Result<Self> {
        let (name, data) = (name.into(), data.into());
        let shown = || format!("'{}' with shape {shape:?}", name.escape_debug());
        let elements = element_count(&shape)
            .ok_or_else(|| Error::invalid(format!("tensor {}: the shape has more elements than can exist", shown())))?;
        match dtype.size() {
            Some(_) => {
                let expected = payload_len(dtype, &shape).ok_or_else(|| {
                    Error::invalid(format!("tensor {}: the shape has more bytes than can exist", shown()))
                })?;
                if data.len() != expected {
                    return Err(Error::invalid(format!(
                        "tensor {}: expected {expected} bytes ({elements} elements of {dtype}), got {}",
                        shown(),
                        data.len()
                    )));
                }
                if dtype == DType::Bool && data.chunks().iter().any(|c| c.iter().any(|b| *b > 1)) {
                    return Err(Error::invalid(format!("tensor {}: a BOOL element is neither 0 nor 1", shown())));
                }
            }
            None => {
                let found = count_elements(&data, elements).map_err(|why| {
                    Error::invalid(format!("tensor {}: BYTES data is not well formed: {why}", shown()))
                })?;
                if found != elements {
                    return Err(Error::invalid(format!(
                        "tensor {}: expected {elements} BYTES elements, got {found}",
                        shown()
                    )));
                }
            }
        }
        Ok(Tensor { name, dtype, shape, data })
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions; empty for a scalar.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The raw bytes.
    pub fn data(&self) -> &Payload {
        &self.data
    }

    /// The first dimension; `None` for a scalar.
    pub fn rows(&self) -> Option<u64> {
        self.shape.first().copied()
    }

    /// Elements per row: the product of all dimensions but the first.
    pub fn row_elements(&self) -> usize {
        // The product of all dimensions fits by the invariant; with a first dimension of 0 the
        // rest alone may not, and then no row exists whose size could matter.
        self.shape.get(1..).and_then(element_count).unwrap_or(0)
    }

    /// Rows `start..end` along the first axis under the same name, sharing memory. `None` if the
    /// tensor is a scalar or has no such rows.
    pub fn slice_rows(&self, start: u64, end: u64) -> Option<Tensor> {
        if start > end || end > self.rows()? {
            return None;
        }
        let (start_element, end_element) =
            (usize::try_from(start).ok()? * self.row_elements(), usize::try_from(end).ok()? * self.row_elements());
        let range = match self.dtype.size() {
            Some(size) => start_element * size..end_element * size,
            None => {
                let flat = self.data.to_contiguous();
                let from = skip_elements(&flat, start_element)?;
                from..from + skip_elements(&flat[from..], end_element - start_element)?
            }
        };
        let mut shape = self.shape.clone();
        shape[0] = end - start;
        Some(Tensor { name: self.name.clone(), dtype: self.dtype, shape, data: self.data.slice(range)? })
    }

    /// Whether every element of a `BYTES` tensor is UTF-8, which some runtimes demand; other dtypes
    /// always pass. The error names the element.
    pub fn check_utf8(&self) -> Result<()> {
        if self.dtype != DType::Bytes {
            return Ok(());
        }
        let flat = self.data.to_contiguous();
        let (mut rest, mut n) = (&flat[..], 0usize);
        // Well formed by the invariant.
        while let Some((head, tail)) = rest.split_first_chunk::<ELEMENT_LENGTH_BYTES>() {
            let (element, after) = tail.split_at(tail.len().min(u32::from_le_bytes(*head) as usize));
            if std::str::from_utf8(element).is_err() {
                return Err(Error::invalid(format!(
                    "input '{}': element {n} is not UTF-8, and the model's runtime takes only that as text",
                    self.name.escape_debug()
                )));
            }
            (rest, n) = (after, n + 1);
        }
        Ok(())
    }

    /// The same tensor under another name.
    pub fn renamed(self, name: impl Into<CompactString>) -> Tensor {
        Tensor { name: name.into(), ..self }
    }
}

/// Product of the dimensions; `None` if it does not fit.
pub fn element_count(shape: &[u64]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))
}

/// Bytes of a tensor of fixed-size elements; `None` if that does not fit or for `BYTES`.
pub fn payload_len(dtype: DType, shape: &[u64]) -> Option<usize> {
    element_count(shape)?.checked_mul(dtype.size()?)
}

/// Counts length-prefixed elements, stopping with an error after `most`.
fn count_elements(data: &Payload, most: usize) -> std::result::Result<usize, String> {
    let flat = data.to_contiguous();
    let (mut rest, mut n) = (&flat[..], 0usize);
    while !rest.is_empty() {
        if n == most {
            return Err(format!("{} bytes follow the last of {most} elements", rest.len()));
        }
        let Some((head, tail)) = rest.split_first_chunk::<ELEMENT_LENGTH_BYTES>() else {
            return Err(format!("element {n}: the length is cut short"));
        };
        let len = u32::from_le_bytes(*head) as usize;
        rest = tail
            .get(len..)
            .ok_or_else(|| format!("element {n}: its length is {len} bytes but only {} follow", tail.len()))?;
        n += 1;
    }
    Ok(n)
}

/// Offset behind the first `n` length-prefixed elements.
fn skip_elements(data: &[u8], n: usize) -> Option<usize> {
    let mut at = 0usize;
    for _ in 0..n {
        let head = data.get(at..)?.first_chunk::<ELEMENT_LENGTH_BYTES>()?;
        at = at.checked_add(ELEMENT_LENGTH_BYTES)?.checked_add(u32::from_le_bytes(*head) as usize)?;
    }
    (at <= data.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&[u8]]) -> Vec<u8> {
        items.iter().flat_map(|s| [&(s.len() as u32).to_le_bytes()[..], s].concat()).collect()
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Tensor::new("x", DType::Fp32, vec![2, 3], vec![0u8; 24]).is_ok());
        let e = Tensor::new("x", DType::Fp32, vec![2, 3], vec![0u8; 20]).unwrap_err();
        assert_eq!(e.message(), "tensor 'x' with shape [2, 3]: expected 24 bytes (6 elements of FP32), got 20");
        assert!(Tensor::new("x", DType::Int8, vec![1 << 62, 8], vec![0u8; 3]).is_err());
        assert!(Tensor::new("x", DType::Int64, vec![1 << 61], vec![0u8; 3]).is_err());
        assert!(Tensor::new("x", DType::Bool, vec![2], vec![1u8, 2]).is_err());
        assert!(Tensor::new("s", DType::Fp64, vec![], vec![0u8; 8]).is_ok(), "a scalar has one element");
        assert!(Tensor::new("e", DType::Fp32, vec![0, u64::MAX], vec![]).is_ok(), "an empty tensor");
    }

    #[test]
    fn bytes_elements_are_counted() {
        assert!(Tensor::new("s", DType::Bytes, vec![2], strings(&[b"ab", b""])).is_ok());
        assert!(Tensor::new("s", DType::Bytes, vec![3], strings(&[b"ab", b""])).is_err());
        assert!(Tensor::new("s", DType::Bytes, vec![1], strings(&[b"ab", b""])).is_err());
        assert!(Tensor::new("s", DType::Bytes, vec![1], vec![9, 0, 0, 0, 1]).is_err());
        assert!(Tensor::new("s", DType::Bytes, vec![1], vec![1, 0]).is_err());
        // A length of u32::MAX must not wrap on any platform.
        assert!(Tensor::new("s", DType::Bytes, vec![1], vec![255, 255, 255, 255]).is_err());
    }

    #[test]
    fn rows_are_sliced() {
        let t = Tensor::new("x", DType::Int16, vec![3, 2], (0u8..12).collect::<Vec<_>>()).unwrap();
        let s = t.slice_rows(1, 3).unwrap();
        assert_eq!(s.shape(), [2, 2]);
        assert_eq!(s.data().to_contiguous()[..], (4u8..12).collect::<Vec<_>>()[..]);
        assert!(t.slice_rows(2, 4).is_none());
        let t = Tensor::new("s", DType::Bytes, vec![3], strings(&[b"a", b"bcd", b"ef"])).unwrap();
        let s = t.slice_rows(1, 2).unwrap();
        assert_eq!(s.data().to_contiguous()[..], strings(&[b"bcd"])[..]);
        assert_eq!(t.slice_rows(0, 0).unwrap().data().len(), 0);
    }
}
