//! Decoding an inference request: JSON, JSON with binary tensors behind it, or raw bytes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt::Display,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use grey_core::{
    Cursor, DType, Dim, Error, ErrorKind, InferRequest, ModelRef, NONCE_BYTES, Parameter, Parameters, Payload,
    ProofRequest, RANK_MAX, Result, Signature, Tenant, Tensor, TensorSpec,
    oip::{INPUTS_MAX, OUTPUTS_MAX, TENSOR_NAME_BYTES_MAX, TIMEOUT_US_MAX},
};
use serde::{
    Deserialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Budget, data,
    json::{
        self, Limit, List, Object, Scalar, Text, Whole, contiguous, each_parameter, expecting_parameters, is_object,
        object, survey,
    },
    lazily, shown,
};

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
    /// Whether a header asks for a proof; a parameter may, too. `None` if there is none.
    pub prove: Option<bool>,
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

enum Inputs {}
impl Limit for Inputs {
    const MOST: usize = INPUTS_MAX;
    const WHAT: &'static str = "inputs";
}

enum Outputs {}
impl Limit for Outputs {
    const MOST: usize = OUTPUTS_MAX;
    const WHAT: &'static str = "outputs";
}

enum Dimensions {}
impl Limit for Dimensions {
    const MOST: usize = RANK_MAX;
    const WHAT: &'static str = "dimensions";
}

/// What is read of a body. Lists are bounded and texts share its memory, so that little is held
/// beside it; what may be long stays text (`RawValue`) until its copy was asked for.
#[derive(Deserialize)]
#[serde(bound(deserialize = "I: Deserialize<'de>, O: Deserialize<'de>, P: Deserialize<'de>"))]
struct Body<'a, I, O, P> {
    #[serde(default, borrow)]
    id: Option<Text<'a>>,
    #[serde(default = "Option::default")]
    inputs: Option<List<I, Inputs>>,
    #[serde(default = "Option::default")]
    outputs: Option<List<O, Outputs>>,
    #[serde(default = "Option::default")]
    parameters: Option<P>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "P: Deserialize<'de>"))]
struct Input<'a, P> {
    #[serde(borrow)]
    name: Text<'a>,
    shape: List<Whole, Dimensions>,
    #[serde(borrow)]
    datatype: Text<'a>,
    #[serde(default = "Option::default")]
    parameters: Option<P>,
    // Not `Option`: that would take `null` for absent.
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

fn present<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(d).map(Some)
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "P: Deserialize<'de>"))]
struct Output<'a, P> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(default = "Option::default")]
    parameters: Option<P>,
}

/// What means something among the parameters of an input or an output. The rest is not kept.
#[derive(Default)]
struct OfTensor<'a> {
    binary_data_size: Option<Scalar<'a>>,
    binary_data: Option<Scalar<'a>>,
    classification: Option<Scalar<'a>>,
    shared_memory: bool,
}

impl<'de> Deserialize<'de> for OfTensor<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Known;
        impl<'de> Visitor<'de> for Known {
            type Value = OfTensor<'de>;

            expecting_parameters!();

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut out = OfTensor::default();
                each_parameter(map, |key, map| {
                    match &*key {
                        "binary_data_size" => out.binary_data_size = map.next_value()?,
                        "binary_data" => out.binary_data = map.next_value()?,
                        "classification" => out.classification = map.next_value()?,
                        other => {
                            out.shared_memory |= other.starts_with("shared_memory_");
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                    Ok(())
                })?;
                Ok(out)
            }
        }
        d.deserialize_any(Known)
    }
}

type Parsed<'a> = Body<'a, Object<Input<'a, OfTensor<'a>>>, Object<Output<'a, OfTensor<'a>>>, json::Parameters<'a>>;
/// The same body, cut and not looked into.
type Cut<'a> = Body<'a, &'a RawValue, &'a RawValue, &'a RawValue>;

/// Parses a body in one go.
fn parse(text: &str, may_be_binary: bool) -> Result<Parsed<'_>> {
    object(text).map_err(|why| why_not(text, why, may_be_binary))
}

/// Which part of a body is wrong: one go does not tell.
fn why_not(text: &str, whole: String, may_be_binary: bool) -> Error {
    fn parameters<'a, P: Deserialize<'a>>(of: &impl Display, given: Option<&'a RawValue>) -> Result<()> {
        let Some(raw) = given else { return Ok(()) };
        let parsed = serde_json::from_str::<P>(raw.get());
        parsed.map(drop).map_err(|e| Error::invalid(format!("'parameters' of {of}: {e}")))
    }
    fn each<'a>(cut: Cut<'a>) -> Result<()> {
        parameters::<json::Parameters<'a>>(&"the body", cut.parameters)?;
        for (i, raw) in cut.inputs.iter().flat_map(|l| &l.0).enumerate() {
            let place = lazily(|f| write!(f, "inputs[{i}]"));
            let input: Input<'a, &RawValue> = object(raw.get()).map_err(|why| bad_json(&place, &why, "", false))?;
            parameters::<OfTensor<'a>>(&place, input.parameters)?;
        }
        for (i, raw) in cut.outputs.iter().flat_map(|l| &l.0).enumerate() {
            let place = lazily(|f| write!(f, "outputs[{i}]"));
            let output: Output<'a, &RawValue> = object(raw.get()).map_err(|why| bad_json(&place, &why, "", false))?;
            parameters::<OfTensor<'a>>(&place, output.parameters)?;
        }
        Ok(())
    }
    let bad = |why: String| bad_json(&"the body", &why, text, may_be_binary);
    match object::<Cut<'_>>(text) {
        Err(why) => bad(why),
        Ok(cut) => each(cut).err().unwrap_or_else(|| bad(whole)),
    }
}

/// Decodes a request. Errors are the client's, and name the input and what was expected; or they are
/// those of `budget`, which is asked before anything is allocated that grows with the body.
pub fn decode(cx: DecodeContext<'_>, body: &Payload, budget: &mut Budget<'_>) -> Result<Decoded> {
    if cx.header_length == Some(0) {
        return raw(cx, body, budget);
    }
    let mut rest = body.cursor();
    let json_length = cx.header_length.unwrap_or(body.len());
    let json = rest.take(json_length).ok_or_else(|| {
        Error::invalid(format!(
            "header Inference-Header-Content-Length says {json_length} bytes of JSON, but the body has {}",
            body.len()
        ))
    })?;
    let json = contiguous(&json, budget)?;
    let text = std::str::from_utf8(&json)
        .map_err(|e| Error::invalid(format!("the body is not UTF-8: invalid at byte {}", e.valid_up_to())))?;
    let may_be_binary = cx.header_length.is_none();
    let bad = |why: String| bad_json(&"the body", &why, text, may_be_binary);
    budget(is_object(text).and_then(|()| survey(text)).map_err(bad)?)?;
    let parsed = parse(text, may_be_binary)?;

    let inputs = parsed.inputs.ok_or_else(|| Error::invalid("the body has no 'inputs', expected a list of tensors"))?;
    let outputs = parsed.outputs.map_or_else(Vec::new, |o| o.0);
    let control = request_parameters(parsed.parameters.unwrap_or_default(), &cx, budget)?;

    let mut tensors: Vec<Tensor> = Vec::with_capacity(inputs.0.len());
    for (i, Object(given)) in inputs.0.into_iter().enumerate() {
        tensors.push(input(i, given, &mut rest, budget)?);
    }
    let mut names = HashSet::new();
    if tensors.len() > 1
        && let Some(twice) = tensors.iter().find(|t| !names.insert(t.name()))
    {
        return Err(Error::invalid(format!("input '{}' is given twice", shown(twice.name()))));
    }
    if rest.left() > 0 {
        let last = tensors.last().map_or_else(String::new, |t| format!(" (the last is '{}')", shown(t.name())));
        return Err(Error::invalid(format!(
            "{} bytes of the body belong to no input{last}: check binary_data_size and Inference-Header-Content-Length",
            rest.left()
        )));
    }

    let mut answer = AnswerOptions { binary: control.binary, outputs: BTreeMap::new() };
    let mut chosen = Vec::with_capacity(outputs.len());
    for (i, Object(asked)) in outputs.into_iter().enumerate() {
        let (name, binary) = output(i, asked, budget)?;
        if let Some(b) = binary {
            answer.outputs.insert(name.clone(), b);
        }
        chosen.push(name);
    }
    let id = parsed.id.map_or(Cow::Borrowed(""), |t| t.0);
    budget(id.len())?;
    let request = InferRequest {
        id: id.into_owned(),
        model: cx.model.clone(),
        inputs: tensors,
        outputs: chosen,
        parameters: control.parameters,
        tenant: control.tenant,
        deadline: control.deadline,
        proof: control.proof,
    };
    Ok(Decoded { request, answer })
}

/// A name that is short enough, for the two copies that are kept of it.
fn name<'a>(place: &impl Display, given: Cow<'a, str>, budget: &mut Budget<'_>) -> Result<Cow<'a, str>> {
    if given.len() > TENSOR_NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{place} has a name of {} bytes, at most {TENSOR_NAME_BYTES_MAX} are taken",
            given.len()
        )));
    }
    budget(2 * given.len())?;
    Ok(given)
}

fn bad_json(what: &impl Display, why: &str, text: &str, may_be_binary: bool) -> Error {
    let mut hint = "";
    if text.contains("NaN") || text.contains("Infinity") {
        hint = " (JSON has no NaN or Infinity: send such values as binary data)";
    } else if may_be_binary && why.starts_with("trailing characters") {
        hint = " (binary data behind JSON needs the header Inference-Header-Content-Length)";
    }
    Error::invalid(format!("{what} is not a valid inference request in JSON: {why}{hint}"))
}

fn input(i: usize, input: Input<'_, OfTensor<'_>>, rest: &mut Cursor<'_>, budget: &mut Budget<'_>) -> Result<Tensor> {
    // Written only where something is wrong.
    let place = lazily(|f| write!(f, "inputs[{i}]"));
    let full_name = name(&place, input.name.0, budget)?;
    let name = lazily(|f| f.write_str(&shown(&full_name)));
    let fail = |why: String| Error::invalid(format!("input '{name}': {why}"));
    let dtype: DType = input.datatype.0.parse().map_err(|e: grey_core::UnknownDType| fail(e.to_string()))?;
    let given = input.shape.0;
    if let Some(Whole(d)) = given.iter().find(|d| d.0 < 0) {
        let given: Vec<i64> = given.iter().map(|d| d.0).collect();
        return Err(fail(format!("the shape {given:?} has the negative dimension {d}")));
    }
    let shape: Vec<u64> = given.into_iter().map(|d| d.0.cast_unsigned()).collect();
    let parameters = input.parameters.unwrap_or_default();
    if parameters.shared_memory {
        return Err(no_shared_memory(&lazily(|f| write!(f, "input '{name}'"))));
    }
    let size = parameters.binary_data_size.map(|size| {
        let bytes = size.as_u64().and_then(|n| usize::try_from(n).ok());
        bytes.ok_or_else(|| fail(format!("binary_data_size is {}, expected a number of bytes", size.shown())))
    });
    let size = size.transpose()?;
    let data = match (input.data, size) {
        (Some(_), Some(_)) => return Err(fail("it has both 'data' and 'binary_data_size', expected one".into())),
        (None, None) => return Err(fail("it has neither 'data' nor 'binary_data_size'".into())),
        (Some(data), None) => Payload::from(data::parse(&full_name, dtype, &shape, data.get(), budget)?),
        (None, Some(size)) => {
            let data = rest.take(size).ok_or_else(|| {
                fail(format!("binary_data_size is {size}, but only {} bytes of the body are left", rest.left()))
            })?;
            // Whoever looks for an element of BYTES needs them in one piece: copied once, here.
            if dtype == DType::Bytes { Payload::from(contiguous(&data, budget)?) } else { data }
        }
    };
    Tensor::new(full_name, dtype, shape, data)
}

fn output(i: usize, output: Output<'_, OfTensor<'_>>, budget: &mut Budget<'_>) -> Result<(String, Option<bool>)> {
    let place = lazily(|f| write!(f, "outputs[{i}]"));
    let full_name = name(&place, output.name.0, budget)?;
    let name = lazily(|f| f.write_str(&shown(&full_name)));
    let parameters = output.parameters.unwrap_or_default();
    if parameters.shared_memory {
        return Err(no_shared_memory(&lazily(|f| write!(f, "output '{name}'"))));
    }
    if parameters.classification.is_some_and(|n| n != Scalar::Int(0)) {
        return Err(unsupported(format!("output '{name}': the classification extension")));
    }
    let binary = parameters.binary_data.map(|b| flag(&lazily(|f| write!(f, "output '{name}': binary_data")), &b));
    let binary = binary.transpose()?;
    Ok((full_name.into_owned(), binary))
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} is not supported by this server"))
}

fn no_shared_memory(what: &impl Display) -> Error {
    unsupported(format!("{what}: the shared memory extension"))
}

fn flag(what: &impl Display, value: &Scalar<'_>) -> Result<bool> {
    match value {
        Scalar::Bool(b) => Ok(*b),
        other => Err(Error::invalid(format!("{what} is {}, expected true or false", other.shown()))),
    }
}

struct Control {
    binary: bool,
    tenant: Tenant,
    deadline: Option<Instant>,
    proof: Option<ProofRequest>,
    parameters: Parameters,
}

/// Takes out what the front understands; the rest is for the model.
fn request_parameters(given: json::Parameters<'_>, cx: &DecodeContext<'_>, budget: &mut Budget<'_>) -> Result<Control> {
    let tenant = cx.tenant;
    let (mut prove, mut asked) = (cx.prove, ProofRequest::default());
    let mut out = Control {
        binary: false,
        tenant: tenant.cloned().unwrap_or_default(),
        deadline: None,
        proof: None,
        parameters: Parameters::new(),
    };
    for (key, value) in given.0 {
        // Serializers that write every field write null for what was not given.
        if value == Scalar::Null {
            continue;
        }
        let named = lazily(|f| write!(f, "parameter '{}'", shown(&key)));
        match &*key {
            "binary_data_output" => out.binary = flag(&named, &value)?,
            "timeout" => {
                let us = value.as_u64().filter(|n| i64::try_from(*n).is_ok()).ok_or_else(|| {
                    Error::invalid(format!("{} is {}, expected microseconds, 0 for none", named, value.shown()))
                })?;
                if us > 0 {
                    out.deadline = cx.now.checked_add(Duration::from_micros(us.min(TIMEOUT_US_MAX)));
                }
            }
            "sequence_id" | "sequence_start" | "sequence_end" => {
                let none = match &value {
                    Scalar::Bool(b) => !b,
                    Scalar::Int(n) => *n == 0,
                    Scalar::Text(s) => s.is_empty() || s == "0",
                    _ => false,
                };
                if !none {
                    return Err(unsupported(format!("{}: the sequence extension", named)));
                }
            }
            "grey_prove" => {
                let wanted = flag(&named, &value)?;
                if cx.prove.is_some_and(|header| header != wanted) {
                    return Err(Error::invalid(format!(
                        "{} is {wanted}, but the header Grey-Prove says otherwise",
                        named
                    )));
                }
                prove = Some(wanted);
            }
            "grey_nonce" => {
                let nonce = from_base64(&named, &value)?;
                if !NONCE_BYTES.contains(&nonce.len()) {
                    return Err(Error::invalid(format!("{} has {} bytes, expected 8 to 64", named, nonce.len())));
                }
                asked.nonce = Some(nonce);
            }
            "grey_salt" => {
                let salt = from_base64(&named, &value)?;
                asked.salt =
                    Some(salt.try_into().map_err(|s: Vec<u8>| {
                        Error::invalid(format!("{} has {} bytes, expected 32", named, s.len()))
                    })?);
            }
            "tenant" => {
                let Scalar::Text(s) = &value else {
                    return Err(Error::invalid(format!("{} is {}, expected text", named, value.shown())));
                };
                let asked = Tenant::new(s)?;
                if tenant.is_some_and(|t| *t != asked) {
                    return Err(Error::invalid(format!(
                        "{} is '{asked}', but the header Grey-Tenant says '{}'",
                        named, out.tenant
                    )));
                }
                out.tenant = asked;
            }
            _ => {
                budget(key.len() + if let Scalar::Text(s) = &value { s.len() } else { 0 })?;
                let p = match value {
                    Scalar::Bool(b) => Some(Parameter::Bool(b)),
                    Scalar::Text(s) => Some(Parameter::Text(s.into_owned())),
                    Scalar::Int(n) => Some(Parameter::Int(n)),
                    Scalar::Float(n) => Some(Parameter::Float(n)),
                    Scalar::Uint(_) | Scalar::Null | Scalar::Array | Scalar::Object => None,
                };
                let p = p.ok_or_else(|| {
                    Error::invalid(format!("{}: expected true, false, text or a number of 64 bits", named))
                })?;
                out.parameters.insert(key.into_owned(), p);
            }
        }
    }
    if prove == Some(true) {
        out.proof = Some(asked);
    } else if asked != ProofRequest::default() {
        let which = if asked.nonce.is_some() { "grey_nonce" } else { "grey_salt" };
        return Err(Error::invalid(format!("parameter '{which}' asks for nothing without 'grey_prove': true")));
    }
    Ok(out)
}

fn from_base64(what: &impl Display, value: &Scalar<'_>) -> Result<Vec<u8>> {
    let Scalar::Text(text) = value else {
        return Err(Error::invalid(format!("{what} is {}, expected base64", value.shown())));
    };
    STANDARD.decode(&**text).map_err(|e| Error::invalid(format!("{what} is not base64 (standard, padded): {e}")))
}

/// A request whose whole body is the only input's data.
fn raw(cx: DecodeContext<'_>, body: &Payload, budget: &mut Budget<'_>) -> Result<Decoded> {
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
    if spec.datatype == DType::Bytes {
        // The whole body is one element, whose length the client does not send.
        let len = u32::try_from(body.len()).map_err(|_| Error::invalid(format!("{why}: the element is too long")))?;
        data = Payload::from(len.to_le_bytes().to_vec());
        body.chunks().iter().for_each(|c| data.push(c.clone()));
        data = Payload::from(contiguous(&data, budget)?);
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
        proof: (cx.prove == Some(true)).then(ProofRequest::default),
    };
    Ok(Decoded { request, answer: AnswerOptions { binary: true, outputs: BTreeMap::new() } })
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
