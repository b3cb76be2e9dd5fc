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
    /// Whether results are to be provable: sets the switches that make bytes repeat.
    pub deterministic: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { threads: 1, deterministic: true }
    }
}

/// When a model gives the same bytes again, on the same build, machine class and threads (proof
/// format, §6), weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repeats {
    /// Never: it draws random numbers, or an operator has no deterministic form.
    Never,
    /// Where no other request shares the run: a scale is computed over the whole batch.
    Alone,
    /// In the same bucket at the same position, whatever the other rows hold.
    Slot,
    /// In any bucket at any position.
    Everywhere,
}

/// What a model's operators say about repeating its bytes, before anything has run. A test of bytes
/// can only lower it, since bytes depend on weights and data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Determinism {
    /// The most that the operators allow with this runtime's release and these threads.
    pub repeats: Repeats,
    /// Why not more, in words that name the operator; why, for [`Repeats::Everywhere`].
    pub reason: String,
    /// What it computes in, e.g. `fp32`, `int8-static` (claim exec 7).
    pub precision: String,
    /// Determinism switches that were set, strictly ascending (claim exec 11).
    pub switches: Vec<String>,
}

/// Longest [`Determinism::reason`], in bytes.
pub const REASON_BYTES_MAX: usize = 256;
/// Longest [`Determinism::precision`], in bytes.
pub const PRECISION_BYTES_MAX: usize = 32;
/// Most [`Determinism::switches`].
pub const SWITCHES_MAX: usize = 8;
/// Longest of [`Determinism::switches`], in bytes.
pub const SWITCH_BYTES_MAX: usize = 64;

impl Determinism {
    /// Checks what the fields promise, and the limits above, which keep the claims of a proof small:
    /// precision and switches stand in every one. On refusal, says what is wrong.
    pub fn check_limits(&self) -> Result<(), String> {
        let texts = [("reason", &self.reason, REASON_BYTES_MAX), ("precision", &self.precision, PRECISION_BYTES_MAX)];
        let switches = self.switches.iter().map(|s| ("switch", s, SWITCH_BYTES_MAX));
        for (what, text, most) in texts.into_iter().chain(switches) {
            if text.is_empty() || text.len() > most {
                return Err(format!("a {what} of {} bytes, 1 to {most} are taken", text.len()));
            }
            if text.chars().any(char::is_control) {
                return Err(format!("a {what} with a control character"));
            }
        }
        if self.switches.len() > SWITCHES_MAX {
            return Err(format!("{} switches, at most {SWITCHES_MAX} are taken", self.switches.len()));
        }
        if !self.switches.is_sorted_by(|a, b| a < b) {
            return Err("switches that are not strictly ascending".into());
        }
        Ok(())
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

    /// What its operators say about repeating its bytes.
    fn determinism(&self) -> &Determinism;

    /// Runs one batch. Every input of the signature is there once, with its dtype.
    fn run(&mut self, inputs: &[InputView<'_>], outputs: &mut dyn OutputSink) -> Result<(), EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn determinism_out_of_its_limits_is_refused() {
        let good = Determinism {
            repeats: Repeats::Slot,
            reason: "r".repeat(REASON_BYTES_MAX),
            precision: "p".repeat(PRECISION_BYTES_MAX),
            switches: (0..SWITCHES_MAX).map(|n| format!("{n}").repeat(SWITCH_BYTES_MAX)).collect(),
        };
        good.check_limits().unwrap();
        Determinism { switches: Vec::new(), ..good.clone() }.check_limits().unwrap();
        let strings = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let cases = [
            (Determinism { reason: String::new(), ..good.clone() }, "a reason of 0 bytes"),
            (Determinism { reason: "r".repeat(REASON_BYTES_MAX + 1), ..good.clone() }, "a reason of 257 bytes"),
            (Determinism { reason: "a\nb".into(), ..good.clone() }, "a reason with a control character"),
            (Determinism { precision: String::new(), ..good.clone() }, "a precision of 0 bytes"),
            (Determinism { precision: "p".repeat(33), ..good.clone() }, "a precision of 33 bytes"),
            (Determinism { switches: strings(&["a", "a"]), ..good.clone() }, "not strictly ascending"),
            (Determinism { switches: strings(&["b", "a"]), ..good.clone() }, "not strictly ascending"),
            (Determinism { switches: strings(&[""]), ..good.clone() }, "a switch of 0 bytes"),
            (Determinism { switches: vec!["s".repeat(65)], ..good.clone() }, "a switch of 65 bytes"),
            (Determinism { switches: (10..19).map(|n| n.to_string()).collect(), ..good.clone() }, "9 switches"),
        ];
        for (bad, says) in cases {
            let e = bad.check_limits().unwrap_err();
            assert!(e.contains(says), "{e}");
        }
    }

    #[test]
    fn weaker_is_less() {
        assert!(
            Repeats::Never < Repeats::Alone && Repeats::Alone < Repeats::Slot && Repeats::Slot < Repeats::Everywhere
        );
    }
}
