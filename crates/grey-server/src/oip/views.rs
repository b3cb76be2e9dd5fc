//! The protocol's and its extensions' JSON about models, in the shapes that `tritonclient` reads.

use grey_core::{DType, TensorSpec};
use grey_serving::api::{ModelDetails, ModelState, ModelStatistics, ModelStatus, StatDuration};
use serde_json::{Value, json};

/// What `/v2` tells; only what this server has is listed.
pub fn server_metadata() -> Value {
    json!({
        "name": "grey",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics"],
    })
}

/// What `/v2/models/{m}` tells; `versions` are all versions of the model.
pub fn model_metadata(details: &ModelDetails, versions: &[String]) -> Value {
    let list = |specs: &[TensorSpec]| -> Vec<Value> {
        specs.iter().map(|s| json!({"name": s.name, "datatype": s.datatype, "shape": s.protocol_shape()})).collect()
    };
    json!({
        "name": details.status.id,
        "versions": versions,
        "platform": platform(&details.engine),
        "inputs": list(&details.signature.inputs),
        "outputs": list(&details.signature.outputs),
    })
}

/// The names that clients know for engines.
fn platform(engine: &str) -> &str {
    match engine {
        "onnxruntime" => "onnxruntime_onnx",
        other => other,
    }
}

/// What `…/config` tells.
pub fn model_config(details: &ModelDetails) -> Value {
    let batched = details.batching.enabled;
    // With a batch size the configuration's dims leave the batch axis out.
    let list = |specs: &[TensorSpec]| -> Vec<Value> {
        specs
            .iter()
            .map(|s| {
                let shape = s.protocol_shape();
                let dims = shape.get(usize::from(batched)..).unwrap_or(&[]);
                json!({"name": s.name, "data_type": config_type(s.datatype), "dims": dims})
            })
            .collect()
    };
    let mut out = json!({
        "name": details.status.id,
        "platform": platform(&details.engine),
        "backend": details.engine,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": if batched { details.batching.max_batch_size } else { 0 },
        "input": list(&details.signature.inputs),
        "output": list(&details.signature.outputs),
        "instance_group": [{
            "name": details.status.id,
            "kind": "KIND_CPU",
            "count": details.hosts.len().max(1),
        }],
        "parameters": {},
    });
    if batched && let Some(map) = out.as_object_mut() {
        let wait_us =
            if details.batching.hold == "fill" { details.batching.max_wait_ms.saturating_mul(1000) } else { 0 };
        map.insert(
            "dynamic_batching".into(),
            json!({"preferred_batch_size": [], "max_queue_delay_microseconds": wait_us}),
        );
    }
    out
}

fn config_type(dtype: DType) -> String {
    match dtype {
        DType::Bytes => "TYPE_STRING".into(),
        d => format!("TYPE_{d}"),
    }
}

/// What `…/stats` tells.
pub fn statistics(all: &[ModelStatistics]) -> Value {
    json!({"model_stats": all.iter().map(one).collect::<Vec<_>>()})
}

fn one(s: &ModelStatistics) -> Value {
    let none = StatDuration::default();
    let batches: Vec<Value> = s
        .batches
        .iter()
        .map(|(size, b)| {
            json!({
                "batch_size": size,
                "compute_input": b.compute_input,
                "compute_infer": b.compute_infer,
                "compute_output": b.compute_output,
            })
        })
        .collect();
    json!({
        "name": s.id,
        "version": s.version,
        "last_inference": s.last_inference_ms,
        "inference_count": s.inference_count,
        "execution_count": s.execution_count,
        "inference_stats": {
            "success": s.success,
            "fail": s.fail,
            "queue": s.queue,
            "compute_input": s.compute_input,
            "compute_infer": s.compute_infer,
            "compute_output": s.compute_output,
            "cache_hit": none,
            "cache_miss": none,
        },
        "response_stats": {},
        "batch_stats": batches,
        "memory_usage": [],
    })
}

/// What the repository index tells.
pub fn index(all: &[ModelStatus], only_ready: bool) -> Value {
    all.iter()
        .filter(|m| !only_ready || m.state == ModelState::Ready)
        .map(|m| {
            let state = match m.state {
                ModelState::Ready => "READY",
                ModelState::Loading => "LOADING",
                ModelState::Registered | ModelState::Failed | ModelState::Unloaded => "UNAVAILABLE",
            };
            let reason = if m.reason.is_empty() && m.state != ModelState::Ready { m.state.name() } else { &m.reason };
            json!({"name": m.id, "version": m.version, "state": state, "reason": reason})
        })
        .collect()
}
