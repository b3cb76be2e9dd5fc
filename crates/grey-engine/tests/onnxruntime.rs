//! The real ONNX Runtime in a host of its own, with small models made for the purpose.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use grey_core::{DType, Dim};
use grey_engine::{EngineKind, Host, HostError, Isolation, Launcher, LoadOptions, LoadedModel, RunError, engines};
use sha2::{Digest as _, Sha256};
use support::{
    floats, input, launcher,
    onnx::{self, library, python},
    run, sealed, strings, x,
};

#[test]
fn host_entry() {
    support::become_host(engines::open);
}

/// The folder of models, made once for each state of the script that makes them.
fn models() -> PathBuf {
    onnx::models("tests/support/models.py")
}

fn processes() -> Launcher {
    launcher(Isolation::Process, engines::open)
}

async fn host() -> Host {
    processes().launch(EngineKind::OnnxRuntime, &library()).await.unwrap()
}

async fn load(host: &Host, name: &str) -> Result<LoadedModel, HostError> {
    let bytes = std::fs::read(models().join(name)).unwrap();
    host.load(sealed(name, &bytes), LoadOptions::default()).await
}

async fn start(name: &str) -> (Host, LoadedModel) {
    let host = host().await;
    let model = load(&host, name).await.unwrap();
    (host, model)
}

fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[tokio::test]
async fn the_host_says_what_it_is_and_is_contained() {
    let host = host().await;
    let hello = host.hello();
    assert_eq!((hello.engine.engine.as_str(), &hello.engine.library), ("onnxruntime", &library()));
    assert!(library().to_str().unwrap().ends_with(&hello.engine.version), "{}", hello.engine.version);
    let sum = Sha256::digest(std::fs::read(library()).unwrap());
    assert_eq!(hello.engine.library_sha256, sum.iter().map(|b| format!("{b:02x}")).collect::<String>());
    for layer in ["no_new_privs", "not_dumpable", "limits", "descriptors"] {
        assert!(hello.containment.get(layer).is_some_and(|l| l.starts_with("yes")), "{layer}");
    }
    assert!(hello.containment.contains_key("landlock"));
}

#[tokio::test]
async fn every_dtype_round_trips_its_bytes() {
    let host = host().await;
    for dtype in DType::ALL {
        let model = load(&host, &format!("identity_{}.onnx", dtype.name().to_lowercase())).await.unwrap();
        let spec = &model.signature.inputs[0];
        assert_eq!((spec.datatype, &spec.shape[..]), (dtype, &[Dim::Symbol("N".into()), Dim::Fixed(2)][..]));
        for rows in [1u64, 3, 700, 2] {
            let elements = rows * 2;
            let data: Vec<u8> = match (dtype, dtype.size()) {
                (DType::Bool, _) => (0..elements).map(|n| u8::from(n % 3 == 0)).collect(),
                // Every bit pattern, those of NaNs and subnormals among them.
                (_, Some(size)) => (0..elements * size as u64).map(|n| (n * 37 % 251) as u8).collect(),
                (_, None) => {
                    let items: Vec<String> = (0..elements).map(|n| "grün ".repeat(n as usize % 5)).collect();
                    strings(&items.iter().map(String::as_bytes).collect::<Vec<_>>())
                }
            };
            let out = run(&host, &model, vec![input(0, dtype, &[rows, 2], std::slice::from_ref(&data))]).await.unwrap();
            assert_eq!((out.outputs[0].dtype, &out.outputs[0].shape[..]), (dtype, &[rows, 2][..]));
            assert!(out.outputs[0].data[..] == data[..], "{dtype} with {rows} rows came back changed");
        }
    }
}

#[tokio::test]
async fn strings_must_be_text() {
    let (host, model) = start("identity_bytes.onnx").await;
    let bad = strings(&[b"ok", &[0xff, 0xfe]]);
    let e = run(&host, &model, vec![input(0, DType::Bytes, &[1, 2], &[bad])]).await.unwrap_err();
    assert!(matches!(&e, RunError::Model(m) if m.contains("input 'x': element 1 is not UTF-8")), "{e}");
    let good = strings(&[b"ok", b"\0"]);
    let out = run(&host, &model, vec![input(0, DType::Bytes, &[1, 2], std::slice::from_ref(&good))]).await.unwrap();
    assert_eq!(out.outputs[0].data[..], good[..]);
}

#[tokio::test]
async fn the_bytes_are_those_of_onnxruntime_in_python() {
    let dir = tempfile::tempdir().unwrap();
    let (given, expected) = (dir.path().join("x"), dir.path().join("y"));
    let script = "\
import sys, numpy as np, onnxruntime as ort
x = np.random.default_rng(3).normal(size=(8, 8)).astype('<f4')
o = ort.SessionOptions(); o.intra_op_num_threads = 1
y = ort.InferenceSession(sys.argv[1], o, providers=['CPUExecutionProvider']).run(None, {'x': x})[0]
x.tofile(sys.argv[2]); y.tofile(sys.argv[3])";
    let mlp = models().join("mlp.onnx");
    python(&["-c", script, mlp.to_str().unwrap(), given.to_str().unwrap(), expected.to_str().unwrap()]);
    let (host, model) = start("mlp.onnx").await;
    let rows = std::fs::read(given).unwrap();
    for _ in 0..2 {
        let out = run(&host, &model, vec![input(0, DType::Fp32, &[8, 8], std::slice::from_ref(&rows))]).await.unwrap();
        assert_eq!(out.outputs[0].shape, [8, 3]);
        assert_eq!(out.outputs[0].data[..], std::fs::read(&expected).unwrap()[..]);
    }
}

#[tokio::test]
async fn several_inputs_and_outputs_keep_their_order() {
    let (host, model) = start("simple.onnx").await;
    let ints = |f: fn(i32) -> i32| -> Vec<u8> { (0..32).flat_map(|n| f(n).to_le_bytes()).collect() };
    let inputs = || {
        vec![input(1, DType::Int32, &[2, 16], &[ints(|n| n * 10)]), input(0, DType::Int32, &[2, 16], &[ints(|n| n)])]
    };
    let out = run(&host, &model, inputs()).await.unwrap();
    assert_eq!(out.outputs[0].data[..], ints(|n| n * 11)[..]);
    assert_eq!(out.outputs[1].data[..], ints(|n| n * -9)[..]);
    let out = host.run(model.handle, inputs(), vec![1], Some(support::RUN_LIMIT)).await.unwrap();
    assert_eq!((out.outputs.len(), out.outputs[0].index), (1, 1));
    assert_eq!(out.outputs[0].data[..], ints(|n| n * -9)[..]);
    let e = host.run(model.handle, inputs(), vec![2], Some(support::RUN_LIMIT)).await.unwrap_err();
    assert!(matches!(e, RunError::Model(_)), "{e}");
}

#[tokio::test]
async fn a_fixed_batch_takes_only_its_size() {
    let (host, model) = start("fixed_batch.onnx").await;
    assert_eq!(model.signature.inputs[0].shape, [Dim::Fixed(4), Dim::Fixed(3)]);
    let out = run(&host, &model, x(&[4, 3], &[1.5; 12])).await.unwrap();
    assert_eq!(out.outputs[0].data[..], floats(&[3.0; 12])[..]);
    let e = run(&host, &model, x(&[3, 3], &[1.5; 9])).await.unwrap_err();
    assert!(matches!(&e, RunError::Model(m) if m.contains("Got: 3 Expected: 4") && readable(m)), "{e}");
}

#[tokio::test]
async fn a_model_that_refuses_an_input_runs_on() {
    let (host, model) = start("gather.onnx").await;
    let ids = |values: &[i64]| vec![input(0, DType::Int64, &[values.len() as u64 / 2, 2], &[longs(values)])];
    for bad in [10, -11, i64::MAX] {
        let e = run(&host, &model, ids(&[0, bad])).await.unwrap_err();
        assert!(matches!(&e, RunError::Model(m) if m.contains("out of") && readable(m)), "{e}");
        let out = run(&host, &model, ids(&[9, 0, 3, 4])).await.unwrap();
        assert_eq!(out.outputs[0].shape, [2, 2, 2]);
        assert_eq!(out.outputs[0].data[..], floats(&[18.0, 19.0, 0.0, 1.0, 6.0, 7.0, 8.0, 9.0])[..]);
    }
}

#[tokio::test]
async fn outputs_of_unknown_size_are_copied() {
    let (host, model) = start("nonzero.onnx").await;
    let out = run(&host, &model, x(&[2, 3], &[0.0, 1.0, 0.0, 2.0, 0.0, 3.0])).await.unwrap();
    assert_eq!(out.outputs[0].shape, [2, 3]);
    assert_eq!(out.outputs[0].data[..], longs(&[0, 1, 1, 1, 0, 2])[..]);
    let out = run(&host, &model, x(&[2, 3], &[0.0; 6])).await.unwrap();
    assert_eq!((&out.outputs[0].shape[..], out.outputs[0].data.len()), (&[2, 0][..], 0));
    // More than a segment of the smallest size.
    let out = run(&host, &model, x(&[40_000, 3], &vec![1.0; 120_000])).await.unwrap();
    assert_eq!(out.outputs[0].shape, [2, 120_000]);
    assert_eq!(out.outputs[0].data[8 * 240_000 - 8..], longs(&[2])[..]);
}

#[tokio::test]
async fn a_scalar_comes_as_one() {
    let (host, model) = start("scalar.onnx").await;
    let out = run(&host, &model, x(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).await.unwrap();
    assert!(out.outputs[0].shape.is_empty());
    assert_eq!(out.outputs[0].data[..], floats(&[21.0])[..]);
}

#[tokio::test]
async fn an_empty_batch_is_answered() {
    let (host, model) = start("mlp.onnx").await;
    let out = run(&host, &model, x(&[0, 8], &[])).await.unwrap();
    assert_eq!((&out.outputs[0].shape[..], out.outputs[0].data.len()), (&[0, 3][..], 0));
}

/// No function of the runtime, no source file, no line break.
fn readable(message: &str) -> bool {
    !["onnxruntime::", ".cc", ".h:", "\n", "const"].iter().any(|p| message.contains(p)) && message.len() < 400
}

#[tokio::test]
async fn what_is_no_model_is_refused_in_words() {
    let host = host().await;
    let cases = [
        ("truncated.onnx", "rotobuf"),
        ("text.onnx", "rotobuf"),
        ("empty.onnx", "empty.onnx is empty"),
        ("sequence.onnx", "output 'y' is a sequence, and only tensors can be served"),
    ];
    for (name, says) in cases {
        let e = load(&host, name).await.unwrap_err();
        let HostError::BadModel(message) = &e else { panic!("{name}: {e:?}") };
        println!("{name}: {message}");
        assert!(message.contains(says) && readable(message), "{name}: {message}");
    }
    let model = load(&host, "mlp.onnx").await.unwrap();
    run(&host, &model, x(&[1, 8], &[1.0; 8])).await.unwrap();
}

#[tokio::test]
async fn a_model_that_runs_too_long_is_ended() {
    let (host, model) = start("spin.onnx").await;
    let spin = |n: i64| {
        vec![input(0, DType::Int64, &[1, 1], &[longs(&[n])]), input(1, DType::Fp32, &[1, 1], &[floats(&[0.0])])]
    };
    let out = run(&host, &model, spin(5)).await.unwrap();
    assert_eq!(out.outputs[0].data[..], floats(&[5.0])[..]);
    let limit = Duration::from_millis(300);
    let e = host.run(model.handle, spin(1 << 40), vec![0], Some(limit)).await.unwrap_err();
    assert!(matches!(&e, RunError::Timeout { exit, .. } if exit.status.contains("SIGKILL")), "{e}");
}

#[tokio::test]
async fn a_library_that_is_no_onnx_runtime_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("libonnxruntime.so");
    std::fs::write(&text, "no library").unwrap();
    let missing = dir.path().join("missing.so");
    let old = dir.path().join("libonnxruntime.so.1.10.0");
    let source = dir.path().join("old.c");
    let code = "struct base { const void *(*api)(unsigned); const char *(*version)(void); };\n\
                static const void *api(unsigned v) { (void)v; return 0; }\n\
                static const char *version(void) { return \"1.10.0\"; }\n\
                static const struct base it = { api, version };\n\
                const struct base *OrtGetApiBase(void) { return &it; }\n";
    std::fs::write(&source, code).unwrap();
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&old).arg(&source).status().unwrap();
    assert!(cc.success());
    let cases = [
        (PathBuf::from("libm.so.6"), "there is no such file"),
        (system_library("libm.so.6"), "is no ONNX Runtime: it has no symbol OrtGetApiBase"),
        (missing, "there is no such file"),
        (text, "cannot be opened: "),
        (old, "this is ONNX Runtime 1.10.0; Grey needs 1.17 or newer"),
    ];
    for (library, says) in cases {
        let e = processes().launch(EngineKind::OnnxRuntime, &library).await.unwrap_err();
        let HostError::Refused(message) = &e else { panic!("{e:?}") };
        println!("{message}");
        assert!(message.contains(library.to_str().unwrap()) && message.contains(says), "{message}");
    }
}

fn system_library(name: &str) -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.split_whitespace().find(|w| w.ends_with("/libc.so.6")).expect("this test is linked to glibc");
    Path::new(libc).with_file_name(name)
}

/// `Private_*` of a host's memory by kind, KiB.
async fn private_kib(host: &Host, model: &LoadedModel) -> (u64, u64) {
    for _ in 0..10 {
        run(host, model, x(&[8, 8], &[1.0; 64])).await.unwrap();
    }
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", host.pid().unwrap())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (kib("Private_Dirty:"), kib("Private_Clean:"))
}

#[tokio::test]
async fn one_more_idle_host_is_small() {
    let (first, first_model) = start("mlp.onnx").await;
    let (dirty, clean) = private_kib(&first, &first_model).await;
    println!("alone: {dirty} KiB dirty + {clean} KiB clean = {} KiB", dirty + clean);
    // While only one process maps the library, its pages count as that host's own; the kernel shares
    // them with the next host, and can drop them. What one more host costs is the second's figure.
    let (second, second_model) = start("mlp.onnx").await;
    let (dirty, clean) = private_kib(&second, &second_model).await;
    println!("one more: {dirty} KiB dirty + {clean} KiB clean = {} KiB", dirty + clean);
    assert!(dirty + clean <= PRIVATE_KIB_MAX, "{} KiB of private memory", dirty + clean);
}

/// What a host with a tiny model may hold for itself: hundreds of them fit on one machine.
const PRIVATE_KIB_MAX: u64 = 15 << 10;

#[tokio::test]
async fn time_per_run_is_told() {
    let (host, model) = start("identity_fp32.onnx").await;
    let times: Vec<(Duration, Duration)> = {
        let mut all = Vec::new();
        for _ in 0..2000 {
            let out = run(&host, &model, x(&[512, 2], &[1.0; 1024])).await.unwrap();
            all.push((out.copy_in + out.execute + out.copy_out, out.execute));
        }
        all
    };
    let median = |pick: fn(&(Duration, Duration)) -> Duration| {
        let mut sorted: Vec<_> = times.iter().map(pick).collect();
        sorted.sort();
        sorted[sorted.len() / 2]
    };
    println!("4 KiB in and out: {:?} a run, {:?} of it from sending to the answer", median(|t| t.0), median(|t| t.1));
}
