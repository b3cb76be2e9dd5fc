//! What the real ONNX Runtime's host says of a model's operators, and whether bytes bear it out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use grey_core::{DType, Dim};
use grey_engine::{
    Artifact, Determinism, EngineKind, Host, Isolation, Launcher, LoadOptions, LoadedModel, Repeats, contain::Limits,
    engines,
};
use support::{
    input, launcher,
    onnx::{self, library},
    run, sealed,
};

const SCRIPT: &str = "crates/grey-engine/tests/support/operators.py";
/// Values from which rows are filled up.
const OTHERS: [f32; 4] = [0.0, f32::NAN, 3e38, -1e-41];

#[test]
fn host_entry() {
    support::become_host(engines::open);
}

async fn host(l: &Launcher) -> Host {
    l.launch(EngineKind::OnnxRuntime, &library()).await.unwrap()
}

fn artifact(name: &str) -> Artifact {
    sealed(name, &std::fs::read(onnx::models(SCRIPT).join(name)).unwrap())
}

async fn start(name: &str, options: LoadOptions) -> (Host, LoadedModel) {
    let host = host(&launcher(Isolation::Process, engines::open)).await;
    let model = host.load(artifact(name), options).await.unwrap();
    (host, model)
}

async fn said(name: &str) -> Determinism {
    start(name, LoadOptions::default()).await.1.determinism
}

#[tokio::test]
async fn operators_decide_the_class() {
    let every = "a row the same bytes in every bucket at every position";
    let cases = [
        ("mlp.onnx", Repeats::Everywhere, every, "fp32"),
        ("cnn.onnx", Repeats::Everywhere, every, "fp32"),
        ("gru.onnx", Repeats::Everywhere, every, "fp32"),
        ("encoder.onnx", Repeats::Everywhere, every, "fp32"),
        ("encoder_mean.onnx", Repeats::Slot, "operator ReduceMean (1 node) depends on the row's position", "fp32"),
        ("static.onnx", Repeats::Everywhere, every, "int8-static"),
        ("dynamic.onnx", Repeats::Alone, "operator DynamicQuantizeLinear (2 nodes) computes a scale", "int8-dynamic"),
        ("noisy.onnx", Repeats::Never, "operator RandomNormalLike (1 node) draws random numbers", "fp32"),
        ("mlp.ort", Repeats::Slot, "operators of an .ort file cannot be read", "unknown"),
    ];
    for (name, repeats, reason, precision) in cases {
        let d = said(name).await;
        println!("{name}: {d:?}");
        assert!(d.repeats == repeats && d.reason.contains(reason) && d.precision == precision, "{name}: {d:?}");
        assert_eq!(d.switches, ["session.set_denormal_as_zero=0", "use_deterministic_compute=1"]);
    }
}

#[tokio::test]
async fn a_folder_is_judged_by_its_main_file() {
    let path = onnx::models(SCRIPT).join("external");
    let mut l = launcher(Isolation::Process, engines::open);
    l.limits = Limits { readable: vec![path.clone()], ..l.limits };
    let host = host(&l).await;
    let model = host.load(Artifact::Folder { path, main: "mlp.onnx".into() }, LoadOptions::default()).await.unwrap();
    assert_eq!(model.determinism, said("mlp.onnx").await);
}

#[tokio::test]
async fn options_count() {
    let (_, model) = start("mlp.onnx", LoadOptions { threads: 4, deterministic: true }).await;
    assert_eq!(model.determinism.repeats, Repeats::Slot);
    assert_eq!(model.determinism.reason, "measured on at most 3 threads, this runs on 4");
    let (_, model) = start("mlp.onnx", LoadOptions { threads: 1, deterministic: false }).await;
    assert_eq!((model.determinism.repeats, &model.determinism.switches[..]), (Repeats::Everywhere, &[][..]));
}

/// The bytes of a model's first output for one row in a bucket, all other rows filled with `other`.
async fn row(host: &Host, model: &LoadedModel, bucket: u64, position: u64, other: f32) -> Vec<u8> {
    let spec = &model.signature.inputs[0];
    let row: Vec<u64> = spec.shape[1..]
        .iter()
        .map(|d| match d {
            Dim::Fixed(n) => *n,
            other => panic!("{other:?}"),
        })
        .collect();
    let elements = row.iter().product::<u64>();
    let own = |n: u64| (n * 37 % 101) as f32 / 25.0 - 2.0;
    let data: Vec<u8> = (0..bucket)
        .flat_map(|r| (0..elements).map(move |n| if r == position { own(n) } else { other }))
        .flat_map(|v| match spec.datatype {
            // Indices of a table: any that it has.
            DType::Int64 => (if v.is_finite() { (v.abs() * 20.0) as i64 % 50 } else { 7 }).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        })
        .collect();
    let shape: Vec<u64> = [&[bucket][..], &row].concat();
    let out = run(host, model, vec![input(0, spec.datatype, &shape, &[data])]).await.unwrap();
    let all = &out.outputs[0].data;
    let size = all.len() / bucket as usize;
    all[position as usize * size..][..size].to_vec()
}

#[tokio::test]
async fn bytes_bear_it_out() {
    for (name, threads) in [
        ("mlp.onnx", 1),
        ("cnn.onnx", 2),
        ("gru.onnx", 1),
        ("encoder.onnx", 1),
        ("encoder.onnx", 3),
        ("static.onnx", 2),
    ] {
        let (host, model) = start(name, LoadOptions { threads, deterministic: true }).await;
        assert_eq!(model.determinism.repeats, Repeats::Everywhere);
        let alone = row(&host, &model, 1, 0, 0.0).await;
        for bucket in [2, 3, 8, 32] {
            for (position, other) in [0, bucket / 2, bucket - 1].into_iter().zip(OTHERS.into_iter().cycle()) {
                let here = row(&host, &model, bucket, position, other).await;
                assert!(here == alone, "{name} on {threads} threads: bucket {bucket}, position {position}");
            }
        }
    }
    let (host, model) = start("encoder_mean.onnx", LoadOptions::default()).await;
    let first = row(&host, &model, 8, 3, 0.0).await;
    for other in OTHERS {
        assert!(row(&host, &model, 8, 3, other).await == first, "other rows matter: {other}");
    }
    let (host, model) = start("noisy.onnx", LoadOptions::default()).await;
    assert_ne!(row(&host, &model, 1, 0, 0.0).await, row(&host, &model, 1, 0, 0.0).await);
}
