//! Opening a version in a host: verified bytes in, a running host with its signature out.

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use grey_core::{Error, ErrorKind, ModelId, ModelRef, Result, Signature, Tensor, TensorSpec, Version, VersionChoice};
use grey_engine::{
    Artifact, BatchInput, Determinism, EngineInfo, EngineKind, Host, HostError, LoadOptions, ModelHandle, SealedFile,
};
use grey_registry::{Catalog, FilePath, ModelFile, UploadName, holding_failed};

use crate::{
    config::{THREADS_AUTO_MAX, THREADS_AUTO_ROW_TIME},
    engines::{Engines, main_file},
    madeup,
};

/// Runs of the measurement; the fastest counts, the first warms up.
pub(crate) const MEASURE_RUNS: u32 = 3;
/// A run of the measurement that takes longer says enough, warmed up or not: it is not repeated.
const MEASURE_ENOUGH: Duration = Duration::from_secs(1);
/// A host whose run of one row takes longer than this is ended, as no answer would wait for it.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(30);

/// A host that runs the example for longer than this is ended.
pub(crate) const EXAMPLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A host with a model in it.
pub(crate) struct Opened {
    pub(crate) host: Host,
    pub(crate) handle: ModelHandle,
    pub(crate) signature: Signature,
    /// What its operators say about repeating its bytes.
    pub(crate) determinism: Determinism,
    /// The runtime.
    pub(crate) info: Arc<EngineInfo>,
    /// Runtime and version, e.g. `onnxruntime 1.32.0`.
    pub(crate) runtime: String,
    pub(crate) library_sha256: String,
    pub(crate) memory_bytes: u64,
    pub(crate) threads: u32,
}

impl Opened {
    pub(crate) fn lives(&self) -> bool {
        self.host.exited().now_or_never().is_none()
    }
}

/// Opens versions.
pub(crate) struct Opener {
    pub(crate) catalog: Catalog,
    /// Where the files of a version of several lie while a host opens them.
    pub(crate) open_path: PathBuf,
    /// How many such there have been: their names.
    pub(crate) opened: AtomicU64,
    pub(crate) engines: Engines,
    /// The machine's memory, if it can be told.
    pub(crate) memory_bytes: Option<u64>,
}

impl Opener {
    /// Opens `artifact` with `kind` on `threads` threads; `proofs` sets the switches that proofs need.
    pub(crate) async fn open(
        &self,
        kind: EngineKind,
        artifact: Artifact,
        threads: u32,
        proofs: bool,
    ) -> Result<Opened> {
        let folder = match &artifact {
            Artifact::File(_) => None,
            Artifact::Folder { path, .. } => Some(path.clone()),
        };
        let _copies = folder.clone().map(Copies);
        let host = self.engines.launch(kind, folder).await?;
        let loaded = match host.load(artifact, LoadOptions { threads, deterministic: proofs }).await {
            Ok(l) => l,
            Err(e) => {
                host.unload().await;
                return Err(load_error(&e));
            }
        };
        let info = Arc::new(host.hello().engine.clone());
        Ok(Opened {
            runtime: format!("{} {}", info.engine, info.version),
            library_sha256: info.library_sha256.clone(),
            info,
            handle: loaded.handle,
            signature: loaded.signature,
            determinism: loaded.determinism,
            memory_bytes: loaded.memory_bytes,
            threads,
            host,
        })
    }

    /// Opens a registered version anew, its bytes verified against the manifest.
    pub(crate) async fn open_again(
        &self,
        id: &ModelId,
        version: &Version,
        threads: u32,
        proofs: bool,
    ) -> Result<Opened> {
        let wanted = ModelRef { id: id.clone(), version: VersionChoice::Exact(version.clone()) };
        let manifest = self.catalog.resolve(&wanted).await?;
        let engine = Engines::by_name(&manifest.engine);
        let engine = engine.map_err(|e| e.context(format_args!("model '{id}' version '{version}'")))?;
        // Last: a folder is removed by who opens it.
        let artifact = self.artifact(id, &manifest.upload, &manifest.files).await;
        let artifact = artifact.map_err(|e| e.context(format_args!("version '{version}'")))?;
        self.open(engine, artifact, threads, proofs).await
    }

    /// The verified files of a version, in the form in which hosts get them.
    pub(crate) async fn artifact(&self, id: &ModelId, upload: &UploadName, files: &[ModelFile]) -> Result<Artifact> {
        let bytes: u64 = files.iter().map(|f| f.size).sum();
        if let Some(memory) = self.memory_bytes.filter(|m| bytes > *m) {
            return Err(Error::new(
                ErrorKind::LoadFailed,
                format!("the model's files have {bytes} bytes, this machine has {memory} bytes of memory"),
            ));
        }
        if let [file] = files {
            let mut sealed = SealedFile::writer(file.path.as_str()).map_err(|e| sealing(&e))?;
            self.catalog.fetch(id, upload, file, &mut sealed).await?;
            return Ok(Artifact::File(sealed.seal().map_err(|e| sealing(&e))?));
        }
        // Copies that nobody else knows, hashed as they are made: the runtime maps such files by name, so
        // bytes that change in the registry afterwards would change the answers.
        let main = main_file(files.iter().map(|f| f.path.as_str()))?.to_owned();
        let copies = Copies(self.open_path.join(self.opened.fetch_add(1, Ordering::Relaxed).to_string()));
        for file in files {
            let mut out = copies.file(&file.path)?;
            self.catalog.fetch(id, upload, file, &mut out).await?;
        }
        Ok(Artifact::Folder { path: copies.keep(), main })
    }

    /// Files that are not registered, in the same form: copies of theirs. `main` is what the engine opens.
    pub(crate) fn artifact_of(&self, files: Vec<(FilePath, File)>, main: &str) -> Result<Artifact> {
        let mut files = files;
        if let [(name, file)] = &mut files[..] {
            let mut sealed = SealedFile::writer(name.as_str()).map_err(|e| sealing(&e))?;
            std::io::copy(file, &mut sealed).map_err(|e| sealing(&e))?;
            return Ok(Artifact::File(sealed.seal().map_err(|e| sealing(&e))?));
        }
        let copies = Copies(self.open_path.join(self.opened.fetch_add(1, Ordering::Relaxed).to_string()));
        for (name, mut file) in files {
            let mut out = copies.file(&name)?;
            std::io::copy(&mut file, &mut out).map_err(|e| sealing(&e))?;
        }
        Ok(Artifact::Folder { path: copies.keep(), main: main.to_owned() })
    }
}

/// A folder that goes when this does: what has its files open or mapped keeps them.
struct Copies(PathBuf);

impl Copies {
    /// A new file in it.
    fn file(&self, name: &FilePath) -> Result<File> {
        let path = self.0.join(name.as_str());
        let made = path.parent().map_or(Ok(()), |p| DirBuilder::new().recursive(true).mode(0o700).create(p));
        made.and_then(|()| File::create_new(&path)).map_err(|e| sealing(&e))
    }

    /// For whoever opens the files, and removes the folder then.
    fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty()
            && let Err(e) = std::fs::remove_dir_all(&self.0)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {e}", self.0.display());
        }
    }
}

fn sealing(e: &std::io::Error) -> Error {
    Error::new(holding_failed(e), format!("cannot hold the model's files: {e}"))
}

/// How the message of a file that is no model begins.
pub(crate) const BAD_MODEL: &str = "the model cannot be opened";

fn load_error(e: &HostError) -> Error {
    match e {
        HostError::BadModel(m) => Error::new(ErrorKind::LoadFailed, format!("{BAD_MODEL}: {m}")),
        other => Error::new(ErrorKind::LoadFailed, format!("the model could not be loaded: {other}")),
    }
}

/// Inputs as a host takes them, each in its place of the signature.
pub(crate) fn inputs_of(tensors: &[Tensor]) -> Vec<BatchInput> {
    let input = |(index, t): (usize, &Tensor)| BatchInput {
        index,
        dtype: t.dtype(),
        shape: t.shape().to_vec(),
        parts: vec![t.data().clone()],
    };
    tensors.iter().enumerate().map(input).collect()
}

/// Runs one row of zeros so often and returns the fastest run; `None` if the model takes no such row.
pub(crate) async fn measure_row(opened: &Opened, runs: u32) -> Option<Duration> {
    for size in 0..madeup::sizes_to_try(&opened.signature) {
        let mut fastest: Option<Duration> = None;
        for _ in 0..runs {
            let inputs = row_of_zeros(&opened.signature, size)?;
            let wanted = (0..opened.signature.outputs.len()).collect();
            match opened.host.run(opened.handle, inputs, wanted, Some(MEASURE_TIMEOUT)).await {
                Ok(out) => {
                    fastest = Some(fastest.map_or(out.execute, |f| f.min(out.execute)));
                    if out.execute > MEASURE_ENOUGH {
                        break;
                    }
                }
                Err(e) => {
                    tracing::debug!(size, "a row of zeros does not run: {e}");
                    break;
                }
            }
        }
        if fastest.is_some() {
            return fastest;
        }
    }
    None
}

fn row_of_zeros(signature: &Signature, size: usize) -> Option<Vec<BatchInput>> {
    let shapes = madeup::shapes(signature, 1, size)?;
    let input = |(index, (spec, shape)): (usize, (&TensorSpec, Vec<u64>))| {
        // Absent parts are filled with zeros by the host's memory.
        let elements = grey_core::element_count(&shape)?;
        let bytes = elements.checked_mul(spec.datatype.size().unwrap_or(grey_core::ELEMENT_LENGTH_BYTES))?;
        (bytes <= MEASURE_INPUT_BYTES_MAX).then(|| BatchInput { index, dtype: spec.datatype, shape, parts: Vec::new() })
    };
    signature.inputs.iter().zip(shapes).enumerate().map(input).collect()
}

/// Largest input that the measurement makes up.
const MEASURE_INPUT_BYTES_MAX: usize = 256 << 20;

/// Threads for one run when the operator leaves it to the node (the design, §4).
pub(crate) fn auto_threads(row: Option<Duration>, cores: u32) -> u32 {
    match row {
        Some(t) if t >= THREADS_AUTO_ROW_TIME => THREADS_AUTO_MAX.min(cores).max(1),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use grey_core::{DType, Dim};

    use super::*;

    #[test]
    fn auto_gives_short_runs_one_thread() {
        assert_eq!(auto_threads(Some(Duration::from_micros(10)), 8), 1);
        assert_eq!(auto_threads(Some(Duration::from_millis(1)), 8), 4);
        assert_eq!(auto_threads(Some(Duration::from_millis(50)), 2), 2);
        assert_eq!(auto_threads(None, 8), 1);
    }

    #[test]
    fn a_row_of_zeros_has_the_signature_s_shape() {
        let spec = |shape| grey_core::TensorSpec { name: "x".into(), datatype: DType::Fp32, shape };
        let n = || Dim::Symbol("N".into());
        let s = Signature {
            inputs: vec![spec(vec![n(), Dim::Any, Dim::Fixed(3)])],
            outputs: vec![spec(vec![n(), Dim::Fixed(2)])],
        };
        assert_eq!(row_of_zeros(&s, 0).unwrap()[0].shape, [1, 16, 3]);
        let huge = Signature { inputs: vec![spec(vec![Dim::Fixed(1 << 40)])], outputs: vec![spec(vec![n()])] };
        assert!(row_of_zeros(&huge, 0).is_none());
    }
}
