//! An inference request's body, JSON or binary, against models' signatures; then the answer that sends the same
//! tensors back, which must be read as what was sent.
//!
//! Input: signature and dtype, form, length of the JSON (two bytes), then the body.
#![no_main]
#![allow(clippy::disallowed_methods, reason = "any instant will do as the time of a request")]

use std::{sync::LazyLock, time::Instant};

use grey_core::{
    DType, Dim, ELEMENT_LENGTH_BYTES, Error, ErrorKind, InferRequest, InferResponse, ModelId, ModelRef, Payload,
    RANK_MAX, Signature, Tensor, TensorSpec, Version, VersionChoice, element_count,
};
use grey_fuzz::{Bytes, SPARE_BYTES, peak};
use grey_server::oip::{AnswerOptions, DecodeContext, Decoded, INPUTS_MAX, OUTPUTS_MAX, decode, encode, header_length};
use libfuzzer_sys::fuzz_target;

/// Memory of a decoded request for each byte of its text, beside what the budget was asked for.
const BYTES_PER_BYTE: usize = 64;
/// Longest message of a refusal: names and texts in it are cut, a shape has at most 64 dimensions.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn signature(choice: usize, dtype: DType) -> Signature {
    use Dim::{Any, Fixed};
    let shapes: &[&[Dim]] = match choice {
        0 => &[&[Any, Fixed(2)]],
        1 => &[&[Fixed(2), Fixed(2)]],
        2 => &[&[]],
        3 => &[&[Any]],
        4 => &[&[Any, Any]],
        5 => &[&[Any, Fixed(3), Any]],
        6 => &[&[Fixed(0), Any]],
        7 => &[&[Any, Fixed(u64::MAX), Fixed(8)]],
        _ => &[&[Any, Fixed(2)], &[Any]],
    };
    let spec = |(i, shape): (usize, &&[Dim])| TensorSpec {
        name: ["x", "y"][i].into(),
        datatype: dtype,
        shape: shape.to_vec(),
    };
    let inputs: Vec<TensorSpec> = shapes.iter().enumerate().map(spec).collect();
    Signature { outputs: inputs.clone(), inputs }
}

fn read(cx: DecodeContext<'_>, body: &Payload, most_calls: usize) -> (Result<Decoded, Error>, usize, bool) {
    let (mut asked, mut calls, mut refused) = (0usize, 0, false);
    let decoded = decode(cx, body, &mut |n| {
        calls += 1;
        if calls > most_calls {
            refused = true;
            return Err(Error::new(ErrorKind::Overloaded, "full"));
        }
        // A node has so much at most.
        asked = asked.saturating_add(n);
        if asked > 1 << 30 { Err(Error::new(ErrorKind::TooLarge, "too much")) } else { Ok(()) }
    });
    (decoded, asked, refused)
}

/// What whoever comes after the decoder relies on without looking again.
fn check(request: &InferRequest, body_bytes: usize, asked: usize) {
    assert!(request.inputs.len() <= INPUTS_MAX && request.outputs.len() <= OUTPUTS_MAX);
    let mut data_bytes = 0;
    for (i, t) in request.inputs.iter().enumerate() {
        assert!(t.shape().len() <= RANK_MAX);
        assert!(request.inputs[..i].iter().all(|o| o.name() != t.name()), "a name twice");
        let elements = element_count(t.shape()).expect("a shape that can exist");
        let data = t.data().to_contiguous();
        assert_eq!(data.len(), t.data().len());
        data_bytes += data.len();
        match t.dtype().size() {
            Some(size) => assert_eq!(data.len(), elements * size, "{t:?}"),
            None => {
                let (mut rest, mut found) = (&data[..], 0);
                while let Some((head, tail)) = rest.split_first_chunk::<4>() {
                    rest = &tail[u32::from_le_bytes(*head) as usize..];
                    found += 1;
                }
                assert_eq!((found, rest.len()), (elements, 0), "{t:?}");
            }
        }
        assert!(t.dtype() != DType::Bool || data.iter().all(|b| *b <= 1));
    }
    // A raw body of a BYTES input gets a length in front of it.
    let most = body_bytes + asked + ELEMENT_LENGTH_BYTES;
    assert!(data_bytes <= most, "{data_bytes} bytes of tensors from {body_bytes}, {asked} asked for");
}

fn fits(signature: &Signature, inputs: &[Tensor]) -> bool {
    inputs.len() == signature.inputs.len()
        && signature.inputs.iter().all(|spec| {
            inputs.iter().any(|t| {
                t.name() == spec.name
                    && t.dtype() == spec.datatype
                    && t.shape().len() == spec.shape.len()
                    && spec.shape.iter().zip(t.shape()).all(|(d, n)| !matches!(d, Dim::Fixed(f) if f != n))
            })
        })
}

/// Sends the inputs back as outputs, reads that as a request, and compares.
fn there_and_back(cx: DecodeContext<'_>, request: &InferRequest, options: &AnswerOptions) -> Result<(), Error> {
    let response = InferResponse {
        id: request.id.clone(),
        model: request.model.id.clone(),
        version: Version::new("1").expect("a version"),
        outputs: request.inputs.clone(),
        parameters: request.parameters.clone(),
        proof: None,
        queue_time: Default::default(),
        execute_time: Default::default(),
    };
    let encoded = encode(&response, options)?;
    let all: Vec<u8> = encoded.chunks.concat();
    assert_eq!(all.len(), encoded.len);
    let (json, data) = all.split_at(encoded.header_length.unwrap_or(all.len()));
    // As text: values would change on their way through a tree. No client's text holds this, its quotes are escaped.
    let json = std::str::from_utf8(json).expect("text").replacen("\"outputs\":", "\"inputs\":", 1);
    let cx = DecodeContext { header_length: encoded.header_length.map(|_| json.len()), tenant: None, ..cx };
    let (again, ..) = read(cx, &Payload::from([json.as_bytes(), data].concat()), usize::MAX);
    let again = again.unwrap_or_else(|e| panic!("the answer {json} is not read: {e}")).request;
    assert_eq!(again.inputs, request.inputs, "{json}");
    assert_eq!((&again.id, &again.parameters), (&request.id, &request.parameters), "{json}");
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes(input);
    let (choice, form, cut) = (input.byte(), input.byte(), input.short());
    let dtype = DType::ALL[usize::from(choice) % DType::ALL.len()];
    let signature = signature(usize::from(choice) / DType::ALL.len() % 9, dtype);
    let body = input.0;
    let model = ModelRef { id: ModelId::new("m").expect("a name"), version: VersionChoice::Latest };
    let header = match form & 3 {
        0 => None,
        1 => Some(0),
        _ => Some(usize::from(cut)),
    };
    let cx = DecodeContext {
        model: &model,
        header_length: header,
        tenant: None,
        signature: Some(&signature),
        prove: [None, None, Some(true), Some(false)][usize::from(form >> 2 & 3)],
        now: *NOW,
    };
    let most_calls = if form & 16 == 0 { usize::MAX } else { usize::from(form >> 5) };

    let whole = Payload::from(body.to_vec());
    let ((decoded, asked, refused), held) = peak(|| read(cx, &whole, most_calls));
    assert!(
        held <= SPARE_BYTES + BYTES_PER_BYTE * body.len() + asked,
        "{} bytes took {held} bytes of memory, {asked} were asked for",
        body.len()
    );
    if refused {
        let e = decoded.expect_err("a refusal of the budget is an error");
        assert_eq!((e.kind(), e.message()), (ErrorKind::Overloaded, "full"));
        return;
    }
    // The same in small pieces, as a socket may give it.
    let pieces: Payload = body.chunks(1 + usize::from(form >> 5)).map(|c| c.to_vec().into()).collect();
    let (in_pieces, ..) = read(cx, &pieces, usize::MAX);
    let d = match (decoded, in_pieces) {
        (Ok(d), Ok(p)) => {
            assert_eq!(d.request.inputs, p.request.inputs);
            d
        }
        (Err(e), Err(p)) => {
            assert_eq!((e.kind(), e.message()), (p.kind(), p.message()));
            assert!(e.kind() != ErrorKind::Internal && e.message().len() <= MESSAGE_BYTES_MAX, "{e}");
            return;
        }
        (d, p) => panic!("{:?} in one piece, {:?} in several", d.map(|_| ()), p.map(|_| ())),
    };
    check(&d.request, body.len(), asked);
    let fit = signature.check_inputs("m", &d.request.inputs);
    assert_eq!(fit.is_ok(), fits(&signature, &d.request.inputs), "{fit:?}");
    if header == Some(0) {
        assert!(fit.is_ok(), "a raw body has the model's own shape");
        let data = d.request.inputs[0].data().to_contiguous();
        let element = [&(body.len() as u32).to_le_bytes()[..], body].concat();
        assert_eq!(data[..], if dtype == DType::Bytes { &element[..] } else { body }[..]);
    }
    // What JSON cannot hold is refused (asked for in binary form it is not), and so are dimensions above its integers,
    // which only a signature can bring.
    if d.request.inputs.iter().all(|t| t.shape().iter().all(|n| i64::try_from(*n).is_ok())) {
        let _refused = there_and_back(cx, &d.request, &d.answer);
        let _refused = there_and_back(cx, &d.request, &AnswerOptions::default());
        let binary = AnswerOptions { binary: true, ..AnswerOptions::default() };
        there_and_back(cx, &d.request, &binary).expect("binary data can be anything");
    }
    if let Ok(n) = header_length(body) {
        assert_eq!(std::str::from_utf8(body).ok().and_then(|s| s.parse().ok()), Some(n));
    }
});
