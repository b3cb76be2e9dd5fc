//! From the outputs of runs to the outputs of requests: each request gets its own rows, without a
//! copy, and a run whose outputs have not as many rows as its inputs fails loudly.

use bytes::Bytes;
use grey_core::{DType, ELEMENT_LENGTH_BYTES, Error, Payload, Result, Signature, Tensor};
use grey_engine::RunOutput;

/// The outputs of one run, cut into rows once for all its requests.
#[derive(Debug)]
pub(crate) struct RunRows {
    outputs: Vec<Rows>,
}

#[derive(Debug)]
struct Rows {
    index: usize,
    dtype: DType,
    shape: Vec<u64>,
    data: Bytes,
    cut: Cut,
}

#[derive(Debug)]
enum Cut {
    /// The output belongs to one request as a whole.
    Whole,
    /// Every row has this many bytes.
    Even(usize),
    /// Row `i` begins at the `i`-th offset; one more offset marks the end.
    At(Vec<usize>),
}

impl RunRows {
    /// Checks outputs against the `bucket` that ran; `None` where requests run alone.
    pub(crate) fn new(outputs: Vec<RunOutput>, bucket: Option<u32>, signature: &Signature) -> Result<RunRows> {
        let rows = outputs.into_iter().map(|o| {
            let name = || signature.outputs.get(o.index).map_or("?", |s| s.name.as_str()).to_owned();
            let cut = match bucket {
                None => Cut::Whole,
                Some(b) if o.shape.first() != Some(&u64::from(b)) => {
                    return Err(Error::internal(format!(
                        "output '{}' has shape {:?} for a batch of {b} rows: its rows cannot be told apart, and none \
                         is returned (declare batch_axis: none for this model)",
                        name(),
                        o.shape
                    )));
                }
                Some(b) => match o.dtype {
                    DType::Bytes => Cut::At(
                        string_rows(&o.data, &o.shape)
                            .ok_or_else(|| Error::internal(format!("output '{}' holds malformed strings", name())))?,
                    ),
                    _ => Cut::Even(o.data.len() / (b as usize).max(1)),
                },
            };
            Ok(Rows { index: o.index, dtype: o.dtype, shape: o.shape, data: o.data, cut })
        });
        Ok(RunRows { outputs: rows.collect::<Result<_>>()? })
    }

    fn output(&self, index: usize) -> Option<&Rows> {
        self.outputs.iter().find(|o| o.index == index)
    }
}

impl Rows {
    fn slice(&self, position: u32, rows: u32) -> Option<Bytes> {
        let (from, to) = (position as usize, (position as usize).checked_add(rows as usize)?);
        let range = match &self.cut {
            Cut::Whole => 0..self.data.len(),
            Cut::Even(size) => from.checked_mul(*size)?..to.checked_mul(*size)?,
            Cut::At(offsets) => *offsets.get(from)?..*offsets.get(to)?,
        };
        (range.end <= self.data.len()).then(|| self.data.slice(range))
    }
}

/// Offsets of the rows of a string tensor.
fn string_rows(data: &[u8], shape: &[u64]) -> Option<Vec<usize>> {
    let rows = usize::try_from(*shape.first()?).ok()?;
    let per_row = grey_core::element_count(shape.get(1..)?)?;
    // Every element takes at least its length: a count beyond that is a lie.
    (rows.checked_mul(per_row)? <= data.len() / ELEMENT_LENGTH_BYTES).then_some(())?;
    let mut offsets = Vec::with_capacity(rows + 1);
    let mut at = 0usize;
    for _ in 0..rows {
        offsets.push(at);
        for _ in 0..per_row {
            let head = data.get(at..)?.first_chunk::<ELEMENT_LENGTH_BYTES>()?;
            at = at.checked_add(ELEMENT_LENGTH_BYTES)?.checked_add(u32::from_le_bytes(*head) as usize)?;
        }
    }
    offsets.push(at);
    (at == data.len()).then_some(offsets)
}

/// The outputs of one request from its `pieces` (run, position, rows) in the order of its rows.
pub(crate) fn assemble(
    pieces: &[(&RunRows, u32, u32)],
    returned: &[usize],
    signature: &Signature,
) -> Result<Vec<Tensor>> {
    let lost = || Error::internal("rows of a finished request were lost");
    returned
        .iter()
        .map(|index| {
            let spec = signature.outputs.get(*index).ok_or_else(lost)?;
            let mut data = Payload::default();
            let mut total = 0u64;
            for (run, position, rows) in pieces {
                let output = run.output(*index).ok_or_else(lost)?;
                data.push(output.slice(*position, *rows).ok_or_else(lost)?);
                total += u64::from(*rows);
            }
            let first = pieces.first().and_then(|(run, ..)| run.output(*index)).ok_or_else(lost)?;
            let mut shape = first.shape.clone();
            if let (false, Some(rows)) = (matches!(first.cut, Cut::Whole), shape.first_mut()) {
                *rows = total;
            }
            // The host's word on bytes and shape ends here: the tensor checks them again.
            Tensor::new(spec.name.as_str(), first.dtype, shape, data)
                .map_err(|e| Error::internal(format!("the model's host gave a malformed output: {}", e.message())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use grey_core::{Dim, TensorSpec};

    use super::*;

    fn signature(dtype: DType) -> Signature {
        let spec = TensorSpec { name: "y".into(), datatype: dtype, shape: vec![Dim::Any, Dim::Fixed(2)] };
        Signature { inputs: vec![], outputs: vec![spec] }
    }

    fn output(dtype: DType, shape: Vec<u64>, data: Vec<u8>) -> RunOutput {
        RunOutput { index: 0, dtype, shape, data: data.into() }
    }

    #[test]
    fn rows_of_two_runs_are_joined_in_order() {
        let s = signature(DType::Int8);
        let run = |from: u8| {
            RunRows::new(vec![output(DType::Int8, vec![4, 2], (from..from + 8).collect())], Some(4), &s).unwrap()
        };
        let (a, b) = (run(0), run(100));
        let out = assemble(&[(&a, 2, 2), (&b, 0, 1)], &[0], &s).unwrap();
        assert_eq!(out[0].shape(), [3, 2]);
        assert_eq!(out[0].data().to_contiguous()[..], [4, 5, 6, 7, 100, 101]);
    }

    #[test]
    fn strings_are_cut_by_elements() {
        let s = signature(DType::Bytes);
        let data: Vec<u8> = ["a", "bc", "", "def"]
            .iter()
            .flat_map(|t| [&(t.len() as u32).to_le_bytes()[..], t.as_bytes()].concat())
            .collect();
        let run = RunRows::new(vec![output(DType::Bytes, vec![2, 2], data.clone())], Some(2), &s).unwrap();
        let out = assemble(&[(&run, 1, 1)], &[0], &s).unwrap();
        assert_eq!(out[0].data().to_contiguous()[..], data[11..]);
        assert!(RunRows::new(vec![output(DType::Bytes, vec![2, 9], data)], Some(2), &s).is_err());
    }

    #[test]
    fn another_number_of_rows_fails_loudly() {
        let s = signature(DType::Int8);
        let e = RunRows::new(vec![output(DType::Int8, vec![3, 2], vec![0; 6])], Some(4), &s).unwrap_err();
        assert!(e.message().contains("[3, 2] for a batch of 4 rows"), "{e}");
        let lie = RunRows::new(vec![output(DType::Int8, vec![4, 2], vec![0; 6])], Some(4), &s).unwrap();
        assert!(assemble(&[(&lie, 0, 4)], &[0], &s).is_err());
    }
}
