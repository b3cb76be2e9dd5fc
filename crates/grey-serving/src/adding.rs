//! Registering a version: files come in one after the other, and are opened before anything is visible.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::Stream;
use grey_core::{Error, ErrorKind, Label, ModelId, Result, Tensor, Version};
use grey_engine::RunError;
use grey_registry::{AddSession, Catalog, Draft, FilePath, Manifest, Marks};

use crate::{
    ServingConfig,
    engines::{Engines, main_file},
    example,
    opener::{BAD_MODEL, EXAMPLE_TIMEOUT, Opened, Opener, inputs_of},
};

/// What is registered by [`crate::Node::begin_add`].
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The model.
    pub id: ModelId,
    /// The version's name; the next integer if absent.
    pub version: Option<Version>,
    /// Labels that mean this version from then on.
    pub labels: BTreeSet<Label>,
    /// Free metadata.
    pub metadata: BTreeMap<String, String>,
    /// Whether to load it, too.
    pub load: bool,
}

/// A version whose files are coming. Dropped, it leaves no trace.
pub struct Adding {
    session: AddSession,
    what: NewVersion,
    example: Option<Vec<Tensor>>,
}

/// What an add has come to.
pub(crate) enum Outcome {
    /// Bytes that were registered before, and what is newly said of them.
    Existed(std::sync::Arc<Manifest>),
    /// A new version, open in a host.
    New(std::sync::Arc<Manifest>, Box<Opened>),
}

impl Adding {
    /// Begins to add a version.
    pub(crate) async fn begin(catalog: &Catalog, what: NewVersion) -> Result<Adding> {
        catalog.check_labels(&what.id, what.version.as_ref(), &what.labels).await?;
        let session = catalog.begin_add(what.id.clone(), what.version.clone()).await?;
        Ok(Adding { session, what, example: None })
    }

    /// Streams in the file that the version has under `name`; more than `bytes_max` bytes are
    /// [`ErrorKind::TooLarge`].
    pub async fn file<S>(&mut self, name: &str, body: S, bytes_max: u64) -> Result<()>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        self.session.file(FilePath::new(name)?, body, bytes_max).await
    }

    /// Inputs of a request that this version answers, kept with it: where the node cannot make up inputs by
    /// itself, they show it how the version may be batched.
    ///
    /// # Errors
    /// A second example.
    pub fn example(&mut self, inputs: Vec<Tensor>) -> Result<()> {
        if self.example.replace(inputs).is_some() {
            return Err(Error::invalid("the example is given twice"));
        }
        Ok(())
    }

    pub(crate) fn load(&self) -> bool {
        self.what.load
    }

    /// Opens the files that have come, and registers them if that works.
    pub(crate) async fn finish(self, catalog: &Catalog, opener: &Opener, config: &ServingConfig) -> Result<Outcome> {
        let Adding { mut session, what, example } = self;
        let model = session.id().as_str().to_owned();
        if let Some(there) = session.existing().await? {
            drop(session);
            let example = match example {
                None => None,
                Some(given) => {
                    let inputs = example::ordered(given, &model, &there.signature)?;
                    let proofs = config.model(&there.id).proofs;
                    let opened = opener.open_again(&there.id, &there.version, 1, proofs).await?;
                    let ran = runs(&opened, &inputs).await;
                    opened.host.unload().await;
                    ran?;
                    Some(example::encode(&inputs)?)
                }
            };
            let marks = Marks { labels: what.labels, example };
            if !marks.is_empty() {
                catalog.mark(&there.id, &there.version, marks).await?;
            }
            return Ok(Outcome::Existed(there));
        }
        // The model is opened before it is visible: what does not open is never registered, and the
        // version before it stays the latest.
        let kind = Engines::for_file(main_file(session.files().iter().map(|f| f.path.as_str()))?)?;
        let artifact = opener.artifact(session.id(), session.upload(), session.files()).await?;
        let proofs = config.model(session.id()).proofs;
        let opened = opener.open(kind, artifact, 1, proofs).await.map_err(|e| match e.kind() {
            // The file is the caller's: a corrupt one is the caller's error.
            ErrorKind::LoadFailed if e.message().starts_with(BAD_MODEL) => Error::invalid(e.message().to_owned()),
            _ => e,
        })?;
        let ready = async {
            let example = match example {
                None => None,
                Some(given) => {
                    let inputs = example::ordered(given, &model, &opened.signature)?;
                    runs(&opened, &inputs).await?;
                    Some(example::encode(&inputs)?)
                }
            };
            session.mark(Marks { labels: what.labels, example });
            let (engine, signature) = (kind.name().to_owned(), opened.signature.clone());
            session.commit(Draft { engine, signature, metadata: what.metadata }).await
        };
        match ready.await {
            Ok(manifest) => {
                let hash = &manifest.model_hash;
                tracing::info!(model = %manifest.id, version = %manifest.version, %hash, "registered");
                Ok(Outcome::New(manifest, Box::new(opened)))
            }
            Err(e) => {
                opened.host.unload().await;
                Err(e)
            }
        }
    }
}

/// Whether the model takes its example.
async fn runs(opened: &Opened, inputs: &[Tensor]) -> Result<()> {
    let wanted = (0..opened.signature.outputs.len()).collect();
    let ran = opened.host.run(opened.handle, inputs_of(inputs), wanted, Some(EXAMPLE_TIMEOUT)).await;
    match ran {
        Ok(_) => Ok(()),
        Err(RunError::Model(why)) => Err(Error::invalid(format!("the model does not run on the example: {why}"))),
        Err(e) => Err(Error::invalid(format!("the example cannot be run: {e}"))),
    }
}
