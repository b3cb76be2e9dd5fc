//! Runs a [`Probe`] and a [`SelfTest`] on a loaded model's host, behind its first answers, and keeps
//! what they find.

use std::time::Duration;

use grey_core::Tensor;
use grey_engine::{BatchInput, Determinism, Host, ModelHandle, Repeats, RunError};

use crate::{
    assemble::{RunRows, assemble},
    batcher::BatcherConfig,
    determinism::{SelfTested, decide},
    model::Model,
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
}

/// Why no more runs are made.
enum Stopped {
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

impl Probing<'_> {
    /// Probes if `probe` says so, then tests what the record does not tell yet.
    pub(crate) async fn run(&self, probe: bool, mut record: ProfileRecord) {
        let mut probed = if probe { self.probe(&mut record).await } else { Ok(None) };
        loop {
            let tested = self.tested(probed, &mut record).await;
            let concluded = self.model.conclude(|batcher| {
                let other_sizes =
                    matches!(&tested, SelfTested::Found(r) if r.sizes != sizes_to_test(batcher, &self.engine));
                (!other_sizes).then(|| decide(&self.engine, self.model.proofs_on(), batcher.enabled, &tested))
            });
            if concluded {
                break;
            }
            // An operator configured others meanwhile: at most as often as that.
            probed = Ok(None);
        }
        let determinism = self.model.determinism();
        let class = determinism.class.as_ref().map_or("refused", |c| c.name());
        tracing::info!(model = %self.model.id, version = %self.model.version, class, "{}", determinism.reason);
    }

    /// What the self-test finds, or has found.
    async fn tested(&self, probed: Result<Option<bool>, Stopped>, record: &mut ProfileRecord) -> SelfTested {
        if !worth_testing(&self.engine, self.model.proofs_on()) {
            return SelfTested::Never;
        }
        let repeated = match probed {
            Ok(repeated) => repeated,
            Err(stopped) => return SelfTested::CutShort(stopped.reason("probe", PROBE_RUN_TIME_MAX)),
        };
        let sizes = sizes_to_test(&self.model.batcher(), &self.engine);
        if let Some(known) = record.self_test_of(&sizes) {
            return SelfTested::Found(known.clone());
        }
        match self.self_test(sizes, repeated).await {
            Ok(found) => {
                record.determinism = Some(found.clone());
                self.keep(record);
                SelfTested::Found(found)
            }
            Err(stopped) => SelfTested::CutShort(stopped.reason("self-test", SELF_TEST_RUN_TIME_MAX)),
        }
    }

    /// Finds out whether rows mix. Returns whether a batch gave its bytes again, if it came to that;
    /// `Err` if a self-test would get no further.
    async fn probe(&self, record: &mut ProfileRecord) -> Result<Option<bool>, Stopped> {
        let mut probe = Probe::new(self.model.signature.clone(), SEED);
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
        let verdict = match &found {
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
        let model = self.model;
        tracing::info!(model = %model.id, version = %model.version, batched = verdict.independent, "{}", verdict.reason);
        model.set_rows(verdict.clone());
        // That a host ended, or that the machine was slow, need not hold tomorrow.
        if found.is_ok() {
            record.rows = Some(verdict);
            self.keep(record);
        }
        match (found, probe.repeated()) {
            (Err(Stopped::HostEnded), _) => Err(Stopped::HostEnded),
            (Err(Stopped::TooSlow), None) => Err(Stopped::TooSlow),
            (_, repeated) => Ok(repeated),
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
        let signature = self.model.signature.clone();
        let mut test =
            if sizes.is_empty() { SelfTest::whole(signature, SEED) } else { SelfTest::rows(signature, sizes, SEED) };
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
    async fn once(&self, inputs: Vec<Tensor>, left: &mut Duration) -> Result<Result<Vec<Tensor>, String>, Stopped> {
        let (model, signature) = (self.model, &self.model.signature);
        let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
        let inputs = inputs.iter().enumerate().map(|(index, t): (usize, &Tensor)| BatchInput {
            index,
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            parts: vec![t.data().clone()],
        });
        let permit = self.permits.acquire(model.permit_key(), model.threads).await;
        // The budget gives a run up, which leaves the host alone; only the run timeout ends it.
        let limit = Some(model.run_timeout());
        let result = self.host.run_within(self.handle, inputs.collect(), wanted.clone(), limit, Some(*left)).await;
        drop(permit);
        match result {
            Ok(out) => {
                *left = left.saturating_sub(out.execute);
                Ok(RunRows::new(out.outputs, None, signature)
                    .and_then(|rows| assemble(&[(&rows, 0, 0)], &wanted, signature))
                    .map_err(|e| e.message().to_owned()))
            }
            Err(RunError::Model(m)) => Ok(Err(m)),
            Err(RunError::GivenUp) => Err(Stopped::TooSlow),
            Err(RunError::HostDied(_) | RunError::Timeout { .. }) => Err(Stopped::HostEnded),
        }
    }

    fn keep(&self, record: &mut ProfileRecord) {
        record.bucket_us = self.model.bucket_us();
        if let Err(e) = self.profiles.write(record) {
            let model = self.model;
            tracing::error!(model = %model.id, version = %model.version, "the profile record was not kept: {e}");
        }
    }
}
