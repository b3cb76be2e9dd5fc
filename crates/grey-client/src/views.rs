//! What a node tells about itself and its models, read from its JSON. Members that are not known are kept as
//! they came where a version or the node is told in full, else left unread: a newer node can say more.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use grey_core::{DType, ModelId, Signature, Tensor, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result, text::shown};

/// One version in the list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The model.
    pub id: ModelId,
    /// The version.
    pub version: Version,
    /// Whether requests without a version get this one.
    pub latest: bool,
    /// Labels that mean this version, `latest` among them.
    #[serde(default)]
    pub labels: Vec<String>,
    /// `registered`, `loading`, `ready`, `failed` or `unloaded`.
    pub state: String,
    /// Why, where the state needs a reason; else empty.
    #[serde(default)]
    pub reason: String,
}

/// All models of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// Every version of every model.
    pub models: Vec<ModelStatus>,
    /// Models whose entries cannot be read, each with why.
    #[serde(default)]
    pub unreadable: BTreeMap<String, String>,
}

/// One version, in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDetails {
    /// Id, version, state.
    #[serde(flatten)]
    pub status: ModelStatus,
    /// Engine, e.g. `onnxruntime`.
    pub engine: String,
    /// Lower-case hex.
    pub model_hash: String,
    /// How `model_hash` was made, e.g. `sha256-file`.
    pub model_hash_scheme: String,
    /// Path → bytes of the version's files.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
    /// Inputs and outputs.
    pub signature: Signature,
    /// Free metadata given at registration.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// When it was registered, Unix seconds.
    pub created: u64,
    /// How requests are batched, and why.
    pub batching: Batching,
    /// Whether answers can be proven, as what, and why.
    pub proofs: Proofs,
    /// Threads of one run; `None` if it is not loaded.
    #[serde(default)]
    pub threads: Option<u32>,
    /// The running hosts; empty if it is not loaded.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// What a newer node says beside.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// How requests of a version are put together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// Whether requests share runs.
    pub enabled: bool,
    /// The reason in words.
    pub reason: String,
    /// Most rows in one run.
    pub max_batch_size: u32,
    /// `none` or `fill`.
    pub hold: String,
    /// How long a batch may be held back with `fill`.
    pub max_wait_ms: u64,
    /// Batch sizes that runs are padded to.
    #[serde(default)]
    pub buckets: Vec<u32>,
    /// What a newer node says beside.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Whether and as what a version's answers can be proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofs {
    /// Whether they are made at all.
    pub on: bool,
    /// Determinism class, e.g. `slot`; `None` if no proof is made, or the version is not loaded.
    #[serde(default)]
    pub class: Option<String>,
    /// Why this class, or why no proof is made.
    pub reason: String,
    /// Whether a proven request shares its run with nobody.
    pub alone: bool,
    /// What the model computes in, e.g. `fp32`; `None` if it is not loaded.
    #[serde(default)]
    pub precision: Option<String>,
    /// Determinism switches that are set.
    #[serde(default)]
    pub switches: Vec<String>,
    /// What the self-test found.
    pub self_test: String,
    /// What a newer node says beside.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// One engine host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Process id; `None` where the engine runs inside the node.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Runtime and version.
    pub runtime: String,
    /// What a newer node says beside.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A version that was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// The version.
    #[serde(flatten)]
    pub details: ModelDetails,
    /// Whether these bytes were registered before, so that nothing changed.
    pub existed: bool,
}

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// `grey`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it takes requests.
    pub ready: bool,
    /// Why not; else empty.
    #[serde(default)]
    pub reason: String,
    /// How verifiers know it.
    pub proofs: NodeProofs,
    /// What a newer node says beside.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// How a node is known to verifiers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProofs {
    /// Of its evidence: SGX, TDX, SEV-SNP or SOFTWARE.
    pub platform: String,
    /// Lower-case hex.
    pub measurement: String,
    /// The key that signs `SOFTWARE` evidence, lower-case hex.
    pub node_key: String,
}

/// A model by its protocol's metadata, which every server of the protocol has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// The model.
    pub name: String,
    /// Its versions.
    #[serde(default)]
    pub versions: Vec<String>,
    /// What runs it.
    #[serde(default)]
    pub platform: String,
    /// Inputs, in the model's order.
    pub inputs: Vec<TensorMetadata>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorMetadata>,
}

/// An input or output by the protocol's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMetadata {
    /// Name.
    pub name: String,
    /// Element type.
    pub datatype: DType,
    /// Dimensions; −1 where any size will do.
    pub shape: Vec<i64>,
}

/// How a replay ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Replay {
    /// `reproduced`, `differs` or `profile-differs`.
    pub result: String,
    /// The model that the proof is of.
    pub model: ModelName,
    /// Determinism class of the proof.
    pub class: String,
    /// Hash of the outputs: the proof's and the replay's.
    pub output_hash: HashPair,
    /// Where this node is not what the proof states.
    pub profile_differences: Vec<Difference>,
    /// What the replay gave.
    pub outputs: Vec<Tensor>,
}

/// A model and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelName {
    /// The model.
    pub id: String,
    /// The version.
    pub version: String,
}

/// Two hashes, in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashPair {
    /// The proof's.
    pub recorded: String,
    /// The replay's.
    pub replayed: String,
}

/// Where a profile differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its member, e.g. `engine_version`.
    pub member: String,
    /// As the proof states it.
    pub recorded: String,
    /// As it is on this node.
    pub here: String,
}

/// What is read of an answer to `remove`.
#[derive(Deserialize)]
pub(crate) struct Removed {
    pub removed: Vec<Version>,
}

/// What is read of a replay's answer.
#[derive(Deserialize)]
pub(crate) struct ReplayReport {
    result: String,
    model: ModelName,
    #[serde(default)]
    class: Option<String>,
    output_hash: HashPair,
    #[serde(default)]
    profile_differences: Vec<Difference>,
    outputs: Vec<ReplayedOutput>,
}

#[derive(Deserialize)]
struct ReplayedOutput {
    name: String,
    datatype: DType,
    shape: Vec<u64>,
    data: String,
}

impl ReplayReport {
    /// Checks the outputs.
    pub fn open(self) -> Result<Replay> {
        let one = |o: ReplayedOutput| {
            let data = STANDARD
                .decode(&o.data)
                .map_err(|e| Error::Answer(format!("output '{}' of the replay is not base64: {e}", shown(&o.name))))?;
            Tensor::new(o.name, o.datatype, o.shape, data).map_err(|e| Error::Answer(e.message().to_owned()))
        };
        Ok(Replay {
            result: self.result,
            model: self.model,
            class: self.class.unwrap_or_default(),
            output_hash: self.output_hash,
            profile_differences: self.profile_differences,
            outputs: self.outputs.into_iter().map(one).collect::<Result<_>>()?,
        })
    }
}
