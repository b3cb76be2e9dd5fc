use std::{collections::HashMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{DType, Error, Result, Tensor};

/// One dimension of a tensor that a model takes or gives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this size.
    Fixed(u64),
    /// Any size, but the same wherever the name stands.
    Symbol(String),
    /// Any size. Written as `null`.
    Any,
}

impl Dim {
    /// Whether the size may vary.
    pub fn is_dynamic(&self) -> bool {
        !matches!(self, Dim::Fixed(_))
    }

    /// The size as the Open Inference Protocol writes it: −1 where it may vary.
    pub fn as_protocol(&self) -> i64 {
        match self {
            Dim::Fixed(n) => i64::try_from(*n).unwrap_or(i64::MAX),
            _ => -1,
        }
    }
}

/// Name, dtype and shape of one input or output.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The tensor's name in the model.
    pub name: String,
    /// Its element type.
    pub datatype: DType,
    /// Its dimensions, the batch axis included.
    pub shape: Vec<Dim>,
}

impl TensorSpec {
    /// The shape in the protocol's form, e.g. `[-1, 64]`.
    pub fn protocol_shape(&self) -> Vec<i64> {
        self.shape.iter().map(Dim::as_protocol).collect()
    }
}

/// Which axis of every input and output counts rows of independent requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchAxis {
    /// Rows mix or cannot be told apart: one request at a time.
    None,
    /// The first axis.
    First,
}

impl fmt::Display for BatchAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BatchAxis::None => "none",
            BatchAxis::First => "first",
        })
    }
}

/// What a model takes and gives, as read from the model itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    /// The inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// The outputs, in the model's order.
    pub outputs: Vec<TensorSpec>,
}

/// Most inputs, and most outputs, of a model: far above any real one, and what requests are bounded by.
pub const SIGNATURE_TENSORS_MAX: usize = 1024;
/// Most dimensions of a tensor: runtimes take far fewer.
pub const RANK_MAX: usize = 64;
/// Longest name of an input, output or dimension, bytes.
const SIGNATURE_NAME_BYTES_MAX: usize = 4096;

impl Signature {
    /// Checks the limits above, which no real model exceeds: what a model says of itself is kept in
    /// manifests and printed in errors. On refusal, says which tensor and why.
    pub fn check_limits(&self) -> std::result::Result<(), String> {
        for (what, specs) in [("input", &self.inputs), ("output", &self.outputs)] {
            if specs.len() > SIGNATURE_TENSORS_MAX {
                return Err(format!(
                    "the model has {} {what}s, at most {SIGNATURE_TENSORS_MAX} are taken",
                    specs.len()
                ));
            }
            for spec in specs {
                if spec.shape.len() > RANK_MAX {
                    return Err(format!(
                        "{what} '{}' has {} dimensions, at most {RANK_MAX} are taken",
                        shown(&spec.name),
                        spec.shape.len()
                    ));
                }
                let symbols = spec.shape.iter().filter_map(|d| match d {
                    Dim::Symbol(s) => Some(s.len()),
                    _ => None,
                });
                if let Some(long) = symbols.chain([spec.name.len()]).find(|n| *n > SIGNATURE_NAME_BYTES_MAX) {
                    return Err(format!(
                        "{what} '{}' has a name of {long} bytes, at most {SIGNATURE_NAME_BYTES_MAX} are taken",
                        shown(&spec.name)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether the shapes allow a batch axis: every input and output has a first dimension that
    /// may vary, and where these dimensions have names, the same one. (That alone is no proof that
    /// rows do not mix.) On refusal, says which tensor and why.
    pub fn batch_candidate(&self) -> std::result::Result<(), String> {
        if self.inputs.is_empty() || self.outputs.is_empty() {
            return Err("the model has no inputs or no outputs".into());
        }
        let mut symbol: Option<&str> = None;
        let all = self.inputs.iter().map(|s| ("input", s)).chain(self.outputs.iter().map(|s| ("output", s)));
        for (what, spec) in all {
            match spec.shape.first() {
                None => return Err(format!("{what} '{}' is a scalar", spec.name)),
                Some(Dim::Fixed(n)) => {
                    return Err(format!("the first dimension of {what} '{}' is always {n}", spec.name));
                }
                Some(Dim::Symbol(s)) => match symbol {
                    Some(other) if other != s => {
                        return Err(format!(
                            "the first dimension of {what} '{}' is '{s}', elsewhere it is '{other}'",
                            spec.name
                        ));
                    }
                    _ => symbol = Some(s),
                },
                Some(Dim::Any) => {}
            }
        }
        Ok(())
    }

    /// Checks the inputs of one request: every input there exactly once, right dtype, rank, fixed
    /// dimensions, and equal sizes where a symbol is shared. `model` is named in errors.
    pub fn check_inputs(&self, model: &str, inputs: &[Tensor]) -> Result<()> {
        for (i, t) in inputs.iter().enumerate() {
            if inputs[..i].iter().any(|o| o.name() == t.name()) {
                return Err(Error::invalid(format!("input '{}' for model '{model}' is given twice", shown(t.name()))));
            }
            if !self.inputs.iter().any(|s| s.name == t.name()) {
                return Err(Error::invalid(format!(
                    "unexpected input '{}' for model '{model}', which takes {}",
                    shown(t.name()),
                    names(&self.inputs)
                )));
            }
        }
        let mut sizes: HashMap<&str, (u64, &str)> = HashMap::new();
        for spec in &self.inputs {
            let Some(t) = inputs.iter().find(|t| t.name() == spec.name) else {
                return Err(Error::invalid(format!(
                    "input '{}' for model '{model}' is missing: expected {} inputs ({}), got {}",
                    spec.name,
                    self.inputs.len(),
                    names(&self.inputs),
                    inputs.len()
                )));
            };
            if t.dtype() != spec.datatype {
                return Err(Error::invalid(format!(
                    "unexpected datatype for input '{}' for model '{model}': expected {}, got {}",
                    spec.name,
                    spec.datatype,
                    t.dtype()
                )));
            }
            let fits = t.shape().len() == spec.shape.len()
                && spec.shape.iter().zip(t.shape()).all(|(d, n)| !matches!(d, Dim::Fixed(f) if f != n));
            if !fits {
                return Err(Error::invalid(format!(
                    "unexpected shape for input '{}' for model '{model}': expected {:?}, got {:?}",
                    spec.name,
                    spec.protocol_shape(),
                    t.shape()
                )));
            }
            for (axis, (d, n)) in spec.shape.iter().zip(t.shape()).enumerate() {
                let Dim::Symbol(symbol) = d else { continue };
                let (size, first) = *sizes.entry(symbol).or_insert((*n, &spec.name));
                if size != *n {
                    return Err(Error::invalid(format!(
                        "unexpected shape for input '{}' for model '{model}': dimension {axis} ('{symbol}') is {n}, \
                         but it is {size} in input '{first}'",
                        spec.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Checks the names of the outputs that a request chose.
    pub fn check_outputs(&self, model: &str, chosen: &[String]) -> Result<()> {
        for (i, name) in chosen.iter().enumerate() {
            if !self.outputs.iter().any(|s| s.name == *name) {
                return Err(Error::invalid(format!(
                    "unexpected inference output '{}' for model '{model}', which gives {}",
                    shown(name),
                    names(&self.outputs)
                )));
            }
            if chosen[..i].contains(name) {
                return Err(Error::invalid(format!("output '{}' of model '{model}' is asked for twice", shown(name))));
            }
        }
        Ok(())
    }
}

/// A client's name, fit for a message.
fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|s| format!("'{}'", s.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: DType, shape: Vec<Dim>) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape }
    }

    fn batch() -> Dim {
        Dim::Symbol("N".into())
    }

    fn signature() -> Signature {
        Signature {
            inputs: vec![
                spec("x", DType::Fp32, vec![batch(), Dim::Fixed(2)]),
                spec("m", DType::Bool, vec![batch(), Dim::Any]),
            ],
            outputs: vec![spec("y", DType::Fp32, vec![batch(), Dim::Fixed(3)])],
        }
    }

    fn x(rows: u64, cols: u64) -> Tensor {
        Tensor::new("x", DType::Fp32, vec![rows, cols], vec![0; (rows * cols * 4) as usize]).unwrap()
    }

    fn m(rows: u64) -> Tensor {
        Tensor::new("m", DType::Bool, vec![rows, 1], vec![0; rows as usize]).unwrap()
    }

    #[test]
    fn wrong_inputs_are_named() {
        let s = signature();
        let bad = |inputs: &[Tensor]| s.check_inputs("d", inputs).unwrap_err().message().to_owned();
        s.check_inputs("d", &[m(3), x(3, 2)]).unwrap();
        assert_eq!(bad(&[x(3, 2)]), "input 'm' for model 'd' is missing: expected 2 inputs ('x', 'm'), got 1");
        assert_eq!(bad(&[x(3, 2), x(3, 2)]), "input 'x' for model 'd' is given twice");
        assert_eq!(bad(&[x(3, 5), m(3)]), "unexpected shape for input 'x' for model 'd': expected [-1, 2], got [3, 5]");
        assert!(bad(&[x(3, 2), m(4)]).contains("dimension 0 ('N') is 4, but it is 3 in input 'x'"));
        assert!(bad(&[x(3, 2), m(3).renamed("q")]).starts_with("unexpected input 'q' for model 'd'"));
        let int = Tensor::new("x", DType::Int32, vec![3, 2], vec![0; 24]).unwrap();
        assert!(bad(&[int, m(3)]).ends_with("expected FP32, got INT32"));
    }

    #[test]
    fn outputs_are_checked() {
        let s = signature();
        s.check_outputs("d", &["y".into()]).unwrap();
        assert!(s.check_outputs("d", &["z".into()]).is_err());
        assert!(s.check_outputs("d", &["y".into(), "y".into()]).is_err());
    }

    #[test]
    fn batch_axis_needs_one_dynamic_first_dimension() {
        let mut s = signature();
        s.batch_candidate().unwrap();
        s.outputs[0].shape[0] = Dim::Symbol("T".into());
        assert!(s.batch_candidate().is_err());
        s.outputs[0].shape[0] = Dim::Fixed(4);
        assert!(s.batch_candidate().is_err());
        s.outputs[0].shape.clear();
        assert!(s.batch_candidate().is_err());
    }

    #[test]
    fn dims_in_json() {
        let json = serde_json::to_string(&vec![Dim::Fixed(2), batch(), Dim::Any]).unwrap();
        assert_eq!(json, r#"[2,"N",null]"#);
        assert_eq!(serde_json::from_str::<Vec<Dim>>(&json).unwrap(), [Dim::Fixed(2), batch(), Dim::Any]);
    }
}
