//! Decoding an inference request: JSON, JSON with binary tensors behind it, or raw bytes.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use grey_core::{
    DType, Dim, Error, ErrorKind, InferRequest, ModelRef, Parameter, Parameters, Payload, Result, Signature, Tenant,
    Tensor, TensorSpec,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    data::{self, RANK_MAX},
    shown,
};

/// Most inputs of one request: far above any real model; bounds what is quadratic in their number.
pub const INPUTS_MAX: usize = 1024;
/// Most outputs that one request may choose.
pub const OUTPUTS_MAX: usize = 1024;
/// Most parameters of a request.
const PARAMETERS_MAX: usize = 1024;
/// Longest `timeout` that means anything, a day in microseconds.
const TIMEOUT_US_MAX: i64 = 86_400_000_000;

/// How the client wants its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerOptions {
    /// Whether outputs come as binary data, where the output itself says nothing.
    pub binary: bool,
    /// Outputs that say it themselves.
    pub outputs: BTreeMap<String, bool>,
}

impl AnswerOptions {
    /// Whether output `name` comes as binary data.
    pub fn is_binary(&self, name: &str) -> bool {
        self.outputs.get(name).copied().unwrap_or(self.binary)
    }
}

/// What decoding needs besides the body.
#[derive(Clone, Copy, Debug)]
pub struct DecodeContext<'a> {
    /// The model that the path names.
    pub model: &'a ModelRef,
    /// Value of the header [`super::HEADER_LENGTH_HEADER`]; `None` if there is none.
    pub header_length: Option<usize>,
    /// The tenant that the connection or a header names; a parameter may name it else.
    pub tenant: Option<&'a Tenant>,
    /// The model's signature; needed only for a raw request (header length 0).
    pub signature: Option<&'a Signature>,
    /// When the request arrived.
    pub now: Instant,
}

/// A decoded request.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The request.
    pub request: InferRequest,
    /// How its answer is written.
    pub answer: AnswerOptions,
    /// Bytes of tensors that decoding made anew (JSON), in addition to the body.
    pub made_bytes: usize,
}

/// Reads the value of the header [`super::HEADER_LENGTH_HEADER`].
pub fn header_length(value: &[u8]) -> Result<usize> {
    std::str::from_utf8(value)
        .ok()
        .filter(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| {
            Error::invalid(format!(
                "header Inference-Header-Content-Length is '{}', expected a number of bytes",
                shown(&String::from_utf8_lossy(value))
            ))
        })
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, borrow)]
    inputs: Option<Vec<&'a RawValue>>,
    #[serde(default, borrow)]
    outputs: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    parameters: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Option<BTreeMap<String, Value>>,
    // Not `Option`: that would take `null` for absent.
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

fn present<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default)]
    parameters: Option<BTreeMap<String, Value>>,
}

/// Decodes a request. Every error is the client's, and names the input and what was expected.
pub fn decode(cx: DecodeContext<'_>, body: &Payload) -> Result<Decoded> {
    if cx.header_length == Some(0) {
        return raw(cx, body);
    }
    let json_length = cx.header_length.unwrap_or(body.len());
    let json = body.slice(0..json_length).ok_or_else(|| {
        Error::invalid(format!(
            "header Inference-Header-Content-Length says {json_length} bytes of JSON, but the body has {}",
            body.len()
        ))
    })?;
    let json = json.to_contiguous();
    let text = std::str::from_utf8(&json)
        .map_err(|e| Error::invalid(format!("the body is not UTF-8: invalid at byte {}", e.valid_up_to())))?;
    let parsed: Body<'_> = object(text).map_err(|why| bad_json("the body", &why, text, cx.header_length.is_none()))?;

    let inputs = parsed.inputs.ok_or_else(|| Error::invalid("the body has no 'inputs', expected a list of tensors"))?;
    let outputs = parsed.outputs.unwrap_or_default();
    at_most("inputs", inputs.len(), INPUTS_MAX)?;
    at_most("outputs", outputs.len(), OUTPUTS_MAX)?;
    let control = request_parameters(parsed.parameters.unwrap_or_default(), cx.tenant, cx.now)?;

    let mut tensors: Vec<Tensor> = Vec::with_capacity(inputs.len());
    let (mut names, mut at, mut made_bytes) = (HashSet::new(), json_length, 0usize);
    for (i, raw) in inputs.iter().enumerate() {
        let tensor = input(i, raw.get(), body, &mut at)?;
        if !names.insert(tensor.name().to_owned()) {
            return Err(Error::invalid(format!("input '{}' is given twice", shown(tensor.name()))));
        }
        if tensor.1 {
            made_bytes += tensor.0.data().len();
        }
        tensors.push(tensor.0);
    }
    if at != body.len() {
        let last = tensors.last().map_or_else(String::new, |t| format!(" (the last is '{}')", shown(t.name())));
        return Err(Error::invalid(format!(
            "{} bytes of the body belong to no input{last}: check binary_data_size and Inference-Header-Content-Length",
            body.len() - at
        )));
    }

    let mut answer = AnswerOptions { binary: control.binary, outputs: BTreeMap::new() };
    let mut chosen = Vec::with_capacity(outputs.len());
    for (i, raw) in outputs.iter().enumerate() {
        let (name, binary) = output(i, raw.get())?;
        if let Some(b) = binary {
            answer.outputs.insert(name.clone(), b);
        }
        chosen.push(name);
    }
    let request = InferRequest {
        id: parsed.id.unwrap_or_default(),
        model: cx.model.clone(),
        inputs: tensors,
        outputs: chosen,
        parameters: control.parameters,
        tenant: control.tenant,
        deadline: control.deadline,
    };
    Ok(Decoded { request, answer, made_bytes })
}

/// Parses an object. serde would also take an array for a struct's fields.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> std::result::Result<T, String> {
    match text.trim_start().bytes().next() {
        Some(b'{') => serde_json::from_str(text).map_err(|e| e.to_string()),
        Some(b'[') => Err("it is an array, expected an object".into()),
        None => Err("it is empty, expected an object".into()),
        Some(_) => Err("expected an object".into()),
    }
}

fn bad_json(what: &str, why: &str, text: &str, may_be_binary: bool) -> Error {
    let mut hint = "";
    if text.contains("NaN") || text.contains("Infinity") {
        hint = " (JSON has no NaN or Infinity: send such values as binary data)";
    } else if may_be_binary && why.starts_with("trailing characters") {
        hint = " (binary data behind JSON needs the header Inference-Header-Content-Length)";
    }
    Error::invalid(format!("{what} is not a valid inference request in JSON: {why}{hint}"))
}

fn at_most(what: &str, n: usize, most: usize) -> Result<()> {
    if n <= most {
        Ok(())
    } else {
        Err(Error::invalid(format!("the request has {n} {what}, at most {most} are taken")))
    }
}

/// A tensor, and whether its bytes were made anew.
struct InputTensor(Tensor, bool);

impl std::ops::Deref for InputTensor {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.0
    }
}

fn input(i: usize, text: &str, body: &Payload, at: &mut usize) -> Result<InputTensor> {
    let input: Input<'_> = object(text).map_err(|why| bad_json(&format!("inputs[{i}]"), &why, "", false))?;
    let name = shown(&input.name);
    let fail = |why: String| Error::invalid(format!("input '{name}': {why}"));
    let dtype: DType = input.datatype.parse().map_err(|e: grey_core::UnknownDType| fail(e.to_string()))?;
    if input.shape.len() > RANK_MAX {
        return Err(fail(format!("the shape has {} dimensions, at most {RANK_MAX} are taken", input.shape.len())));
    }
    let shape = input
        .shape
        .iter()
        .map(|d| {
            u64::try_from(*d).map_err(|_| fail(format!("the shape {:?} has the negative dimension {d}", input.shape)))
        })
        .collect::<Result<Vec<u64>>>()?;
    let mut size = None;
    for (key, value) in input.parameters.unwrap_or_default() {
        match key.as_str() {
            "binary_data_size" => {
                size = Some(value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
                    fail(format!("binary_data_size is {}, expected a number of bytes", shown(&value.to_string())))
                })?);
            }
            k if k.starts_with("shared_memory_") => return Err(no_shared_memory(&format!("input '{name}'"))),
            _ => {}
        }
    }
    match (input.data, size) {
        (Some(_), Some(_)) => Err(fail("it has both 'data' and 'binary_data_size', expected one".into())),
        (None, None) => Err(fail("it has neither 'data' nor 'binary_data_size'".into())),
        (Some(data), None) => {
            let bytes = data::parse(&input.name, dtype, &shape, data.get())?;
            Ok(InputTensor(Tensor::new(input.name, dtype, shape, bytes)?, true))
        }
        (None, Some(size)) => {
            let end = at.checked_add(size);
            let data = end.and_then(|end| body.slice(*at..end)).ok_or_else(|| {
                fail(format!("binary_data_size is {size}, but only {} bytes of the body are left", body.len() - *at))
            })?;
            *at += size;
            Ok(InputTensor(Tensor::new(input.name, dtype, shape, data)?, false))
        }
    }
}

fn output(i: usize, text: &str) -> Result<(String, Option<bool>)> {
    let output: Output = object(text).map_err(|why| bad_json(&format!("outputs[{i}]"), &why, "", false))?;
    let name = shown(&output.name);
    let mut binary = None;
    for (key, value) in output.parameters.unwrap_or_default() {
        match key.as_str() {
            "binary_data" => binary = Some(flag(&format!("output '{name}': binary_data"), &value)?),
            "classification" if value.as_i64() != Some(0) => {
                return Err(unsupported(format!("output '{name}': the classification extension")));
            }
            k if k.starts_with("shared_memory_") => return Err(no_shared_memory(&format!("output '{name}'"))),
            _ => {}
        }
    }
    Ok((output.name, binary))
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not supported by this server"))
}

fn no_shared_memory(what: &str) -> Error {
    unsupported(format!("{what}: the shared memory extension"))
}

fn flag(what: &str, value: &Value) -> Result<bool> {
    value
        .as_bool()
        .ok_or_else(|| Error::invalid(format!("{what} is {}, expected true or false", shown(&value.to_string()))))
}

struct Control {
    binary: bool,
    tenant: Tenant,
    deadline: Option<Instant>,
    parameters: Parameters,
}

/// Takes out what the front understands; the rest is for the model.
fn request_parameters(given: BTreeMap<String, Value>, tenant: Option<&Tenant>, now: Instant) -> Result<Control> {
    at_most("parameters", given.len(), PARAMETERS_MAX)?;
    let mut out = Control {
        binary: false,
        tenant: tenant.cloned().unwrap_or_default(),
        deadline: None,
        parameters: Parameters::new(),
    };
    for (key, value) in given {
        let named = || format!("parameter '{}'", shown(&key));
        match key.as_str() {
            "binary_data_output" => out.binary = flag(&named(), &value)?,
            "timeout" => {
                let us = value.as_i64().filter(|n| *n >= 0).ok_or_else(|| {
                    let v = value.to_string();
                    Error::invalid(format!("{} is {}, expected microseconds, 0 for none", named(), shown(&v)))
                })?;
                if us > 0 {
                    out.deadline = now.checked_add(Duration::from_micros(us.min(TIMEOUT_US_MAX).unsigned_abs()));
                }
            }
            "sequence_id" | "sequence_start" | "sequence_end" => {
                let none = match &value {
                    Value::Bool(b) => !b,
                    Value::Number(n) => n.as_u64() == Some(0),
                    Value::String(s) => s.is_empty() || s == "0",
                    Value::Null => true,
                    _ => false,
                };
                if !none {
                    return Err(unsupported(format!("{}: the sequence extension", named())));
                }
            }
            "tenant" => {
                let Value::String(s) = &value else {
                    return Err(Error::invalid(format!("{} is {}, expected text", named(), shown(&value.to_string()))));
                };
                let asked = Tenant::new(s)?;
                if tenant.is_some_and(|t| *t != asked) {
                    return Err(Error::invalid(format!(
                        "{} is '{asked}', but the header Grey-Tenant says '{}'",
                        named(),
                        out.tenant
                    )));
                }
                out.tenant = asked;
            }
            _ => {
                let p = match value {
                    Value::Bool(b) => Some(Parameter::Bool(b)),
                    Value::String(s) => Some(Parameter::Text(s)),
                    Value::Number(n) => match (n.as_i64(), n.is_u64()) {
                        (Some(i), _) => Some(Parameter::Int(i)),
                        (None, true) => None,
                        (None, false) => n.as_f64().map(Parameter::Float),
                    },
                    Value::Null | Value::Array(_) | Value::Object(_) => None,
                };
                let p = p.ok_or_else(|| {
                    Error::invalid(format!("{}: expected true, false, text or a number of 64 bits", named()))
                })?;
                out.parameters.insert(key, p);
            }
        }
    }
    Ok(out)
}

/// A request whose whole body is the only input's data.
fn raw(cx: DecodeContext<'_>, body: &Payload) -> Result<Decoded> {
    let why = "a raw binary request (Inference-Header-Content-Length: 0)";
    let signature = cx.signature.ok_or_else(|| Error::internal(format!("{why} was decoded without a signature")))?;
    let [spec] = signature.inputs.as_slice() else {
        return Err(Error::invalid(format!(
            "{why} needs a model with one input, but model {} has {}",
            cx.model,
            signature.inputs.len()
        )));
    };
    let mut data = body.clone();
    let mut made_bytes = 0;
    if spec.datatype == DType::Bytes {
        // The whole body is one element, whose length the client does not send.
        let len = u32::try_from(body.len()).map_err(|_| Error::invalid(format!("{why}: the element is too long")))?;
        data = Payload::from(len.to_le_bytes().to_vec());
        made_bytes = data.len();
        body.chunks().iter().for_each(|c| data.push(c.clone()));
    }
    let shape = raw_shape(spec, body.len()).map_err(|e| e.context(why))?;
    let tensor = Tensor::new(spec.name.clone(), spec.datatype, shape, data).map_err(|e| e.context(why))?;
    let request = InferRequest {
        id: String::new(),
        model: cx.model.clone(),
        inputs: vec![tensor],
        outputs: Vec::new(),
        parameters: Parameters::new(),
        tenant: cx.tenant.cloned().unwrap_or_default(),
        deadline: None,
    };
    Ok(Decoded { request, answer: AnswerOptions { binary: true, outputs: BTreeMap::new() }, made_bytes })
}

/// The one shape that `len` bytes can have: one dynamic dimension follows from the length; of
/// more, the first counts rows and is 1.
fn raw_shape(spec: &TensorSpec, len: usize) -> Result<Vec<u64>> {
    let Some(size) = spec.datatype.size() else {
        return Ok(spec.shape.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { 1 }).collect());
    };
    let dynamic: Vec<usize> = (0..spec.shape.len()).filter(|i| spec.shape[*i].is_dynamic()).collect();
    let free = match dynamic.as_slice() {
        [] => None,
        [one] => Some(*one),
        [0, other] => Some(*other),
        _ => {
            return Err(Error::invalid(format!(
                "the shape {:?} of input '{}' does not follow from the body's length",
                spec.protocol_shape(),
                spec.name
            )));
        }
    };
    let mut shape: Vec<u64> = spec.shape.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { 1 }).collect();
    if let Some(free) = free {
        let unit = grey_core::element_count(&shape).and_then(|n| n.checked_mul(size)).filter(|n| *n > 0);
        match unit {
            Some(unit) if len.is_multiple_of(unit) => shape[free] = (len / unit) as u64,
            _ => {
                return Err(Error::invalid(format!(
                    "{len} bytes are no whole number of elements of input '{}' with shape {:?} of {}",
                    spec.name,
                    spec.protocol_shape(),
                    spec.datatype
                )));
            }
        }
    }
    Ok(shape)
}
