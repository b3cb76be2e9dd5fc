//! Runs a [`Probe`] on a loaded model's host, behind its first answers, and keeps the verdict.

use std::time::Duration;

use grey_core::Tensor;
use grey_engine::{BatchInput, Host, ModelHandle, RunError};

use crate::{
    assemble::{RunRows, assemble},
    model::Model,
    permits::PermitPool,
    probe::{Probe, Step, Verdict},
    profile::{ProfileRecord, Profiles, RowsVerdict},
};

/// Most time that a probe's runs may take together, behind a model's first answers (the design,
/// §5). Waiting for permits and for the host is not counted: a busy machine must not decide how a
/// model is served.
const PROBE_RUN_TIME_MAX: Duration = Duration::from_secs(5);

/// How a probe ended.
enum Probed {
    Verdict(Verdict),
    TooSlow,
    HostEnded,
}

/// Probes a model behind its first answers and keeps the verdict.
pub(crate) async fn probe(
    model: &Model,
    (host, handle): (Host, ModelHandle),
    mut record: ProfileRecord,
    permits: &PermitPool,
    profiles: &Profiles,
) {
    let found = run_probe(model, &host, handle, permits).await;
    let verdict = match &found {
        Probed::Verdict(Verdict::Independent) => {
            RowsVerdict { independent: true, reason: "rows do not mix (probed)".into() }
        }
        Probed::Verdict(Verdict::Dependent(reason)) => RowsVerdict { independent: false, reason: reason.clone() },
        Probed::TooSlow => RowsVerdict {
            independent: false,
            reason: format!(
                "not proven: the probe's runs took more than {PROBE_RUN_TIME_MAX:?}; declare batch_axis to batch \
                 it, or load it again to probe again"
            ),
        },
        Probed::HostEnded => RowsVerdict {
            independent: false,
            reason: "not proven: the host ended during the probe; the next load probes again".into(),
        },
    };
    tracing::info!(model = %model.id, version = %model.version, batched = verdict.independent, "{}", verdict.reason);
    model.set_rows(verdict.clone());
    // That a host ended, or that the machine was slow, need not hold tomorrow.
    if matches!(found, Probed::Verdict(_)) {
        record.rows = Some(verdict);
        record.bucket_us = model.bucket_us();
        if let Err(e) = profiles.write(&record) {
            tracing::error!(model = %model.id, version = %model.version, "the profile record was not kept: {e}");
        }
    }
}

async fn run_probe(model: &Model, host: &Host, handle: ModelHandle, permits: &PermitPool) -> Probed {
    let signature = &model.signature;
    // Any seed will do; a fixed one makes the verdict of a model the same everywhere.
    let mut probe = Probe::new(signature.clone(), 0x6772_6579);
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut left = PROBE_RUN_TIME_MAX;
    loop {
        let inputs = match probe.step() {
            Step::Verdict(v) => return Probed::Verdict(v),
            Step::Run(inputs) => inputs,
        };
        let inputs = inputs.iter().enumerate().map(|(index, t): (usize, &Tensor)| BatchInput {
            index,
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            parts: vec![t.data().clone()],
        });
        let permit = permits.acquire(model.permit_key(), model.threads).await;
        // The budget gives a run up, which leaves the host alone; only the run timeout ends it.
        let limit = Some(model.run_timeout());
        let result = host.run_within(handle, inputs.collect(), wanted.clone(), limit, Some(left)).await;
        drop(permit);
        probe.feed(match result {
            Ok(out) => {
                left = left.saturating_sub(out.execute);
                RunRows::new(out.outputs, None, signature)
                    .and_then(|rows| assemble(&[(&rows, 0, 0)], &wanted, signature))
                    .map_err(|e| e.message().to_owned())
            }
            Err(RunError::Model(m)) => Err(m),
            Err(RunError::GivenUp) => return Probed::TooSlow,
            Err(RunError::HostDied(_) | RunError::Timeout { .. }) => return Probed::HostEnded,
        });
    }
}
