//! Runs a proven request again, as its proof says that it ran, and compares the bytes: the model of
//! that hash in a host of its own, with the recorded threads, each segment in its bucket at its
//! position, and the recorded filler in all other rows (proof format, § Determinism classes).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use grey_core::{Error, ErrorKind, Payload, Result, Signature, Tensor};
use grey_engine::{BatchInput, RunError};
use grey_proof::{Claims, Class, Exec, Filler, ModelHash, Outcome, Segment, TensorScheme};
use grey_registry::{Catalog, Manifest};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use crate::{
    assemble::{RunRows, assemble},
    budget::BytesBudget,
    hashing::hash_off,
    opener::{Opened, Opener},
    permits::PermitPool,
    proving::Subject,
};

/// A replay's host ends when nothing was replayed for this long: many proofs of one model are
/// replayed one after the other, and starting a host costs more than a run.
const HOST_IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest time for a whole replay, from its turn on: opening the model, and all runs.
const REPLAY_TIME_MAX: Duration = Duration::from_secs(120);
/// Longest single run of a replay, after which its host is ended.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);
/// Replays that may wait for their turn; each holds its request.
const WAITING_MAX: usize = 16;
/// When a caller who found too many waiting may come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Most rows of filler in all runs of a replay: more than the largest configured bucket has.
const PADDING_ROWS_MAX: u64 = 1 << 17;
/// Most threads that a proof may ask for: as many as large machines have cores.
const THREADS_MAX: u64 = 256;

/// What is to be replayed.
#[derive(Clone, Debug)]
pub struct ReplayRequest {
    /// What the proof states. Whether it is genuine is the verifier's question, not this one.
    pub claims: Claims,
    /// The request's inputs, as they were sent.
    pub inputs: Vec<Tensor>,
    /// The client's salt, for a salted proof.
    pub salt: Option<[u8; 32]>,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replayed {
    /// The same bytes.
    Reproduced,
    /// Other bytes, though nothing of the profile differs.
    Differs,
    /// Other bytes, on a machine or build that cannot match the profile.
    ProfileDiffers,
}

/// A part of the profile that is different here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProfileDifference {
    /// Which, by its name in the JSON view's `exec`.
    pub member: &'static str,
    /// What the proof states.
    pub recorded: String,
    /// What this machine has.
    pub here: String,
}

/// Answer to [`crate::Node::replay`].
#[derive(Clone, Debug)]
pub struct Replay {
    /// How it ended.
    pub replayed: Replayed,
    /// The registered version whose files have the proof's model hash, as `id` and `version`.
    pub model: (String, String),
    /// The determinism class that the proof states.
    pub class: &'static str,
    /// The proof's output hash.
    pub recorded_output_hash: [u8; 32],
    /// That of the outputs below.
    pub replayed_output_hash: [u8; 32],
    /// Where this machine cannot match the profile.
    pub differences: Vec<ProfileDifference>,
    /// What came out, by name.
    pub outputs: Vec<Tensor>,
}

/// A proof whose run can be repeated.
struct Repeatable<'a> {
    model_hash: ModelHash,
    output_hash: [u8; 32],
    output_names: &'a [String],
    exec: &'a Exec,
    threads: u32,
}

/// Replays, one at a time, on a host that is kept for a while.
pub(crate) struct Replayer {
    host: tokio::sync::Mutex<Option<Kept>>,
    /// Set once no replay may go on.
    closing: watch::Sender<bool>,
    turns: Semaphore,
    /// Counts replays, so that a timer knows whether its own was the last.
    replays: AtomicU64,
    permit_key: u64,
}

struct Kept {
    model_hash: ModelHash,
    /// Whether it was opened with the switches that proofs need.
    switches: bool,
    opened: Opened,
    /// Number of the last replay that it ran.
    last: u64,
}

impl Repeatable<'_> {
    fn switches(&self) -> bool {
        !self.exec.switches.is_empty()
    }
}

impl Kept {
    /// Whether it can run what this proof states.
    fn fits(&self, proof: &Repeatable<'_>) -> bool {
        self.model_hash == proof.model_hash
            && self.switches == proof.switches()
            && self.opened.threads == proof.threads
            && self.opened.lives()
    }
}

fn shutting_down() -> Error {
    Error::new(ErrorKind::Unavailable, "the node is shutting down")
}

impl Replayer {
    pub(crate) fn new(permit_key: u64) -> Arc<Replayer> {
        Arc::new(Replayer {
            host: tokio::sync::Mutex::default(),
            closing: watch::Sender::new(false),
            turns: Semaphore::new(WAITING_MAX),
            replays: AtomicU64::new(0),
            permit_key,
        })
    }

    /// See [`crate::Node::replay`].
    pub(crate) async fn replay(
        self: &Arc<Self>,
        request: &ReplayRequest,
        bytes_max: u64,
        device: &str,
        (catalog, opener, permits, budget): (&Catalog, &Opener, &PermitPool, &BytesBudget),
    ) -> Result<Replay> {
        let _turn = self.turns.try_acquire().map_err(|_| {
            Error::new(ErrorKind::Overloaded, format!("{WAITING_MAX} replays wait already"))
                .with_retry_after(RETRY_AFTER)
        })?;
        let proof = repeatable(&request.claims)?;
        check_inputs(request).await?;
        let copies = find(catalog, &request.claims, &proof.model_hash).await?;
        // The same files, so the same signature.
        let manifest = copies.first().ok_or_else(|| Error::internal("a replay without a model"))?;
        manifest.signature.check_inputs(manifest.id.as_str(), &request.inputs)?;
        manifest.signature.check_outputs(manifest.id.as_str(), proof.output_names)?;
        let layout = Layout::new(manifest, &request.inputs, proof.exec)?;
        let bytes = layout.largest_run(bytes_max)?;

        let mut closing = self.closing.subscribe();
        let mut place = tokio::select! {
            biased;
            // The sender lives in this replayer.
            _ = closing.wait_for(|closing| *closing) => return Err(shutting_down()),
            place = self.host.lock() => place,
        };
        let _held = budget.take(bytes)?;
        let number = self.replays.fetch_add(1, Ordering::Relaxed);
        // Dropped, it takes its host with it.
        let running = self.run(&mut place, &proof, (&copies, &manifest.signature), &layout, (opener, permits));
        let ran = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => Err(shutting_down()),
            ran = tokio::time::timeout(REPLAY_TIME_MAX, running) => ran.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::DeadlineExceeded, format!("the replay took longer than {REPLAY_TIME_MAX:?}")))
            }),
        };
        let (mut kept, outputs) = ran?;
        let differences = differences(proof.exec, &kept.opened, device);
        kept.last = number;
        *place = Some(kept);
        drop(place);
        let this = self.clone();
        tokio::spawn(async move { this.end_if_idle(number).await });

        let replayed_output_hash = hash_off(&outputs, request.salt).await?;
        let replayed = match (replayed_output_hash == proof.output_hash, differences.is_empty()) {
            (true, _) => Replayed::Reproduced,
            (false, true) => Replayed::Differs,
            (false, false) => Replayed::ProfileDiffers,
        };
        Ok(Replay {
            replayed,
            model: (manifest.id.to_string(), manifest.version.to_string()),
            class: proof.exec.class.name(),
            recorded_output_hash: proof.output_hash,
            replayed_output_hash,
            differences,
            outputs,
        })
    }

    /// Runs on the host in `place`, if it is one for this proof, else on a new one. The host is taken
    /// out meanwhile: whatever goes wrong, or if the caller goes away, it ends.
    async fn run(
        &self,
        place: &mut Option<Kept>,
        proof: &Repeatable<'_>,
        (copies, signature): (&[Arc<Manifest>], &Signature),
        layout: &Layout<'_>,
        (opener, permits): (&Opener, &PermitPool),
    ) -> Result<(Kept, Vec<Tensor>)> {
        let kept = match place.take() {
            Some(k) if k.fits(proof) => k,
            other => {
                if let Some(old) = other {
                    old.opened.host.unload().await;
                }
                let opened = open(opener, copies, proof.threads, proof.switches()).await?;
                Kept { model_hash: proof.model_hash, switches: proof.switches(), opened, last: 0 }
            }
        };
        let outputs = {
            let _permit = permits.acquire(self.permit_key, proof.threads).await;
            run(&kept.opened, signature, layout, proof.output_names).await
        };
        match outputs {
            Ok(outputs) => Ok((kept, outputs)),
            Err(e) => {
                kept.opened.host.unload().await;
                Err(e)
            }
        }
    }

    /// Fails the replays that run or wait, and all that come.
    pub(crate) fn kill(&self) {
        self.closing.send_replace(true);
    }

    async fn end_if_idle(&self, number: u64) {
        tokio::time::sleep(HOST_IDLE_MAX).await;
        let mut place = self.host.lock().await;
        if place.as_ref().is_some_and(|k| k.last == number) {
            self.end(&mut place).await;
        }
    }

    /// Ends the host, if there is one.
    pub(crate) async fn close(&self) {
        self.end(&mut *self.host.lock().await).await;
    }

    async fn end(&self, place: &mut Option<Kept>) {
        if let Some(k) = place.take() {
            k.opened.host.unload().await;
        }
    }
}

fn repeatable(claims: &Claims) -> Result<Repeatable<'_>> {
    let cannot = |why: &str| Error::invalid(format!("this proof's run cannot be repeated: {why}"));
    let Outcome::Ok { output_hash, output_names, .. } = &claims.outcome else {
        return Err(cannot(&format!("its outcome is {}, not 0 (ok), and it states no outputs", claims.outcome.code())));
    };
    let model_hash = claims.model_hash.ok_or_else(|| cannot("it states no model hash"))?;
    let exec =
        claims.exec.as_ref().ok_or_else(|| cannot("it states no execution profile (exec), only child proofs"))?;
    if let Some((name, _)) = &exec.executor {
        return Err(cannot(&format!("it ran on the upstream '{}'", name.escape_debug())));
    }
    if exec.class == Class::None {
        return Err(cannot("its determinism class is none"));
    }
    let threads = u32::try_from(exec.threads.clamp(1, THREADS_MAX)).unwrap_or(1);
    if u64::from(threads) != exec.threads {
        return Err(cannot(&format!("it ran on {} threads, expected 1 to {THREADS_MAX}", exec.threads)));
    }
    if !exec.lengths.is_empty() || !exec.sampling.is_empty() || !claims.parameters.is_empty() {
        return Err(cannot("it states text lengths, sampling or parameters, which no model of this version has"));
    }
    Ok(Repeatable { model_hash, output_hash: *output_hash, output_names, exec, threads })
}

/// The inputs must be those of the proof, or the outputs would say nothing.
async fn check_inputs(request: &ReplayRequest) -> Result<()> {
    match (request.claims.tensor_scheme, &request.salt) {
        (TensorScheme::Salted, None) => {
            return Err(Error::invalid(
                "the proof's hashes are salted: give the salt (grey_salt) that the request had",
            ));
        }
        (TensorScheme::Plain, Some(_)) => return Err(Error::invalid("a salt was given, but the proof has none")),
        (TensorScheme::Salted, Some(_)) | (TensorScheme::Plain, None) => {}
    }
    let found = hash_off(&request.inputs, request.salt).await?;
    match request.claims.outcome.input_hash() {
        Some(expected) if *expected == found => Ok(()),
        expected => Err(Error::invalid(format!(
            "these are not the inputs of the proof: expected input_hash {}, found {}",
            expected.map_or_else(|| "none".into(), |h| base16ct::lower::encode_string(h)),
            base16ct::lower::encode_string(&found)
        ))),
    }
}

/// The registered versions with these files; that of the proof's name first, if it is among them.
async fn find(catalog: &Catalog, claims: &Claims, wanted: &ModelHash) -> Result<Vec<Arc<Manifest>>> {
    let (mut found, mut namesake): (Vec<Arc<Manifest>>, Option<Arc<Manifest>>) = (Vec::new(), None);
    for (id, index) in catalog.list().await {
        for manifest in index.manifests.values() {
            let named = id.as_str() == claims.model_id && manifest.version.as_str() == claims.model_version;
            if Subject::model_hash(manifest) == *wanted {
                let at = if named { 0 } else { found.len() };
                found.insert(at, manifest.clone());
            }
            if named {
                namesake = Some(manifest.clone());
            }
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let here = match namesake {
        Some(m) => format!("here it has the hash {}: the model was replaced", m.model_hash.sha256),
        None => "which is not registered here either".into(),
    };
    Err(Error::not_found(format!(
        "no registered model has the hash {} ({}); the proof names model '{}' version '{}', {here}",
        base16ct::lower::encode_string(&wanted.hash),
        wanted.scheme.name(),
        claims.model_id.escape_debug(),
        claims.model_version.escape_debug()
    )))
}

/// Opens one of these versions, whose files are the same: the first whose copy is intact.
async fn open(opener: &Opener, copies: &[Arc<Manifest>], threads: u32, proofs: bool) -> Result<Opened> {
    let mut first: Option<Error> = None;
    for manifest in copies {
        match opener.open_again(&manifest.id, &manifest.version, threads, proofs).await {
            Ok(opened) => return Ok(opened),
            Err(e) => {
                tracing::warn!(model = %manifest.id, version = %manifest.version, "not opened for a replay: {e}");
                first.get_or_insert(e);
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::internal("a replay without a model")))
}

/// Where the rows of a request stand in its runs.
struct Layout<'a> {
    /// In the signature's order.
    inputs: Vec<&'a Tensor>,
    exec: &'a Exec,
    /// Whether the first axis of all tensors counts rows.
    rowwise: bool,
}

impl<'a> Layout<'a> {
    fn new(manifest: &Manifest, inputs: &'a [Tensor], exec: &'a Exec) -> Result<Layout<'a>> {
        let specs = manifest.signature.inputs.iter();
        let inputs: Vec<&Tensor> = specs.filter_map(|spec| inputs.iter().find(|t| t.name() == spec.name)).collect();
        let rowwise = manifest.signature.batch_candidate().is_ok();
        let rows = if rowwise { inputs.first().and_then(|t| t.rows()).unwrap_or(0) } else { 1 };
        let sum = |of: fn(&Segment) -> u64| exec.segments.iter().try_fold(0u64, |sum, s| sum.checked_add(of(s)));
        let stated = sum(|s| s.rows);
        if stated != Some(rows) || (rowwise && inputs.iter().any(|t| t.rows() != Some(rows))) {
            let stated = stated.map_or_else(|| "too many".into(), |n| n.to_string());
            return Err(Error::invalid(format!("the proof's segments have {stated} rows, the inputs {rows}")));
        }
        if sum(|s| s.bucket - s.rows).is_none_or(|n| n > if rowwise { PADDING_ROWS_MAX } else { 0 }) {
            return Err(Error::invalid(format!(
                "the proof's segments are padded by more than {} rows, which no run of this model is",
                if rowwise { PADDING_ROWS_MAX } else { 0 }
            )));
        }
        Ok(Layout { inputs, exec, rowwise })
    }

    /// Bytes of the inputs of the largest run.
    fn largest_run(&self, bytes_max: u64) -> Result<usize> {
        let of = |s: &Segment| {
            let input = |t: &&Tensor| {
                let own = u64::try_from(t.data().len()).ok()?;
                let padding = if self.rowwise { s.bucket - s.rows } else { 0 };
                padding.checked_mul(self.fill(t).ok()?.len() as u64)?.checked_add(own)
            };
            self.inputs.iter().map(input).try_fold(0u64, |sum, n| sum.checked_add(n?))
        };
        let largest = self.exec.segments.iter().map(of).try_fold(0u64, |most, n| Some(most.max(n?)));
        let fits = largest.filter(|n| *n <= bytes_max).and_then(|n| usize::try_from(n).ok());
        fits.ok_or_else(|| {
            let why = format!("a run of this proof takes more than {bytes_max} bytes (limits.inflight_bytes_max)");
            Error::new(ErrorKind::TooLarge, why)
        })
    }

    /// A row of filler.
    fn fill(&self, t: &Tensor) -> Result<Bytes> {
        match self.exec.filler {
            Filler::OwnFirstRow => Ok(t.slice_rows(0, 1).ok_or_else(lost)?.data().to_contiguous()),
            // Empty strings are zeros, too: a length each.
            Filler::Zero => {
                let element = t.dtype().size().unwrap_or(grey_core::ELEMENT_LENGTH_BYTES);
                Ok(vec![0; t.row_elements() * element].into())
            }
        }
    }

    /// The inputs of one run, whose own rows begin at row `first` of the request.
    fn run(&self, s: &Segment, first: u64) -> Result<Vec<BatchInput>> {
        let input = |(index, t): (usize, &&Tensor)| {
            let mut shape = t.shape().to_vec();
            let mut parts = vec![t.data().clone()];
            if self.rowwise {
                let own = t.slice_rows(first, first + s.rows).ok_or_else(lost)?;
                let fill = self.fill(t)?;
                let pad = |rows: u64| Payload::from(fill.repeat(usize::try_from(rows).unwrap_or(0)));
                parts = vec![pad(s.position), own.data().clone(), pad(s.bucket - s.position - s.rows)];
                if let Some(rows) = shape.first_mut() {
                    *rows = s.bucket;
                }
            }
            Ok(BatchInput { index, dtype: t.dtype(), shape, parts })
        };
        self.inputs.iter().enumerate().map(input).collect()
    }
}

fn lost() -> Error {
    Error::internal("rows of a replay were lost")
}

async fn run(opened: &Opened, signature: &Signature, layout: &Layout<'_>, names: &[String]) -> Result<Vec<Tensor>> {
    let mut wanted: Vec<usize> =
        names.iter().filter_map(|n| signature.outputs.iter().position(|s| s.name == *n)).collect();
    wanted.sort_unstable();
    let mut pieces = Vec::with_capacity(layout.exec.segments.len());
    let mut first = 0;
    for s in &layout.exec.segments {
        // Made when it is its turn: all runs at once would take many times the memory.
        let inputs = layout.run(s, first)?;
        first += s.rows;
        let out = opened.host.run(opened.handle, inputs, wanted.clone(), Some(RUN_TIMEOUT)).await;
        let out = out.map_err(|e| match e {
            RunError::Model(why) => Error::new(ErrorKind::ModelFailed, format!("the replay failed: {why}")),
            other => Error::new(ErrorKind::HostDied, format!("the replay failed: {other}")),
        })?;
        let small = |n: u64| u32::try_from(n).map_err(|_| lost());
        let bucket = if layout.rowwise { Some(small(s.bucket)?) } else { None };
        pieces.push((RunRows::new(out.outputs, bucket, signature)?, small(s.position)?, small(s.rows)?));
    }
    let pieces: Vec<_> = pieces.iter().map(|(rows, position, count)| (rows, *position, *count)).collect();
    assemble(&pieces, &wanted, signature)
}

fn differences(exec: &Exec, opened: &Opened, device: &str) -> Vec<ProfileDifference> {
    let info = &opened.info;
    let compared = [
        ("engine", exec.engine.clone(), info.engine.clone()),
        ("engine_version", exec.engine_version.clone(), info.version.clone()),
        ("engine_sha256", base16ct::lower::encode_string(&exec.engine_sha256), info.library_sha256.clone()),
        ("device", exec.device.clone(), device.to_owned()),
        ("precision", exec.precision.clone(), opened.determinism.precision.clone()),
        ("switches", exec.switches.join(", "), opened.determinism.switches.join(", ")),
        ("threads", exec.threads.to_string(), opened.threads.to_string()),
    ];
    compared
        .into_iter()
        .filter(|(_, recorded, here)| recorded != here)
        .map(|(member, recorded, here)| ProfileDifference { member, recorded, here })
        .collect()
}
