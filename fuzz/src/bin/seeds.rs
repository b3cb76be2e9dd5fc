//! Writes valid inputs for every target, by the project's own encoders, into the folder that is named: what a fuzzer
//! would need hours to find. `run.sh` calls it.
#![allow(clippy::disallowed_methods, reason = "a tool of its own")]

#[path = "../../../crates/grey-proof/tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "the support of tests, not all of which is needed")]
mod support;

// Its hooks are called by all that is instrumented; nothing is fuzzed here.
use libfuzzer_sys as _;
use std::{fs, io, path::Path};

use grey_core::{
    AnswerProof, DType, InferResponse, ModelId, Parameter, Parameters, Signature, Tensor, TensorSpec, Version,
    element_count,
};
use grey_engine::{
    Determinism, EngineKind, LoadOptions, ModelHandle, Repeats,
    contain::Limits,
    memory::SEGMENT_BYTES_MIN,
    protocol::{ArtifactPlace, FailKind, FromHost, HEADER_BYTES, TensorPlace, ToHost, encode as frame},
};
use grey_server::oip::{AnswerOptions, encode};
use support::scene;

/// Inputs of one target.
type Seeds = Vec<Vec<u8>>;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: seeds FOLDER"))?;
    let targets: [(&str, Seeds); 10] = [
        ("infer_request", infer_requests()),
        ("infer_answer", infer_answers()),
        ("host_answers", host_answers()),
        ("node_orders", node_orders()),
        ("registry", registry()),
        ("registry_steps", vec![vec![0, 0, 1, 0, 2, 2, 0, 1, 9, 3, 2, 0, 6, 0, 0x34, 7, 0, 0, 4, 1, 0]]),
        ("config", config()),
        ("proof_bundle", proof_bundles()),
        ("proof_policy", proof_policies()),
        ("batcher_steps", vec![vec![1, 0, 0, 1, 0, 2, 1, 0, 2, 0, 4, 1, 3, 4, 6, 0, 4, 6, 0]]),
    ];
    for (target, seeds) in targets {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        for (i, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{i:03}")), seed)?;
        }
    }
    Ok(())
}

/// Every dtype in JSON, as binary data and raw, for each of the signatures that fit.
fn infer_requests() -> Seeds {
    let mut seeds = Seeds::new();
    for (code, dtype) in DType::ALL.into_iter().enumerate() {
        for (choice, shape) in [(0, vec![2, 2]), (2, vec![]), (3, vec![3])] {
            let elements = element_count(&shape).unwrap_or(0);
            let data =
                dtype.size().map_or_else(|| [2, 0, 0, 0, b'h', b'i'].repeat(elements), |n| vec![1; n * elements]);
            let Ok(tensor) = Tensor::new("x", dtype, shape, data.clone()) else { continue };
            let first = (choice * DType::ALL.len() + code) as u8;
            for binary in [false, true] {
                let (cut, body) = request(vec![tensor.clone()], binary);
                let form = if cut.is_some() { 2 } else { 0 };
                let cut = (cut.unwrap_or(0) as u16).to_le_bytes();
                seeds.push([&[first, form], &cut[..], &body].concat());
            }
            seeds.push([&[first, 1, 0, 0], &data[..]].concat());
        }
    }
    // Much more memory than text.
    if let Ok(zeros) = Tensor::new("x", DType::Fp64, vec![100], vec![0; 800]) {
        let (_, body) = request(vec![zeros], false);
        seeds.push([&[3 * DType::ALL.len() as u8 + DType::Fp64.code(), 0, 0, 0], &body[..]].concat());
    }
    for body in [
        r#"{"id":"a","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1.5,-2e3],[0,1e-7]]}],
            "outputs":[{"name":"y","parameters":{"binary_data":true}}],
            "parameters":{"timeout":1000,"tenant":"t","priority":1,"grey_prove":true,"grey_nonce":"AAECAwQFBgc=","f":0.5}}"#,
        r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"BYTES","data":["a\u00e9\n","\ud83d\ude00"]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[0],"datatype":"BOOL","data":[]}],"parameters":{"sequence_id":0}}"#,
    ] {
        seeds.push([&[0, 0, 0, 0], body.as_bytes()].concat());
    }
    seeds
}

/// Every dtype in binary form, with and without a proof; and texts that a node does not write.
fn infer_answers() -> Seeds {
    let mut seeds = Seeds::new();
    let mut add = |response: &InferResponse, binary: bool| {
        let Ok(encoded) = encode(response, &AnswerOptions { binary, ..Default::default() }) else { return };
        let form = if encoded.header_length.is_some() { 2 } else { 0 };
        let cut = (encoded.header_length.unwrap_or(0) as u16).to_le_bytes();
        seeds.push([&[form], &cut[..], &encoded.chunks.concat()].concat());
    };
    for dtype in DType::ALL {
        let data = dtype.size().map_or_else(|| [2, 0, 0, 0, b'h', b'i'].repeat(2), |n| vec![1; n * 2]);
        let Ok(tensor) = Tensor::new("y", dtype, vec![2, 1], data) else { continue };
        let Some(mut response) = response(vec![tensor.clone(), tensor.renamed("z")]) else { continue };
        add(&response, true);
        add(&response, false);
        response.proof = Some(AnswerProof { proof: vec![7; 40].into(), session: [9; 32] });
        add(&response, true);
    }
    for body in [
        r#"{"model_name":"m","outputs":[]}"#,
        r#"{"id":"\u00e9","model_name":"m","model_version":"","parameters":{"a":null,"b":[1,{}],"c":{"d":1},"e":1e3,"f":true},
            "outputs":[{"name":"y","datatype":"FP32","shape":[0],"parameters":{"binary_data_size":0}}]}"#,
    ] {
        seeds.push([&[0, 0, 0], body.as_bytes()].concat());
    }
    seeds
}

/// An answer with these tensors.
fn response(outputs: Vec<Tensor>) -> Option<InferResponse> {
    Some(InferResponse {
        id: "7".into(),
        model: ModelId::new("m").ok()?,
        version: Version::new("1").ok()?,
        outputs,
        parameters: Parameters::from([("k".into(), Parameter::Int(1))]),
        proof: None,
        queue_time: Default::default(),
        execute_time: Default::default(),
    })
}

/// An answer with these tensors, turned into the request that sends them; the length of its JSON if data follows.
fn request(outputs: Vec<Tensor>, binary: bool) -> (Option<usize>, Vec<u8>) {
    let Some(response) = response(outputs) else { return (None, Vec::new()) };
    let Ok(encoded) = encode(&response, &AnswerOptions { binary, ..Default::default() }) else {
        return (None, Vec::new());
    };
    let mut json = String::from_utf8_lossy(&encoded.chunks[0]).replacen("\"outputs\":", "\"inputs\":", 1).into_bytes();
    let cut = encoded.header_length.map(|_| json.len());
    json.extend(encoded.chunks[1..].concat());
    (cut, json)
}

fn signature() -> Signature {
    let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![grey_core::Dim::Any] };
    let (inputs, outputs) = (vec![spec("x", DType::Fp32)], vec![spec("y", DType::Fp32), spec("z", DType::Bytes)]);
    Signature { inputs, outputs }
}

/// A place in the segment of that name.
fn place(index: u32, dtype: DType, len: u64, segment: u64, offset: u64) -> TensorPlace {
    TensorPlace { index, dtype, shape: vec![len / dtype.size().unwrap_or(1) as u64], segment, offset, len }
}

/// Payloads behind their lengths, as `host_answers` and `node_orders` take them.
fn messages<M: serde::Serialize>(all: &[(&M, Option<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (message, kind) in all {
        let Ok(whole) = frame(message, 0) else { continue };
        let payload = &whole[HEADER_BYTES..];
        out.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        out.extend(kind);
        out.extend_from_slice(payload);
    }
    out
}

/// A load and runs that answer at once, ask for memory, answer in parts, fail. A node calls its first model 2, then
/// each segment and each run by the next number.
fn host_answers() -> Seeds {
    let determinism = Determinism {
        repeats: Repeats::Slot,
        reason: "why".into(),
        precision: "fp32".into(),
        switches: vec!["a".into(), "b".into()],
    };
    let signature = serde_json::to_string(&signature()).unwrap_or_default();
    let outputs = |segment| vec![place(0, DType::Fp32, 8, segment, 0), place(1, DType::Bytes, 6, segment, 64)];
    let done = |run, segment| FromHost::Done { run, outputs: outputs(segment), nanos: 11 };
    let large = |run, segment| FromHost::Done {
        run,
        outputs: vec![place(0, DType::Fp32, 100_000, segment, 0), place(1, DType::Bytes, 0, segment, 64)],
        nanos: 1,
    };
    let failed = |run| FromHost::Failed { run, kind: FailKind::Model, message: "x".into() };
    let need = |run| FromHost::NeedSegment { run, bytes: 100_000 };
    let partial = |run| FromHost::Partial { run, outputs: outputs(4) };
    let texts: Vec<TensorSpec> =
        ["a", "b", "c"].map(|n| TensorSpec { name: n.into(), datatype: DType::Bytes, shape: vec![] }).into();
    let three = Signature { inputs: texts.clone(), outputs: texts };
    let places = (0..3).map(|i| place(i, DType::Bytes, 300, 4, u64::from(i) * 320)).collect();
    let three = [
        FromHost::Ready {
            model: ModelHandle(2),
            signature: serde_json::to_string(&three).unwrap_or_default(),
            determinism: determinism.clone(),
            memory_bytes: 9,
        },
        FromHost::Done { run: 5, outputs: places, nanos: 1 },
    ];
    let ready = FromHost::Ready { model: ModelHandle(2), signature, determinism, memory_bytes: 9 };
    let whole = [ready.clone(), done(5, 4), done(6, 4), done(7, 4)];
    let growing = [ready.clone(), need(5), large(5, 6), done(7, 6), done(8, 6)];
    let failing = [ready, failed(5), partial(6), failed(6), done(7, 4)];
    let refused = [FromHost::LoadFailed { model: ModelHandle(2), message: "no".into() }];
    // Three outputs that fill a segment, by their fields.
    let fields = [2, 0, 0, 3, 1, 0, 4, 0, 0, 0, 0, 1, 0x30, 0x75, 0, 0, 4, 0, 1, 0x30, 0x75, 0, 0x40, 0x79, 0];
    let mut seeds: Seeds = vec![fields.to_vec()];
    for all in [&whole[..], &growing, &failing, &refused, &three] {
        let framed: Vec<_> = all.iter().map(|m| (m, None)).collect();
        seeds.push([&[1][..], &messages(&framed)].concat());
        let raw: Vec<u8> = all.iter().filter_map(|m| frame(m, 0).ok()).flatten().collect();
        seeds.push([&[0][..], &raw].concat());
    }
    seeds
}

fn node_orders() -> Seeds {
    let small = SEGMENT_BYTES_MIN as u64;
    let init = ToHost::Init {
        engine: EngineKind::OnnxRuntime,
        library: "/x".into(),
        limits: Limits { data_bytes: None, readable: Vec::new() },
    };
    let load = |artifact| ToHost::Load { model: ModelHandle(2), artifact, options: LoadOptions::default() };
    let file = load(ArtifactPlace::Attached { len: 1000, name: "m".into() });
    let folder = load(ArtifactPlace::Folder { path: "/x".into(), main: "m".into() });
    let segment = |id, len| ToHost::Segment { id, len };
    let run = |rows| ToHost::Run {
        model: ModelHandle(2),
        run: 5,
        inputs: vec![place(0, DType::Uint8, rows, 3, 64)],
        wanted: vec![0, 1],
        output_segment: 4,
    };
    let (unload, cancel) = (ToHost::Unload { model: ModelHandle(2) }, ToHost::Cancel { run: 5 });
    let (three, four, five, larger) = (segment(3, small), segment(4, small), segment(5, 4 * small), run(60_000));
    let start = [(&init, Some(0)), (&file, Some(4)), (&three, Some(2)), (&four, Some(2))];
    [
        [&start[..], &[(&run(10), Some(0)), (&cancel, Some(0)), (&run(20), Some(0)), (&unload, Some(0))]].concat(),
        [&start[..], &[(&larger, Some(0)), (&five, Some(3)), (&run(10), Some(0))]].concat(),
        vec![(&init, Some(0)), (&folder, Some(0)), (&unload, Some(0))],
    ]
    .iter()
    .map(|orders| messages(orders))
    .collect()
}

fn registry() -> Seeds {
    let entry = include_str!("../../../crates/grey-registry/tests/fixtures/index-format-1.json");
    let manifest = include_str!("../../../crates/grey-registry/tests/fixtures/manifest-format-1.json");
    let (id, bare) = (manifest.replace("\"digits\"", "\"m\""), |s: &str| s.split_whitespace().collect::<String>());
    let documents = |entry: &str, manifest: &str| {
        let (entry, manifest) = (bare(entry), bare(manifest));
        [&[2][..], &(entry.len() as u16).to_le_bytes(), entry.as_bytes(), manifest.as_bytes()].concat()
    };
    let mut seeds = vec![documents(entry, &id), documents(entry, &id.replace("\"format\":1", "\"format\":2"))];
    seeds.extend(["1\n", "2\n", ""].map(|format| [&[0][..], format.as_bytes()].concat()));
    seeds.extend(["model.onnx", "a/b c/é.bin", "12", "../x"].map(|name| [&[1][..], name.as_bytes()].concat()));
    seeds
}

fn config() -> Seeds {
    [
        "http: 127.0.0.1:0\nhttp_names: [a.example, b]\ndata: /x\ninsecure: true\nallow_upload: true\nname: node\n\
         allow_replay: false\ntenant_tag_key_file: /k\nisolation: inline\ndrain_seconds: 3\nstrict_ready: true\n\
         limits:\n  body_bytes_max: 1000\n  inflight_bytes_max: 1000\n  connections_max: 7\n  queue_rows_max: 7\n  \
         host_memory_bytes_max: 100000000\nengines:\n  onnxruntime:\n    library: /l\n",
        "batching:\n  max_batch_size: 8\n  hold: fill\n  max_wait_ms: 5\n  pad_to_multiple: 4\nrun_timeout_ms: 1500\n\
         proofs: off\nmodels:\n  digits:\n    threads: 2\n    instances: 3\n    batch_axis: none\n    proofs: on\n    \
         batching:\n      hold: none\n  other:\n    threads: auto\n    run_timeout_ms: 1\n",
        "models: {a: {threads: 1, batch_axis: first}, 'b': &x {proofs: true}, \"c\": *x}\n",
        "# nothing\n",
    ]
    .iter()
    .flat_map(|text| [vec![*text], text.lines().collect()].concat())
    .map(|text| text.as_bytes().to_vec())
    // Numbers inside all bounds; see the target.
    .chain([vec![255, 0, 5, 0, 5]])
    .chain(
        ["instances: 3", "threads: 2", "run_timeout_ms: 9"].map(|key| format!("models: {{a: {{{key}}}}}").into_bytes()),
    )
    .collect()
}

fn proof_bundles() -> Seeds {
    use scene::{batch, claims, full_claims, single, upstream};
    let of_upstream = grey_proof::Claims { exec: Some(upstream()), ..claims() };
    let bundles = [
        single(full_claims()).build(),
        batch(full_claims(), 8, 5).build(),
        scene::Scene { strict: true, ..batch(full_claims(), 2, 0) }.build(),
        single(claims()).build(),
        single(of_upstream).build(),
        single(full_claims()).build_session(),
    ];
    (0..)
        .step_by(4)
        .zip(bundles)
        .map(|(how, bundle)| [&[if how < 12 { 0 } else { how as u8 }][..], &bundle].concat())
        .collect()
}

fn proof_policies() -> Seeds {
    let all = serde_json::json!({
        "platforms": ["SOFTWARE", "SGX"], "expected_measurement": "05".repeat(32), "software_keys": "any",
        "min_tcb": {"tee": 1}, "allow_debug": false, "mode": "archival", "max_age": 1000, "max_skew": 5,
        "execution": "batch", "executors": "any", "outcomes": [0], "strict": false, "tcb_status": ["UpToDate"],
        "roots": {"tsa": ["AA=="]},
    });
    let texts = [scene::policy().to_string(), scene::full_known().to_string(), all.to_string(), "0.5e3".into()];
    texts.map(String::into_bytes).to_vec()
}
