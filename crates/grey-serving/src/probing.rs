//! Runs a [`Probe`] and a [`SelfTest`] on a loaded model's host, behind its first answers, and keeps
//! what they find.

use std::time::Duration;

use grey_core::{Signature, Tensor};
use grey_engine::{Determinism, Host, ModelHandle, Repeats, RunError};

use crate::{
    assemble::{RunRows, assemble},
    batcher::BatcherConfig,
    determinism::{SelfTested, decide},
    model::Model,
    opener::inputs_of,
    permits::PermitPool,
    probe::{self, Probe, Verdict},
    profile::{ProfileRecord, Profiles, RowsVerdict},
    selftest::{self, Found, SelfTest, SelfTestRecord},
};

/// Most time that a probe's runs may take together, behind a model's first answers (the design,
/// §5). Waiting for permits and for the host is not counted: a busy machine must not decide how a
/// model is served.
const PROBE_RUN_TIME_MAX: Duration = Duration::from_secs(5);
/// The same for a self-test's runs.
const SELF_TEST_RUN_TIME_MAX: Duration = Duration::from_secs(5);
/// Any seed will do; a fixed one makes what is found of a model the same everywhere.
const SEED: u64 = 0x6772_6579;

/// The batch sizes to test of a model that is batched by `config`: none where requests run whole.
pub(crate) fn sizes_to_test(config: &BatcherConfig, engine: &Determinism) -> Vec<u32> {
    // Where a scale is computed over the whole batch rows mix, and proven requests run alone.
    if config.enabled && engine.repeats > Repeats::Alone { selftest::sizes(config) } else { Vec::new() }
}

/// Whether a self-test could change what answers are proven as.
pub(crate) fn worth_testing(engine: &Determinism, proofs: bool) -> bool {
    proofs && engine.repeats != Repeats::Never
}

/// Finds out of a model behind its first answers what its record and its operator leave open.
pub(crate) struct Probing<'a> {
    pub(crate) model: &'a Model,
    pub(crate) host: Host,
    pub(crate) handle: ModelHandle,
    pub(crate) engine: Determinism,
    pub(crate) permits: &'a PermitPool,
    pub(crate) profiles: &'a Profiles,
    /// Inputs of the version's example.
    pub(crate) example: Option<Vec<Tensor>>,
}

impl Probing<'_> {
    /// Probes if `probe` says so, then tests what the record does not tell yet.
    pub(crate) async fn run(&self, probe: bool, mut record: ProfileRecord) {
        let model = self.model;
        let runs = Runs {
            host: &self.host,
            handle: self.handle,
            signature: &model.signature,
            example: self.example.as_deref(),
            threads: model.threads,
            permits: self.permits,
            permit_key: model.permit_key(),
            run_timeout: model.run_timeout(),
        };
        let mut repeated = if probe {
            let probed = runs.probe().await;
            let rows = probed.rows;
            tracing::info!(model = %model.id, version = %model.version, batched = rows.independent, "{}", rows.reason);
            model.set_rows(rows.clone());
            if probed.keeps {
                record.rows = Some(rows);
                self.keep(&mut record);
            }
            probed.repeated
        } else {
            Ok(None)
        };
        loop {
            let sizes = sizes_to_test(&model.batcher(), &self.engine);
            let known = record.self_test_of(&sizes).cloned();
            let new = known.is_none();
            let tested = runs.tested(&self.engine, model.proofs_on(), sizes, repeated, known).await;
            if let SelfTested::Found(found) = &tested
                && new
            {
                record.determinism = Some(found.clone());
                self.keep(&mut record);
            }
            let concluded = model.conclude(|batcher| {
                let sizes = sizes_to_test(batcher, &self.engine);
                let of_others = matches!(&tested, SelfTested::Found(r) if r.sizes != sizes);
                (!of_others).then(|| decide(&self.engine, model.proofs_on(), batcher.enabled, &tested))
            });
            if concluded {
                break;
            }
            // An operator configured others meanwhile: at most as often as that.
            repeated = Ok(None);
        }
        let determinism = model.determinism();
        let class = determinism.class.as_ref().map_or("refused", |c| c.name());
        tracing::info!(model = %model.id, version = %model.version, class, "{}", determinism.reason);
    }

    fn keep(&self, record: &mut ProfileRecord) {
        record.bucket_us = self.model.bucket_us();
        if let Err(e) = self.profiles.write(record) {
            let model = self.model;
            tracing::error!(model = %model.id, version = %model.version, "the profile record was not kept: {e}");
        }
    }
}

/// Why no more runs are made.
pub(crate) enum Stopped {
    TooSlow,
    HostEnded,
}

impl Stopped {
    /// `runs_of` names what was stopped.
    fn reason(&self, runs_of: &str, budget: Duration) -> String {
        match self {
            Stopped::TooSlow => format!("the {runs_of}'s runs took more than {budget:?}"),
            Stopped::HostEnded => format!("the host ended during the {runs_of}; the next load repeats it"),
        }
    }
}

/// Runs of a model for which nobody waits, each within the budget of what it is for.
pub(crate) struct Runs<'a> {
    pub(crate) host: &'a Host,
    pub(crate) handle: ModelHandle,
    pub(crate) signature: &'a Signature,
    /// Inputs that the model takes, in the signature's order.
    pub(crate) example: Option<&'a [Tensor]>,
    pub(crate) threads: u32,
    pub(crate) permits: &'a PermitPool,
    pub(crate) permit_key: u64,
    pub(crate) run_timeout: Duration,
}

/// What a probe has found out.
pub(crate) struct Probed {
    /// Whether rows may share a run, and why.
    pub(crate) rows: RowsVerdict,
    /// Whether that holds tomorrow; not if a host ended, or the machine was slow.
    pub(crate) keeps: bool,
    /// Whether a batch gave its bytes again, if it came to that; `Err` if a self-test would get no further.
    pub(crate) repeated: Result<Option<bool>, Stopped>,
}

impl Runs<'_> {
    /// Finds out whether rows mix.
    pub(crate) async fn probe(&self) -> Probed {
        let example = self.example.map(<[Tensor]>::to_vec);
        let mut probe = Probe::with_example(self.signature.clone(), example, SEED);
        let mut left = PROBE_RUN_TIME_MAX;
        let found = loop {
            let inputs = match probe.step() {
                probe::Step::Verdict(v) => break Ok(v),
                probe::Step::Run(inputs) => inputs,
            };
            match self.once(inputs, &mut left).await {
                Ok(result) => probe.feed(result),
                Err(stopped) => break Err(stopped),
            }
        };
        let rows = match &found {
            Ok(Verdict::Independent) => RowsVerdict { independent: true, reason: "rows do not mix (probed)".into() },
            Ok(Verdict::Dependent(reason)) => RowsVerdict { independent: false, reason: reason.clone() },
            Err(stopped) => {
                let why = stopped.reason("probe", PROBE_RUN_TIME_MAX);
                let help = match stopped {
                    Stopped::TooSlow => "; declare batch_axis to batch it, or load it again to probe again",
                    Stopped::HostEnded => "",
                };
                RowsVerdict { independent: false, reason: format!("not proven: {why}{help}") }
            }
        };
        let keeps = found.is_ok();
        let repeated = match (found, probe.repeated()) {
            (Err(Stopped::HostEnded), _) => Err(Stopped::HostEnded),
            (Err(Stopped::TooSlow), None) => Err(Stopped::TooSlow),
            (_, repeated) => Ok(repeated),
        };
        Probed { rows, keeps, repeated }
    }

    /// What a self-test with these batch sizes finds, or is `known` to have found. `repeated`: what the probe
    /// before it saw.
    pub(crate) async fn tested(
        &self,
        engine: &Determinism,
        proofs: bool,
        sizes: Vec<u32>,
        repeated: Result<Option<bool>, Stopped>,
        known: Option<SelfTestRecord>,
    ) -> SelfTested {
        if !worth_testing(engine, proofs) {
            return SelfTested::Never;
        }
        let repeated = match repeated {
            Ok(repeated) => repeated,
            Err(stopped) => return SelfTested::CutShort(stopped.reason("probe", PROBE_RUN_TIME_MAX)),
        };
        if let Some(known) = known {
            return SelfTested::Found(known);
        }
        match self.self_test(sizes, repeated).await {
            Ok(found) => SelfTested::Found(found),
            Err(stopped) => SelfTested::CutShort(stopped.reason("self-test", SELF_TEST_RUN_TIME_MAX)),
        }
    }

    /// In which places a row keeps its bytes. `repeated`: whether the probe saw a batch repeat.
    async fn self_test(&self, sizes: Vec<u32>, repeated: Option<bool>) -> Result<SelfTestRecord, Stopped> {
        let known = match repeated {
            // Running it until it happens to repeat would prove nothing.
            Some(false) => Some((Found::Changes, "the same batch gave other bytes")),
            // All that a test of whole runs would show.
            Some(true) if sizes.is_empty() => Some((Found::Slot, "the same batch gave the same bytes")),
            Some(true) | None => None,
        };
        if let Some((found, reason)) = known {
            return Ok(SelfTestRecord { found, reason: reason.into(), zero_rows_refused: false, sizes });
        }
        let signature = self.signature.clone();
        let test =
            if sizes.is_empty() { SelfTest::whole(signature, SEED) } else { SelfTest::rows(signature, sizes, SEED) };
        let mut test = test.with_example(self.example.map(<[Tensor]>::to_vec));
        let mut left = SELF_TEST_RUN_TIME_MAX;
        loop {
            let inputs = match test.step() {
                selftest::Step::Found(record) => return Ok(record),
                selftest::Step::Run(inputs) => inputs,
            };
            test.feed(self.once(inputs, &mut left).await?);
        }
    }

    /// One run within what is `left` of its budget: the outputs, or the model's refusal.
    pub(crate) async fn once(
        &self,
        inputs: Vec<Tensor>,
        left: &mut Duration,
    ) -> Result<Result<Vec<Tensor>, String>, Stopped> {
        let wanted: Vec<usize> = (0..self.signature.outputs.len()).collect();
        let permit = self.permits.acquire(self.permit_key, self.threads).await;
        // The budget gives a run up, which leaves the host alone; only the run timeout ends it.
        let limit = Some(self.run_timeout);
        let inputs = inputs_of(&inputs);
        let result = self.host.run_within(self.handle, inputs, wanted.clone(), limit, Some(*left)).await;
        drop(permit);
        match result {
            Ok(out) => {
                *left = left.saturating_sub(out.execute);
                Ok(RunRows::new(out.outputs, None, self.signature)
                    .and_then(|rows| assemble(&[(&rows, 0, 0)], &wanted, self.signature))
                    .map_err(|e| e.message().to_owned()))
            }
            Err(RunError::Model(m)) => Ok(Err(m)),
            Err(RunError::GivenUp) => Err(Stopped::TooSlow),
            Err(RunError::HostDied(_) | RunError::Timeout { .. }) => Err(Stopped::HostEnded),
        }
    }
}
