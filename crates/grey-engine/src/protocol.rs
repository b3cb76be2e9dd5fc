//! Messages between a node and its hosts, and their frames.
//!
//! A frame is `u32` payload length, `u16` protocol version, `u16` number of attached descriptors
//! (all little-endian), then the payload: one message in postcard's encoding. Tensors never travel
//! here: messages name places in segments. A decoder refuses trailing bytes and a frame is capped, so
//! what a hostile peer costs is bounded: at most some 50 times its frame while that is checked, since an
//! empty string is 24 bytes in memory and one in a frame, and lists grow by doubling.

use std::{collections::BTreeMap, path::PathBuf};

use grey_core::DType;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    contain::Limits,
    engine::{Determinism, EngineInfo, EngineKind, LoadOptions},
};

/// Version of the messages; both sides must speak the same.
pub const PROTOCOL_VERSION: u16 = 2;
/// Bytes before the payload of a frame.
pub const HEADER_BYTES: usize = 8;
/// Largest payload. The largest real message is the signature of a model with thousands of inputs.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Most descriptors that come with one message.
pub const DESCRIPTORS_MAX: usize = 2;

/// Names a loaded model within its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelHandle(pub u32);

/// A tensor's place in a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorPlace {
    /// Position among the signature's inputs or outputs.
    pub index: u32,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// The segment.
    pub segment: u64,
    /// First byte, a multiple of [`crate::engine::TENSOR_ALIGN_BYTES`].
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Where a model's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArtifactPlace {
    /// The attached descriptor, sealed against writing.
    Attached {
        /// Bytes.
        len: u64,
        /// The file's name in the version.
        name: String,
    },
    /// A folder that the host was allowed to read at its start.
    Folder {
        /// Where it is.
        path: PathBuf,
        /// The file to open first.
        main: String,
    },
}

/// From the node to a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToHost {
    /// First of all; with a pidfd of the node attached where the host is a process.
    Init {
        /// The engine to open.
        engine: EngineKind,
        /// Its library.
        library: PathBuf,
        /// Resource limits and readable places.
        limits: Limits,
    },
    /// Opens a model.
    Load {
        /// What to call it.
        model: ModelHandle,
        /// Its files.
        artifact: ArtifactPlace,
        /// How to open it.
        options: LoadOptions,
    },
    /// New shared memory; attached.
    Segment {
        /// What to call it.
        id: u64,
        /// Bytes.
        len: u64,
    },
    /// Runs one batch.
    Run {
        /// The model.
        model: ModelHandle,
        /// Names this run in answers.
        run: u64,
        /// The inputs, each in place.
        inputs: Vec<TensorPlace>,
        /// Positions of the outputs wanted, ascending.
        wanted: Vec<u32>,
        /// Segment for the outputs.
        output_segment: u64,
    },
    /// The answer of this run is not wanted any more.
    Cancel {
        /// The run.
        run: u64,
    },
    /// Closes a model. A host ends with its last model.
    Unload {
        /// The model.
        model: ModelHandle,
    },
}

/// Why a run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailKind {
    /// The model refused the inputs and can run again.
    Model,
    /// The node sent what a host cannot do.
    Protocol,
}

/// From a host to its node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromHost {
    /// Answer to `Init`.
    Hello {
        /// The runtime.
        engine: EngineInfo,
        /// Containment layer → `yes`, or why it does not hold.
        containment: BTreeMap<String, String>,
    },
    /// The engine cannot be opened; the host ends.
    Refused {
        /// Why.
        message: String,
    },
    /// A model is open.
    Ready {
        /// The model.
        model: ModelHandle,
        /// What it takes and gives: a [`grey_core::Signature`] as JSON.
        signature: String,
        /// What its operators say about repeating its bytes; the node checks its limits.
        determinism: Determinism,
        /// Memory that the host alone has written, bytes; 0 if it cannot be told.
        memory_bytes: u64,
    },
    /// A model cannot be opened.
    LoadFailed {
        /// The model.
        model: ModelHandle,
        /// Why.
        message: String,
    },
    /// The outputs of a run do not fit; answered by a `Segment` of at least so many bytes.
    NeedSegment {
        /// The run.
        run: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Some outputs of a run that goes on.
    Partial {
        /// The run.
        run: u64,
        /// The outputs so far.
        outputs: Vec<TensorPlace>,
    },
    /// A run is complete.
    Done {
        /// The run.
        run: u64,
        /// The outputs wanted.
        outputs: Vec<TensorPlace>,
        /// Time in the engine, nanoseconds.
        nanos: u64,
    },
    /// A run failed.
    Failed {
        /// The run.
        run: u64,
        /// Whose fault it was.
        kind: FailKind,
        /// Why.
        message: String,
    },
    /// A model is closed.
    Unloaded {
        /// The model.
        model: ModelHandle,
    },
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer speaks another version.
    #[error(
        "the peer speaks host protocol {found}, this side speaks {PROTOCOL_VERSION}: both must be the same build of Grey"
    )]
    Version {
        /// The peer's version.
        found: u16,
    },
    /// Longer than a frame may be.
    #[error("a message of {len} bytes, at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLong {
        /// Announced or built length.
        len: usize,
    },
    /// More descriptors than a message may have.
    #[error("{0} descriptors with one message, at most {DESCRIPTORS_MAX} are allowed")]
    Descriptors(u16),
    /// Not a message.
    #[error("not a message of the host protocol: {0}")]
    Malformed(String),
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes.
    pub len: usize,
    /// Attached descriptors.
    pub descriptors: u16,
}

impl Header {
    /// Reads a header and checks its limits.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let [a, b, c, d, v0, v1, n0, n1] = bytes;
        let found = u16::from_le_bytes([v0, v1]);
        if found != PROTOCOL_VERSION {
            return Err(FrameError::Version { found });
        }
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > MESSAGE_BYTES_MAX {
            return Err(FrameError::TooLong { len });
        }
        let descriptors = u16::from_le_bytes([n0, n1]);
        if usize::from(descriptors) > DESCRIPTORS_MAX {
            return Err(FrameError::Descriptors(descriptors));
        }
        Ok(Header { len, descriptors })
    }
}

/// A whole frame.
pub fn encode<M: Serialize>(message: &M, descriptors: u16) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER_BYTES];
    frame = postcard::to_extend(message, frame).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let len = frame.len() - HEADER_BYTES;
    if len > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLong { len });
    }
    let announced = u32::try_from(len).map_err(|_| FrameError::TooLong { len })?;
    frame[..4].copy_from_slice(&announced.to_le_bytes());
    frame[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    frame[6..8].copy_from_slice(&descriptors.to_le_bytes());
    Ok(frame)
}

/// The message of a payload; trailing bytes are an error.
pub fn decode<M: DeserializeOwned>(payload: &[u8]) -> Result<M, FrameError> {
    let (message, rest) = postcard::take_from_bytes(payload).map_err(|e| FrameError::Malformed(e.to_string()))?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(FrameError::Malformed(format!("{} bytes follow the message", rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::Repeats;

    fn samples() -> Vec<FromHost> {
        let determinism = Determinism {
            repeats: Repeats::Alone,
            reason: "why".into(),
            precision: "int8-dynamic".into(),
            switches: vec!["a=1".into(), "b=0".into()],
        };
        let place = TensorPlace { index: 1, dtype: DType::Fp32, shape: vec![2, 3], segment: 7, offset: 64, len: 24 };
        vec![
            FromHost::Refused { message: "no".into() },
            FromHost::Ready { model: ModelHandle(3), signature: "{}".into(), determinism, memory_bytes: 9 },
            FromHost::Done { run: 5, outputs: vec![place.clone()], nanos: 11 },
            FromHost::Partial { run: 5, outputs: vec![place] },
            FromHost::Failed { run: 5, kind: FailKind::Model, message: "x".into() },
        ]
    }

    #[test]
    fn messages_round_trip_and_truncations_fail() {
        for m in samples() {
            let frame = encode(&m, 1).unwrap();
            let header = Header::parse(*frame.first_chunk().unwrap()).unwrap();
            assert_eq!(header, Header { len: frame.len() - HEADER_BYTES, descriptors: 1 });
            let payload = &frame[HEADER_BYTES..];
            assert_eq!(decode::<FromHost>(payload).unwrap(), m);
            for cut in 0..payload.len() {
                assert!(decode::<FromHost>(&payload[..cut]).is_err(), "{m:?} cut at {cut}");
            }
            assert!(decode::<FromHost>(&[payload, &[0]].concat()).is_err());
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut frame = encode(&samples()[0], 0).unwrap();
        frame[4] = 9;
        let e = Header::parse(*frame.first_chunk().unwrap()).unwrap_err();
        assert!(e.to_string().starts_with("the peer speaks host protocol 9, this side speaks 2"), "{e}");
        assert!(Header::parse([255, 255, 255, 255, 2, 0, 0, 0]).is_err());
        assert!(Header::parse([0, 0, 0, 0, 2, 0, 200, 0]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _parsed = (decode::<FromHost>(&bytes), decode::<ToHost>(&bytes));
        }
    }
}
