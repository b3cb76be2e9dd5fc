//! The real ONNX Runtime of the test environment, and models for it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use grey_engine::discover::{self, DiscoverEnv};
use sha2::{Digest as _, Sha256};

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The Python environment with `onnxruntime` and `onnx`.
pub fn venv() -> PathBuf {
    let venv = std::env::var_os("GREY_TEST_VENV").map_or_else(|| repository().join(".venv"), PathBuf::from);
    assert!(
        venv.join("bin/python").exists(),
        "these tests need a Python environment with ONNX Runtime; make it with:\n\
         python3 -m venv {0} && {0}/bin/pip install onnxruntime onnx numpy\n\
         or name another one in GREY_TEST_VENV",
        venv.display()
    );
    venv
}

pub fn library() -> PathBuf {
    let env = DiscoverEnv { active: vec![venv()], ..DiscoverEnv::default() };
    discover::onnxruntime(None, &env).unwrap().library
}

pub fn python(args: &[&str]) {
    let out = Command::new(venv().join("bin/python")).args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// The folder of models that a script of the repository makes, made once for each state of the script.
pub fn models(script: &str) -> PathBuf {
    let script = repository().join(script);
    let hash = Sha256::digest(std::fs::read(&script).unwrap());
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = tmp.join(format!("models-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]));
    if !folder.is_dir() {
        let fresh = tempfile::tempdir_in(tmp).unwrap().keep();
        python(&[script.to_str().unwrap(), fresh.to_str().unwrap()]);
        // Another test may have been quicker; its models are the same.
        if std::fs::rename(&fresh, &folder).is_err() {
            std::fs::remove_dir_all(&fresh).unwrap();
        }
    }
    folder
}
