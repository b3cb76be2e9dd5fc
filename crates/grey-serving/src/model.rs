//! One loaded version: its queue, its instances (a host and a task each), and their supervision.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use grey_core::{Error, ErrorKind, InferRequest, InferResponse, ModelId, Result, Signature, Tenant, Tensor, Version};
use grey_engine::{
    Determinism, Host, HostExit, ModelHandle, RunError, RunOutputs, contain,
    supervise::{Decision, Life, RestartPolicy},
};
use grey_proof::ModelHash;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    api::{BatchingView, HostView, ProofsView, QueueView},
    batcher::{BatcherConfig, Buckets, Hold, Readiness, RunResult},
    clock,
    config::{BatchingConfig, HoldPolicy, ModelConfig, RUN_TIMEOUT_FACTOR, RUN_TIMEOUT_MIN},
    determinism::{ModelDeterminism, SelfTested, decide},
    hashing::hash_off,
    metrics::ModelMetrics,
    opener::{Opened, Opener, measure_row},
    order::{Answer, Company},
    permits::PermitPool,
    profile::{ProfileKey, RowsVerdict},
    proving::{Cut, Prover, Subject},
    quarantine::{QUARANTINE, Quarantine, Standing},
    queue::{Admission, Queue, expired},
    stats::{RunTimes, Stats},
    work::{self, Culprit, Ran, RunFailed, Unsettled, Work},
};

/// What a caller is told to wait when the host that ran its request died: about one restart.
const RETRY_AFTER_DEATH: Duration = Duration::from_secs(1);

/// Starts in a row that fail for want of the node's own resources before requests are refused.
const WANTS_MAX: u32 = 3;

/// A loaded version.
pub(crate) struct Model {
    pub(crate) id: ModelId,
    pub(crate) version: Version,
    pub(crate) signature: Signature,
    pub(crate) threads: u32,
    /// What is fixed for the life of the load: instances, proofs.
    fixed: ModelConfig,
    /// What an operator may change meanwhile.
    tuned: Mutex<Tuned>,
    /// Its profile record.
    profile: ProfileKey,
    /// Names this model to the run permits.
    permit_key: u64,
    queue: Mutex<Queue>,
    /// Something was submitted, cancelled or configured.
    work: Notify,
    phase: watch::Sender<Phase>,
    /// What each live instance runs on.
    hosts: Mutex<BTreeMap<u32, Live>>,
    /// A host came up, or the breaker opened.
    hosts_changed: Notify,
    /// Whether the engine takes only UTF-8 as elements of `BYTES`.
    utf8_strings: bool,
    /// Set while no host lives and the breaker is open.
    outage: Mutex<Option<Error>>,
    quarantine: Mutex<Quarantine>,
    rows: Mutex<RowsVerdict>,
    determinism: Mutex<Arc<ModelDeterminism>>,
    /// What its operators say about repeating its bytes.
    operators: Determinism,
    slowest_us: AtomicU64,
    bucket_us: Mutex<BTreeMap<u32, u64>>,
    stats: Arc<Mutex<Stats>>,
    metrics: ModelMetrics,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    prover: Arc<Prover>,
    subject: Arc<Subject>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Closed,
}

/// Why an instance stopped serving.
enum Ended {
    Closed,
    Died {
        exit: HostExit,
        /// Whether it ran requests. Their batch is halved, so that the death is pinned on one of
        /// them or on nobody that comes again.
        running: bool,
    },
}

/// A host that lives.
struct Live {
    view: HostView,
    host: Host,
    handle: ModelHandle,
}

/// The part of a model's configuration that a loaded model takes anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuned {
    batching: BatchingConfig,
    run_timeout: Option<Duration>,
    queue_rows_max: u32,
}

impl Tuned {
    fn batcher(&self, independent: bool) -> BatcherConfig {
        batcher_config(&self.batching, self.queue_rows_max, independent)
    }
}

/// What a model is made of.
pub(crate) struct Parts {
    pub(crate) id: ModelId,
    pub(crate) version: Version,
    pub(crate) signature: Signature,
    pub(crate) threads: u32,
    pub(crate) config: ModelConfig,
    pub(crate) queue_rows_max: u32,
    pub(crate) profile: ProfileKey,
    pub(crate) permit_key: u64,
    pub(crate) rows: RowsVerdict,
    pub(crate) determinism: ModelDeterminism,
    pub(crate) stats: Arc<Mutex<Stats>>,
    pub(crate) metrics: ModelMetrics,
    pub(crate) bucket_us: BTreeMap<u32, u64>,
    pub(crate) prover: Arc<Prover>,
    pub(crate) model_hash: ModelHash,
    /// ISA class, or GPU.
    pub(crate) device: String,
}

impl Model {
    /// A model whose first instance runs on `first`; the other instances open hosts of their own.
    pub(crate) fn start(parts: Parts, opener: &Arc<Opener>, permits: &PermitPool, first: Opened) -> Arc<Model> {
        let ModelConfig { batching, run_timeout, .. } = parts.config;
        let tuned = Tuned { batching, run_timeout, queue_rows_max: parts.queue_rows_max };
        let batcher = tuned.batcher(parts.rows.independent);
        let subject = Arc::new(Subject {
            id: parts.id.clone(),
            version: parts.version.clone(),
            model_hash: parts.model_hash,
            device: parts.device,
            threads: parts.threads,
            engine: first.info.clone(),
        });
        let model = Arc::new(Model {
            queue: Mutex::new(Queue::new(&parts.signature, batcher)),
            id: parts.id,
            version: parts.version,
            signature: parts.signature,
            threads: parts.threads,
            fixed: parts.config,
            tuned: Mutex::new(tuned),
            profile: parts.profile,
            permit_key: parts.permit_key,
            work: Notify::new(),
            phase: watch::Sender::new(Phase::Serving),
            hosts: Mutex::default(),
            hosts_changed: Notify::new(),
            utf8_strings: first.host.hello().engine.utf8_strings,
            outage: Mutex::default(),
            quarantine: Mutex::default(),
            rows: Mutex::new(parts.rows),
            determinism: Mutex::new(Arc::new(parts.determinism)),
            operators: first.determinism.clone(),
            slowest_us: AtomicU64::new(parts.bucket_us.values().copied().max().unwrap_or(0)),
            bucket_us: Mutex::new(parts.bucket_us),
            stats: parts.stats,
            metrics: parts.metrics,
            tasks: Mutex::default(),
            prover: parts.prover,
            subject,
        });
        // Ready from the first moment, not from when the instance's task is first scheduled.
        model.host_up(0, &first);
        let mut first = Some(first);
        let tasks = (0..model.fixed.instances.max(1)).map(|index| {
            let (model, opener, permits) = (model.clone(), opener.clone(), permits.clone());
            let opened = first.take();
            tokio::spawn(async move { model.instance(index, &opener, &permits, opened).await })
        });
        *model.tasks.lock() = tasks.collect();
        model
    }

    /// Answers one request. Dropping the future takes the request out of the queue, or drops its answer.
    pub(crate) async fn infer(&self, request: InferRequest) -> Result<InferResponse> {
        let name = self.id.as_str();
        self.signature.check_inputs(name, &request.inputs)?;
        self.signature.check_outputs(name, &request.outputs)?;
        if self.utf8_strings {
            // Here and not in the run, where it would fail the requests beside it.
            request.inputs.iter().try_for_each(Tensor::check_utf8)?;
        }
        if let Some(outage) = self.outage.lock().clone() {
            return Err(outage);
        }
        let standing = self.quarantine.lock().standing(clock::now(), &request.tenant);
        if standing != Standing::Good {
            // Boxed, so that requests of other tenants do not carry its state.
            Box::pin(self.check_quarantine(&request)).await?;
        }
        let ordered = match &request.proof {
            None => None,
            Some(asked) => {
                let (batcher, rows) = {
                    let queue = self.queue.lock();
                    (*queue.config(), queue.rows_of(&request.inputs)?)
                };
                let (determinism, cut) = (self.determinism(), Cut { rows, batcher });
                Some(self.prover.order(asked, &request, &self.signature, &self.subject, &determinism, &cut)?)
            }
        };
        let mut given = request.inputs;
        let mut inputs = Vec::with_capacity(given.len());
        for spec in &self.signature.inputs {
            // `check_inputs` found each exactly once.
            if let Some(at) = given.iter().position(|t| t.name() == spec.name) {
                inputs.push(given.swap_remove(at));
            }
        }
        let returned = if request.outputs.is_empty() {
            (0..self.signature.outputs.len()).collect()
        } else {
            let at = |n: &String| self.signature.outputs.iter().position(|s| s.name == *n);
            request.outputs.iter().filter_map(at).collect()
        };
        let (reply, answer) = oneshot::channel();
        let accepted = clock::now();
        let (proof, mut company) = ordered.map_or((None, Company::Any), |(order, company)| (Some(order), company));
        if standing == Standing::Alone && company == Company::Any {
            company = Company::Nobody;
        }
        let to_hash = proof.as_ref().map(|order| order.inputs.clone());
        let (tenant, deadline) = (request.tenant.clone(), request.deadline);
        let admission = Admission { inputs: inputs.into(), returned, tenant, deadline, company, proof };
        let (ticket, rows) = {
            let mut queue = self.queue.lock();
            let submitted = queue.submit(accepted, admission, reply)?;
            self.metrics.queue_rows.set(i64::from(queue.rows()));
            submitted
        };
        self.work.notify_one();
        if let Some(inputs) = to_hash {
            inputs.hash_ahead();
        }
        let waiting = Waiting { model: self, ticket, rows, tenant: &request.tenant, accepted, counted: false };
        let answer = waiting.wait(answer, request.deadline).await?;
        Ok(InferResponse {
            id: request.id,
            model: self.id.clone(),
            version: self.version.clone(),
            outputs: answer.outputs,
            parameters: grey_core::Parameters::new(),
            proof: answer.proof,
            queue_time: answer.queue_time,
            execute_time: answer.times.execute,
        })
    }

    /// `Err` for inputs that have harmed others lately.
    async fn check_quarantine(&self, request: &InferRequest) -> Result<()> {
        let hash = hash_off(&request.inputs, None).await?;
        match self.quarantine.lock().refusal(clock::now(), &request.tenant, hash) {
            None => Ok(()),
            Some(refusal) => Err(refusal),
        }
    }

    /// Puts the inputs of culprits into quarantine, and then tells them.
    async fn blame(&self, culprits: Vec<Culprit>) {
        for Culprit { reply, tenant, inputs, error, ended_host } in culprits {
            let told = format!("{}; these inputs are not run again for {} s", error.message(), QUARANTINE.as_secs());
            let error = Error::new(error.kind(), told);
            tracing::warn!(model = %self.id, version = %self.version, tenant = tenant.as_str(), "quarantined: {error}");
            match hash_off(&inputs, None).await {
                Ok(hash) => self.quarantine.lock().put(clock::now(), tenant, hash, error.clone(), ended_host),
                Err(e) => tracing::error!("not quarantined: {e}"),
            }
            self.metrics.quarantined.inc();
            // The receiver is gone when the caller went away in this moment; then nobody waits.
            drop(reply.send(Err(error)));
        }
    }

    /// `Ok` while a host lives.
    pub(crate) fn ready(&self) -> Result<()> {
        if let Some(e) = self.outage.lock().clone() {
            return Err(e);
        }
        if self.hosts.lock().is_empty() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("model '{}' version '{}' is being restarted", self.id, self.version),
            )
            .with_retry_after(RETRY_AFTER_DEATH));
        }
        Ok(())
    }

    /// Waits until a host lives, `Err` when the breaker opens.
    pub(crate) async fn settled(&self) -> Result<()> {
        loop {
            let changed = self.hosts_changed.notified();
            if let Some(e) = self.outage.lock().clone() {
                return Err(e);
            }
            if !self.hosts.lock().is_empty() || *self.phase.borrow() == Phase::Closed {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Ends the hosts now: what runs on them fails.
    pub(crate) fn kill(&self) {
        for live in self.hosts.lock().values() {
            live.host.kill();
        }
    }

    /// Fails what waits with `why`, lets runs finish, ends the hosts, and returns when they have.
    pub(crate) async fn close(&self, why: &Error) {
        self.queue.lock().close(why);
        self.phase.send_replace(Phase::Closed);
        self.hosts_changed.notify_waiters();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(e) = task.await {
                tracing::error!(model = %self.id, version = %self.version, "an instance's task failed: {e}");
            }
        }
        self.metrics.queue_rows.set(0);
    }

    /// The probe has ended.
    pub(crate) fn set_rows(&self, verdict: RowsVerdict) {
        // Both held, so that whoever changes the other sees this.
        let (tuned, mut rows) = (self.tuned.lock(), self.rows.lock());
        self.queue.lock().set_config(tuned.batcher(verdict.independent));
        *rows = verdict;
        self.work.notify_one();
    }

    /// Takes what a loaded model can take of `config`. Returns whether its runs have other batch sizes now,
    /// for which a self-test has yet to be made.
    pub(crate) fn configure(&self, config: &ModelConfig, queue_rows_max: u32) -> bool {
        let ModelConfig { batching, run_timeout, .. } = *config;
        let after = Tuned { batching, run_timeout, queue_rows_max };
        let (mut tuned, rows) = (self.tuned.lock(), self.rows.lock());
        let before = std::mem::replace(&mut *tuned, after);
        if before == after {
            return false;
        }
        let (old, new) = (before.batcher(rows.independent), after.batcher(rows.independent));
        let resized = sizes_of(&old) != sizes_of(&new);
        // The probe ends with a self-test, for the sizes of then.
        let untested = resized && self.determinism.lock().self_test != SelfTested::NotYet;
        if untested {
            // From now on, before anything runs in another size, no proof relies on the test that was.
            let tested = if self.fixed.proofs { SelfTested::NotYet } else { SelfTested::Never };
            let determinism = decide(&self.operators, self.fixed.proofs, new.enabled, &tested);
            *self.determinism.lock() = Arc::new(determinism);
        }
        self.queue.lock().set_config(new);
        drop((tuned, rows));
        self.work.notify_one();
        untested
    }

    /// A host that lives, and its model in it.
    pub(crate) fn host(&self) -> Option<(Host, ModelHandle)> {
        self.hosts.lock().values().next().map(|l| (l.host.clone(), l.handle))
    }

    /// What its operators say about repeating its bytes.
    pub(crate) fn operators(&self) -> &Determinism {
        &self.operators
    }

    /// Names its profile record.
    pub(crate) fn profile(&self) -> &ProfileKey {
        &self.profile
    }

    /// What answers may be proven as.
    pub(crate) fn determinism(&self) -> Arc<ModelDeterminism> {
        self.determinism.lock().clone()
    }

    /// The self-test has ended. What answers may be proven as follows from how requests are put together;
    /// `decide` gives nothing where it was made for other batch sizes. Returns whether it counts.
    pub(crate) fn conclude(&self, decide: impl FnOnce(&BatcherConfig) -> Option<ModelDeterminism>) -> bool {
        // Held, so that nobody configures other sizes in between.
        let (tuned, rows) = (self.tuned.lock(), self.rows.lock());
        let decided = decide(&tuned.batcher(rows.independent));
        let counts = decided.is_some();
        if let Some(d) = decided {
            *self.determinism.lock() = Arc::new(d);
        }
        counts
    }

    /// Whether answers are to be provable, by the options of the load.
    pub(crate) fn proofs_on(&self) -> bool {
        self.fixed.proofs
    }

    /// Names this model to the run permits.
    pub(crate) fn permit_key(&self) -> u64 {
        self.permit_key
    }

    pub(crate) fn bucket_us(&self) -> BTreeMap<u32, u64> {
        self.bucket_us.lock().clone()
    }

    pub(crate) fn host_views(&self) -> Vec<HostView> {
        self.hosts.lock().values().map(|l| l.view.clone()).collect()
    }

    /// What waits, at the time `now`.
    pub(crate) fn queue_view(&self, now: Instant) -> QueueView {
        let (rows, oldest, rows_max) = {
            let queue = self.queue.lock();
            (queue.rows(), queue.oldest(), queue.config().queue_rows_max)
        };
        let wait = oldest.map(|at| now.saturating_duration_since(at));
        QueueView {
            rows,
            rows_max,
            oldest_wait_ms: wait.map_or(0, |w| u64::try_from(w.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Containment layers that do not hold for a running host, with why.
    pub(crate) fn uncontained(&self) -> Vec<(String, String)> {
        let hosts = self.hosts.lock();
        let layers = hosts.values().flat_map(|live| &live.host.hello().containment);
        layers
            .filter(|(_, report)| contain::is_missing(report))
            .map(|(layer, why)| (layer.clone(), why.clone()))
            .collect()
    }

    /// How requests are put together now.
    pub(crate) fn batcher(&self) -> BatcherConfig {
        let tuned = *self.tuned.lock();
        tuned.batcher(self.rows.lock().independent)
    }

    pub(crate) fn proofs_view(&self) -> ProofsView {
        self.determinism().view(self.fixed.proofs)
    }

    pub(crate) fn batching_view(&self) -> BatchingView {
        let tuned = *self.tuned.lock();
        batching_view(&tuned.batching, &self.rows.lock())
    }

    /// How long a run may take before its host is ended.
    pub(crate) fn run_timeout(&self) -> Duration {
        self.tuned.lock().run_timeout.unwrap_or_else(|| {
            let slowest = Duration::from_micros(self.slowest_us.load(Ordering::Relaxed));
            RUN_TIMEOUT_MIN.max(slowest.saturating_mul(RUN_TIMEOUT_FACTOR))
        })
    }

    async fn instance(self: Arc<Self>, index: u32, opener: &Opener, permits: &PermitPool, mut opened: Option<Opened>) {
        let mut phase = self.phase.subscribe();
        let mut policy = RestartPolicy::default();
        let mut first = opened.is_some();
        // Whether the next host is to show first that it can run at all.
        let mut doubted = false;
        loop {
            let host = match opened.take() {
                Some(o) => o,
                None => match self.reopen(index, opener, &mut policy, &mut phase, first).await {
                    Some(o) => o,
                    None => return,
                },
            };
            first = true;
            if doubted && !self.can_run(&host, &mut phase).await {
                tracing::warn!(model = %self.id, version = %self.version, "engine host died of a row of zeros");
                policy.died(clock::now(), Life::NeverReady);
                continue;
            }
            doubted = false;
            self.host_up(index, &host);
            let (up, mut served) = (clock::now(), false);
            let ended = self.serve(&host, permits, &mut phase, &mut served).await;
            self.hosts.lock().remove(&index);
            // It may have been woken for work that it now leaves to another instance.
            self.work.notify_one();
            match ended {
                Ended::Closed => {
                    host.host.unload().await;
                    return;
                }
                Ended::Died { exit, running } => {
                    tracing::warn!(model = %self.id, version = %self.version, "engine host died: {exit}");
                    let now = clock::now();
                    match (running, served) {
                        (true, true) => policy = RestartPolicy::default(),
                        // The requests' fault, unless no host of this model can run anything.
                        (true, false) => doubted = true,
                        (false, true) => policy.died(now, Life::Served),
                        (false, false) => policy.died(now, Life::Idle(now.saturating_duration_since(up))),
                    }
                }
            }
        }
    }

    /// Whether the host survives a row of zeros, where such rows are known to run.
    async fn can_run(&self, opened: &Opened, phase: &mut watch::Receiver<Phase>) -> bool {
        if !self.bucket_us.lock().contains_key(&1) {
            return true;
        }
        tokio::select! {
            _ = measure_row(opened, 1) => opened.lives(),
            () = closed(phase) => true,
        }
    }

    /// Opens a host again, as often and as fast as the policy allows. `None` when the model closed.
    async fn reopen(
        &self,
        index: u32,
        opener: &Opener,
        policy: &mut RestartPolicy,
        phase: &mut watch::Receiver<Phase>,
        restart: bool,
    ) -> Option<Opened> {
        let mut wants = 0u32;
        let mut why: Option<Error> = None;
        loop {
            let wait = match policy.next(clock::now()) {
                Decision::StartAfter(wait) => wait,
                Decision::Open { retry_after, deaths } => {
                    let what = match &why {
                        Some(e) => format!("its engine host does not start: {e}"),
                        None => format!("its engine hosts died {deaths} times in a row"),
                    };
                    let again = retry_after.as_secs().max(1);
                    self.break_circuit(format!("{what}; the next start is tried in {again} s"), retry_after);
                    retry_after
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = closed(phase) => return None,
            }
            let opening = opener.open_again(&self.id, &self.version, self.threads, self.fixed.proofs);
            let result = tokio::select! {
                r = opening => r,
                () = closed(phase) => return None,
            };
            match result {
                Ok(opened) => {
                    if restart {
                        self.metrics.restarts.inc();
                    }
                    tracing::info!(model = %self.id, version = %self.version, instance = index, "engine host started");
                    return Some(opened);
                }
                Err(e) => {
                    tracing::error!(model = %self.id, version = %self.version, "engine host did not start: {e}");
                    if e.kind() != ErrorKind::Unavailable {
                        policy.died(clock::now(), Life::NeverReady);
                        why = Some(e);
                        continue;
                    }
                    // The node is short of something: that says nothing of the model, but callers must
                    // not wait for it without end.
                    wants += 1;
                    let again = e.retry_after().unwrap_or(RETRY_AFTER_DEATH);
                    if wants >= WANTS_MAX {
                        self.break_circuit(e.message().to_owned(), again);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(again) => {}
                        () = closed(phase) => return None,
                    }
                }
            }
        }
    }

    /// Refuses requests until a host lives again, unless one does.
    fn break_circuit(&self, why: String, retry_after: Duration) {
        // Held, so that no host comes up between the look and the refusal.
        let hosts = self.hosts.lock();
        if !hosts.is_empty() {
            return;
        }
        let e = Error::new(ErrorKind::Unavailable, format!("model '{}' version '{}': {why}", self.id, self.version))
            .with_retry_after(retry_after);
        let mut queue = self.queue.lock();
        queue.close(&e);
        queue.reopen();
        *self.outage.lock() = Some(e);
        drop((queue, hosts));
        self.hosts_changed.notify_waiters();
    }

    fn host_up(&self, index: u32, opened: &Opened) {
        let view = HostView { pid: opened.host.pid(), runtime: opened.runtime.clone() };
        self.hosts.lock().insert(index, Live { view, host: opened.host.clone(), handle: opened.handle });
        *self.outage.lock() = None;
        self.hosts_changed.notify_waiters();
    }

    /// Runs batches on one host until it dies or the model closes.
    async fn serve(
        &self,
        opened: &Opened,
        permits: &PermitPool,
        phase: &mut watch::Receiver<Phase>,
        served: &mut bool,
    ) -> Ended {
        loop {
            if *phase.borrow() == Phase::Closed {
                return Ended::Closed;
            }
            let due = match self.queue.lock().ready(clock::now()) {
                Readiness::Now => None,
                Readiness::At(t) => Some(Some(t)),
                Readiness::Idle => Some(None),
            };
            if let Some(until) = due {
                let timer = async {
                    match until {
                        Some(t) => tokio::time::sleep_until(t.into()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.work.notified() => {}
                    () = timer => {}
                    exit = opened.host.exited() => return Ended::Died { exit, running: false },
                    () = closed(phase) => return Ended::Closed,
                }
                continue;
            }
            let permit = tokio::select! {
                p = permits.acquire(self.permit_key, self.threads) => p,
                exit = opened.host.exited() => return Ended::Died { exit, running: false },
                () = closed(phase) => return Ended::Closed,
            };
            let taken = {
                let mut queue = self.queue.lock();
                let taken = queue.take(clock::now());
                self.metrics.queue_rows.set(i64::from(queue.rows()));
                taken
            };
            let Some(work) = taken else { continue };
            // More may wait than this batch holds: another idle instance can take it.
            self.work.notify_one();
            let died = self.run(opened, work, served).await;
            drop(permit);
            if let Some(exit) = died {
                return Ended::Died { exit, running: true };
            }
        }
    }

    /// Runs one batch and answers its requests. Returns how the host ended, if it did.
    async fn run(&self, opened: &Opened, work: Work, served: &mut bool) -> Option<HostExit> {
        let run = opened.host.run(opened.handle, work.inputs(), work.wanted.clone(), Some(self.run_timeout()));
        let (result, died) = match run.await {
            Ok(out) => {
                *served = true;
                self.count_run(&work, &out);
                (Ran::new(&work, out, &self.signature, &opened.info), None)
            }
            Err(e) => {
                let (failed, exit) = self.run_error(e);
                (Err(failed), exit)
            }
        };
        let done = {
            let mut queue = self.queue.lock();
            let done = queue.finish(&work, &result);
            self.metrics.queue_rows.set(i64::from(queue.rows()));
            done
        };
        let Unsettled { unproven, culprits } = work::answer(clock::now(), done, &result, &self.signature);
        self.prover.deliver(&self.subject, unproven);
        self.blame(culprits).await;
        died
    }

    fn count_run(&self, work: &Work, out: &RunOutputs) {
        let us = u64::try_from(out.execute.as_micros()).unwrap_or(u64::MAX);
        self.slowest_us.fetch_max(us, Ordering::Relaxed);
        if work.batched {
            let mut buckets = self.bucket_us.lock();
            let slowest = buckets.entry(work.bucket).or_default();
            *slowest = (*slowest).max(us);
        }
        let rows = work.rows();
        let times = RunTimes { copy_in: out.copy_in, execute: out.execute, copy_out: out.copy_out };
        self.stats.lock().ran(rows, times);
        self.metrics.batch_size.observe(f64::from(rows));
        self.metrics.execute.observe(out.execute.as_secs_f64());
    }

    fn run_error(&self, e: RunError) -> (RunFailed, Option<HostExit>) {
        let name = format!("model '{}' version '{}'", self.id, self.version);
        let error = |why: String| Error::new(ErrorKind::ModelFailed, format!("{name}{why}"));
        match e {
            RunError::Model(why) => {
                (RunFailed { how: RunResult::Failed, error: error(format!(" failed on this input: {why}")) }, None)
            }
            // Runs of requests are never given up.
            RunError::GivenUp => {
                (RunFailed { how: RunResult::Failed, error: Error::internal(format!("{name}: {e}")) }, None)
            }
            RunError::Timeout { limit, exit } => {
                let error = error(format!(": the run took longer than {limit:?} (run_timeout) and its host was ended"));
                (RunFailed { how: RunResult::TimedOut, error }, Some(exit))
            }
            RunError::HostDied(exit) => {
                let error =
                    error(format!(": the engine host died while it ran this request by itself ({})", exit.status));
                (RunFailed { how: RunResult::Died, error }, Some(exit))
            }
        }
    }

    fn withdraw(&self, ticket: u64) {
        let mut queue = self.queue.lock();
        queue.cancel(ticket);
        self.metrics.queue_rows.set(i64::from(queue.rows()));
    }
}

/// A request that somebody waits for: counted once, however it ends, and taken back if its caller
/// stops waiting.
struct Waiting<'a> {
    model: &'a Model,
    ticket: u64,
    rows: u32,
    tenant: &'a Tenant,
    accepted: Instant,
    counted: bool,
}

impl Waiting<'_> {
    async fn wait(mut self, answer: oneshot::Receiver<Result<Answer>>, deadline: Option<Instant>) -> Result<Answer> {
        let answered = match deadline {
            None => answer.await,
            // Boxed, so that requests without one do not carry a timer.
            Some(at) => Box::pin(tokio::time::timeout_at(at.into(), answer)).await.unwrap_or_else(|_elapsed| {
                self.model.withdraw(self.ticket);
                Ok(Err(expired()))
            }),
        };
        let answered = answered.unwrap_or_else(|_| Err(Error::internal("the request was dropped without an answer")));
        match &answered {
            Ok(answer) => self.count(Ok(answer)),
            Err(e) => self.count(Err(e.kind())),
        }
        answered
    }

    fn count(&mut self, outcome: std::result::Result<&Answer, ErrorKind>) {
        self.counted = true;
        let total = clock::now().saturating_duration_since(self.accepted);
        let now_ms = u64::try_from(clock::since_epoch().as_millis()).unwrap_or(u64::MAX);
        let (stats, metrics) = (&self.model.stats, &self.model.metrics);
        match outcome {
            Ok(a) => {
                stats.lock().answered(now_ms, self.rows, total, a.queue_time, a.times);
                metrics.queue.observe(a.queue_time.as_secs_f64());
                metrics.finished(self.tenant, Ok(total));
            }
            Err(kind) => {
                stats.lock().failed(now_ms, total);
                metrics.finished(self.tenant, Err(kind));
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.counted {
            self.model.withdraw(self.ticket);
            self.count(Err(ErrorKind::Cancelled));
        }
    }
}

async fn closed(phase: &mut watch::Receiver<Phase>) {
    // The sender lives in the model, which the waiting task holds.
    let _sender_lives = phase.wait_for(|p| *p == Phase::Closed).await;
}

/// What decides which sizes runs can have.
fn sizes_of(config: &BatcherConfig) -> (bool, u32, Buckets) {
    (config.enabled, config.max_batch_size, config.buckets)
}

pub(crate) fn batcher_config(b: &BatchingConfig, queue_rows_max: u32, independent: bool) -> BatcherConfig {
    BatcherConfig {
        enabled: independent && b.max_batch_size > 1,
        max_batch_size: b.max_batch_size,
        hold: match b.hold {
            HoldPolicy::None => Hold::None,
            HoldPolicy::Fill(max_wait) => Hold::Fill { max_wait },
        },
        buckets: b.pad_to_multiple.map_or(Buckets::PowersOfTwo, Buckets::MultipleOf),
        queue_rows_max,
    }
}

pub(crate) fn batching_view(b: &BatchingConfig, rows: &RowsVerdict) -> BatchingView {
    let config = batcher_config(b, 1, rows.independent);
    let (hold, max_wait) = match b.hold {
        HoldPolicy::None => ("none", Duration::ZERO),
        HoldPolicy::Fill(w) => ("fill", w),
    };
    BatchingView {
        enabled: config.enabled,
        reason: if rows.independent && !config.enabled { "max_batch_size is 1".into() } else { rows.reason.clone() },
        max_batch_size: b.max_batch_size,
        hold,
        max_wait_ms: u64::try_from(max_wait.as_millis()).unwrap_or(u64::MAX),
        buckets: if config.enabled { config.bucket_sizes() } else { Vec::new() },
    }
}
