//! The parts of a request's way, each by itself and as often as asked for, so that callgrind can
//! count the instructions of one (`bench/check.py`).

use std::{collections::BTreeMap, hint::black_box, io};

use bytes::Bytes;
use grey_core::{AnswerProof, DType, InferResponse, ModelId, ModelRef, Payload, Tensor, Version, VersionChoice};
use grey_proof::hash_tensors;
use grey_server::oip::{self, AnswerOptions, DecodeContext};
use grey_serving::batcher::{Batcher, BatcherConfig, Buckets, Hold, RunResult, Submit};
use serde_json::{Value, json};

use crate::{StageArgs, clock::now, hop, proofs};

/// Requests that share a run in the stages `batch` and `prove`.
const TOGETHER: u64 = 32;
/// Floats of the tensor of one request.
const FLOATS: u64 = 8;

/// A stage of a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Stage {
    /// A body of JSON into a request.
    DecodeJson,
    /// A body of binary tensors into a request.
    DecodeBinary,
    /// 32 requests into a batch and out of it; one operation is one request.
    Batch,
    /// The hash of a small tensor.
    Hash,
    /// 32 proofs of one run; one operation is one proof.
    Prove,
    /// An answer with binary tensors.
    EncodeBinary,
    /// An answer in JSON, with a proof.
    EncodeJsonProven,
    /// A run of 4 KiB in an engine host that is a thread, with the runtime's part.
    HostRoundTrip,
}

fn wrong(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(e.to_string())
}

fn model() -> io::Result<ModelRef> {
    Ok(ModelRef { id: ModelId::new("tiny").map_err(wrong)?, version: VersionChoice::Latest })
}

fn tensor(name: &str) -> io::Result<Tensor> {
    let data: Vec<u8> = (0..FLOATS).flat_map(|i| (i as f32 / 3.0).to_le_bytes()).collect();
    Tensor::new(name, DType::Fp32, vec![1, FLOATS], data).map_err(wrong)
}

fn response(proof: Option<AnswerProof>) -> io::Result<InferResponse> {
    Ok(InferResponse {
        id: "a".into(),
        model: ModelId::new("tiny").map_err(wrong)?,
        version: Version::new("1").map_err(wrong)?,
        outputs: vec![tensor("y")?],
        parameters: BTreeMap::new(),
        proof,
        queue_time: std::time::Duration::ZERO,
        execute_time: std::time::Duration::ZERO,
    })
}

fn decode(body: Bytes, header_length: Option<usize>, times: u64) -> io::Result<()> {
    let (model, now) = (model()?, now());
    for _ in 0..times {
        let cx = DecodeContext { model: &model, header_length, tenant: None, signature: None, prove: Some(true), now };
        black_box(oip::decode(cx, &Payload::from(body.clone()), &mut |_| Ok(())).map_err(wrong)?);
    }
    Ok(())
}

fn encode(response: &InferResponse, binary: bool, times: u64) -> io::Result<()> {
    let options = AnswerOptions { binary, outputs: BTreeMap::new() };
    for _ in 0..times {
        black_box(oip::encode(response, &options).map_err(wrong)?);
    }
    Ok(())
}

fn batch(times: u64) -> io::Result<()> {
    let mut batcher = Batcher::new(BatcherConfig {
        enabled: true,
        max_batch_size: TOGETHER as u32,
        hold: Hold::None,
        buckets: Buckets::PowersOfTwo,
        queue_rows_max: 1000,
    });
    let now = now();
    for round in 0..times.div_ceil(TOGETHER) {
        for i in 0..TOGETHER {
            let ticket = round * TOGETHER + i;
            let submit = Submit { ticket, key: 0, rows: 1, tenant: ticket % 3, deadline: None, whole: false };
            batcher.submit(now, submit).map_err(wrong)?;
        }
        let batch = batcher.take(now).ok_or_else(|| wrong("no batch"))?;
        black_box(batcher.complete(batch.run, RunResult::Ok));
    }
    Ok(())
}

/// Does a stage so often; says how often an operation was done, and how long all took, starting included.
pub(crate) fn run(args: &StageArgs) -> io::Result<Value> {
    let (times, begin) = (args.times, now());
    match args.stage {
        Stage::DecodeJson => {
            let data: Vec<f32> = (0..FLOATS).map(|i| i as f32 / 3.0).collect();
            let tensor = json!({"name": "x", "datatype": "FP32", "shape": [1, FLOATS], "data": data});
            decode(json!({"id": "a", "inputs": [tensor]}).to_string().into(), None, times)?;
        }
        Stage::DecodeBinary => {
            let x = tensor("x")?;
            let size = json!({"binary_data_size": x.data().len()});
            let tensor = json!({"name": "x", "datatype": "FP32", "shape": [1, FLOATS], "parameters": size});
            let head = json!({"inputs": [tensor], "parameters": {"binary_data_output": true}}).to_string();
            let body = [head.as_bytes(), &x.data().to_contiguous()].concat();
            decode(body.into(), Some(head.len()), times)?;
        }
        Stage::Batch => batch(times)?,
        Stage::Hash => {
            let x = [tensor("x")?];
            for _ in 0..times {
                black_box(hash_tensors(&x, None).map_err(wrong)?);
            }
        }
        Stage::Prove => proofs::make(times.div_ceil(TOGETHER), TOGETHER)?,
        Stage::EncodeBinary => encode(&response(None)?, true, times)?,
        Stage::EncodeJsonProven => {
            let proof = AnswerProof { proof: vec![7; 1100].into(), session: [8; 32] };
            encode(&response(Some(proof))?, false, times)?;
        }
        Stage::HostRoundTrip => hop::round_trips(args, times)?,
    }
    Ok(json!({ "times": times, "seconds": (now() - begin).as_secs_f64() }))
}
