//! Whether a model would be served: opens it in a host of its own and looks at it as a load does, without
//! registering, loading or keeping anything.

use std::time::Duration;

use grey_core::{Signature, Tensor};
use grey_engine::EngineKind;
use serde::Serialize;

use crate::{
    api::{BatchingView, ProofsView},
    config::{ModelConfig, RUN_TIMEOUT_MIN},
    determinism::decide,
    madeup::Source,
    model::{batcher_config, batching_view},
    opener::{EXAMPLE_TIMEOUT, Opened, inputs_of},
    permits::PermitPool,
    probing::{Runs, sizes_to_test},
    profile::RowsVerdict,
    random::SplitMix64,
};

/// What a model was found to be.
#[derive(Clone, Debug, Serialize)]
pub struct Validation {
    /// Whether it opens, and runs on its example, or on made-up inputs where there is no example.
    pub valid: bool,
    /// Why not; empty if it is valid.
    pub reason: String,
    /// The engine that opens it.
    pub engine: String,
    /// Runtime and version, e.g. `onnxruntime 1.32.0`; `None` if it does not open.
    pub runtime: Option<String>,
    /// What it takes and gives.
    pub signature: Option<Signature>,
    /// How requests would be batched, and why.
    pub batching: Option<BatchingView>,
    /// Whether answers could be proven, as what, and why.
    pub proofs: Option<ProofsView>,
    /// The run that was tried.
    pub run: Option<RunView>,
}

/// One run of a validation.
#[derive(Clone, Debug, Serialize)]
pub struct RunView {
    /// `example` or `made-up`.
    pub inputs: &'static str,
    /// Shapes of what went in.
    pub given: Vec<TensorView>,
    /// Shapes of what came out; empty if it did not run.
    pub outputs: Vec<TensorView>,
    /// Microseconds of the run.
    pub execute_us: Option<u64>,
    /// Why it did not run.
    pub error: Option<String>,
}

/// A tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorView {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
}

impl TensorView {
    fn of(t: &Tensor) -> TensorView {
        TensorView { name: t.name().to_owned(), datatype: t.dtype().to_string(), shape: t.shape().to_vec() }
    }
}

impl Validation {
    /// Of a model that does not open, or whose example does not fit.
    pub(crate) fn not_valid(kind: EngineKind, reason: String) -> Validation {
        Validation {
            valid: false,
            reason,
            engine: kind.name().to_owned(),
            runtime: None,
            signature: None,
            batching: None,
            proofs: None,
            run: None,
        }
    }
}

/// Looks at an open model. `example`: inputs in the signature's order.
pub(crate) async fn validate(
    kind: EngineKind,
    opened: &Opened,
    example: Option<Vec<Tensor>>,
    config: &ModelConfig,
    (permits, permit_key): (&PermitPool, u64),
) -> Validation {
    let signature = &opened.signature;
    let runs = Runs {
        host: &opened.host,
        handle: opened.handle,
        signature,
        example: example.as_deref(),
        threads: opened.threads,
        permits,
        permit_key,
        run_timeout: config.run_timeout.unwrap_or(RUN_TIMEOUT_MIN),
    };
    let run = first_run(opened, example.clone(), (permits, permit_key)).await;
    let reason = run.error.clone().map(|why| match run.inputs {
        "example" => format!("it does not run on the example: {why}"),
        _ => format!("it does not run on made-up inputs: {why}"),
    });
    // What follows would only say the same, perhaps of a host that is gone.
    let probed = if reason.is_some() { None } else { Some(runs.probe().await) };
    let (rows, repeated) = match probed {
        None => (RowsVerdict { independent: false, reason: "not probed, since it does not run".into() }, Ok(None)),
        Some(probed) => (probed.rows, probed.repeated),
    };
    let batcher = batcher_config(&config.batching, 1, rows.independent);
    let sizes = sizes_to_test(&batcher, &opened.determinism);
    let tested = match &reason {
        None => runs.tested(&opened.determinism, config.proofs, sizes, repeated, None).await,
        Some(why) => crate::determinism::SelfTested::CutShort(why.clone()),
    };
    let determinism = decide(&opened.determinism, config.proofs, batcher.enabled, &tested);
    Validation {
        valid: reason.is_none(),
        reason: reason.unwrap_or_default(),
        engine: kind.name().to_owned(),
        runtime: Some(opened.runtime.clone()),
        signature: Some(signature.clone()),
        batching: Some(batching_view(&config.batching, &rows)),
        proofs: Some(determinism.view(config.proofs)),
        run: Some(run),
    }
}

/// Runs the example; without one, the first made-up inputs that the model takes.
async fn first_run(
    opened: &Opened,
    example: Option<Vec<Tensor>>,
    (permits, permit_key): (&PermitPool, u64),
) -> RunView {
    let signature = &opened.signature;
    let (what, tries) = match example {
        Some(example) => ("example", vec![example]),
        None => {
            let source = Source::new(signature.clone(), None);
            let mut random = SplitMix64::new(0);
            ("made-up", (0..source.kinds()).filter_map(|kind| source.tensors(1, kind, &mut random)).collect())
        }
    };
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut view = RunView {
        inputs: what,
        given: Vec::new(),
        outputs: Vec::new(),
        execute_us: None,
        error: Some("no input of a reasonable size could be made up; give an example request".into()),
    };
    for inputs in tries {
        view.given = inputs.iter().map(TensorView::of).collect();
        let permit = permits.acquire(permit_key, opened.threads).await;
        let ran = opened.host.run(opened.handle, inputs_of(&inputs), wanted.clone(), Some(EXAMPLE_TIMEOUT)).await;
        drop(permit);
        match ran {
            Ok(out) => {
                let named = |o: &grey_engine::RunOutput| TensorView {
                    name: signature.outputs.get(o.index).map(|s| s.name.clone()).unwrap_or_default(),
                    datatype: o.dtype.to_string(),
                    shape: o.shape.clone(),
                };
                view.outputs = out.outputs.iter().map(named).collect();
                view.execute_us = Some(micros(out.execute));
                view.error = None;
                return view;
            }
            Err(e) => view.error = Some(e.to_string()),
        }
        if !opened.lives() {
            break;
        }
    }
    view
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
