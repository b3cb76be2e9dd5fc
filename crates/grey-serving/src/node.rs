//! The node: everything that a front asks for goes through here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use grey_core::{
    BatchAxis, Error, ErrorKind, InferRequest, InferResponse, Label, ModelId, ModelRef, Result, Tensor, Version,
    VersionChoice,
};
use grey_registry::{Catalog, DataFolder, FilePath, Index, Manifest};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::{
    BytesPermit, ServingConfig, Validation,
    adding::{Adding, NewVersion, Outcome},
    api::{Added, EngineReport, ModelDetails, ModelState, ModelStatistics, ModelStatus, ProofsView, Tallies},
    budget::BytesBudget,
    clock::{self, unix_seconds},
    determinism::{SelfTested, decide},
    engines::Engines,
    identity::{self, Identity},
    isa::isa_class,
    metrics::{Metrics, MetricsFormat},
    model::{Model, Parts, batcher_config, batching_view},
    offline::{example_of, in_order, label_in, validate_version},
    opener::{MEASURE_RUNS, Opened, Opener, auto_threads, measure_row},
    permits::PermitPool,
    probing::{Probing, sizes_to_test, worth_testing},
    profile::{ProfileKey, ProfileRecord, Profiles, ProofsOption, RowsVerdict},
    proving::{Prover, Subject},
    queue::expired,
    replay::{Replay, ReplayRequest, Replayer},
    stats::Stats,
    unanswered::Unanswered,
    wanted::{Want, WantedSet},
};

/// A model that failed to load is not tried again by requests for this long.
const LOAD_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Names replays to the run permits.
const REPLAY_PERMIT_KEY: u64 = 0;

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    /// What it was started with. How models are served is in `served`.
    config: ServingConfig,
    /// How models are served from now on: of this only what [`Node::reconfigure`] changes.
    served: RwLock<Arc<ServingConfig>>,
    data: DataFolder,
    catalog: Catalog,
    opener: Arc<Opener>,
    profiles: Profiles,
    wanted: WantedSet,
    permits: PermitPool,
    budget: BytesBudget,
    metrics: Arc<Metrics>,
    device: String,
    prover: Arc<Prover>,
    /// What verifiers may expect of this node.
    identity: Identity,
    replayer: Arc<Replayer>,
    slots: RwLock<HashMap<ModelId, HashMap<Version, Arc<Slot>>>>,
    next_permit_key: AtomicU64,
    draining: AtomicBool,
    /// Requests taken and not answered, those that wait for a load among them.
    unanswered: Unanswered,
    /// Loads that may be under way at once.
    loads: Semaphore,
    restored: OnceLock<()>,
    began: Began,
}

/// When the node was started.
#[derive(Clone, Copy)]
pub(crate) struct Began {
    pub(crate) at: std::time::Instant,
    pub(crate) unix_seconds: u64,
}

/// What this node does about one version.
struct Slot {
    id: ModelId,
    version: Version,
    /// Held while the version is loaded or unloaded.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<SlotState>,
    stats: Arc<Mutex<Stats>>,
}

enum SlotState {
    Idle,
    Loading,
    Ready(Arc<Model>),
    /// Being unloaded: it takes no requests, and what runs finishes.
    Closing(Arc<Model>),
    Failed {
        error: Error,
        at: std::time::Instant,
    },
}

impl Slot {
    fn model(&self) -> Option<Arc<Model>> {
        match &*self.state.lock() {
            SlotState::Ready(m) => Some(m.clone()),
            _ => None,
        }
    }

    /// What has hosts, whether it takes requests or not.
    fn living(&self) -> Option<Arc<Model>> {
        match &*self.state.lock() {
            SlotState::Ready(m) | SlotState::Closing(m) => Some(m.clone()),
            SlotState::Idle | SlotState::Loading | SlotState::Failed { .. } => None,
        }
    }
}

fn unavailable(message: String) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

fn exact(id: &ModelId, version: &Version) -> ModelRef {
    ModelRef { id: id.clone(), version: VersionChoice::Exact(version.clone()) }
}

impl Node {
    /// Opens the registry in `data` and restores in the background what was loaded.
    pub async fn start(config: ServingConfig, data: DataFolder, engines: Engines) -> Result<Node> {
        let catalog = Catalog::open(data.store()?, unix_seconds).await?;
        let opener = Opener {
            catalog: catalog.clone(),
            open_path: data.open_path(),
            opened: AtomicU64::new(0),
            engines,
            memory_bytes: config.machine.memory_bytes,
        };
        let cores = config.machine.cores;
        let loads = Semaphore::new(cores.max(1) as usize);
        let metrics = Metrics::new();
        let (prover, identity) = identity::open(&config, data.path(), &metrics)?;
        let node = Node(Arc::new(Inner {
            permits: PermitPool::new(cores),
            budget: BytesBudget::new(config.inflight_bytes_max),
            profiles: Profiles::open(data.path())?,
            wanted: WantedSet::open(data.path())?,
            metrics,
            prover,
            identity,
            replayer: Replayer::new(REPLAY_PERMIT_KEY),
            device: isa_class(),
            opener: Arc::new(opener),
            catalog,
            data,
            served: RwLock::new(Arc::new(config.clone())),
            config,
            slots: RwLock::default(),
            next_permit_key: AtomicU64::new(REPLAY_PERMIT_KEY + 1),
            draining: AtomicBool::new(false),
            unanswered: Unanswered::default(),
            loads,
            restored: OnceLock::new(),
            began: Began { at: clock::now(), unix_seconds: unix_seconds() },
        }));
        let restoring = node.clone();
        tokio::spawn(async move { restoring.restore().await });
        tokio::spawn(identity::maintain(Arc::downgrade(&node.0.prover)));
        Ok(node)
    }

    /// What verifiers may expect of this node.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The encoded session-bundle of a session of this node, with evidence made over the client's
    /// `nonce` if there is one (8 to 64 bytes); `NotFound` for an unknown session.
    pub async fn session(&self, digest: [u8; 32], nonce: Option<Vec<u8>>) -> Result<Bytes> {
        self.0.prover.session(digest, nonce).await
    }

    async fn restore(&self) {
        for (id, version, want) in self.0.wanted.all() {
            if want != Want::Loaded {
                continue;
            }
            let outcome = match self.0.catalog.resolve(&exact(&id, &version)).await {
                Ok(manifest) => match self.loaded(&manifest, false).await {
                    // Unloaded since: the operator's later word.
                    Err(_) if self.0.wanted.get(&id, &version) == Some(Want::Unloaded) => Ok(()),
                    other => other.map(|_| ()),
                },
                // Removed since: the word is stale.
                Err(e) if e.kind() == ErrorKind::NotFound => self.0.wanted.set(&id, &version, None),
                Err(e) => Err(e),
            };
            if let Err(e) = outcome {
                tracing::error!(model = %id, %version, "not restored: {e}");
            }
        }
        self.0.restored.get_or_init(|| ());
    }

    /// Where the node keeps its data.
    pub fn data_dir(&self) -> &std::path::Path {
        self.0.data.path()
    }

    /// Answers one request. Dropping the future cancels it: it leaves the queue, or its answer is dropped.
    pub async fn infer(&self, request: InferRequest) -> Result<InferResponse> {
        // Counted before the look at `draining`: a drain either sees this request or refuses it.
        let _until_answered = self.0.unanswered.one();
        self.serving_by(&request.model, request.deadline).await?.infer(request).await
    }

    /// Runs a proven request again as its proof says, in a host of its own, and compares the bytes.
    /// Replays run one at a time.
    ///
    /// # Errors
    /// A proof whose run cannot be repeated, other inputs than the proof's (`InvalidArgument`), a
    /// model that is not registered here or was replaced (`NotFound`), or a run that failed.
    pub async fn replay(&self, request: &ReplayRequest) -> Result<Replay> {
        self.not_draining()?;
        let _until_answered = self.0.unanswered.one();
        let inner = &self.0;
        let tools = (&inner.catalog, &*inner.opener, &inner.permits, &inner.budget);
        inner.replayer.replay(request, inner.config.inflight_bytes_max, &inner.device, tools).await
    }

    /// Counts a request that a front answers with `error`, if that refuses it rather than tells how
    /// its run ended.
    pub fn count_refusal(&self, error: &Error) {
        match error.kind() {
            ErrorKind::InvalidArgument
            | ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::TooLarge
            | ErrorKind::QuotaExceeded
            | ErrorKind::UnsupportedMedia
            | ErrorKind::Unsupported
            | ErrorKind::Overloaded
            | ErrorKind::Unavailable
            | ErrorKind::LoadFailed => self.0.metrics.rejected(error.kind()),
            ErrorKind::AlreadyExists
            | ErrorKind::FailedPrecondition
            | ErrorKind::HostDied
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Cancelled
            | ErrorKind::ModelFailed
            | ErrorKind::Internal => {}
        }
    }

    /// [`Node::serving`], within the request's own time. A load goes on without it.
    async fn serving_by(&self, reference: &ModelRef, deadline: Option<std::time::Instant>) -> Result<Arc<Model>> {
        let serving = self.serving(reference);
        match deadline {
            None => serving.await,
            Some(at) => {
                Box::pin(tokio::time::timeout_at(at.into(), serving)).await.unwrap_or_else(|_elapsed| Err(expired()))
            }
        }
    }

    /// The loaded model that a request means; loads it on demand.
    async fn serving(&self, reference: &ModelRef) -> Result<Arc<Model>> {
        self.not_draining()?;
        let manifest = self.0.catalog.resolve(reference).await?;
        if let Some(model) = self.slot(&manifest.id, &manifest.version).and_then(|s| s.model()) {
            return Ok(model);
        }
        if self.0.wanted.get(&manifest.id, &manifest.version) == Some(Want::Unloaded) {
            return Err(unloaded(&manifest));
        }
        // Boxed, so that the thousands of requests that load nothing do not carry its state.
        Box::pin(self.loaded(&manifest, false)).await
    }

    /// Begins to register a version, whose files [`Adding::file`] brings. Dropping it leaves no trace.
    pub async fn begin_add(&self, what: NewVersion) -> Result<Adding> {
        self.not_draining()?;
        Adding::begin(&self.0.catalog, what).await
    }

    /// Opens the files that have come, registers them if that works, and loads the version if it was to be.
    /// Dropping the future, or an error, leaves no trace before the version is registered; from then on it is
    /// registered, and perhaps not loaded.
    pub async fn finish_add(&self, adding: Adding) -> Result<Added> {
        self.not_draining()?;
        let load = adding.load();
        let (manifest, existed) = match adding.finish(&self.0.catalog, &self.0.opener, &self.served()).await? {
            Outcome::Existed(there) => {
                if load {
                    self.load(&exact(&there.id, &there.version)).await?;
                }
                (there, true)
            }
            Outcome::New(manifest, opened) => {
                if load {
                    self.load_with(&manifest, true, Some(*opened)).await?;
                } else {
                    opened.host.unload().await;
                }
                (manifest, false)
            }
        };
        Ok(Added { details: self.details(&manifest).await?, existed })
    }

    /// Registers a version from files in memory and loads it.
    pub async fn add_files(&self, id: ModelId, version: Version, files: Vec<(FilePath, Bytes)>) -> Result<Added> {
        let (labels, metadata) = (BTreeSet::new(), BTreeMap::new());
        let what = NewVersion { id, version: Some(version), labels, metadata, load: true };
        let mut adding = self.begin_add(what).await?;
        for (path, data) in files {
            let bytes_max = data.len() as u64;
            adding.file(path.as_str(), futures_util::stream::iter([Ok(data)]), bytes_max).await?;
        }
        self.finish_add(adding).await
    }

    /// Lets `label` mean a version from now on, or takes it away where `version` is `None`.
    pub async fn label(&self, id: &ModelId, label: &Label, version: Option<&ModelRef>) -> Result<()> {
        self.not_draining()?;
        label_in(&self.0.catalog, id, label, version).await
    }

    /// Opens a registered version in a host of its own and says whether and how it would be served.
    /// `example` takes the place of the version's own.
    pub async fn validate(&self, model: &ModelRef, example: Option<Vec<Tensor>>) -> Result<Validation> {
        self.not_draining()?;
        let inner = &self.0;
        // Never closed, so never an error.
        let _turn = inner.loads.acquire().await;
        let key = inner.next_permit_key.fetch_add(1, Ordering::Relaxed);
        let permits = (&inner.permits, key);
        let found = validate_version(&inner.catalog, &inner.opener, &self.served(), permits, model, example).await;
        inner.permits.forget(key);
        found
    }

    /// Writes into the data folder's lock where this node is reached.
    pub fn announce(&self, url: &str) -> Result<()> {
        self.0.data.announce(url)
    }

    /// Loads a version and waits until it is ready.
    pub async fn load(&self, model: &ModelRef) -> Result<ModelDetails> {
        self.not_draining()?;
        let manifest = self.0.catalog.resolve(model).await?;
        self.loaded(&manifest, true).await?.settled().await?;
        self.details(&manifest).await
    }

    /// Unloads a version (all loaded versions, if none is named): queued requests fail with 503,
    /// running ones finish, the hosts end. Waits until they have.
    pub async fn unload(&self, model: &ModelRef) -> Result<()> {
        let (node, model) = (self.clone(), model.clone());
        to_the_end(async move { node.unload_now(&model).await }).await
    }

    async fn unload_now(&self, model: &ModelRef) -> Result<()> {
        let manifests = match &model.version {
            VersionChoice::Exact(_) => vec![self.0.catalog.resolve(model).await?],
            VersionChoice::Latest => self.0.catalog.index(&model.id).await?.manifests.values().cloned().collect(),
        };
        for m in manifests {
            self.0.wanted.set(&m.id, &m.version, Some(Want::Unloaded))?;
            self.close(&m.id, &m.version, &unloaded(&m)).await;
        }
        Ok(())
    }

    /// Unloads and removes a version, or all versions of the model if `version` is `None`.
    /// Returns the removed versions.
    pub async fn remove(&self, id: &ModelId, version: Option<&Version>) -> Result<Vec<Version>> {
        let (node, id, version) = (self.clone(), id.clone(), version.cloned());
        to_the_end(async move { node.remove_now(&id, version.as_ref()).await }).await
    }

    async fn remove_now(&self, id: &ModelId, version: Option<&Version>) -> Result<Vec<Version>> {
        let gone = self.0.catalog.remove(id, version).await?;
        for v in &gone {
            let e = Error::not_found(format!("model '{id}' version '{v}' was removed"));
            self.close(id, v, &e).await;
            self.0.wanted.set(id, v, None)?;
            self.forget_slot(id, v);
            self.0.metrics.forget(id, v);
            tracing::info!(model = %id, version = %v, "removed");
        }
        Ok(gone)
    }

    async fn close(&self, id: &ModelId, version: &Version, why: &Error) {
        let Some(slot) = self.slot(id, version) else { return };
        let _changing = slot.changing.lock().await;
        let model = slot.model();
        *slot.state.lock() = model.clone().map_or(SlotState::Idle, SlotState::Closing);
        if let Some(model) = model {
            model.close(why).await;
            *slot.state.lock() = SlotState::Idle;
            self.0.permits.forget(model.permit_key());
            tracing::info!(model = %id, %version, "unloaded");
        }
    }

    /// All registered versions that are not removed, by model id, versions in order.
    pub async fn list(&self) -> Result<Vec<ModelStatus>> {
        Ok(in_order(&self.0.catalog.list().await, |index, m| self.status(m, index)))
    }

    /// Models whose registry entries could not be read when the node started, and why: they are
    /// refused until somebody mends them and starts the node again.
    pub fn unreadable(&self) -> &BTreeMap<ModelId, Error> {
        self.0.catalog.unreadable()
    }

    /// One version. `NotFound` names the model, or the versions that exist.
    pub async fn show(&self, model: &ModelRef) -> Result<ModelDetails> {
        self.details(&*self.0.catalog.resolve(model).await?).await
    }

    /// The names of a model's versions, in order.
    pub async fn versions(&self, id: &ModelId) -> Result<Vec<Version>> {
        Ok(self.list().await?.into_iter().filter(|s| s.id == *id).map(|s| s.version).collect())
    }

    /// What a version takes and gives, without the cost of [`Node::show`].
    pub async fn signature(&self, model: &ModelRef) -> Result<grey_core::Signature> {
        Ok(self.0.catalog.resolve(model).await?.signature.clone())
    }

    /// `Ok` when a request for this model would be answered without loading, else why not.
    pub async fn model_ready(&self, model: &ModelRef) -> Result<()> {
        self.not_draining()?;
        let m = self.0.catalog.resolve(model).await?;
        match self.slot(&m.id, &m.version).and_then(|s| s.model()) {
            Some(model) => model.ready(),
            None => {
                let status = self.status(&m, &*self.0.catalog.index(&m.id).await?);
                let reason = if status.reason.is_empty() { String::new() } else { format!(": {}", status.reason) };
                Err(unavailable(format!("model '{}' version '{}' is {}{reason}", m.id, m.version, status.state.name())))
            }
        }
    }

    /// Counters: of one version, of all versions of a model that have any (`Latest`), or of all.
    pub async fn statistics(&self, model: Option<&ModelRef>) -> Result<Vec<ModelStatistics>> {
        let meant = match model {
            None => None,
            Some(m) => Some(self.0.catalog.resolve(m).await?),
        };
        let chosen = |s: &Slot| match (model, &meant) {
            (Some(m), Some(meant)) => {
                m.id == s.id && (m.version == VersionChoice::Latest || meant.version == s.version)
            }
            _ => true,
        };
        let slots: Vec<Arc<Slot>> = self.0.slots.read().values().flat_map(|v| v.values().cloned()).collect();
        let mut all: Vec<_> =
            slots.iter().filter(|s| chosen(s)).map(|s| s.stats.lock().view(&s.id, &s.version)).collect();
        all.sort_by(|a, b| (&a.id, a.version.number(), &a.version).cmp(&(&b.id, b.version.number(), &b.version)));
        Ok(all)
    }

    /// What `engine list` tells. Starts a host per engine to ask it.
    pub async fn engines(&self) -> Vec<EngineReport> {
        self.0.opener.engines.report().await
    }

    /// Whether the node takes requests: `Err` says why not (draining; restoring, if strict).
    pub fn ready(&self) -> Result<()> {
        self.not_draining()?;
        if self.0.config.strict_ready && self.0.restored.get().is_none() {
            return Err(unavailable("the node is restoring its models (strict_ready)".into()));
        }
        Ok(())
    }

    fn not_draining(&self) -> Result<()> {
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(unavailable("the node is shutting down".into()).with_retry_after(Duration::from_secs(5)));
        }
        Ok(())
    }

    /// Stops taking requests: readiness turns false at once.
    pub fn start_draining(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// Lets accepted requests finish for at most `longest`, fails the rest, ends all hosts, and leaves the data folder
    /// to others.
    pub async fn drain(&self, longest: Duration) {
        self.start_draining();
        // A time that never comes is no limit.
        let mut too_long = pin!(tokio::time::sleep(longest));
        let in_time = tokio::select! {
            biased;
            () = self.0.unanswered.none() => true,
            () = too_long.as_mut() => false,
        };
        // Also those that finished loading meanwhile.
        let models: Vec<Arc<Model>> = {
            let slots = self.0.slots.read();
            slots.values().flat_map(|v| v.values()).filter_map(|s| s.living()).collect()
        };
        if !in_time {
            let left = self.0.unanswered.count();
            tracing::warn!("{left} requests were not answered within {longest:?} and fail");
            self.0.replayer.kill();
        }
        let why = unavailable("the node is shutting down".into());
        let kill = || models.iter().for_each(|m| m.kill());
        if !in_time {
            // What still runs has had its time.
            kill();
        }
        let mut closing = pin!(futures_util::future::join_all(models.iter().map(|m| m.close(&why))));
        tokio::select! {
            _ = closing.as_mut() => {}
            () = too_long, if in_time => {
                // Of runs that nobody waits for any more, too.
                kill();
                closing.await;
            }
        }
        self.0.replayer.close().await;
        self.0.data.release();
    }

    /// All metrics of this node, as `format` writes them.
    pub fn metrics(&self, format: MetricsFormat) -> Result<Vec<u8>> {
        let loaded = self.0.slots.read().values().flat_map(|v| v.values()).filter(|s| s.model().is_some()).count();
        self.0.metrics.encode(format, self.0.budget.used(), loaded)
    }

    /// Takes `bytes` of the node's budget for bodies, tensors and results in flight; `Overloaded`
    /// with a retry time if it is spent. The permit gives them back when dropped.
    pub fn take_bytes(&self, bytes: usize) -> Result<BytesPermit> {
        self.0.budget.take(bytes)
    }

    /// Serves models from now on as `config` says: what is loaded gets its batching, run timeout and rows in
    /// the queue at once, and everything at its next load. All else in `config` needs another start.
    pub fn reconfigure(&self, config: ServingConfig) {
        let loaded: Vec<Arc<Model>> = {
            // Under the lock, so that a load that looks meanwhile is either seen here or sees this.
            let mut served = self.0.served.write();
            *served = Arc::new(config);
            let slots = self.0.slots.read();
            slots.values().flat_map(|v| v.values()).filter_map(|s| s.living()).collect()
        };
        for model in loaded {
            self.settle(&model);
        }
    }

    /// How models are served now.
    fn served(&self) -> Arc<ServingConfig> {
        self.0.served.read().clone()
    }

    /// Has a loaded model served as its name is served now.
    fn settle(&self, model: &Arc<Model>) {
        let served = self.served();
        if !model.configure(served.model(&model.id), served.queue_rows_max) {
            return;
        }
        // What was tested counts for the batch sizes that were tested.
        let (node, model) = (self.clone(), model.clone());
        tokio::spawn(async move {
            if let Err(e) = node.test_again(&model).await {
                // Until the next load its proofs rely on no test.
                tracing::error!(model = %model.id, version = %model.version, "not tested again: {e}");
            }
        });
    }

    /// Finds out anew in which places of a run a row keeps its bytes.
    async fn test_again(&self, model: &Arc<Model>) -> Result<()> {
        let manifest = self.0.catalog.resolve(&exact(&model.id, &model.version)).await?;
        let example = self.example(&manifest).await.map(|(_, inputs)| inputs);
        let no_record = || Error::internal("its profile record is gone");
        let record = self.0.profiles.read(model.profile())?.ok_or_else(no_record)?;
        let (host, handle) = model.host().ok_or_else(|| unavailable("no host of it lives".into()))?;
        let (engine, permits, profiles) = (model.operators().clone(), &self.0.permits, &self.0.profiles);
        Probing { model, host, handle, engine, permits, profiles, example }.run(false, record).await;
        Ok(())
    }

    /// Bytes in flight, and most of them.
    pub(crate) fn bytes_in_flight(&self) -> (u64, u64) {
        (self.0.budget.used(), self.0.budget.max())
    }

    /// When the node was started.
    pub(crate) fn began(&self) -> Began {
        self.0.began
    }

    pub(crate) fn cores(&self) -> u32 {
        self.0.config.machine.cores
    }

    /// Memory that this node may use, if it can be told.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.0.config.machine.memory_bytes
    }

    /// A version that is loaded.
    pub(crate) fn loaded_model(&self, id: &ModelId, version: &Version) -> Option<Arc<Model>> {
        self.slot(id, version)?.model()
    }

    /// What was counted of a version, if it was ever loaded.
    pub(crate) fn counted(&self, id: &ModelId, version: &Version) -> Option<ModelStatistics> {
        Some(self.slot(id, version)?.stats.lock().view(id, version))
    }

    pub(crate) fn tallies(&self, id: &ModelId, version: &Version) -> Tallies {
        self.0.metrics.tallies(id, version)
    }

    pub(crate) async fn show_version(&self, id: &ModelId, version: &Version) -> Result<ModelDetails> {
        self.show(&exact(id, version)).await
    }

    fn slot(&self, id: &ModelId, version: &Version) -> Option<Arc<Slot>> {
        self.0.slots.read().get(id)?.get(version).cloned()
    }

    fn forget_slot(&self, id: &ModelId, version: &Version) {
        let mut slots = self.0.slots.write();
        if let Some(versions) = slots.get_mut(id) {
            versions.remove(version);
            if versions.is_empty() {
                slots.remove(id);
            }
        }
    }

    fn slot_or_new(&self, id: &ModelId, version: &Version) -> Arc<Slot> {
        let mut slots = self.0.slots.write();
        let slot = slots.entry(id.clone()).or_default().entry(version.clone()).or_insert_with(|| {
            Arc::new(Slot {
                id: id.clone(),
                version: version.clone(),
                changing: tokio::sync::Mutex::new(()),
                state: Mutex::new(SlotState::Idle),
                stats: Arc::default(),
            })
        });
        slot.clone()
    }

    async fn loaded(&self, manifest: &Arc<Manifest>, operator: bool) -> Result<Arc<Model>> {
        self.load_with(manifest, operator, None).await
    }

    /// Loads a version once, however many ask. It goes on if the one who asked goes away.
    async fn load_with(&self, manifest: &Arc<Manifest>, operator: bool, opened: Option<Opened>) -> Result<Arc<Model>> {
        let (node, manifest) = (self.clone(), manifest.clone());
        to_the_end(async move { node.load_now(&manifest, operator, opened).await }).await
    }

    async fn load_now(&self, manifest: &Arc<Manifest>, operator: bool, opened: Option<Opened>) -> Result<Arc<Model>> {
        let slot = self.slot_or_new(&manifest.id, &manifest.version);
        let _changing = slot.changing.lock().await;
        // Removed while this waited for its turn: a host started now would serve nobody.
        if let Err(e) = self.0.catalog.resolve(&exact(&manifest.id, &manifest.version)).await {
            self.forget_slot(&manifest.id, &manifest.version);
            if let Some(o) = opened {
                o.host.unload().await;
            }
            return Err(e);
        }
        // Unloaded while this waited: only an operator's `load` takes that back.
        if !operator && self.0.wanted.get(&manifest.id, &manifest.version) == Some(Want::Unloaded) {
            return Err(unloaded(manifest));
        }
        {
            let mut state = slot.state.lock();
            match &*state {
                SlotState::Ready(m) => return Ok(m.clone()),
                SlotState::Failed { error, at }
                    if !operator && clock::now().saturating_duration_since(*at) < LOAD_RETRY_AFTER =>
                {
                    return Err(unavailable(error.message().to_owned()).with_retry_after(LOAD_RETRY_AFTER));
                }
                _ => *state = SlotState::Loading,
            }
        }
        let result = self.open(manifest, &slot, opened).await;
        let mut state = slot.state.lock();
        match result {
            Ok(model) => {
                *state = SlotState::Ready(model.clone());
                drop(state);
                // Something else may have been configured while it was opened.
                self.settle(&model);
                if let Err(e) = self.0.wanted.set(&manifest.id, &manifest.version, Some(Want::Loaded)) {
                    tracing::error!(model = %model.id, version = %model.version, "will not be restored by a restart: {e}");
                    // A request is answered all the same; an operator's word that is not kept is an error.
                    if operator {
                        return Err(e);
                    }
                }
                Ok(model)
            }
            Err(error) => {
                tracing::error!(model = %manifest.id, version = %manifest.version, "not loaded: {error}");
                *state = SlotState::Failed { error: error.clone(), at: clock::now() };
                Err(error)
            }
        }
    }

    async fn open(&self, manifest: &Arc<Manifest>, slot: &Slot, opened: Option<Opened>) -> Result<Arc<Model>> {
        // Each holds a model's bytes and a starting runtime. Never closed, so never an error.
        let _turn = self.0.loads.acquire().await;
        let began = clock::now();
        let served = self.served();
        let (config, queue_rows_max) = (*served.model(&manifest.id), served.queue_rows_max);
        let opener = &self.0.opener;
        let mut opened = match opened {
            Some(o) => o,
            None => {
                let threads = config.threads.unwrap_or(1);
                opener.open_again(&manifest.id, &manifest.version, threads, config.proofs).await?
            }
        };
        let example = self.example(manifest).await;
        let key = ProfileKey {
            model_hash: manifest.model_hash.to_string(),
            library_sha256: opened.library_sha256.clone(),
            threads: config.threads.map_or_else(|| "auto".to_owned(), |n| n.to_string()),
            device: self.0.device.clone(),
            proofs: if config.proofs { ProofsOption::On } else { ProofsOption::Off },
            example: example.as_ref().map(|(hash, _)| hash.clone()),
        };
        let profile = key.clone();
        let example = example.map(|(_, inputs)| inputs);
        let record = match self.0.profiles.read(&key)? {
            Some(r) => r,
            None => {
                let row = measure_row(&opened, MEASURE_RUNS).await;
                let threads = config.threads.unwrap_or_else(|| auto_threads(row, self.0.config.machine.cores));
                let mut r = ProfileRecord::new(key, threads);
                r.memory_bytes = opened.memory_bytes;
                if let Some(t) = row {
                    r.bucket_us.insert(1, u64::try_from(t.as_micros()).unwrap_or(u64::MAX));
                }
                self.0.profiles.write(&r)?;
                r
            }
        };
        if record.threads != opened.threads {
            opened.host.unload().await;
            opened = opener.open_again(&manifest.id, &manifest.version, record.threads, config.proofs).await?;
        }
        let rows = declared(config.batch_axis, &opened).or_else(|| record.rows.clone());
        let probing = rows.is_none();
        let rows = rows.unwrap_or_else(|| RowsVerdict {
            independent: false,
            reason: "being probed: one request at a time until the probe ends".into(),
        });
        let batcher = batcher_config(&config.batching, queue_rows_max, rows.independent);
        let engine = opened.determinism.clone();
        let known = record.self_test_of(&sizes_to_test(&batcher, &engine)).filter(|_| !probing);
        let worth = worth_testing(&engine, config.proofs);
        let tested = match known {
            _ if !worth => SelfTested::Never,
            None => SelfTested::NotYet,
            Some(r) => SelfTested::Found(r.clone()),
        };
        let testing = tested == SelfTested::NotYet;
        let determinism = decide(&engine, config.proofs, batcher.enabled || probing, &tested);
        let (host, handle) = (opened.host.clone(), opened.handle);
        let model = Model::start(
            Parts {
                id: manifest.id.clone(),
                version: manifest.version.clone(),
                signature: opened.signature.clone(),
                threads: record.threads,
                config,
                queue_rows_max,
                profile,
                permit_key: self.0.next_permit_key.fetch_add(1, Ordering::Relaxed),
                rows,
                determinism,
                stats: slot.stats.clone(),
                metrics: self.0.metrics.model(&manifest.id, &manifest.version),
                bucket_us: record.bucket_us.clone(),
                prover: self.0.prover.clone(),
                model_hash: Subject::model_hash(manifest),
                device: self.0.device.clone(),
            },
            opener,
            &self.0.permits,
            opened,
        );
        let took = clock::now().saturating_duration_since(began);
        tracing::info!(model = %manifest.id, version = %manifest.version, threads = record.threads, "ready after {took:?}");
        if probing || testing {
            let (node, model) = (self.clone(), model.clone());
            tokio::spawn(async move {
                let (permits, profiles) = (&node.0.permits, &node.0.profiles);
                let probing_it = Probing { model: &model, host, handle, engine, permits, profiles, example };
                probing_it.run(probing, record).await;
            });
        }
        Ok(model)
    }

    /// The version's example and its hash. One that cannot be read is told in the log: without it the version is
    /// served as any other, one request at a time at worst.
    async fn example(&self, m: &Manifest) -> Option<(String, Vec<Tensor>)> {
        let index = self.0.catalog.index(&m.id).await.ok()?;
        let hash = index.entry.examples.get(&m.version)?.sha256.to_string();
        match example_of(&self.0.catalog, m).await {
            Ok(inputs) => inputs.map(|inputs| (hash, inputs)),
            Err(e) => {
                tracing::error!(model = %m.id, version = %m.version, "served as if it had no example: {e}");
                None
            }
        }
    }

    fn status(&self, m: &Manifest, index: &Index) -> ModelStatus {
        let slot = self.slot(&m.id, &m.version);
        let (state, reason) = match slot.as_ref().map(|s| s.state.lock()) {
            Some(state) => match &*state {
                SlotState::Ready(model) => match model.ready() {
                    Ok(()) => (ModelState::Ready, String::new()),
                    Err(e) => (ModelState::Failed, e.message().to_owned()),
                },
                SlotState::Loading => (ModelState::Loading, String::new()),
                SlotState::Failed { error, .. } => (ModelState::Failed, error.message().to_owned()),
                SlotState::Idle | SlotState::Closing(_) => self.idle_state(m),
            },
            None => self.idle_state(m),
        };
        ModelStatus::of(index, m, state, reason)
    }

    fn idle_state(&self, m: &Manifest) -> (ModelState, String) {
        match self.0.wanted.get(&m.id, &m.version) {
            Some(Want::Unloaded) => (ModelState::Unloaded, "unloaded by an operator".into()),
            _ => (ModelState::Registered, String::new()),
        }
    }

    async fn details(&self, m: &Manifest) -> Result<ModelDetails> {
        let index = self.0.catalog.index(&m.id).await?;
        let model = self.slot(&m.id, &m.version).and_then(|s| s.model());
        let not_loaded = RowsVerdict { independent: false, reason: "not loaded".into() };
        let served = self.served();
        let config = served.model(&m.id);
        let (batching, proofs) = match &model {
            Some(model) => (model.batching_view(), model.proofs_view()),
            None => (batching_view(&config.batching, &not_loaded), ProofsView::not_loaded(config.proofs)),
        };
        Ok(ModelDetails {
            threads: model.as_ref().map(|m| m.threads),
            hosts: model.map(|m| m.host_views()).unwrap_or_default(),
            ..ModelDetails::of(&index, m, self.status(m, &index), batching, proofs)
        })
    }
}

/// Runs a change to its end, even if whoever asked for it goes away: half of it would leave hosts
/// that nobody can name.
async fn to_the_end<T: Send + 'static>(change: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(change).await.unwrap_or_else(|e| Err(Error::internal(format!("a change did not end: {e}"))))
}

/// The operator's word on the batch axis, where there is one.
fn declared(axis: Option<BatchAxis>, opened: &Opened) -> Option<RowsVerdict> {
    match axis? {
        BatchAxis::None => Some(RowsVerdict { independent: false, reason: "declared: batch_axis is none".into() }),
        BatchAxis::First => Some(match opened.signature.batch_candidate() {
            Ok(()) => RowsVerdict { independent: true, reason: "declared: batch_axis is first".into() },
            Err(why) => RowsVerdict { independent: false, reason: format!("batch_axis is first, but {why}") },
        }),
    }
}

fn unloaded(m: &Manifest) -> Error {
    unavailable(format!("model '{}' version '{}' is unloaded; load it to use it again", m.id, m.version))
}
