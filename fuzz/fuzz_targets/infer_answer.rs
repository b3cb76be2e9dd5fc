//! An inference's answer as a client reads it from a server that may say anything; then the same answer as a node
//! writes it, which must be read as what it was.
//!
//! Input: form, length of the JSON (two bytes), then the body.
#![no_main]

use std::time::Duration;

use grey_client::{Answer, Error, decode};
use grey_core::{DType, InferResponse, Payload, RANK_MAX, Version, element_count, oip};
use grey_fuzz::{Bytes, bounded};
use grey_server::oip::{AnswerOptions, encode};
use libfuzzer_sys::fuzz_target;

/// Memory of a decoded answer for each of its bytes.
const BYTES_PER_BYTE: usize = 64;
/// Longest message: names and texts in it are cut, a shape has at most 64 dimensions.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// What whoever comes after the decoder relies on without looking again.
fn check(answer: &Answer, body_bytes: usize) {
    assert!(answer.outputs.len() <= oip::OUTPUTS_MAX && answer.parameters.len() <= oip::PARAMETERS_MAX);
    let mut data_bytes = 0;
    for (i, t) in answer.outputs.iter().enumerate() {
        assert!(t.shape().len() <= RANK_MAX && t.name().len() <= oip::TENSOR_NAME_BYTES_MAX);
        assert!(answer.outputs[..i].iter().all(|o| o.name() != t.name()), "a name twice");
        let elements = element_count(t.shape()).expect("a shape that can exist");
        let data = t.data().to_contiguous();
        data_bytes += data.len();
        if let Some(size) = t.dtype().size() {
            assert_eq!(data.len(), elements * size, "{t:?}");
        }
        assert!(t.dtype() != DType::Bool || data.iter().all(|b| *b <= 1));
    }
    assert!(data_bytes <= body_bytes);
}

/// As a node would give it.
fn there_and_back(answer: &Answer) {
    let response = InferResponse {
        id: answer.id.clone().unwrap_or_default(),
        model: answer.model.clone(),
        version: answer.version.clone().unwrap_or_else(|| Version::new("1").expect("a version")),
        outputs: answer.outputs.clone(),
        parameters: answer.parameters.clone(),
        proof: answer.proof.clone(),
        queue_time: Duration::ZERO,
        execute_time: Duration::ZERO,
    };
    let encoded = encode(&response, &AnswerOptions { binary: true, ..AnswerOptions::default() }).expect("it was read");
    let body = Payload::from(encoded.chunks.concat());
    let again = decode(encoded.header_length.map(|n| n as u64), &body).unwrap_or_else(|e| panic!("not read: {e}"));
    assert_eq!(again.outputs, response.outputs);
    assert_eq!(again.parameters, response.parameters);
    assert_eq!(again.proof, response.proof);
    assert_eq!(again.id.unwrap_or_default(), response.id);
    assert_eq!((again.model, again.version), (response.model, Some(response.version)));
}

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes(input);
    let (form, cut) = (input.byte(), input.short());
    let body = input.0;
    let length = match form & 3 {
        0 => None,
        1 => Some(u64::MAX - u64::from(cut)),
        _ => Some(u64::from(cut)),
    };
    let whole = Payload::from(body.to_vec());
    let decoded = bounded(body.len(), BYTES_PER_BYTE, || decode(length, &whole));
    // The same in small pieces, as a socket may give it.
    let pieces: Payload = body.chunks(1 + usize::from(form >> 5)).map(|c| c.to_vec().into()).collect();
    match (decoded, decode(length, &pieces)) {
        (Ok(answer), Ok(in_pieces)) => {
            assert_eq!(answer, in_pieces);
            check(&answer, body.len());
            there_and_back(&answer);
        }
        (Err(e), Err(p)) => {
            assert!(matches!(e, Error::Answer(_)), "{e:?}");
            assert_eq!(e.to_string(), p.to_string());
            assert!(e.to_string().len() <= MESSAGE_BYTES_MAX, "{e}");
        }
        (d, p) => panic!("{:?} in one piece, {:?} in several", d.map(|_| ()), p.map(|_| ())),
    }
});
