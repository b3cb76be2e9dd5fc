//! Encoding an answer: a JSON header and the binary tensors' own chunks behind it, not copied.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use grey_core::{AnswerProof, DType, ELEMENT_LENGTH_BYTES, Error, InferResponse, Parameter, Result, Tensor};
use half::{bf16, f16};
use serde::Serialize;

use super::{AnswerOptions, shown};

/// What is reserved for a header of usual length, in bytes.
const HEADER_LENGTH: usize = 512;
/// Text of a proof's parameters beside its base64: the names, and the session in hex.
const PROOF_TEXT_LENGTH: usize = 128;

/// An encoded answer.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Length of the JSON at the front if binary data follows, for the header
    /// [`super::HEADER_LENGTH_HEADER`]; `None` if all is JSON.
    pub header_length: Option<usize>,
    /// The body.
    pub chunks: Vec<Bytes>,
    /// Bytes of the body.
    pub len: usize,
}

impl Encoded {
    /// The body's `Content-Type`.
    pub fn content_type(&self) -> &'static str {
        if self.header_length.is_some() { "application/octet-stream" } else { "application/json" }
    }
}

/// Writes an answer. Values that JSON cannot hold are refused with the way to get them.
pub fn encode(response: &InferResponse, options: &AnswerOptions) -> Result<Encoded> {
    let proof_length = response.proof.as_ref().map_or(0, |p| PROOF_TEXT_LENGTH + p.proof.len().div_ceil(3) * 4);
    let mut json = Vec::with_capacity(HEADER_LENGTH + proof_length);
    json.push(b'{');
    if !response.id.is_empty() {
        json.extend_from_slice(b"\"id\":");
        write(&mut json, &response.id)?;
        json.push(b',');
    }
    json.extend_from_slice(b"\"model_name\":");
    write(&mut json, response.model.as_str())?;
    json.extend_from_slice(b",\"model_version\":");
    write(&mut json, response.version.as_str())?;
    if !response.parameters.is_empty() || response.proof.is_some() {
        json.extend_from_slice(b",\"parameters\":{");
        if let Some(AnswerProof { proof, session }) = &response.proof {
            json.extend_from_slice(b"\"grey_proof\":\"");
            base64_onto(&mut json, proof)?;
            json.extend_from_slice(b"\",\"grey_session\":\"");
            json.extend_from_slice(base16ct::lower::encode_string(session).as_bytes());
            json.push(b'"');
            if !response.parameters.is_empty() {
                json.push(b',');
            }
        }
        for (i, (key, value)) in response.parameters.iter().enumerate() {
            comma(&mut json, i);
            write(&mut json, key)?;
            json.push(b':');
            match value {
                Parameter::Bool(v) => write(&mut json, v)?,
                Parameter::Int(v) => write(&mut json, v)?,
                Parameter::Float(v) => write(&mut json, v)?,
                Parameter::Text(v) => write(&mut json, v)?,
            }
        }
        json.push(b'}');
    }
    json.extend_from_slice(b",\"outputs\":[");
    let mut tail = Vec::new();
    let mut any_binary = false;
    for (i, t) in response.outputs.iter().enumerate() {
        comma(&mut json, i);
        json.extend_from_slice(b"{\"name\":");
        write(&mut json, t.name())?;
        json.extend_from_slice(b",\"datatype\":");
        write(&mut json, t.dtype().name())?;
        json.extend_from_slice(b",\"shape\":");
        write(&mut json, t.shape())?;
        if options.is_binary(t.name()) {
            any_binary = true;
            json.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            write(&mut json, &t.data().len())?;
            json.extend_from_slice(b"}}");
            tail.extend(t.data().chunks().iter().cloned());
        } else {
            json.extend_from_slice(b",\"data\":[");
            elements(&mut json, t)?;
            json.extend_from_slice(b"]}");
        }
    }
    json.extend_from_slice(b"]}");
    let header_length = any_binary.then_some(json.len());
    let mut chunks = vec![Bytes::from(json)];
    chunks.extend(tail);
    let len = chunks.iter().map(Bytes::len).sum();
    Ok(Encoded { header_length, chunks, len })
}

/// Standard, padded base64, which needs no escapes in JSON.
fn base64_onto(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    let at = out.len();
    out.resize(at + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, out.get_mut(at..).unwrap_or_default());
    written.map(drop).map_err(|e| Error::internal(format!("cannot write base64: {e}")))
}

fn comma(out: &mut Vec<u8>, i: usize) {
    if i > 0 {
        out.push(b',');
    }
}

fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|e| Error::internal(format!("cannot write JSON: {e}")))
}

fn elements(out: &mut Vec<u8>, t: &Tensor) -> Result<()> {
    let data = t.data().to_contiguous();
    match t.dtype() {
        DType::Bool => each::<1>(out, &data, |out, [b]| write(out, &(b != 0))),
        DType::Int8 => each(out, &data, |out, b| write(out, &i8::from_le_bytes(b))),
        DType::Int16 => each(out, &data, |out, b| write(out, &i16::from_le_bytes(b))),
        DType::Int32 => each(out, &data, |out, b| write(out, &i32::from_le_bytes(b))),
        DType::Int64 => each(out, &data, |out, b| write(out, &i64::from_le_bytes(b))),
        DType::Uint8 => each(out, &data, |out, b| write(out, &u8::from_le_bytes(b))),
        DType::Uint16 => each(out, &data, |out, b| write(out, &u16::from_le_bytes(b))),
        DType::Uint32 => each(out, &data, |out, b| write(out, &u32::from_le_bytes(b))),
        DType::Uint64 => each(out, &data, |out, b| write(out, &u64::from_le_bytes(b))),
        // serde_json prints the shortest text that reads back as the same float.
        DType::Fp16 => each(out, &data, |out, b| finite(out, t, f16::from_le_bytes(b).to_f32())),
        DType::Bf16 => each(out, &data, |out, b| finite(out, t, bf16::from_le_bytes(b).to_f32())),
        DType::Fp32 => each(out, &data, |out, b| finite(out, t, f32::from_le_bytes(b))),
        DType::Fp64 => each(out, &data, |out, b| {
            let v = f64::from_le_bytes(b);
            if v.is_finite() { write(out, &v) } else { Err(needs_binary(t, &v.to_string())) }
        }),
        DType::Bytes => {
            let (mut rest, mut i) = (&data[..], 0);
            while let Some((head, tail)) = rest.split_first_chunk::<ELEMENT_LENGTH_BYTES>() {
                let cut = tail.split_at_checked(u32::from_le_bytes(*head) as usize);
                let (item, after) =
                    cut.ok_or_else(|| Error::internal(format!("output '{}' is cut short", shown(t.name()))))?;
                let text = std::str::from_utf8(item).map_err(|_| needs_binary(t, "bytes that are not UTF-8"))?;
                comma(out, i);
                write(out, text)?;
                (rest, i) = (after, i + 1);
            }
            Ok(())
        }
    }
}

fn each<const N: usize>(
    out: &mut Vec<u8>,
    data: &[u8],
    one: impl Fn(&mut Vec<u8>, [u8; N]) -> Result<()>,
) -> Result<()> {
    let (items, _) = data.as_chunks::<N>();
    items.iter().enumerate().try_for_each(|(i, item)| {
        comma(out, i);
        one(out, *item)
    })
}

fn finite(out: &mut Vec<u8>, t: &Tensor, v: f32) -> Result<()> {
    if v.is_finite() { write(out, &v) } else { Err(needs_binary(t, &v.to_string())) }
}

fn needs_binary(t: &Tensor, what: &str) -> Error {
    Error::invalid(format!(
        "output '{}' holds {what}, which JSON cannot: ask for binary data \
         (parameter binary_data of the output, or binary_data_output of the request)",
        shown(t.name())
    ))
}
