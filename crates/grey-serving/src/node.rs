//! The node: everything that a front asks for goes through here.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use grey_core::{InferRequest, InferResponse, ModelId, ModelRef, Result, Version};

use crate::{
    BytesPermit,
    api::{Added, EngineReport, ModelDetails, ModelStatistics, ModelStatus},
};

/// What is registered by [`Node::add`].
#[derive(Clone, Debug)]
pub struct AddRequest {
    /// The model.
    pub id: ModelId,
    /// The version's name; the next integer if absent.
    pub version: Option<Version>,
    /// Name of the file in the version, e.g. `model.onnx`.
    pub file_name: String,
    /// Free metadata.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// Whether to load it, too.
    pub load: bool,
}

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    _data: PathBuf,
}

#[expect(unused_variables, clippy::todo, clippy::unused_async, reason = "bodies arrive with the queue")]
impl Node {
    /// Answers one request. Dropping the future cancels it: it leaves the queue, or its answer is dropped.
    pub async fn infer(&self, request: InferRequest) -> Result<InferResponse> {
        todo!()
    }

    /// Registers a model from a stream of its file's bytes and loads it unless told not to.
    /// Dropping the future, or an error of the stream, leaves no trace.
    pub async fn add<S>(&self, request: AddRequest, body: S) -> Result<Added>
    where
        S: Stream<Item = Result<Bytes>> + Send + Unpin,
    {
        todo!()
    }

    /// Loads a version and waits until it is ready.
    pub async fn load(&self, model: &ModelRef) -> Result<ModelDetails> {
        todo!()
    }

    /// Unloads a version (all loaded versions, if none is named): queued requests fail with 503,
    /// running ones finish, the hosts end. Waits until they have.
    pub async fn unload(&self, model: &ModelRef) -> Result<()> {
        todo!()
    }

    /// Unloads and removes a version, or all versions of the model if `version` is `None`.
    /// Returns the removed versions.
    pub async fn remove(&self, id: &ModelId, version: Option<&Version>) -> Result<Vec<Version>> {
        todo!()
    }

    /// All registered versions that are not removed, by model id, versions in order.
    pub async fn list(&self) -> Result<Vec<ModelStatus>> {
        todo!()
    }

    /// One version. `NotFound` names the model, or the versions that exist.
    pub async fn show(&self, model: &ModelRef) -> Result<ModelDetails> {
        todo!()
    }

    /// `Ok` when a request for this model would be answered without loading, else why not.
    pub async fn model_ready(&self, model: &ModelRef) -> Result<()> {
        todo!()
    }

    /// Counters: of one version, of all loaded versions of a model (`Some` with `Latest` gives
    /// all versions of that id), or of all.
    pub async fn statistics(&self, model: Option<&ModelRef>) -> Result<Vec<ModelStatistics>> {
        todo!()
    }

    /// What `engine list` tells. Starts a host per engine to ask it.
    pub async fn engines(&self) -> Vec<EngineReport> {
        todo!()
    }

    /// Whether the node takes requests: `Err` says why not (draining; restoring, if strict).
    pub fn ready(&self) -> Result<()> {
        todo!()
    }

    /// Stops taking requests, lets queued ones finish, ends all hosts. Ready turns false at once.
    pub async fn drain(&self, longest: std::time::Duration) {
        todo!()
    }

    /// The metrics in OpenMetrics text form.
    pub fn metrics_text(&self) -> String {
        todo!()
    }

    /// Takes `bytes` of the node's budget for bodies, tensors and results in flight; `Overloaded`
    /// with a retry time if it is spent. The permit gives them back when dropped.
    pub fn take_bytes(&self, bytes: usize) -> Result<BytesPermit> {
        todo!()
    }
}
