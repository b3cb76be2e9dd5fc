//! What a node could send its host: orders with lies about segments, places and descriptors. The engine reads every
//! byte that it is given and writes every byte that it may, and what the host answers must lie in memory that was sent.
//!
//! Input: orders, each behind its length (two bytes) and the kind of its descriptors (one byte).
#![no_main]

use std::{
    collections::HashMap,
    io::{IoSlice, Read as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::LazyLock,
    time::Duration,
};

use grey_core::{DType, Dim, Signature, TensorSpec, payload_len};
use grey_engine::{
    Determinism, EngineInfo, EngineKind, LoadOptions, Repeats, SealedFile,
    engine::{ArtifactView, Engine, EngineError, InputView, Model, OutputSink},
    fuzzing::host_end,
    memory::{Mapped, SEGMENT_BYTES_MIN, Segment},
    protocol::{FromHost, HEADER_BYTES, Header, PROTOCOL_VERSION, TensorPlace, ToHost, decode, encode},
};
use grey_fuzz::{Bytes, bounded};
use libfuzzer_sys::fuzz_target;
use rustix::{
    cmsg_space,
    io::Errno,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};

/// See `host_answers.rs`.
const BYTES_PER_BYTE: usize = 128;
/// A host whose answers nobody reads would wait forever; no answer to orders this short fills the buffer but by
/// asking over and over.
const WRITE_TIMEOUT: Duration = Duration::from_millis(50);
/// Bytes of the descriptors that orders come with.
const LARGER_BYTES: usize = 4 * SEGMENT_BYTES_MIN;

static SMALL: LazyLock<(Segment, OwnedFd)> = LazyLock::new(|| Segment::shared(SEGMENT_BYTES_MIN).expect("memory"));
static LARGER: LazyLock<(Segment, OwnedFd)> = LazyLock::new(|| Segment::shared(LARGER_BYTES).expect("memory"));
static FILE: LazyLock<SealedFile> = LazyLock::new(|| {
    let mut file = SealedFile::writer("m").expect("a file");
    std::io::Write::write_all(&mut file, &[7; 1000]).expect("a file");
    file.seal().expect("a file")
});

struct Test {
    signature: Signature,
    determinism: Determinism,
}

fn open(_: EngineKind, _: &Path) -> Result<Box<dyn Engine>, EngineError> {
    Ok(Box::new(Test::new()))
}

impl Test {
    fn new() -> Test {
        let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![Dim::Any] };
        let (inputs, outputs) = (vec![spec("x", DType::Uint8)], vec![spec("y", DType::Uint8), spec("z", DType::Bytes)]);
        let determinism =
            Determinism { repeats: Repeats::Slot, reason: "r".into(), precision: "fp32".into(), switches: Vec::new() };
        Test { signature: Signature { inputs, outputs }, determinism }
    }
}

impl Engine for Test {
    fn info(&self) -> EngineInfo {
        EngineInfo {
            engine: "test".into(),
            version: "1".into(),
            library: "/x".into(),
            library_sha256: String::new(),
            devices: Vec::new(),
            utf8_strings: false,
        }
    }

    fn load(&mut self, artifact: &ArtifactView<'_>, _: &LoadOptions) -> Result<Box<dyn Model>, EngineError> {
        if let ArtifactView::File { fd, len, .. } = artifact {
            let bad = |e: &dyn std::fmt::Display| EngineError::BadModel(e.to_string());
            let len = usize::try_from(*len).map_err(|e| bad(&e))?;
            let file = Mapped::read_only(*fd, len).map_err(|e| bad(&e))?;
            assert!(file.as_slice().iter().all(|b| *b == 7) && len == 1000, "only this file is sealed");
        }
        Ok(Box::new(Test::new()))
    }
}

impl Model for Test {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn determinism(&self) -> &Determinism {
        &self.determinism
    }

    fn run(&mut self, inputs: &[InputView<'_>], outputs: &mut dyn OutputSink) -> Result<(), EngineError> {
        // What the first input holds says how large the outputs are.
        let read: u64 = inputs.iter().flat_map(|i| i.data).map(|b| u64::from(*b)).sum();
        let rows = inputs.first().and_then(|i| i.shape.first()).copied().unwrap_or(read) % (1 << 20);
        for index in outputs.wanted().to_vec() {
            let dtype = if index == 1 { DType::Bytes } else { DType::Uint8 };
            let area = outputs.reserve(index, dtype, &[rows], rows as usize)?;
            assert_eq!(area.len as u64, rows);
            // SAFETY: `reserve` promises so many writable bytes: that is what is tested.
            unsafe { std::ptr::write_bytes(area.start.as_ptr(), 0, area.len) };
        }
        Ok(())
    }
}

/// Sends a frame, as far as there is room: nobody reads yet. Whether all of it went.
fn send(socket: &UnixStream, frame: &[u8], attached: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(attached.is_empty() || control.push(SendAncillaryMessage::ScmRights(attached)));
    match sendmsg(socket, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(sent) => sent == frame.len(),
        Err(e) => {
            assert_eq!(e, Errno::AGAIN);
            false
        }
    }
}

/// Every output that the host names lies in a segment that was sent under that name.
fn check_places(places: &[TensorPlace], segments: &HashMap<u64, Vec<u64>>) {
    for p in places {
        let end = p.offset.checked_add(p.len).expect("a place that can be");
        let sizes = segments.get(&p.segment).expect("a segment that was sent");
        assert!(sizes.iter().any(|size| end <= *size), "{p:?} in {sizes:?}");
        assert!(p.dtype == DType::Bytes || payload_len(p.dtype, &p.shape) == usize::try_from(p.len).ok(), "{p:?}");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes(input);
    let (node, host) = UnixStream::pair().expect("a socket pair");
    host.set_write_timeout(Some(WRITE_TIMEOUT)).expect("a socket");
    let mut segments: HashMap<u64, Vec<u64>> = HashMap::new();
    while !input.0.is_empty() {
        let (len, kind) = (usize::from(input.short()), input.byte());
        let payload = input.take(len);
        if let Ok(message) = bounded(payload.len(), BYTES_PER_BYTE, || decode::<ToHost>(payload)) {
            let frame = encode(&message, 0).expect("no longer than it was");
            assert_eq!(decode::<ToHost>(&frame[HEADER_BYTES..]), Ok(message.clone()));
            if let ToHost::Segment { id, len } = message {
                segments.entry(id).or_default().push(len);
            }
        }
        let (small, larger, file) = (SMALL.1.as_fd(), LARGER.1.as_fd(), FILE.fd());
        let attached: &[BorrowedFd<'_>] = match kind & 7 {
            0 | 1 => &[],
            2 => &[small],
            3 => &[larger],
            4 => &[file],
            5 => &[small, larger],
            6 => &[file, small],
            _ => &[small, larger, file],
        };
        // Sometimes another number of descriptors is announced, or another length.
        let announced = attached.len() as u16 + u16::from(kind >> 3 & 1);
        let length = payload.len() as u32 + u32::from(kind >> 4 & 1);
        let header = [&length.to_le_bytes()[..], &PROTOCOL_VERSION.to_le_bytes(), &announced.to_le_bytes()].concat();
        if !send(&node, &[&header, payload].concat(), attached) {
            break;
        }
    }
    node.shutdown(Shutdown::Write).expect("a socket");
    let _broken_off = host_end(host, open);

    let mut answers = Vec::new();
    // A host that gave up did not read all orders: behind its answers stands a reset.
    let _reset = (&node).read_to_end(&mut answers);
    let mut rest = &answers[..];
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::parse(*header).expect("the host's header");
        // A host that timed out in the middle of a frame.
        let Some((payload, after)) = after.split_at_checked(header.len) else { break };
        let message: FromHost = decode(payload).expect("the host's message");
        if let FromHost::Done { outputs, .. } | FromHost::Partial { outputs, .. } = &message {
            check_places(outputs, &segments);
        }
        rest = after;
    }
});
