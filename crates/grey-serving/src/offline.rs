//! A data folder that no node uses: its registry without a running node, and models that are not registered.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
};

use grey_core::{Error, ErrorKind, Label, ModelId, ModelRef, Result, Tensor, Version};
use grey_registry::{Catalog, DataFolder, FilePath, Index, Manifest, Marks};

use crate::{
    ServingConfig,
    adding::{Adding, NewVersion, Outcome},
    api::{Added, EngineReport, ModelDetails, ModelState, ModelStatus, ProofsView},
    clock::unix_seconds,
    engines::{Engines, main_file},
    example,
    model::batching_view,
    opener::{BAD_MODEL, Opener},
    permits::PermitPool,
    profile::RowsVerdict,
    validate::{Validation, validate},
    wanted::{Want, WantedSet},
};

/// Names the runs of validations to the run permits: nobody else asks for any here.
const PERMIT_KEY: u64 = 0;

/// A locked data folder without a node: nothing is loaded, no sessions are made, no keys are touched.
pub struct Offline {
    config: ServingConfig,
    data: DataFolder,
    catalog: Catalog,
    opener: Opener,
    wanted: WantedSet,
    permits: PermitPool,
}

impl Offline {
    /// Opens the registry in `data`.
    pub async fn open(config: ServingConfig, data: DataFolder, engines: Engines) -> Result<Offline> {
        let catalog = Catalog::open(data.store()?, unix_seconds).await?;
        let opener = Opener {
            catalog: catalog.clone(),
            open_path: data.open_path(),
            opened: AtomicU64::new(0),
            engines,
            memory_bytes: config.machine.memory_bytes,
        };
        let (wanted, permits) = (WantedSet::open(data.path())?, PermitPool::new(config.machine.cores));
        Ok(Offline { config, data, catalog, opener, wanted, permits })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.data.path()
    }

    /// Begins to add a version, as [`crate::Node::begin_add`]. It is never loaded.
    pub async fn begin_add(&self, what: NewVersion) -> Result<Adding> {
        Adding::begin(&self.catalog, what).await
    }

    /// Opens the files that have come, and registers them if that works.
    pub async fn finish_add(&self, adding: Adding) -> Result<Added> {
        let (manifest, existed) = match adding.finish(&self.catalog, &self.opener, &self.config).await? {
            Outcome::Existed(manifest) => (manifest, true),
            Outcome::New(manifest, opened) => {
                opened.host.unload().await;
                (manifest, false)
            }
        };
        Ok(Added { details: self.details(&manifest).await?, existed })
    }

    /// All registered versions, as [`crate::Node::list`].
    pub async fn list(&self) -> Result<Vec<ModelStatus>> {
        Ok(in_order(&self.catalog.list().await, |index, m| self.status(index, m)))
    }

    /// Models whose registry entries cannot be read, and why.
    pub fn unreadable(&self) -> &BTreeMap<ModelId, Error> {
        self.catalog.unreadable()
    }

    /// One version.
    pub async fn show(&self, model: &ModelRef) -> Result<ModelDetails> {
        self.details(&*self.catalog.resolve(model).await?).await
    }

    /// Removes a version, or all versions of the model if `version` is `None`.
    pub async fn remove(&self, id: &ModelId, version: Option<&Version>) -> Result<Vec<Version>> {
        let gone = self.catalog.remove(id, version).await?;
        for v in &gone {
            self.wanted.set(id, v, None)?;
        }
        Ok(gone)
    }

    /// Lets `label` mean a version, or takes it away where `version` is `None`.
    pub async fn label(&self, id: &ModelId, label: &Label, version: Option<&ModelRef>) -> Result<()> {
        label_in(&self.catalog, id, label, version).await
    }

    /// What `engine list` tells.
    pub async fn engines(&self) -> Vec<EngineReport> {
        self.opener.engines.report().await
    }

    /// Whether a registered version would be served. `example` takes the place of the version's own.
    pub async fn validate(&self, model: &ModelRef, example: Option<Vec<Tensor>>) -> Result<Validation> {
        validate_version(&self.catalog, &self.opener, &self.config, (&self.permits, PERMIT_KEY), model, example).await
    }

    /// Whether files would be served as one version: each by the name that it has in the version, and where it is.
    pub async fn validate_files(
        &self,
        files: &[(FilePath, PathBuf)],
        example: Option<Vec<Tensor>>,
    ) -> Result<Validation> {
        let main = main_file(files.iter().map(|(name, _)| name.as_str()))?;
        let kind = Engines::for_file(main)?;
        let mut open = Vec::new();
        for (name, path) in files {
            let file = File::open(path)
                .map_err(|e| Error::new(ErrorKind::NotFound, format!("cannot read {}: {e}", path.display())))?;
            open.push((name.clone(), file));
        }
        let artifact = self.opener.artifact_of(open, main)?;
        let opened = match self.opener.open(kind, artifact, 1, self.config.defaults.proofs).await {
            Ok(opened) => opened,
            Err(e) if e.message().starts_with(BAD_MODEL) => {
                return Ok(Validation::not_valid(kind, e.message().to_owned()));
            }
            Err(e) => return Err(e),
        };
        let example = match example.map(|e| example::ordered(e, main, &opened.signature)).transpose() {
            Ok(example) => example,
            Err(e) => {
                opened.host.unload().await;
                return Ok(Validation::not_valid(kind, e.message().to_owned()));
            }
        };
        let found = validate(kind, &opened, example, &self.config.defaults, (&self.permits, PERMIT_KEY)).await;
        opened.host.unload().await;
        Ok(found)
    }

    fn status(&self, index: &Index, m: &Manifest) -> ModelStatus {
        let (state, reason) = match self.wanted.get(&m.id, &m.version) {
            Some(Want::Unloaded) => (ModelState::Unloaded, "unloaded by an operator".into()),
            _ => (ModelState::Registered, String::new()),
        };
        ModelStatus::of(index, m, state, reason)
    }

    async fn details(&self, m: &Manifest) -> Result<ModelDetails> {
        let index = self.catalog.index(&m.id).await?;
        let config = self.config.model(&m.id);
        let not_loaded = RowsVerdict { independent: false, reason: "not loaded".into() };
        let batching = batching_view(&config.batching, &not_loaded);
        let proofs = ProofsView::not_loaded(config.proofs);
        Ok(ModelDetails::of(&index, m, self.status(&index, m), batching, proofs))
    }
}

/// The versions of all models, each model's in order.
pub(crate) fn in_order(
    models: &[(ModelId, std::sync::Arc<Index>)],
    status: impl Fn(&Index, &Manifest) -> ModelStatus,
) -> Vec<ModelStatus> {
    let mut all = Vec::new();
    for (_, index) in models {
        let mut manifests: Vec<_> = index.manifests.values().collect();
        manifests.sort_by_key(|m| (m.version.number().is_none(), m.version.number(), m.version.clone()));
        all.extend(manifests.into_iter().map(|m| status(index, m)));
    }
    all
}

/// See [`Offline::label`].
pub(crate) async fn label_in(catalog: &Catalog, id: &ModelId, label: &Label, version: Option<&ModelRef>) -> Result<()> {
    let Some(model) = version else { return catalog.unlabel(id, label).await };
    let version = catalog.resolve(model).await?.version.clone();
    let marks = Marks { labels: [label.clone()].into(), example: None };
    catalog.mark(id, &version, marks).await
}

/// Opens a registered version in a host of its own and validates it.
pub(crate) async fn validate_version(
    catalog: &Catalog,
    opener: &Opener,
    config: &ServingConfig,
    permits: (&PermitPool, u64),
    model: &ModelRef,
    example: Option<Vec<Tensor>>,
) -> Result<Validation> {
    let m = catalog.resolve(model).await?;
    let kind = Engines::by_name(&m.engine)?;
    let given = match example {
        Some(inputs) => Some(inputs),
        None => example_of(catalog, &m).await?,
    };
    let example = match given.map(|e| example::ordered(e, m.id.as_str(), &m.signature)).transpose() {
        Ok(example) => example,
        Err(e) => return Ok(Validation::not_valid(kind, e.message().to_owned())),
    };
    let config = config.model(&m.id);
    let opened = match opener.open_again(&m.id, &m.version, config.threads.unwrap_or(1), config.proofs).await {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::LoadFailed => {
            return Ok(Validation::not_valid(kind, e.message().to_owned()));
        }
        Err(e) => return Err(e),
    };
    let found = validate(kind, &opened, example, config, permits).await;
    opened.host.unload().await;
    Ok(found)
}

/// The inputs of a version's example, if it has one.
pub(crate) async fn example_of(catalog: &Catalog, m: &Manifest) -> Result<Option<Vec<Tensor>>> {
    let kept = catalog.example(&m.id, &m.version).await?;
    kept.map(|kept| example::decode(&kept, m.id.as_str(), &m.signature)).transpose()
}
