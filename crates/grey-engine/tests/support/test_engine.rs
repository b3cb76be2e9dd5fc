//! An engine whose models are a word: what to do in a run. Input `x` is FP32 `[N, M]`.

use std::{path::Path, time::Duration};

use grey_core::{DType, Dim, Signature, TensorSpec};
use grey_engine::{
    Determinism, EngineInfo, EngineKind, LoadOptions, Repeats,
    engine::{ArtifactView, Engine, EngineError, InputView, Model, OutputSink},
    memory::Mapped,
};

/// How much wider the output of `widen` is than its input.
pub const WIDER: u64 = 64;

struct TestEngine;

pub fn open(_: EngineKind, library: &Path) -> Result<Box<dyn Engine>, EngineError> {
    if library.ends_with("refused.so") {
        return Err(EngineError::Runtime(format!("{}: refused as the test asks", library.display())));
    }
    Ok(Box::new(TestEngine))
}

impl Engine for TestEngine {
    fn info(&self) -> EngineInfo {
        EngineInfo {
            engine: "test".into(),
            version: "1".into(),
            library: "/nowhere".into(),
            library_sha256: String::new(),
            devices: vec!["cpu".into()],
            utf8_strings: false,
        }
    }

    fn load(&mut self, artifact: &ArtifactView<'_>, options: &LoadOptions) -> Result<Box<dyn Model>, EngineError> {
        let ArtifactView::File { fd, len, name } = artifact else {
            return Err(EngineError::BadModel("a folder".into()));
        };
        let bytes = Mapped::read_only(*fd, usize::try_from(*len).unwrap()).unwrap();
        let word = std::str::from_utf8(bytes.as_slice()).unwrap().to_owned();
        let known = [
            "identity",
            "strings",
            "picky",
            "sleep",
            "widen",
            "pair",
            "grow_then_picky",
            "missing",
            "dtype",
            "spin",
            "scribble",
            "abort",
            "panic",
            "slow load",
        ];
        if word.starts_with("slow") {
            std::thread::sleep(Duration::from_millis(200));
        }
        if !known.contains(&word.as_str()) {
            return Err(EngineError::BadModel(format!("{name}: no model is called '{word}'")));
        }
        let datatype = if word == "strings" { DType::Bytes } else { DType::Fp32 };
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype, shape: vec![Dim::Symbol("N".into()), Dim::Any] };
        let outputs = if word == "pair" { vec![spec("y"), spec("z")] } else { vec![spec("y")] };
        let signature = Signature { inputs: vec![spec("x")], outputs };
        Ok(Box::new(Word { word, signature, determinism: determinism(options) }))
    }
}

/// What every model of this engine says.
pub fn determinism(options: &LoadOptions) -> Determinism {
    Determinism {
        repeats: Repeats::Everywhere,
        reason: "it only copies".into(),
        precision: "fp32".into(),
        switches: if options.deterministic { vec!["copies=1".into()] } else { Vec::new() },
    }
}

struct Word {
    word: String,
    signature: Signature,
    determinism: Determinism,
}

impl Model for Word {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn determinism(&self) -> &Determinism {
        &self.determinism
    }

    fn run(&mut self, inputs: &[InputView<'_>], outputs: &mut dyn OutputSink) -> Result<(), EngineError> {
        let x = inputs[0];
        let first = x.data.first_chunk().map_or(0.0, |c| f32::from_le_bytes(*c));
        let picky = || match first < 0.0 {
            true => Err(EngineError::RunFailed("the first number is negative".into())),
            false => Ok(()),
        };
        let wide = || (vec![x.shape[0], x.shape[1] * WIDER], x.data.repeat(usize::try_from(WIDER).unwrap()));
        match self.word.as_str() {
            "identity" | "strings" => {}
            "picky" => picky()?,
            // The first number says how many milliseconds.
            "sleep" => std::thread::sleep(Duration::from_millis(first as u64)),
            "widen" => {
                let (shape, data) = wide();
                return outputs.copy(0, x.dtype, &shape, &data);
            }
            "pair" => {
                outputs.copy(0, x.dtype, x.shape, x.data)?;
                let (shape, data) = wide();
                return outputs.copy(1, x.dtype, &shape, &data);
            }
            "grow_then_picky" => {
                let (shape, data) = wide();
                outputs.copy(0, x.dtype, &shape, &data)?;
                return picky();
            }
            "missing" => return Ok(()),
            "dtype" => return outputs.copy(0, DType::Int32, x.shape, x.data),
            "spin" => loop {
                std::hint::spin_loop();
            },
            // Goes on writing into its output when the run is long done.
            "scribble" => {
                let area = outputs.reserve(0, x.dtype, x.shape, x.data.len())?;
                let (at, len) = (area.start.as_ptr() as usize, x.data.len());
                std::thread::spawn(move || {
                    for byte in (0..=u8::MAX).cycle() {
                        // SAFETY: the area has `len` bytes and is mapped for as long as the host lives: the node
                        // asks for no other segment while outputs keep their size.
                        unsafe { std::ptr::write_bytes(at as *mut u8, byte, len) };
                    }
                });
                return Ok(());
            }
            "abort" => {
                eprintln!("the test's last words");
                std::process::abort();
            }
            "panic" => panic!("as the test asks"),
            other => return Err(EngineError::RunFailed(format!("what is '{other}'?"))),
        }
        outputs.copy(0, x.dtype, x.shape, x.data)
    }
}
