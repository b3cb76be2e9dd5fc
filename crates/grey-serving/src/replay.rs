//! Runs a proven request again, as its proof says that it ran, and compares the bytes: the model of
//! that hash in a host of its own, with the recorded threads, each segment in its bucket at its
//! position, and the recorded filler in all other rows (proof format, § Determinism classes).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use grey_core::{Error, ErrorKind, Payload, Result, Tensor};
use grey_engine::{BatchInput, RunError};
use grey_proof::{Claims, Class, Exec, Filler, ModelHash, Outcome, Segment, TensorScheme, hash_tensors};
use grey_registry::{Catalog, Manifest};
use serde::Serialize;

use crate::{
    assemble::{RunRows, assemble},
    opener::{Opened, Opener},
    permits::PermitPool,
    proving::Subject,
};

/// A replay's host ends when nothing was replayed for this long: many proofs of one model are
/// replayed one after the other, and starting a host costs more than a run.
const HOST_IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest run of a replay.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);
/// Most rows of filler in one run: more than any configured bucket has.
const PADDING_ROWS_MAX: u64 = 1 << 17;
/// Most threads that a proof may ask for.
const THREADS_MAX: u64 = 4096;

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
    permit_key: u64,
}

struct Kept {
    model_hash: ModelHash,
    opened: Opened,
    /// Counts replays, so that a timer knows whether its own was the last.
    uses: u64,
}

impl Replayer {
    pub(crate) fn new(permit_key: u64) -> Arc<Replayer> {
        Arc::new(Replayer { host: tokio::sync::Mutex::default(), permit_key })
    }

    /// See [`crate::Node::replay`].
    pub(crate) async fn replay(
        self: &Arc<Self>,
        request: &ReplayRequest,
        bytes_max: u64,
        device: &str,
        (catalog, opener, permits): (&Catalog, &Opener, &PermitPool),
    ) -> Result<Replay> {
        let proof = repeatable(&request.claims)?;
        check_inputs(request)?;
        let manifest = find(catalog, &request.claims, &proof.model_hash).await?;
        manifest.signature.check_inputs(manifest.id.as_str(), &request.inputs)?;
        manifest.signature.check_outputs(manifest.id.as_str(), proof.output_names)?;
        let runs = lay_out(&manifest, &request.inputs, proof.exec, bytes_max)?;

        let mut place = self.host.lock().await;
        let kept = match place.take() {
            Some(k) if k.model_hash == proof.model_hash && k.opened.threads == proof.threads && k.opened.lives() => k,
            other => {
                if let Some(old) = other {
                    old.opened.host.unload().await;
                }
                let opened = opener
                    .open_again(&manifest.id, &manifest.version, proof.threads, !proof.exec.switches.is_empty())
                    .await?;
                Kept { model_hash: proof.model_hash, opened, uses: 0 }
            }
        };
        let differences = differences(proof.exec, &kept.opened, device);
        let outputs = {
            let _permit = permits.acquire(self.permit_key, proof.threads).await;
            run(&kept.opened, &manifest, runs, proof.output_names).await
        };
        let outputs = match outputs {
            Ok(o) => o,
            Err(e) => {
                kept.opened.host.unload().await;
                return Err(e);
            }
        };
        let uses = kept.uses + 1;
        *place = Some(Kept { uses, ..kept });
        drop(place);
        let this = self.clone();
        tokio::spawn(async move { this.end_if_idle(uses).await });

        let replayed_output_hash = hash(&outputs, request.salt.as_ref())?;
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

    async fn end_if_idle(&self, uses: u64) {
        tokio::time::sleep(HOST_IDLE_MAX).await;
        let mut place = self.host.lock().await;
        if place.as_ref().is_some_and(|k| k.uses == uses) {
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

impl Opened {
    fn lives(&self) -> bool {
        self.host.exited().now_or_never().is_none()
    }
}

fn hash(tensors: &[Tensor], salt: Option<&[u8; 32]>) -> Result<[u8; 32]> {
    hash_tensors(tensors, salt).map_err(|e| Error::invalid(e.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
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
fn check_inputs(request: &ReplayRequest) -> Result<()> {
    match (request.claims.tensor_scheme, &request.salt) {
        (TensorScheme::Salted, None) => {
            return Err(Error::invalid(
                "the proof's hashes are salted: give the salt (grey_salt) that the request had",
            ));
        }
        (TensorScheme::Plain, Some(_)) => return Err(Error::invalid("a salt was given, but the proof has none")),
        (TensorScheme::Salted, Some(_)) | (TensorScheme::Plain, None) => {}
    }
    let found = hash(&request.inputs, request.salt.as_ref())?;
    match request.claims.outcome.input_hash() {
        Some(expected) if *expected == found => Ok(()),
        expected => Err(Error::invalid(format!(
            "these are not the inputs of the proof: expected input_hash {}, found {}",
            expected.map_or_else(|| "none".into(), |h| hex(h)),
            hex(&found)
        ))),
    }
}

/// A registered version with these files; that of the proof's name, if it is among them.
async fn find(catalog: &Catalog, claims: &Claims, wanted: &ModelHash) -> Result<Arc<Manifest>> {
    let (mut found, mut namesake): (Option<Arc<Manifest>>, Option<Arc<Manifest>>) = (None, None);
    for (id, index) in catalog.list().await {
        for manifest in index.manifests.values() {
            let named = id.as_str() == claims.model_id && manifest.version.as_str() == claims.model_version;
            let same = Subject::model_hash(manifest) == *wanted;
            if same && (named || found.is_none()) {
                found = Some(manifest.clone());
            }
            if named {
                namesake = Some(manifest.clone());
            }
        }
    }
    found.ok_or_else(|| {
        let here = match namesake {
            Some(m) => format!("here it has the hash {}: the model was replaced", m.model_hash.sha256),
            None => "which is not registered here either".into(),
        };
        Error::not_found(format!(
            "no registered model has the hash {} ({}); the proof names model '{}' version '{}', {here}",
            hex(&wanted.hash),
            wanted.scheme.name(),
            claims.model_id.escape_debug(),
            claims.model_version.escape_debug()
        ))
    })
}

/// One run of a replay.
struct Run {
    inputs: Vec<BatchInput>,
    /// Where the request's rows stand; `None` where the model has no batch axis.
    rows: Option<(u32, u32, u32)>,
}

fn lay_out(manifest: &Manifest, inputs: &[Tensor], exec: &Exec, bytes_max: u64) -> Result<Vec<Run>> {
    let ordered: Vec<&Tensor> =
        manifest.signature.inputs.iter().filter_map(|spec| inputs.iter().find(|t| t.name() == spec.name)).collect();
    if manifest.signature.batch_candidate().is_err() {
        let whole = |(index, t): (usize, &&Tensor)| BatchInput {
            index,
            dtype: t.dtype(),
            shape: t.shape().to_vec(),
            parts: vec![t.data().clone()],
        };
        return Ok(vec![Run { inputs: ordered.iter().enumerate().map(whole).collect(), rows: None }]);
    }
    let rows = ordered.first().and_then(|t| t.rows()).unwrap_or(0);
    let stated = exec.segments.iter().try_fold(0u64, |sum, s| sum.checked_add(s.rows));
    if stated != Some(rows) || ordered.iter().any(|t| t.rows() != Some(rows)) {
        return Err(Error::invalid(format!(
            "the proof's segments have {} rows, the inputs {rows}",
            stated.map_or_else(|| "too many".into(), |n| n.to_string())
        )));
    }
    let mut first = 0;
    let mut runs = Vec::with_capacity(exec.segments.len());
    for s in &exec.segments {
        let inputs = ordered.iter().enumerate();
        let inputs = inputs.map(|(index, t)| place(index, t, first, s, exec.filler, bytes_max));
        let small = |n: u64| u32::try_from(n).map_err(|_| too_large(s, bytes_max));
        runs.push(Run {
            inputs: inputs.collect::<Result<_>>()?,
            rows: Some((small(s.bucket)?, small(s.position)?, small(s.rows)?)),
        });
        first += s.rows;
    }
    Ok(runs)
}

fn too_large(s: &Segment, bytes_max: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("a bucket of {} rows of these inputs takes more than {bytes_max} bytes (inflight_bytes_max)", s.bucket),
    )
}

/// Rows `first..` of a tensor at their place in a bucket, with the filler before and after.
fn place(index: usize, t: &Tensor, first: u64, s: &Segment, filler: Filler, bytes_max: u64) -> Result<BatchInput> {
    let lost = || Error::internal("rows of a replay were lost");
    let own = t.slice_rows(first, first + s.rows).ok_or_else(lost)?;
    let fill = match filler {
        Filler::OwnFirstRow => t.slice_rows(0, 1).ok_or_else(lost)?.data().to_contiguous(),
        // Empty strings are zeros, too: a length each.
        Filler::Zero => {
            Bytes::from(vec![0; t.row_elements() * t.dtype().size().unwrap_or(grey_core::ELEMENT_LENGTH_BYTES)])
        }
    };
    let (before, after) = (s.position, s.bucket - s.position - s.rows);
    let padding = (before + after).checked_mul(fill.len() as u64).filter(|_| before + after <= PADDING_ROWS_MAX);
    if padding.is_none_or(|n| n.saturating_add(own.data().len() as u64) > bytes_max) {
        return Err(too_large(s, bytes_max));
    }
    let pad = |rows: u64| {
        let mut padding = Payload::default();
        (0..rows).for_each(|_| padding.push(fill.clone()));
        padding
    };
    let parts = vec![pad(before), own.data().clone(), pad(after)];
    let mut shape = t.shape().to_vec();
    if let Some(rows) = shape.first_mut() {
        *rows = s.bucket;
    }
    Ok(BatchInput { index, dtype: t.dtype(), shape, parts })
}

async fn run(opened: &Opened, manifest: &Manifest, runs: Vec<Run>, names: &[String]) -> Result<Vec<Tensor>> {
    let signature = &manifest.signature;
    let mut wanted: Vec<usize> =
        names.iter().filter_map(|n| signature.outputs.iter().position(|s| s.name == *n)).collect();
    wanted.sort_unstable();
    let mut pieces = Vec::with_capacity(runs.len());
    for r in runs {
        let out = opened.host.run(opened.handle, r.inputs, wanted.clone(), Some(RUN_TIMEOUT)).await;
        let out = out.map_err(|e| match e {
            RunError::Model(why) => Error::new(ErrorKind::ModelFailed, format!("the replay failed: {why}")),
            other => Error::new(ErrorKind::HostDied, format!("the replay failed: {other}")),
        })?;
        let bucket = r.rows.map(|(bucket, ..)| bucket);
        pieces.push((RunRows::new(out.outputs, bucket, signature)?, r.rows));
    }
    let pieces: Vec<_> = pieces
        .iter()
        .map(|(rows, place)| place.map_or((rows, 0, 1), |(_, position, count)| (rows, position, count)))
        .collect();
    assemble(&pieces, &wanted, signature)
}

fn differences(exec: &Exec, opened: &Opened, device: &str) -> Vec<ProfileDifference> {
    let info = &opened.info;
    let compared = [
        ("engine", exec.engine.clone(), info.engine.clone()),
        ("engine_version", exec.engine_version.clone(), info.version.clone()),
        ("engine_sha256", hex(&exec.engine_sha256), info.library_sha256.clone()),
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
