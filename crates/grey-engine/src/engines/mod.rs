//! The runtimes. Each engine is one folder here and one line in [`open`].

mod onnxruntime;

use std::path::Path;

use crate::engine::{Engine, EngineError, EngineKind};

/// Opens a runtime's library in this process.
pub fn open(kind: EngineKind, library: &Path) -> Result<Box<dyn Engine>, EngineError> {
    match kind {
        EngineKind::OnnxRuntime => Ok(Box::new(onnxruntime::OnnxRuntime::open(library)?)),
    }
}
