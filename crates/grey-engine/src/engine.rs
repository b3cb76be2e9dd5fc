//! What a runtime must offer to be an engine, and what it is given. An engine never sees tenants,
//! proofs or queues: it opens an artifact and runs batches.

use std::{fmt, os::fd::BorrowedFd, path::PathBuf, ptr::NonNull};

use grey_core::{DType, Signature};
use serde::{Deserialize, Serialize};

/// Alignment of every tensor in a segment, in bytes: a cache line, what AVX-512 loads want, and
/// what runtimes demand for taking memory without a copy.
pub const TENSOR_ALIGN_BYTES: usize = 64;

/// Runtimes that a host can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// ONNX Runtime, from the user's `onnxruntime` wheel.
    OnnxRuntime,
}

impl EngineKind {
    /// Every engine that this build knows.
    pub const ALL: [EngineKind; 1] = [EngineKind::OnnxRuntime];

    /// Stable name, as in manifests, metrics and `grey engine list`.
    pub const fn name(self) -> &'static str {
        match self {
            EngineKind::OnnxRuntime => "onnxruntime",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a host says of its runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// [`EngineKind::name`], or the name of a test engine.
    pub engine: String,
    /// The runtime's own version, e.g. `1.32.0`.
    pub version: String,
    /// The runtime's main library.
    pub library: PathBuf,
    /// SHA-256 of that file, lower-case hex.
    pub library_sha256: String,
    /// Devices, e.g. `cpu`.
    pub devices: Vec<String>,
    /// Whether elements of `BYTES` must be UTF-8.
    pub utf8_strings: bool,
}

/// Settings that are fixed for the life of a loaded model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Threads inside one run; at least 1.
    pub threads: u32,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { threads: 1 }
    }
}

/// The model's files, as a host gets them.
#[derive(Debug)]
pub enum ArtifactView<'a> {
    /// One file: a memfd that nobody can write any more.
    File {
        /// The sealed file.
        fd: BorrowedFd<'a>,
        /// Its length in bytes.
        len: u64,
        /// The file's name in the version, for messages.
        name: &'a str,
    },
    /// A folder that the host may only read.
    Folder {
        /// Where it is.
        path: &'a std::path::Path,
        /// The file in it to open first, relative to `path`.
        main: &'a str,
    },
}

/// One input of a run, in the segment.
#[derive(Clone, Copy, Debug)]
pub struct InputView<'a> {
    /// Position in [`Signature::inputs`].
    pub index: usize,
    /// Element type, as the signature says.
    pub dtype: DType,
    /// Dimensions.
    pub shape: &'a [u64],
    /// Little-endian, row-major elements; aligned to [`TENSOR_ALIGN_BYTES`]. `BYTES` elements are
    /// a `u32` length and the bytes each, already checked.
    pub data: &'a [u8],
}

/// Memory for one output, in the segment; valid until the run's outputs are finished.
#[derive(Clone, Copy, Debug)]
pub struct OutputArea {
    /// First byte, aligned to [`TENSOR_ALIGN_BYTES`].
    pub start: NonNull<u8>,
    /// Bytes that may be written.
    pub len: usize,
}

/// Where a run puts its outputs. Each wanted output is reserved once per run (again after
/// [`OutputSink::restart`]).
pub trait OutputSink {
    /// Positions in [`Signature::outputs`] that the caller wants, ascending.
    fn wanted(&self) -> &[usize];

    /// Memory for output `index` with `len` bytes of data; grows the segment if it is full.
    /// The engine must fill all of it before it returns from the run.
    fn reserve(&mut self, index: usize, dtype: DType, shape: &[u64], len: usize) -> Result<OutputArea, EngineError>;

    /// Copies finished data, for runtimes that allocate their own outputs.
    fn copy(&mut self, index: usize, dtype: DType, shape: &[u64], data: &[u8]) -> Result<(), EngineError> {
        let area = self.reserve(index, dtype, shape, data.len())?;
        // SAFETY: `reserve` gives an area of exactly `data.len()` writable bytes in the segment,
        // which `data` (the runtime's own memory) cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), area.start.as_ptr(), data.len()) };
        Ok(())
    }

    /// Forgets all reservations of this run, to run again in another way.
    fn restart(&mut self);
}

/// Why an engine could not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError {
    /// The artifact cannot be opened as a model.
    BadModel(String),
    /// The runtime is missing, too old or broken.
    Runtime(String),
    /// The model refused these inputs; it can run again.
    RunFailed(String),
    /// The node sent what no valid node sends, or memory for outputs ran out.
    Protocol(String),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::BadModel(m)
            | EngineError::Runtime(m)
            | EngineError::RunFailed(m)
            | EngineError::Protocol(m) => f.write_str(m),
        }
    }
}

impl std::error::Error for EngineError {}

/// A runtime inside a host.
pub trait Engine: Send {
    /// What it is.
    fn info(&self) -> EngineInfo;

    /// Opens a model.
    fn load(&mut self, artifact: &ArtifactView<'_>, options: &LoadOptions) -> Result<Box<dyn Model>, EngineError>;
}

/// A model opened by an [`Engine`].
pub trait Model: Send {
    /// Its inputs and outputs.
    fn signature(&self) -> &Signature;

    /// Runs one batch. Every input of the signature is there once, with its dtype.
    fn run(&mut self, inputs: &[InputView<'_>], outputs: &mut dyn OutputSink) -> Result<(), EngineError>;
}
