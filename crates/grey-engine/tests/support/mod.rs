//! What the integration tests share: a host that is this very test binary started again, inputs,
//! and an engine whose models do what their text says.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

pub mod onnx;
pub mod test_engine;

use std::{ffi::OsString, io::Write as _, path::Path, process::ExitCode, time::Duration};

use bytes::Bytes;
use grey_core::{DType, Payload};
use grey_engine::{
    Artifact, BatchInput, EngineKind, Host, HostCommand, Isolation, Launcher, LoadOptions, LoadedModel, OpenEngine,
    RunError, RunOutputs, SealedFile, contain::Limits, host_main,
};

/// Set in a process that is to become a host.
pub const HOST_GUARD: &str = "GREY_TEST_HOST";
/// Long enough for a loaded machine; a run that takes longer hangs.
pub const RUN_LIMIT: Duration = Duration::from_secs(30);

/// This test binary, started again as the test `entry` with the variables set.
pub fn again(entry: &str, variables: &[(&str, &str)]) -> HostCommand {
    let mut args: Vec<OsString> = variables.iter().map(|(k, v)| format!("{k}={v}").into()).collect();
    args.push(std::env::current_exe().unwrap().into());
    // One test thread: the entry then runs on the main thread, as in a real host.
    args.extend([entry, "--exact", "--nocapture", "--test-threads=1"].map(OsString::from));
    HostCommand { program: "/usr/bin/env".into(), args }
}

/// The body of every `host_entry` test: nothing, unless this process was started to be a host.
pub fn become_host(open: OpenEngine) {
    if std::env::var_os(HOST_GUARD).is_some() {
        // `ExitCode` can be neither compared nor handed to `exit`.
        let failed = format!("{:?}", host_main(open)) != format!("{:?}", ExitCode::SUCCESS);
        std::process::exit(i32::from(failed));
    }
}

pub fn launcher(isolation: Isolation, open: OpenEngine) -> Launcher {
    Launcher {
        command: again("host_entry", &[(HOST_GUARD, "1")]),
        isolation,
        limits: Limits::default(),
        open,
        load_timeout: Duration::from_secs(30),
        outputs_bytes_max: 64 << 20,
    }
}

pub fn sealed(name: &str, content: &[u8]) -> Artifact {
    let mut w = SealedFile::writer(name).unwrap();
    w.write_all(content).unwrap();
    Artifact::File(w.seal().unwrap())
}

/// A host with one model of the test engine.
pub async fn start(launcher: &Launcher, model: &str) -> (Host, LoadedModel) {
    let host = launcher.launch(EngineKind::OnnxRuntime, Path::new("/nowhere/libtest.so")).await.unwrap();
    let model = host.load(sealed("model.txt", model.as_bytes()), LoadOptions::default()).await.unwrap();
    (host, model)
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn strings(items: &[&[u8]]) -> Vec<u8> {
    items.iter().flat_map(|s| [&u32::try_from(s.len()).unwrap().to_le_bytes()[..], s].concat()).collect()
}

pub fn input(index: usize, dtype: DType, shape: &[u64], parts: &[Vec<u8>]) -> BatchInput {
    let parts = parts.iter().map(|p| Payload::from(Bytes::from(p.clone()))).collect();
    BatchInput { index, dtype, shape: shape.to_vec(), parts }
}

/// Input 0, FP32, in one part.
pub fn x(shape: &[u64], values: &[f32]) -> Vec<BatchInput> {
    vec![input(0, DType::Fp32, shape, &[floats(values)])]
}

pub async fn run(host: &Host, model: &LoadedModel, inputs: Vec<BatchInput>) -> Result<RunOutputs, RunError> {
    let wanted = (0..model.signature.outputs.len()).collect();
    host.run(model.handle, inputs, wanted, Some(RUN_LIMIT)).await
}

/// Runs an identity over one row of `values` and checks that they come back.
pub async fn echoes(host: &Host, model: &LoadedModel, values: &[f32]) {
    let shape = [1, values.len() as u64];
    let out = run(host, model, x(&shape, values)).await.unwrap();
    assert_eq!((out.outputs[0].dtype, &out.outputs[0].shape[..]), (DType::Fp32, &shape[..]));
    assert_eq!(out.outputs[0].data[..], floats(values)[..]);
}
