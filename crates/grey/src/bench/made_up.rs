//! Inputs for a model of which only the signature is known.

use grey_core::{DType, Tensor, payload_len};
use half::{bf16, f16};

use crate::{failure::Failure, infer::InputSpec};

/// Most bytes of one request's inputs: what a node takes by default.
const REQUEST_BYTES_MAX: usize = 256 << 20;
/// What every element of `BYTES` is.
const TEXT: &[u8] = b"grey";

/// A shape that the user gives for an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShapeArg {
    name: String,
    shape: Vec<u64>,
}

impl ShapeArg {
    /// `NAME=1x128`
    pub(crate) fn parse(text: &str) -> Result<ShapeArg, String> {
        let (name, sizes) = text.rsplit_once('=').ok_or("expected NAME=SIZExSIZE, e.g. ids=1x128")?;
        let shape: Result<Vec<u64>, _> = sizes.split('x').map(str::parse).collect();
        let shape = shape.map_err(|_| format!("expected sizes such as 1x128, found '{sizes}'"))?;
        Ok(ShapeArg { name: name.to_owned(), shape })
    }
}

/// Numbers that look drawn, the same for the same seed (splitmix64).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One tensor for each input: floats between 0 and 1, integers 0 or 1 (which ids and masks take), short texts.
/// Where a model takes any number of rows, it gets `rows`.
pub(crate) fn inputs(
    signature: &[InputSpec],
    rows: u64,
    shapes: &[ShapeArg],
    draw: &mut Draw,
) -> Result<Vec<Tensor>, Failure> {
    if let Some(shape) = shapes.iter().find(|s| !signature.iter().any(|i| i.name == s.name)) {
        let names: Vec<&str> = signature.iter().map(|i| i.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "--shape: the model has no input '{}', expected {}",
            shape.name.escape_debug(),
            names.join(", ")
        )));
    }
    signature.iter().map(|input| tensor(input, shape_of(input, rows, shapes)?, draw)).collect()
}

fn shape_of(input: &InputSpec, rows: u64, shapes: &[ShapeArg]) -> Result<Vec<u64>, Failure> {
    if let Some(given) = shapes.iter().find(|s| s.name == input.name) {
        return Ok(given.shape.clone());
    }
    let size = |(axis, d): (usize, &i64)| match u64::try_from(*d) {
        Ok(size) => Some(size),
        Err(_) if axis == 0 => Some(rows),
        Err(_) => None,
    };
    let shape: Option<Vec<u64>> = input.shape.iter().enumerate().map(size).collect();
    shape.ok_or_else(|| {
        let example: Vec<String> =
            input.shape.iter().map(|d| if *d < 0 { "1".to_owned() } else { d.to_string() }).collect();
        Failure::usage(format!("input '{}' has shape {:?}: its sizes are not all known", input.name, input.shape))
            .hint(format!("say them, e.g. --shape {}={}", input.name, example.join("x")))
            .hint("or send real inputs: --input FILE")
    })
}

fn tensor(input: &InputSpec, shape: Vec<u64>, draw: &mut Draw) -> Result<Tensor, Failure> {
    let too_large = || {
        Failure::usage(format!("input '{}' with shape {shape:?} is larger than {REQUEST_BYTES_MAX} bytes", input.name))
    };
    let elements = payload_len(DType::Uint8, &shape).ok_or_else(too_large)?;
    let size = input.datatype.size().unwrap_or(size_of::<u32>() + TEXT.len());
    if elements.checked_mul(size).is_none_or(|bytes| bytes > REQUEST_BYTES_MAX) {
        return Err(too_large());
    }
    let mut data = Vec::with_capacity(elements * size);
    for _ in 0..elements {
        match input.datatype {
            DType::Fp64 => data.extend_from_slice(&draw.unit().to_le_bytes()),
            DType::Fp32 => data.extend_from_slice(&(draw.unit() as f32).to_le_bytes()),
            DType::Fp16 => data.extend_from_slice(&f16::from_f64(draw.unit()).to_le_bytes()),
            DType::Bf16 => data.extend_from_slice(&bf16::from_f64(draw.unit()).to_le_bytes()),
            DType::Bytes => {
                data.extend_from_slice(&(TEXT.len() as u32).to_le_bytes());
                data.extend_from_slice(TEXT);
            }
            _ => {
                data.push((draw.next() & 1) as u8);
                data.extend(std::iter::repeat_n(0, size - 1));
            }
        }
    }
    Tensor::new(input.name.as_str(), input.datatype, shape, data).map_err(|e| Failure::unexpected(e.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, datatype: DType, shape: &[i64]) -> InputSpec {
        InputSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
    }

    #[test]
    fn every_type_is_made_up() {
        let signature: Vec<InputSpec> = DType::ALL.iter().map(|d| input(d.name(), *d, &[-1, 3])).collect();
        let made = inputs(&signature, 4, &[], &mut Draw(1)).unwrap();
        assert!(made.iter().all(|t| t.shape() == [4, 3]));
        assert_eq!(made, inputs(&signature, 4, &[], &mut Draw(1)).unwrap());
        assert_ne!(made, inputs(&signature, 4, &[], &mut Draw(2)).unwrap());
    }

    #[test]
    fn open_sizes_are_asked_for() {
        let signature = [input("ids", DType::Int64, &[-1, -1])];
        let f = inputs(&signature, 1, &[], &mut Draw(1)).unwrap_err();
        assert_eq!(f.hints[0], "say them, e.g. --shape ids=1x1");
        let shape = ShapeArg::parse("ids=2x7").unwrap();
        assert_eq!(inputs(&signature, 1, &[shape], &mut Draw(1)).unwrap()[0].shape(), [2, 7]);
        let f = inputs(&signature, 1, &[ShapeArg::parse("id=2x7").unwrap()], &mut Draw(1)).unwrap_err();
        assert!(f.message.contains("no input 'id', expected ids"), "{f:?}");
        let huge = ShapeArg::parse("ids=4000000000x4000000000").unwrap();
        assert!(inputs(&signature, 1, &[huge], &mut Draw(1)).is_err());
        assert!(ShapeArg::parse("ids").is_err() && ShapeArg::parse("ids=ax2").is_err());
    }
}
