//! What a hostile host sends its node: frames as they stand on the socket, and what a load and three runs make of
//! them. The host never writes into shared memory, so that every byte of an output must be zero: anything else was
//! read from where the host has no outputs.
//!
//! Input: its form, then raw bytes of the stream, or messages behind a length of two bytes each, or the fields of
//! answers to runs of a model that is open.
#![no_main]

use std::{cell::LazyCell, io::Write as _, os::unix::net::UnixStream, time::Duration};

use grey_core::{DType, Dim, Payload, Signature, TensorSpec, element_count, payload_len};
use grey_engine::{
    Artifact, BatchInput, Determinism, EngineInfo, HostError, LoadOptions, ModelHandle, Repeats, RunError,
    fuzzing::node_end,
    memory::SEGMENT_BYTES_MIN,
    protocol::{FailKind, FromHost, HEADER_BYTES, Header, PROTOCOL_VERSION, TensorPlace, decode, encode},
};
use grey_fuzz::{Bytes, bounded};
use libfuzzer_sys::fuzz_target;

/// The smallest segment, so that outputs need not be large to be too large together.
const OUTPUTS_BYTES_MAX: usize = SEGMENT_BYTES_MIN;
/// Memory of a message for each byte of its encoding: an empty text is one byte there and 24 here, in a list that
/// doubles.
const BYTES_PER_BYTE: usize = 128;
const RUNS: usize = 3;
/// Of the fields' form: some for each run.
const MESSAGES_MAX: usize = 6;

thread_local! {
    static RUNTIME: LazyCell<tokio::runtime::Runtime> = LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    });
}

/// A message that is read is written as what is read again, in no more bytes.
fn check_message(payload: &[u8]) {
    let Ok(message) = bounded(payload.len(), BYTES_PER_BYTE, || decode::<FromHost>(payload)) else { return };
    let frame = encode(&message, 0).expect("no longer than it was");
    assert!(frame.len() <= HEADER_BYTES + payload.len(), "{message:?}");
    assert_eq!(Header::parse(*frame.first_chunk().expect("a header")).expect("ours").len, frame.len() - HEADER_BYTES);
    assert_eq!(decode::<FromHost>(&frame[HEADER_BYTES..]), Ok(message));
}

/// A model with outputs of both kinds. A node calls its first model 2.
fn ready() -> FromHost {
    let spec = |(name, datatype): (&str, _)| TensorSpec { name: name.into(), datatype, shape: vec![Dim::Any] };
    let outputs = [("a", DType::Fp32), ("b", DType::Bytes), ("c", DType::Bytes)].map(spec).to_vec();
    let signature = Signature { inputs: vec![spec(("x", DType::Fp32))], outputs };
    let determinism =
        Determinism { repeats: Repeats::Slot, reason: "r".into(), precision: "fp32".into(), switches: Vec::new() };
    let signature = serde_json::to_string(&signature).expect("JSON");
    FromHost::Ready { model: ModelHandle(2), signature, determinism, memory_bytes: 0 }
}

/// An answer to one of the first runs, with outputs that may be possible.
fn answer(input: &mut Bytes<'_>) -> FromHost {
    let size = |input: &mut Bytes<'_>| u64::from(input.short()) << [0, 0, 2, 6, 8, 16, 48][input.below(7)];
    let (kind, run) = (input.below(8), 5 + input.below(6) as u64);
    let outputs = |input: &mut Bytes<'_>| {
        (0..input.below(5) as u32)
            .map(|index| {
                let (how, len) = (input.byte(), size(input));
                let dtype = if (index == 0) == (how & 7 != 0) { DType::Fp32 } else { DType::Bytes };
                let shape = if how & 8 == 0 { vec![len / 4] } else { vec![len / 4, size(input)] };
                let segment = if how & 16 == 0 { 4 } else { 3 + u64::from(how >> 5) };
                let (offset, index) = (size(input), if how == 255 { 0 } else { index });
                TensorPlace { index, dtype, shape, segment, offset, len }
            })
            .collect()
    };
    match kind {
        0..5 => FromHost::Done { run, outputs: outputs(input), nanos: 1 },
        5 => FromHost::NeedSegment { run, bytes: size(input) },
        6 => FromHost::Partial { run, outputs: outputs(input) },
        _ => FromHost::Failed { run, kind: FailKind::Model, message: "x".into() },
    }
}

/// A batch of two rows, no byte of it zero but in the lengths of texts.
fn batch(signature: &Signature) -> Vec<BatchInput> {
    let inputs = signature.inputs.iter().take(4).enumerate();
    inputs
        .map(|(index, spec)| {
            let size = |d: &Dim| if let Dim::Fixed(n) = d { (*n).min(4) } else { 2 };
            let shape: Vec<u64> = spec.shape.iter().take(4).map(size).collect();
            let elements = element_count(&shape).expect("a small shape");
            let data = match payload_len(spec.datatype, &shape) {
                Some(len) => vec![0xa5; len],
                None => [1, 0, 0, 0, 0xa5].repeat(elements),
            };
            BatchInput { index, dtype: spec.datatype, shape, parts: vec![Payload::from(data)] }
        })
        .collect()
}

async fn converse(stream: UnixStream) {
    stream.set_nonblocking(true).expect("a socket");
    let stream = tokio::net::UnixStream::from_std(stream).expect("a socket");
    let engine = EngineInfo {
        engine: "test".into(),
        version: "1".into(),
        library: "/x".into(),
        library_sha256: "0".repeat(64),
        devices: Vec::new(),
        utf8_strings: false,
    };
    let host = node_end(stream, engine, OUTPUTS_BYTES_MAX, Duration::from_secs(60));
    let artifact = Artifact::Folder { path: "/x".into(), main: "m".into() };
    let model = match host.load(artifact, LoadOptions::default()).await {
        Ok(m) => m,
        Err(HostError::BadModel(_) | HostError::Died(_) | HostError::Protocol(_)) => return,
        Err(e) => panic!("not of the host's making: {e}"),
    };
    model.signature.check_limits().expect("checked");
    model.determinism.check_limits().expect("checked");
    let declared: Vec<DType> = model.signature.outputs.iter().map(|o| o.datatype).collect();
    let wanted: Vec<usize> = (0..declared.len().min(8)).collect();
    for _ in 0..RUNS {
        match host.run(model.handle, batch(&model.signature), wanted.clone(), None).await {
            Ok(run) => {
                assert!(run.outputs.iter().map(|o| o.index).eq(wanted.iter().copied()));
                for o in &run.outputs {
                    assert_eq!(o.dtype, declared[o.index]);
                    assert!(o.dtype == DType::Bytes || payload_len(o.dtype, &o.shape) == Some(o.data.len()), "{o:?}");
                    assert!(o.data.iter().all(|b| *b == 0), "an output from where no output is");
                }
                let bytes: usize = run.outputs.iter().map(|o| o.data.len()).sum();
                assert!(bytes <= OUTPUTS_BYTES_MAX, "{bytes} bytes of outputs");
            }
            Err(RunError::Model(_)) => {}
            // The node would have ended such a host.
            Err(RunError::HostDied(_)) => return,
            Err(e) => panic!("nobody gave the run up: {e}"),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes(input);
    let mut sent = Vec::new();
    match input.byte() & 3 {
        0 => sent = input.0.to_vec(),
        1 => {
            while !input.0.is_empty() {
                let len = usize::from(input.short());
                let payload = input.take(len);
                check_message(payload);
                sent.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_le_bytes());
                sent.extend_from_slice(&PROTOCOL_VERSION.to_le_bytes());
                sent.extend_from_slice(&[0, 0]);
                sent.extend_from_slice(payload);
            }
        }
        _ => {
            sent = encode(&ready(), 0).expect("short");
            for _ in 0..MESSAGES_MAX {
                sent.extend(encode(&answer(&mut input), 0).expect("short"));
            }
        }
    }
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    // All at once, and then the host is gone: no answer can be waited for in vain.
    (&theirs).write_all(&sent).expect("it fits the socket's buffer");
    theirs.shutdown(std::net::Shutdown::Write).expect("a socket");
    RUNTIME.with(|r| r.block_on(converse(ours)));
});
