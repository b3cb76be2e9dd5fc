//! Proves answers: takes orders before a run, and signs what came out of it.
//!
//! An order is checked against the model and the size of its claims before the request is queued,
//! so that nothing runs in vain. Inputs are hashed while the request waits. Outputs are the node's
//! own bytes, hashed and then sent, never written in between. All proven answers of one run are
//! signed together: each by itself where they are few, else by one signature over their tree.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use grey_attest::{Random, Session, Sessions, TenantTagKey};
use grey_core::{
    AnswerProof, Error, ErrorKind, InferRequest, ModelId, ProofRequest, Result, Signature, Tenant, Version,
};
use grey_engine::EngineInfo;
use grey_proof::{
    CLAIMS_BYTES_MAX, Claims, Class, Exec, Leaf, Measurement, ModelHash, ModelHashScheme, Outcome, Segment,
    SignedBatchRoot, TaskId, TensorScheme, Tree, sign_single,
};
use grey_registry::{HashScheme, Manifest, Sha256Hash};
use parking_lot::RwLock;

use crate::{
    batcher, clock,
    determinism::ModelDeterminism,
    hashing::{bytes_of, hash, is_small},
    metrics::ProofMetrics,
    order::{Answer, Company, Inputs, Order, Unproven},
};

/// From so many proven answers of one run on, one signature over their tree costs less than one
/// each (`make bench` measures it).
const BATCH_FORM_MIN: usize = 2;

/// Claims beside their texts and segments, in bytes, rounded up: nine hashes, the nonce, ids, keys.
const CLAIMS_FIXED_BYTES_MAX: usize = 1024;
/// A segment: three integers and a head.
const SEGMENT_BYTES_MAX: usize = 1 + 3 * HEAD_BYTES_MAX;
/// Most tenants whose tags are kept.
const TAGS_MAX: usize = 1024;
/// Longest head of a CBOR item.
const HEAD_BYTES_MAX: usize = 9;

/// The node's part in proofs.
pub(crate) struct Prover {
    sessions: Sessions,
    issuer: String,
    tag_key: TenantTagKey,
    /// Tags made lately: each is two passes of SHA-256.
    tags: RwLock<HashMap<Tenant, [u8; 16]>>,
    random: Arc<dyn Random>,
    metrics: ProofMetrics,
}

/// What the proofs of one loaded version state of it, whatever the request.
pub(crate) struct Subject {
    pub(crate) id: ModelId,
    pub(crate) version: Version,
    pub(crate) model_hash: ModelHash,
    /// ISA class, or GPU.
    pub(crate) device: String,
    pub(crate) threads: u32,
    /// The runtime on which the determinism was found out.
    pub(crate) engine: Arc<EngineInfo>,
}

impl Subject {
    pub(crate) fn model_hash(manifest: &Manifest) -> ModelHash {
        let scheme = match manifest.model_hash.scheme {
            HashScheme::File => ModelHashScheme::File,
            HashScheme::Files => ModelHashScheme::Files,
        };
        ModelHash { scheme, hash: manifest.model_hash.sha256.0 }
    }
}

/// What decides how a request's rows are cut.
pub(crate) struct Cut {
    pub(crate) rows: u32,
    pub(crate) batcher: batcher::BatcherConfig,
}

impl Prover {
    pub(crate) fn new(
        sessions: Sessions,
        issuer: String,
        tag_key: TenantTagKey,
        random: Arc<dyn Random>,
        metrics: ProofMetrics,
    ) -> Prover {
        Prover { sessions, issuer, tag_key, tags: RwLock::default(), random, metrics }
    }

    fn tag(&self, tenant: &Tenant) -> [u8; 16] {
        if let Some(tag) = self.tags.read().get(tenant) {
            return *tag;
        }
        let tag = self.tag_key.tag(tenant.as_str());
        let mut tags = self.tags.write();
        if tags.len() == TAGS_MAX {
            tags.clear();
        }
        tags.insert(tenant.clone(), tag);
        tag
    }

    /// The node's sessions.
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Takes an order for `request`, whose inputs have been checked against the `signature`, and says
    /// who may share its runs.
    ///
    /// # Errors
    /// The model's answers cannot be proven, or the claims would be too large.
    pub(crate) fn order(
        &self,
        asked: &ProofRequest,
        request: &InferRequest,
        signature: &Signature,
        subject: &Subject,
        determinism: &Arc<ModelDeterminism>,
        cut: &Cut,
    ) -> Result<(Order, Company)> {
        let class = *determinism.class.as_ref().map_err(|why| {
            Error::new(
                ErrorKind::FailedPrecondition,
                format!("model '{}' version '{}' cannot be proven: {why}", subject.id, subject.version),
            )
        })?;
        let order = Order {
            nonce: asked.nonce.clone(),
            tenant_tag: self.tag(&request.tenant),
            inputs: Arc::new(Inputs::new(request.inputs.clone(), asked.salt)),
            determinism: determinism.clone(),
            batcher: cut.batcher,
        };
        let most = cut.batcher.max_batch_size.max(1);
        // A request larger than any batch is cut; beside nobody, the number of pieces is known. What
        // is not batched now stays whole if batching begins before it runs.
        let (company, pieces) = match () {
            () if determinism.alone || !cut.batcher.enabled => (Company::NobodyWhole, 1),
            () if cut.rows <= most => (Company::Any, 1),
            () => (Company::Nobody, cut.rows.div_ceil(most)),
        };
        let most = cut.batcher.bucket(most).max(most);
        let (bucket, rows) = if pieces == 1 { (cut.rows.max(most), cut.rows) } else { (most, most) };
        let largest = batcher::Segment { run: 0, bucket, position: bucket - rows, rows };
        let all = signature.outputs.iter().map(|s| &s.name);
        let names = || all.clone().filter(|_| request.outputs.is_empty()).chain(&request.outputs);
        let engine = &subject.engine;
        let texts = [&self.issuer, &engine.engine, &engine.version, &subject.device, &determinism.precision];
        let texts = texts.into_iter().chain(&determinism.switches).chain(names()).map(|t| t.len() + HEAD_BYTES_MAX);
        let ids = subject.id.as_str().len() + subject.version.as_str().len();
        let segments_bytes = (pieces as usize).saturating_mul(SEGMENT_BYTES_MAX);
        if CLAIMS_FIXED_BYTES_MAX + ids + texts.sum::<usize>() + segments_bytes <= CLAIMS_BYTES_MAX {
            // It fits whatever the numbers are; only what comes near the limit is measured.
            return Ok((order, company));
        }
        let (segments, names) = (vec![largest; pieces as usize], names().cloned().collect());
        let claims = Draft { issuer: &self.issuer, subject, engine, class, order: &order, segments: &segments }
            .claims(
                Hashes { input: [0; 32], output: [0; 32], names },
                Duration::from_secs(u32::MAX.into()),
                Chance { task: [0; 10], blinding: [0; 16] },
                &Measurement::software([0; 32]),
                [0; 32],
            )?;
        claims.encode().map_err(|e| {
            let fewer = if pieces > 1 {
                format!(": the {} rows would be cut into {pieces} runs; send fewer rows in one request", cut.rows)
            } else {
                String::new()
            };
            Error::invalid(format!(
                "the answer cannot be proven: its claims would not fit into {CLAIMS_BYTES_MAX} bytes ({e}){fewer}"
            ))
        })?;
        Ok((order, company))
    }

    /// Proves the answers of one run and sends them; large ones on the blocking pool.
    pub(crate) fn deliver(self: &Arc<Self>, subject: &Arc<Subject>, answers: Vec<Unproven>) {
        if answers.is_empty() {
            return;
        }
        let bytes: usize = answers.iter().map(|a| bytes_of(&a.answer.outputs) + a.order.inputs.unhashed_bytes()).sum();
        let (prover, subject, now) = (self.clone(), subject.clone(), clock::since_epoch());
        let work = move || prover.prove(&subject, answers, now);
        // Behind the run in either case, so that the host takes the next batch meanwhile.
        if is_small(bytes) {
            tokio::spawn(async move { work() });
        } else {
            tokio::task::spawn_blocking(work);
        }
    }

    /// Proves and sends answers that were complete at `now`, Unix time.
    fn prove(&self, subject: &Subject, answers: Vec<Unproven>, now: Duration) {
        let began = clock::now();
        let session = match self.sessions.current(now.as_secs()) {
            Ok(s) => s,
            Err(e) => {
                tracing::error!("answers cannot be proven: {e}");
                let error = Error::internal("the answer cannot be proven: see the node's log");
                answers.into_iter().for_each(|a| reply(a, Err(error.clone())));
                return;
            }
        };
        // Drawn for all at once: a system call each would cost as much as the claims do.
        let (mut tasks, mut blindings) = (vec![[0; 10]; answers.len()], vec![[0; 16]; answers.len()]);
        let drawn = self.random.fill(tasks.as_flattened_mut());
        if let Err(e) = drawn.and_then(|()| self.random.fill(blindings.as_flattened_mut())).map_err(no_random) {
            answers.into_iter().for_each(|a| reply(a, Err(e.clone())));
            return;
        }
        let mut stated = Vec::with_capacity(answers.len());
        for ((answer, task), blinding) in answers.into_iter().zip(tasks).zip(blindings) {
            let chance = Chance { task, blinding };
            match self.claims(subject, &session, &answer, now, chance) {
                Ok(claims) => stated.push((answer, claims)),
                Err(e) => reply(answer, Err(e)),
            }
        }
        let (signed, made): (Vec<_>, _) = if stated.len() < BATCH_FORM_MIN {
            let alone = |(a, c)| (a, sign_single(&c, session.signing_key()).map_err(malformed));
            (stated.into_iter().map(alone).collect(), &self.metrics.single)
        } else {
            (self.sign_together(stated, &session), &self.metrics.batch)
        };
        made.inc_by(signed.iter().filter(|(_, proof)| proof.is_ok()).count() as u64);
        for (answer, proof) in signed {
            let proof = proof.map(|p| AnswerProof { proof: p.into(), session: *session.digest() });
            reply(answer, proof);
        }
        self.metrics.seconds.observe(clock::now().saturating_duration_since(began).as_secs_f64());
    }

    fn claims(
        &self,
        subject: &Subject,
        session: &Session,
        answer: &Unproven,
        now: Duration,
        chance: Chance,
    ) -> Result<Claims> {
        let (first, rest) = answer.engines.split_first().ok_or_else(|| Error::internal("an answer without a run"))?;
        if rest.iter().any(|e| e.library_sha256 != first.library_sha256) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the runtime was replaced while the request ran, and one proof cannot state two; try again",
            ));
        }
        let mut class = *answer.order.determinism.class.as_ref().map_err(|why| Error::internal(why.clone()))?;
        if first.library_sha256 != subject.engine.library_sha256 {
            // Found out on another build: no more than what holds of any.
            class = class.min(Class::Slot);
        }
        let batcher = &answer.order.batcher;
        let largest = batcher.bucket(batcher.max_batch_size);
        let tested = |bucket| batcher.bucket(bucket) == bucket && bucket <= largest;
        if !answer.segments.iter().all(|s| tested(s.bucket)) {
            // Other batch sizes were configured while it waited: found out for those it was ordered with.
            class = class.min(Class::Slot);
        }
        let outputs = &answer.answer.outputs;
        let hashes = Hashes {
            input: answer.order.inputs.hash()?,
            output: hash(outputs, answer.order.inputs.salt())?,
            names: outputs.iter().map(|t| t.name().to_owned()).collect(),
        };
        let draft = Draft {
            issuer: &self.issuer,
            subject,
            engine: first,
            class,
            order: &answer.order,
            segments: &answer.segments,
        };
        draft.claims(hashes, now, chance, session.measurement(), *session.digest())
    }

    /// One signature over the tree of all claims, filled up by random leaves and shuffled (§3).
    fn sign_together(&self, stated: Vec<(Unproven, Claims)>, session: &Session) -> Vec<(Unproven, Result<Vec<u8>>)> {
        let mut encoded = Vec::with_capacity(stated.len());
        let mut out = Vec::with_capacity(stated.len());
        for (answer, claims) in stated {
            match claims.leaf() {
                Ok(leaf) => encoded.push((answer, leaf)),
                Err(e) => out.push((answer, Err(malformed(e)))),
            }
        }
        match self.plant(&encoded, session) {
            Ok((root, places)) => {
                out.extend(encoded.into_iter().zip(places).map(|((answer, leaf), at)| {
                    let proof = root.proof(&leaf, at).map_err(malformed);
                    (answer, proof)
                }));
            }
            Err(e) => out.extend(encoded.into_iter().map(|(answer, _)| (answer, Err(e.clone())))),
        }
        out
    }

    /// The signed tree, and the place of each leaf in it.
    fn plant(&self, encoded: &[(Unproven, Leaf)], session: &Session) -> Result<(SignedBatchRoot, Vec<u64>)> {
        let size = encoded.len().next_power_of_two();
        let mut leaves = vec![[0; 32]; size];
        if let Some(fillers) = leaves.get_mut(encoded.len()..) {
            self.random.fill(fillers.as_flattened_mut()).map_err(no_random)?;
        }
        for (leaf, (_, stated)) in leaves.iter_mut().zip(encoded) {
            *leaf = *stated.hash();
        }
        let mut order: Vec<usize> = (0..size).collect();
        shuffle(&mut order, &*self.random).map_err(no_random)?;
        // `order[i]` is the place of leaf `i`.
        let mut shuffled = vec![[0; 32]; size];
        for (leaf, place) in leaves.iter().zip(&order) {
            if let Some(at) = shuffled.get_mut(*place) {
                *at = *leaf;
            }
        }
        let tree = Tree::new(shuffled).ok_or_else(|| Error::internal("a batch with too many answers"))?;
        let root = SignedBatchRoot::sign(tree, *session.digest(), session.signing_key());
        Ok((root, order.iter().take(encoded.len()).map(|p| *p as u64).collect()))
    }
}

/// Claims that need only hashes, time and chance.
struct Draft<'a> {
    issuer: &'a str,
    subject: &'a Subject,
    engine: &'a EngineInfo,
    class: Class,
    order: &'a Order,
    segments: &'a [batcher::Segment],
}

struct Hashes {
    input: [u8; 32],
    output: [u8; 32],
    /// In any order.
    names: Vec<String>,
}

/// What is drawn for one proof.
struct Chance {
    task: [u8; 10],
    blinding: [u8; 16],
}

impl Draft<'_> {
    fn claims(
        &self,
        hashes: Hashes,
        now: Duration,
        chance: Chance,
        measurement: &Measurement,
        session_digest: [u8; 32],
    ) -> Result<Claims> {
        let Hashes { input, output, mut names } = hashes;
        names.sort_unstable();
        let determinism = &self.order.determinism;
        let library: Sha256Hash = self.engine.library_sha256.parse()?;
        let ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let task = uuid::Builder::from_unix_timestamp_millis(ms, &chance.task).into_uuid();
        Ok(Claims {
            issuer: self.issuer.to_owned(),
            issued_at: now.as_secs(),
            task_id: TaskId::new(task.into_bytes()).map_err(malformed)?,
            nonce: self.order.nonce.clone(),
            tenant_tag: self.order.tenant_tag,
            model_id: self.subject.id.to_string(),
            model_version: self.subject.version.to_string(),
            model_hash: Some(self.subject.model_hash),
            outcome: Outcome::Ok { input_hash: input, output_hash: output, output_names: names },
            tensor_scheme: match self.order.inputs.salt() {
                None => TensorScheme::Plain,
                Some(_) => TensorScheme::Salted,
            },
            exec: Some(Exec {
                class: self.class,
                engine: self.engine.engine.clone(),
                engine_version: self.engine.version.clone(),
                engine_sha256: library.0,
                device: self.subject.device.clone(),
                threads: u64::from(self.subject.threads),
                segments: self
                    .segments
                    .iter()
                    .map(|s| Segment {
                        bucket: u64::from(s.bucket),
                        position: u64::from(s.position),
                        rows: u64::from(s.rows),
                    })
                    .collect(),
                lengths: Vec::new(),
                precision: determinism.precision.clone(),
                sampling: BTreeMap::new(),
                executor: None,
                filler: determinism.filler,
                switches: determinism.switches.clone(),
            }),
            measurement: measurement.clone(),
            session_digest,
            blinding: chance.blinding,
            children: Vec::new(),
            sealed: None,
            parameters: BTreeMap::new(),
        })
    }
}

fn no_random(e: std::io::Error) -> Error {
    Error::internal(format!("no random numbers: {e}"))
}

fn malformed(e: grey_proof::FormatError) -> Error {
    Error::internal(format!("the proof is malformed: {e}"))
}

fn reply(unproven: Unproven, proof: Result<AnswerProof>) {
    let Unproven { reply, answer, .. } = unproven;
    // The receiver is gone when the caller went away; then nobody waits.
    drop(reply.send(proof.map(|p| Answer { proof: Some(p), ..answer })));
}

/// Fisher–Yates, with 64 random bits per step: no order is likelier than another by more than 2^-50.
fn shuffle(items: &mut [usize], random: &dyn Random) -> std::io::Result<()> {
    let mut draws = vec![0; items.len() * 8];
    random.fill(&mut draws)?;
    for (i, draw) in draws.as_chunks::<8>().0.iter().enumerate().skip(1) {
        let j = u64::from_le_bytes(*draw) % (i as u64 + 1);
        items.swap(i, j as usize);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use grey_attest::{NodeKey, Settings, SoftwareAttester};
    use grey_core::{DType, Dim, ModelRef, Tenant, Tensor, TensorSpec, VersionChoice};
    use grey_proof::{Bundle, Filler, Known, Policy, Proof, SessionBundle, SoftwareKeys, verify};
    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        batcher::{BatcherConfig, Buckets, Hold},
        metrics::Metrics,
        random::SplitMix64,
        stats::RunTimes,
    };

    /// Any first moment will do.
    const START: u64 = 1_800_000_000;

    struct Seeded(Mutex<SplitMix64>);

    impl Random for Seeded {
        fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
            let mut random = self.0.lock();
            bytes.fill_with(|| (random.next() >> 32) as u8);
            Ok(())
        }
    }

    struct Bench {
        prover: Prover,
        key: [u8; 32],
        subject: Subject,
        signature: Signature,
        determinism: Arc<ModelDeterminism>,
        _folder: tempfile::TempDir,
    }

    fn spec(name: &str) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: DType::Uint8, shape: vec![Dim::Any, Dim::Fixed(2)] }
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let random: Arc<dyn Random> = Arc::new(Seeded(Mutex::new(SplitMix64::new(1))));
        let attester = SoftwareAttester::new(NodeKey::open(folder.path(), &*random).unwrap(), [7; 32]);
        let key = attester.node_key();
        let settings = Settings { lifetime_s: 100, overlap_s: 10, ..Settings::default() };
        let sessions = Sessions::open(folder.path(), Arc::new(attester), random.clone(), settings, START).unwrap();
        let tag_key = TenantTagKey::from_bytes([3; 32]);
        let info = EngineInfo {
            engine: "onnxruntime".into(),
            version: "1.32.0".into(),
            library: "/lib".into(),
            library_sha256: "ab".repeat(32),
            devices: vec![],
            utf8_strings: true,
        };
        Bench {
            prover: Prover::new(sessions, "grey".into(), tag_key, random, Metrics::new().proofs()),
            key,
            subject: Subject {
                id: ModelId::new("m").unwrap(),
                version: Version::new("1").unwrap(),
                model_hash: ModelHash { scheme: ModelHashScheme::File, hash: [9; 32] },
                device: "amd/x86-64-v4".into(),
                threads: 1,
                engine: Arc::new(info),
            },
            signature: Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] },
            determinism: Arc::new(ModelDeterminism {
                class: Ok(Class::Invariant),
                reason: String::new(),
                alone: false,
                filler: Filler::Zero,
                precision: "uint8".into(),
                switches: vec![],
                self_test: crate::determinism::SelfTested::NotYet,
            }),
            _folder: folder,
        }
    }

    fn tensor(name: &str, rows: u64, fill: u8) -> Tensor {
        Tensor::new(name, DType::Uint8, vec![rows, 2], vec![fill; rows as usize * 2]).unwrap()
    }

    fn batcher() -> BatcherConfig {
        BatcherConfig {
            enabled: true,
            max_batch_size: 32,
            hold: Hold::None,
            buckets: Buckets::PowersOfTwo,
            queue_rows_max: 100_000,
        }
    }

    fn request(rows: u64) -> InferRequest {
        InferRequest {
            id: String::new(),
            model: ModelRef { id: ModelId::new("m").unwrap(), version: VersionChoice::Latest },
            inputs: vec![tensor("x", rows, 1)],
            outputs: vec![],
            parameters: BTreeMap::new(),
            tenant: Tenant::default(),
            deadline: None,
            proof: Some(ProofRequest::default()),
        }
    }

    impl Bench {
        fn order(&self, rows: u32, determinism: &Arc<ModelDeterminism>) -> Result<(Order, Company)> {
            let (request, asked, cut) =
                (request(rows.into()), ProofRequest::default(), Cut { rows, batcher: batcher() });
            self.prover.order(&asked, &request, &self.signature, &self.subject, determinism, &cut)
        }

        fn answer(&self, position: u32) -> (Unproven, oneshot::Receiver<Result<Answer>>) {
            let (order, company) = self.order(1, &self.determinism).unwrap();
            assert_eq!(company, Company::Any);
            let (reply, receiver) = oneshot::channel();
            let outputs = vec![tensor("y", 1, position as u8)];
            let times = RunTimes { copy_in: Duration::ZERO, execute: Duration::ZERO, copy_out: Duration::ZERO };
            let answer = Answer { outputs, queue_time: Duration::ZERO, times, proof: None };
            let segments = vec![batcher::Segment { run: 1, bucket: 16, position, rows: 1 }];
            let engines = vec![self.subject.engine.clone()];
            (Unproven { reply, answer, order, segments, engines }, receiver)
        }

        fn prove(&self, count: u32, now: u64) -> Vec<AnswerProof> {
            let (answers, receivers): (Vec<_>, Vec<_>) = (0..count).map(|i| self.answer(i)).unzip();
            self.prover.prove(&self.subject, answers, Duration::from_secs(now));
            let mut proofs = receivers.into_iter().map(|mut r| r.try_recv().unwrap().unwrap().proof.unwrap());
            proofs.by_ref().collect()
        }

        fn verdict(&self, proof: &AnswerProof, now: u64) -> grey_proof::Verdict {
            let session = self.prover.sessions().bundle(&proof.session, now).unwrap().unwrap();
            let (session, _) = SessionBundle::parse(&session).unwrap();
            let bundle = Bundle { proof: proof.proof.to_vec(), session }.encode().unwrap();
            let keys = SoftwareKeys::These(vec![self.key]);
            verify(&bundle, &Policy::software(keys), now, &Known::default())
        }
    }

    #[test]
    fn answers_of_one_run_are_signed_alone_or_together() {
        let bench = bench();
        for count in [1, 2, 3, 4, 7, 16] {
            let proofs = bench.prove(count, START + 5);
            for (i, p) in proofs.iter().enumerate() {
                let verdict = bench.verdict(p, START + 6);
                assert!(verdict.is_valid(), "{count} answers: {verdict}");
                let proof = Proof::parse(&p.proof).unwrap();
                let size = proof.batch_root().map(|r| r.size);
                assert_eq!(size, (count as usize >= BATCH_FORM_MIN).then_some(u64::from(count).next_power_of_two()));
                let exec = proof.claims().exec.as_ref().unwrap();
                assert_eq!(exec.segments[0].position, i as u64, "each has its own claims");
            }
        }
    }

    #[test]
    fn leaves_are_shuffled() {
        let bench = bench();
        let stated = |p: &AnswerProof| format!("{:?}", Proof::parse(&p.proof).unwrap());
        let index = |p: &AnswerProof| {
            let text = stated(p);
            let at = text.find("leaf_index: ").unwrap() + "leaf_index: ".len();
            text[at..].chars().take_while(char::is_ascii_digit).collect::<String>()
        };
        let orders: std::collections::HashSet<Vec<String>> =
            (0..20).map(|_| bench.prove(8, START).iter().map(index).collect()).collect();
        assert!(orders.len() > 15, "{orders:?}");
    }

    /// What was queued under one session is signed by the one that covers the end of its run.
    #[test]
    fn a_session_that_expires_meanwhile_signs_nothing() {
        let bench = bench();
        let first = bench.prove(1, START).remove(0);
        let (waiting, mut receiver) = bench.answer(0);
        let later = START + 101;
        bench.prover.prove(&bench.subject, vec![waiting], Duration::from_secs(later));
        let second = receiver.try_recv().unwrap().unwrap().proof.unwrap();
        assert_ne!(first.session, second.session);
        assert!(bench.verdict(&second, later).is_valid());
        assert!(bench.verdict(&first, later).is_valid(), "what the first signed in its time stays valid");
    }

    #[test]
    fn a_clock_that_jumps_gets_a_session_of_its_time() {
        let bench = bench();
        let mut sessions = std::collections::HashSet::new();
        for now in [START, START - 50_000, START + 1_000_000, START + 1] {
            for p in bench.prove(3, now) {
                assert!(bench.verdict(&p, now).is_valid(), "{}", bench.verdict(&p, now));
                sessions.insert(p.session);
            }
        }
        assert!(sessions.len() >= 3);
    }

    #[test]
    fn what_cannot_be_proven_is_refused_before_it_runs() {
        let bench = bench();
        let refused = ModelDeterminism { class: Err("operator Bernoulli".into()), ..(*bench.determinism).clone() };
        let e = bench.order(1, &Arc::new(refused)).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(e.message(), "model 'm' version '1' cannot be proven: operator Bernoulli");
        let alone = Arc::new(ModelDeterminism { alone: true, ..(*bench.determinism).clone() });
        assert_eq!(bench.order(90_000, &alone).unwrap().1, Company::NobodyWhole);
        assert_eq!(bench.order(33, &bench.determinism).unwrap().1, Company::Nobody);
        let unbatched = |rows: u32| {
            let (request, asked) = (request(rows.into()), ProofRequest::default());
            let batcher = BatcherConfig { enabled: false, ..batcher() };
            let (signature, subject) = (&bench.signature, &bench.subject);
            bench.prover.order(&asked, &request, signature, subject, &bench.determinism, &Cut { rows, batcher })
        };
        for rows in [1, 33, 90_000] {
            assert_eq!(unbatched(rows).unwrap().1, Company::NobodyWhole, "whole, whatever the probe finds meanwhile");
        }
        let e = bench.order(90_000, &bench.determinism).err().unwrap();
        assert!(e.message().contains("the 90000 rows would be cut into 2813 runs"), "{e}");
    }

    #[test]
    fn another_build_of_the_runtime_lowers_the_class() {
        let bench = bench();
        let (mut answer, mut receiver) = bench.answer(0);
        let other = EngineInfo { library_sha256: "cd".repeat(32), ..(*bench.subject.engine).clone() };
        answer.engines = vec![Arc::new(other)];
        bench.prover.prove(&bench.subject, vec![answer], Duration::from_secs(START));
        let proof = receiver.try_recv().unwrap().unwrap().proof.unwrap();
        let claims = Proof::parse(&proof.proof).unwrap().claims().clone();
        let exec = claims.exec.unwrap();
        assert_eq!((exec.class, exec.engine_sha256), (Class::Slot, [0xcd; 32]));
    }
}
