//! ONNX Runtime, from the library that the user's `onnxruntime` wheel brought.
//!
//! `ort` opens the library and makes sessions. Runs go straight to the C API's `Run`: inputs are
//! used where they lie in the segment, outputs of a shape that follows from the inputs are written
//! into the segment by the runtime itself (no copy), all others are allocated by the runtime and
//! copied once. C API: `onnxruntime_c_api.h`, API version 17 (ONNX Runtime ≥ 1.17).

mod attention;
mod graph;
mod judge;
mod operators;
mod precision;
mod value;
mod values;

use std::{
    ffi::{CStr, CString},
    fs::File,
    path::{Path, PathBuf},
    ptr,
};

use bytes::Bytes;
use grey_core::{DType, Dim, Signature, TensorSpec};
use ort::{
    AsPointer as _,
    environment::Environment,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    sys,
    value::{TensorElementType, ValueType},
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use self::{
    judge::{Setting, Verdict, judge},
    value::{CpuMemory, Value, status},
};
use crate::{
    engine::{
        ArtifactView, Determinism, Engine, EngineError, EngineInfo, EngineKind, InputView, LoadOptions, Model,
        OutputSink,
    },
    memory::Mapped,
};

/// Oldest release that is supported: the API version that `ort` is built for here.
const OLDEST: (u32, u32) = (1, 17);

/// The runtime, opened.
pub(super) struct OnnxRuntime {
    environment: Environment,
    info: EngineInfo,
}

impl OnnxRuntime {
    /// Opens the library after checking that it is an ONNX Runtime, and a new enough one.
    pub(super) fn open(library: &Path) -> Result<Self, EngineError> {
        let runtime = |m: String| EngineError::Runtime(format!("{}: {m}", library.display()));
        let version = version_of(library).map_err(runtime)?;
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST {
            return Err(runtime(format!(
                "this is ONNX Runtime {version}; Grey needs {}.{} or newer (pip install --upgrade onnxruntime)",
                OLDEST.0, OLDEST.1
            )));
        }
        let library_sha256 = sha256_file(library).map_err(|e| runtime(format!("cannot be read: {e}")))?;
        let environment = environment(library).map_err(runtime)?;
        let info = EngineInfo {
            engine: EngineKind::OnnxRuntime.name().to_owned(),
            version,
            library: library.to_owned(),
            library_sha256,
            devices: vec!["cpu".to_owned()],
            // ONNX strings are UTF-8 (onnx.proto, TensorProto.string_data).
            utf8_strings: true,
        };
        Ok(OnnxRuntime { environment, info })
    }

    fn builder(&self, options: &LoadOptions) -> Result<SessionBuilder, ort::Error> {
        let mut b = Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::Level3)?
            .with_intra_threads(options.threads as usize)?
            .with_inter_threads(1)?
            .with_deterministic_compute(options.deterministic)?
            // Patterns and arenas keep the largest batch's memory for good; a host is to stay small.
            .with_memory_pattern(false)?;
        for (key, value) in [
            ("session.intra_op.allow_spinning", "0"),
            ("session.inter_op.allow_spinning", "0"),
            // Subnormals keep their bits: flushing them would make a row depend on a thread's state.
            ("session.set_denormal_as_zero", "0"),
        ] {
            b = b.with_config_entry(key, value)?;
        }
        Ok(b)
    }
}

/// The process's one environment, and the library that it is of: a process can have no other.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// The environment of this library, which all inline hosts of a node share.
fn environment(library: &Path) -> Result<Environment, String> {
    let mut opened = ENVIRONMENT.lock();
    match &*opened {
        Some((of, environment)) if of == library => return Ok(environment.clone()),
        Some((of, _)) => {
            return Err(format!("this process has opened {} already, and can open no other", of.display()));
        }
        None => {}
    }
    let environment = ort::init_from(library)
        .map_err(|e| e.to_string())?
        .with_name("grey")
        .with_telemetry(false)
        .build()
        .map_err(|e| e.to_string())?;
    *opened = Some((library.to_owned(), environment.clone()));
    Ok(environment)
}

/// The determinism switches that [`OnnxRuntime::builder`] sets, strictly ascending.
fn switches(options: &LoadOptions) -> Vec<String> {
    let all = ["session.set_denormal_as_zero=0", "use_deterministic_compute=1"];
    if options.deterministic { all.map(str::to_owned).to_vec() } else { Vec::new() }
}

/// The version string of an ONNX Runtime library, or what the file is instead.
fn version_of(library: &Path) -> Result<String, String> {
    if !library.is_file() {
        return Err("there is no such file".into());
    }
    // SAFETY: opening a library runs its initialisers; the operator chose this file, and this is a
    // host that has contained itself before.
    let lib = unsafe { libloading::Library::new(library) }.map_err(|e| format!("cannot be opened: {}", cause(&e)))?;
    // SAFETY: the symbol's type is that of `onnxruntime_c_api.h`, unchanged since version 1.
    let base = unsafe {
        let get: libloading::Symbol<'_, unsafe extern "C" fn() -> *const sys::OrtApiBase> =
            lib.get(b"OrtGetApiBase").map_err(|_| "is no ONNX Runtime: it has no symbol OrtGetApiBase".to_owned())?;
        get()
    };
    if base.is_null() {
        return Err("is no working ONNX Runtime: OrtGetApiBase returned nothing".into());
    }
    // SAFETY: a non-null base is valid for the life of the library; the string is static in it.
    let version = unsafe { CStr::from_ptr(((*base).GetVersionString)()) };
    Ok(version.to_string_lossy().into_owned())
}

/// The last of the errors that led to this one: the loader's own words.
fn cause(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), cause)
}

fn sha256_file(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut chunk)? {
            0 => break,
            n => hash.update(&chunk[..n]),
        }
    }
    Ok(base16ct::lower::encode_string(&hash.finalize()))
}

impl Engine for OnnxRuntime {
    fn info(&self) -> EngineInfo {
        self.info.clone()
    }

    fn load(&mut self, artifact: &ArtifactView<'_>, options: &LoadOptions) -> Result<Box<dyn Model>, EngineError> {
        let bad = |e: ort::Error| EngineError::BadModel(readable(e.message()));
        let mut builder = self.builder(options).map_err(bad)?;
        let (session, file) = match artifact {
            ArtifactView::File { fd, len, name } => {
                if *len == 0 {
                    return Err(EngineError::BadModel(format!("{name} is empty")));
                }
                let len = usize::try_from(*len).map_err(|_| EngineError::BadModel(format!("{name} is too large")))?;
                let bytes = Mapped::read_only(*fd, len)
                    .map_err(|e| EngineError::BadModel(format!("{name} cannot be mapped: {e}")))?;
                match builder.commit_from_memory(bytes.as_slice()) {
                    Ok(session) => (session, Ok(bytes)),
                    Err(e) => return Err(not_opened(bad(e), bytes, |_| false)),
                }
            }
            ArtifactView::Folder { path, main } => {
                let main = path.join(main);
                let file = || File::open(&main).and_then(|f| Mapped::in_folder(&f));
                match (builder.commit_from_file(&main), file()) {
                    (Ok(session), file) => (session, file),
                    (Err(e), Err(_)) => return Err(bad(e)),
                    (Err(e), Ok(file)) => {
                        let folder = main.parent().unwrap_or(path);
                        return Err(not_opened(bad(e), file, |name| folder.join(name).is_file()));
                    }
                }
            }
        };
        let setting = Setting { version: &self.info.version, threads: options.threads };
        // The runtime has opened the model, so it serves whatever is found out about its operators.
        let Verdict { repeats, reason, precision } = match file {
            Ok(file) => judge(Bytes::from_owner(file), setting),
            Err(e) => judge::unknown(&format!("the model's file cannot be read again: {}", e.kind())),
        };
        let determinism = Determinism { repeats, reason, precision, switches: switches(options) };
        Ok(Box::new(OnnxModel::new(session, determinism)?))
    }
}

/// Names of files that an error lists.
const FILES_SHOWN_MAX: usize = 5;

/// What it means that a model does not open: where it lacks files of weights, that, and else what the runtime says.
fn not_opened(said: EngineError, model: Mapped, is_there: impl Fn(&str) -> bool) -> EngineError {
    let Ok(model) = graph::read(Bytes::from_owner(model)) else { return said };
    let lacking: Vec<&str> = model.external_files().into_iter().filter(|name| !is_there(name)).collect();
    if lacking.is_empty() {
        return said;
    }
    let shown: Vec<String> =
        lacking.iter().take(FILES_SHOWN_MAX).map(|name| format!("'{}'", name.escape_debug())).collect();
    let more = if lacking.len() > FILES_SHOWN_MAX { ", …" } else { "" };
    EngineError::BadModel(format!(
        "it keeps weights in other files, which did not come with it ({}{more}): give the folder with all its files",
        shown.join(", ")
    ))
}

/// The runtime's message without its C++ function names and source paths.
fn readable(message: &str) -> String {
    let mut text = message.trim();
    // "/path/file.cc:123 virtual onnxruntime::... Real message"
    if let Some(at) = text.rfind(") ").filter(|at| text[..*at].contains(".cc:")) {
        let tail = text[at + 2..].trim();
        if !tail.is_empty() {
            text = tail;
        }
    }
    text.replace('\n', " ")
}

/// A session with its names in C form.
struct OnnxModel {
    session: Session,
    signature: Signature,
    determinism: Determinism,
    memory: CpuMemory,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    /// Outputs whose shape did not follow from the inputs although the model says so.
    unpredictable: Vec<bool>,
}

impl OnnxModel {
    fn new(session: Session, determinism: Determinism) -> Result<Self, EngineError> {
        let specs = |what: &str, outlets: &[ort::value::Outlet]| -> Result<Vec<TensorSpec>, EngineError> {
            outlets.iter().map(|o| spec(what, o.name(), o.dtype())).collect()
        };
        let signature =
            Signature { inputs: specs("input", session.inputs())?, outputs: specs("output", session.outputs())? };
        let names = |specs: &[TensorSpec]| -> Result<Vec<CString>, EngineError> {
            specs
                .iter()
                .map(|s| CString::new(s.name.as_str()))
                .collect::<Result<_, _>>()
                .map_err(|e| EngineError::BadModel(e.to_string()))
        };
        let (inputs, outputs) = (names(&signature.inputs)?, names(&signature.outputs)?);
        let memory = CpuMemory::new().map_err(EngineError::Runtime)?;
        let unpredictable = vec![false; outputs.len()];
        Ok(OnnxModel { session, signature, determinism, memory, inputs, outputs, unpredictable })
    }

    /// Runs once. With `bind`, outputs whose shape follows from the inputs are written in place.
    fn run_once(
        &mut self,
        inputs: &[InputView<'_>],
        outputs: &mut dyn OutputSink,
        bind: bool,
    ) -> Result<(), RunProblem> {
        let mut given: Vec<Option<Value>> = (0..self.inputs.len()).map(|_| None).collect();
        for view in inputs {
            let name = || self.signature.inputs.get(view.index).map_or("?", |s| s.name.as_str());
            let made = match view.dtype {
                DType::Bytes => Value::strings(view.shape, view.data),
                dtype => {
                    // SAFETY: the data lies in a segment that outlives this function's values, and
                    // the runtime only reads inputs.
                    unsafe {
                        Value::over(
                            &self.memory,
                            element(dtype),
                            view.shape,
                            view.data.as_ptr().cast_mut(),
                            view.data.len(),
                        )
                    }
                }
            };
            let made = made.map_err(|e| RunProblem::Failed(format!("input '{}': {e}", name())))?;
            if let Some(slot) = given.get_mut(view.index) {
                *slot = Some(made);
            }
        }
        let input_values: Vec<*const sys::OrtValue> = given.iter().flatten().map(|v| v.as_ptr().cast_const()).collect();
        if input_values.len() != self.inputs.len() {
            return Err(RunProblem::Protocol("a run must bring every input".into()));
        }
        let wanted = outputs.wanted().to_vec();
        let mut results: Vec<Option<Value>> = Vec::with_capacity(wanted.len());
        for w in &wanted {
            let spec = self
                .signature
                .outputs
                .get(*w)
                .ok_or_else(|| RunProblem::Protocol(format!("there is no output {w}")))?;
            let shape =
                if bind && self.unpredictable.get(*w) == Some(&false) { self.shape_of(spec, inputs) } else { None };
            results.push(match shape.and_then(|s| grey_core::payload_len(spec.datatype, &s).map(|len| (s, len))) {
                Some((shape, len)) => {
                    let area = outputs.reserve(*w, spec.datatype, &shape, len).map_err(RunProblem::Engine)?;
                    // SAFETY: the area is `len` writable bytes that stay valid until the run is over.
                    let v = unsafe {
                        Value::over(&self.memory, element(spec.datatype), &shape, area.start.as_ptr(), area.len)
                    };
                    Some(v.map_err(RunProblem::Failed)?)
                }
                None => None,
            });
        }
        let input_names: Vec<_> = self.inputs.iter().map(|n| n.as_ptr()).collect();
        let output_names: Vec<_> = wanted.iter().filter_map(|w| self.outputs.get(*w)).map(|n| n.as_ptr()).collect();
        let mut output_values: Vec<*mut sys::OrtValue> =
            results.iter().map(|v| v.as_ref().map_or(ptr::null_mut(), Value::as_ptr)).collect();
        // SAFETY: all arrays have the lengths given; names are NUL-terminated and live in `self`;
        // values are valid or, for outputs, null (then the runtime allocates). `&mut self` makes
        // this the session's only run.
        let ran = status(unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                ptr::null(),
                input_names.as_ptr(),
                input_values.as_ptr(),
                input_values.len(),
                output_names.as_ptr(),
                output_names.len(),
                output_values.as_mut_ptr(),
            )
        });
        // What the runtime allocated is ours to release, also when the run failed.
        for (slot, raw) in results.iter_mut().zip(&output_values) {
            if slot.is_none() && !raw.is_null() {
                // SAFETY: a value that `Run` made and that nobody else owns.
                *slot = Some(unsafe { Value::from_raw(*raw) });
            } else if slot.is_some() {
                // Bound: its bytes lie in the segment already.
                *slot = None;
            }
        }
        ran.map_err(|m| {
            if bind && looks_like_shape_mismatch(&m) { RunProblem::Mismatch(m) } else { RunProblem::Failed(m) }
        })?;
        for (w, value) in wanted.iter().zip(results) {
            let (Some(value), Some(spec)) = (value, self.signature.outputs.get(*w)) else { continue };
            let (shape, kind) = value.shape_and_type().map_err(RunProblem::Failed)?;
            if kind != element(spec.datatype) {
                return Err(RunProblem::Failed(format!(
                    "output '{}' came with another datatype than the model declares",
                    spec.name
                )));
            }
            if spec.datatype == DType::Bytes {
                let data = value.strings_out().map_err(RunProblem::Failed)?;
                outputs.copy(*w, spec.datatype, &shape, &data).map_err(RunProblem::Engine)?;
            } else {
                let len = grey_core::payload_len(spec.datatype, &shape)
                    .ok_or_else(|| RunProblem::Failed(format!("output '{}' is too large", spec.name)))?;
                let data = value.data(len).map_err(RunProblem::Failed)?;
                outputs.copy(*w, spec.datatype, &shape, data).map_err(RunProblem::Engine)?;
            }
        }
        Ok(())
    }

    /// The shape of an output, where it follows from the inputs: fixed dimensions, and symbols that
    /// stand in an input's shape.
    fn shape_of(&self, spec: &TensorSpec, inputs: &[InputView<'_>]) -> Option<Vec<u64>> {
        spec.shape
            .iter()
            .map(|d| match d {
                Dim::Fixed(n) => Some(*n),
                Dim::Any => None,
                Dim::Symbol(s) => inputs.iter().find_map(|i| {
                    let shape = &self.signature.inputs.get(i.index)?.shape;
                    let axis = shape.iter().position(|d| matches!(d, Dim::Symbol(t) if t == s))?;
                    i.shape.get(axis).copied()
                }),
            })
            .collect()
    }
}

enum RunProblem {
    /// A bound output had another shape than the model declares.
    Mismatch(String),
    Failed(String),
    Protocol(String),
    Engine(EngineError),
}

impl RunProblem {
    fn into_engine(self) -> EngineError {
        match self {
            RunProblem::Mismatch(m) | RunProblem::Failed(m) => EngineError::RunFailed(readable(&m)),
            RunProblem::Protocol(m) => EngineError::Protocol(m),
            RunProblem::Engine(e) => e,
        }
    }
}

/// What the runtime says when a bound output does not fit. A false alarm only costs a second,
/// unbound run.
fn looks_like_shape_mismatch(message: &str) -> bool {
    let m = message.to_ascii_lowercase();
    m.contains("shape") || m.contains("dimension") || m.contains("buffer")
}

impl Model for OnnxModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn determinism(&self) -> &Determinism {
        &self.determinism
    }

    fn run(&mut self, inputs: &[InputView<'_>], outputs: &mut dyn OutputSink) -> Result<(), EngineError> {
        match self.run_once(inputs, outputs, true) {
            Err(RunProblem::Mismatch(first)) => {
                outputs.restart();
                match self.run_once(inputs, outputs, false) {
                    Ok(()) => {
                        // Unbound it runs: the declared shapes cannot be trusted.
                        self.unpredictable.fill(true);
                        Ok(())
                    }
                    Err(RunProblem::Mismatch(_)) => Err(EngineError::RunFailed(readable(&first))),
                    Err(e) => Err(e.into_engine()),
                }
            }
            other => other.map_err(RunProblem::into_engine),
        }
    }
}

fn spec(what: &str, name: &str, dtype: &ValueType) -> Result<TensorSpec, EngineError> {
    let ValueType::Tensor { ty, shape, dimension_symbols } = dtype else {
        return Err(EngineError::BadModel(format!(
            "{what} '{name}' is {}, and only tensors can be served; a scikit-learn classifier is exported with \
             options={{'zipmap': False}}",
            match dtype {
                ValueType::Sequence(_) => "a sequence",
                ValueType::Map { .. } => "a map",
                ValueType::Optional(_) => "an optional value",
                ValueType::Tensor { .. } => "a tensor",
            }
        )));
    };
    let datatype = match ty {
        TensorElementType::Bool => DType::Bool,
        TensorElementType::Uint8 => DType::Uint8,
        TensorElementType::Uint16 => DType::Uint16,
        TensorElementType::Uint32 => DType::Uint32,
        TensorElementType::Uint64 => DType::Uint64,
        TensorElementType::Int8 => DType::Int8,
        TensorElementType::Int16 => DType::Int16,
        TensorElementType::Int32 => DType::Int32,
        TensorElementType::Int64 => DType::Int64,
        TensorElementType::Float16 => DType::Fp16,
        TensorElementType::Bfloat16 => DType::Bf16,
        TensorElementType::Float32 => DType::Fp32,
        TensorElementType::Float64 => DType::Fp64,
        TensorElementType::String => DType::Bytes,
        other => {
            return Err(EngineError::BadModel(format!(
                "{what} '{name}' has elements of type {other:?}, which no protocol can carry"
            )));
        }
    };
    let shape = shape
        .iter()
        .zip(dimension_symbols.iter())
        .map(|(size, symbol)| match u64::try_from(*size) {
            Ok(n) => Dim::Fixed(n),
            Err(_) if symbol.is_empty() => Dim::Any,
            Err(_) => Dim::Symbol(symbol.clone()),
        })
        .collect();
    Ok(TensorSpec { name: name.to_owned(), datatype, shape })
}

fn element(dtype: DType) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as E;
    match dtype {
        DType::Bool => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DType::Uint8 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DType::Uint16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DType::Uint32 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DType::Uint64 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DType::Int8 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DType::Int16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DType::Int32 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::Int64 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DType::Fp16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::Bf16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DType::Fp32 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::Fp64 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DType::Bytes => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}
