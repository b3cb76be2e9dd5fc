//! Encoding of inference requests: a JSON header, and the tensors' own bytes behind it, not copied.

use std::{collections::HashSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use grey_core::{ModelId, Parameter, Parameters, Tenant, Tensor, Version, oip};
use grey_proof::{KnownModelHash, Policy};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{Error, Limit, ProveRequest, Result, text::shown};

/// One inference.
#[derive(Clone, Debug)]
pub struct InferCall {
    /// The model.
    pub model: ModelId,
    /// The version, or a label; `None`: the latest.
    pub version: Option<Version>,
    /// The inputs, named as the model names them.
    pub inputs: Vec<Tensor>,
    /// Names of the outputs to return, in order; empty for all.
    pub outputs: Vec<String>,
    /// Parameters for the model.
    pub parameters: Parameters,
    /// An id, which the answer repeats; empty for none.
    pub id: String,
    /// Who asks, if not the client's own tenant.
    pub tenant: Option<Tenant>,
    /// How long it may take.
    pub timeout: Limit,
    /// Asks for a proof.
    pub prove: Option<ProveRequest>,
    /// Asks for a proof and fails with [`Error::ProofRejected`] if it is not valid by this policy when it arrives.
    pub verify: Option<Policy>,
    /// The hash of the model's files that the proof must state; only with `verify`.
    pub model_hash: Option<KnownModelHash>,
}

/// Parameters that mean something to the node, each with the argument that sets it.
const RESERVED: [(&str, &str); 9] = [
    ("timeout", "the call's timeout"),
    ("tenant", "the call's tenant"),
    ("binary_data_output", "this client"),
    ("grey_prove", "asking for a proof"),
    ("grey_nonce", "the proof's nonce"),
    ("grey_salt", "the proof's salt"),
    ("sequence_id", "nothing: the sequence extension is not supported"),
    ("sequence_start", "nothing: the sequence extension is not supported"),
    ("sequence_end", "nothing: the sequence extension is not supported"),
];

impl InferCall {
    /// A call of the latest version with nothing but inputs.
    pub fn new(model: ModelId, inputs: Vec<Tensor>) -> Self {
        InferCall {
            model,
            version: None,
            inputs,
            outputs: Vec::new(),
            parameters: Parameters::new(),
            id: String::new(),
            tenant: None,
            timeout: Limit::Usual,
            prove: None,
            verify: None,
            model_hash: None,
        }
    }

    /// Refuses what no node would take, before anything is sent.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::Argument(why));
        if self.model_hash.is_some() && self.verify.is_none() {
            return wrong("a model's hash is compared with that of a proof: give a policy, too".into());
        }
        let mut names = HashSet::new();
        for t in &self.inputs {
            if t.name().len() > oip::TENSOR_NAME_BYTES_MAX {
                return wrong(format!("the name of an input has {} bytes", t.name().len()));
            }
            if !names.insert(t.name()) {
                return wrong(format!("input '{}' is given twice", shown(t.name())));
            }
        }
        for (what, found, most) in [
            ("inputs", self.inputs.len(), oip::INPUTS_MAX),
            ("outputs", self.outputs.len(), oip::OUTPUTS_MAX),
            ("parameters", self.parameters.len(), oip::PARAMETERS_MAX - RESERVED.len()),
        ] {
            if found > most {
                return wrong(format!("{found} {what}, at most {most} are taken"));
            }
        }
        for (key, value) in &self.parameters {
            if let Some((_, by)) = RESERVED.iter().find(|(name, _)| name == key) {
                return wrong(format!("parameter '{key}' is set by {by}"));
            }
            if matches!(value, Parameter::Float(f) if !f.is_finite()) {
                return wrong(format!("parameter '{}' is not finite, which JSON cannot hold", shown(key)));
            }
        }
        Ok(())
    }
}

/// An encoded request.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    /// Bytes of JSON at the front, for [`oip::HEADER_LENGTH_HEADER`].
    pub header_length: usize,
    /// The body.
    pub chunks: Vec<Bytes>,
}

#[derive(Serialize)]
struct Input<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [u64],
    parameters: Value,
}

/// Writes a request of these inputs.
pub(crate) fn encode(
    id: &str,
    inputs: &[Tensor],
    outputs: &[String],
    parameters: &Map<String, Value>,
) -> Result<Encoded> {
    let listed: Vec<Input<'_>> = inputs
        .iter()
        .map(|t| Input {
            name: t.name(),
            datatype: t.dtype().name(),
            shape: t.shape(),
            parameters: json!({"binary_data_size": t.data().len()}),
        })
        .collect();
    let mut head = json!({"parameters": parameters});
    if let Some(members) = head.as_object_mut() {
        if !id.is_empty() {
            members.insert("id".into(), id.into());
        }
        if !outputs.is_empty() {
            members.insert("outputs".into(), outputs.iter().map(|name| json!({"name": name})).collect());
        }
        let inputs = serde_json::to_value(&listed).map_err(|e| Error::Argument(format!("cannot write JSON: {e}")))?;
        members.insert("inputs".into(), inputs);
    }
    let head = Bytes::from(head.to_string());
    let header_length = head.len();
    let mut chunks = vec![head];
    chunks.extend(inputs.iter().flat_map(|t| t.data().chunks().iter().cloned()));
    Ok(Encoded { header_length, chunks })
}

/// The parameters of an inference, `left` being the time that the node has.
pub(crate) fn parameters(
    call: &InferCall,
    left: Option<Duration>,
    proof: Option<(&[u8], Option<&[u8; 32]>)>,
) -> Map<String, Value> {
    let mut out: Map<String, Value> = call
        .parameters
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Parameter::Bool(b) => Value::from(*b),
                Parameter::Int(n) => Value::from(*n),
                Parameter::Float(f) => Value::from(*f),
                Parameter::Text(t) => Value::from(t.as_str()),
            };
            (key.clone(), value)
        })
        .collect();
    out.insert("binary_data_output".into(), true.into());
    insert_timeout(&mut out, left);
    if let Some((nonce, salt)) = proof {
        out.insert("grey_prove".into(), true.into());
        out.insert("grey_nonce".into(), STANDARD.encode(nonce).into());
        if let Some(salt) = salt {
            out.insert("grey_salt".into(), STANDARD.encode(salt).into());
        }
    }
    out
}

/// Tells the node how long it has, in microseconds; 0 would mean forever.
pub(crate) fn insert_timeout(parameters: &mut Map<String, Value>, left: Option<Duration>) {
    if let Some(left) = left {
        let us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX).clamp(1, oip::TIMEOUT_US_MAX);
        parameters.insert("timeout".into(), us.into());
    }
}

#[cfg(test)]
mod tests {
    use grey_core::DType;

    use super::*;

    fn call() -> InferCall {
        let x = Tensor::new("x", DType::Int16, vec![2], vec![1, 2, 3, 4]).unwrap();
        InferCall::new(ModelId::new("m").unwrap(), vec![x])
    }

    #[test]
    fn requests_are_json_with_bytes_behind() {
        let mut c = call();
        c.parameters.insert("k".into(), Parameter::Float(1.0));
        let parameters = parameters(&c, Some(Duration::from_millis(2)), Some((&[7; 8], None)));
        let e = encode("id", &c.inputs, &["y".into()], &parameters).unwrap();
        let head: Value = serde_json::from_slice(&e.chunks[0]).unwrap();
        assert_eq!(e.chunks[0].len(), e.header_length);
        assert_eq!(
            head,
            json!({
                "id": "id",
                "inputs": [{"name": "x", "datatype": "INT16", "shape": [2], "parameters": {"binary_data_size": 4}}],
                "outputs": [{"name": "y"}],
                "parameters": {"k": 1.0, "binary_data_output": true, "timeout": 2000, "grey_prove": true,
                               "grey_nonce": "BwcHBwcHBwc="},
            })
        );
        assert!(head["parameters"]["k"].is_f64(), "a float stays one");
        assert_eq!(e.chunks[1..].concat(), [1, 2, 3, 4]);
    }

    #[test]
    fn time_is_told_in_microseconds_and_never_as_none() {
        for (left, us) in [(0, 1), (5, 5), (u64::MAX, oip::TIMEOUT_US_MAX)] {
            let mut p = Map::new();
            insert_timeout(&mut p, Some(Duration::from_micros(left)));
            assert_eq!(p["timeout"], us);
        }
    }

    #[test]
    fn what_no_node_takes_is_refused_here() {
        let says = |change: &dyn Fn(&mut InferCall)| {
            let mut c = call();
            change(&mut c);
            c.check().unwrap_err().to_string()
        };
        let with = |key: &str, value: Parameter| {
            says(&move |c| {
                c.parameters.insert(key.to_owned(), value.clone());
            })
        };
        assert_eq!(with("timeout", Parameter::Int(1)), "parameter 'timeout' is set by the call's timeout");
        assert!(with("x", Parameter::Float(f64::NAN)).contains("not finite"));
        assert_eq!(says(&|c| c.inputs.push(c.inputs[0].clone())), "input 'x' is given twice");
        assert!(says(&|c| c.outputs = vec!["y".into(); 2000]).contains("2000 outputs, at most 1024"));
    }
}
