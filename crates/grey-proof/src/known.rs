use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::error::shown;
use crate::input::{InputError, Tree};
use crate::uuid::parse_uuid;
use crate::{ModelHashScheme, ParameterValue};

type Result<T> = std::result::Result<T, InputError>;

/// A tensor as the caller has it. Whether there can be such a tensor is for checks 13 and 14 to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTensor {
    /// Name.
    pub name: String,
    /// Name of the dtype.
    pub datatype: String,
    /// Dimensions.
    pub shape: Vec<i128>,
    /// Raw bytes, little-endian and row-major.
    pub data: Bytes,
}

/// The model's hash, if need be with how it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownModelHash {
    /// SHA-256.
    pub hash: [u8; 32],
    /// `None`: the hash is compared alone.
    pub scheme: Option<ModelHashScheme>,
}

/// What the caller knows of its own request. A member that is `None` is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownRequest {
    /// Model asked for.
    pub model_id: Option<String>,
    /// Its version.
    pub model_version: Option<String>,
    /// All parameters that change outputs, by the number rule of claim −70019.
    pub parameters: Option<BTreeMap<String, ParameterValue>>,
    /// The 16 bytes of the task's UUID.
    pub task_id: Option<[u8; 16]>,
    /// See [`tenant_tag`](crate::tenant_tag).
    pub tenant_tag: Option<[u8; 16]>,
}

/// What the caller knows, to be compared with the claims (§5, known). A member that is `None` asks
/// for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Inputs as sent (check 13).
    pub inputs: Option<Vec<KnownTensor>>,
    /// Outputs as received (check 14).
    pub outputs: Option<Vec<KnownTensor>>,
    /// The salt sent with the request, used by checks 13 and 14.
    pub salt: Option<Vec<u8>>,
    /// The nonce sent with the request (check 16).
    pub nonce: Option<Vec<u8>>,
    /// The nonce sent for the session's evidence (check 8).
    pub session_nonce: Option<Vec<u8>>,
    /// Check 12.
    pub model_hash: Option<KnownModelHash>,
    /// Check 15.
    pub request: Option<KnownRequest>,
    /// A JSON view that came with the bundle (check 21).
    pub view: Option<Map<String, Value>>,
    /// Task ids of proofs that were accepted before (check 18).
    pub seen: Option<BTreeSet<[u8; 16]>>,
}

impl Known {
    /// Reads known values in JSON.
    ///
    /// # Errors
    /// Unknown or missing members, other types, bad hex or base64, a member twice, a parameter that is
    /// none. The place is below `known`.
    pub fn from_json(text: &str) -> Result<Known> {
        Tree::from_json(text).and_then(Known::from_tree).map_err(|e| e.within("known"))
    }

    fn from_tree(tree: Tree) -> Result<Known> {
        let tensors = |t: Tree| t.list(KnownTensor::read);
        tree.object(|m| {
            let model_hash = m.optional("model_hash", Tree::hex)?;
            let scheme = m.optional("model_hash_scheme", |t| {
                t.name(&[ModelHashScheme::File, ModelHashScheme::Files], ModelHashScheme::name)
            })?;
            let model_hash = match (model_hash, scheme) {
                (Some(hash), scheme) => Some(KnownModelHash { hash, scheme }),
                (None, None) => None,
                (None, Some(_)) => return Err(crate::input::missing("model_hash")),
            };
            Ok(Known {
                inputs: m.optional("inputs", tensors)?,
                outputs: m.optional("outputs", tensors)?,
                salt: m.optional("salt", Tree::base64)?,
                nonce: m.optional("nonce", Tree::base64)?,
                session_nonce: m.optional("session_nonce", Tree::base64)?,
                model_hash,
                request: m.optional("request", KnownRequest::read)?,
                view: m.optional("view", view)?,
                seen: m.optional("seen", |t| Ok(t.list(task_id)?.into_iter().collect()))?,
            })
        })
    }
}

impl KnownTensor {
    fn read(tree: Tree) -> Result<KnownTensor> {
        tree.object(|m| {
            Ok(KnownTensor {
                name: m.required("name", Tree::text)?,
                datatype: m.required("datatype", Tree::text)?,
                shape: m.required("shape", |t| t.list(Tree::integer))?,
                data: m.required("data", Tree::base64)?.into(),
            })
        })
    }
}

impl KnownRequest {
    fn read(tree: Tree) -> Result<KnownRequest> {
        tree.object(|m| {
            Ok(KnownRequest {
                model_id: m.optional("model_id", Tree::text)?,
                model_version: m.optional("model_version", Tree::text)?,
                parameters: m.optional("parameters", parameters)?,
                task_id: m.optional("task_id", task_id)?,
                tenant_tag: m.optional("tenant_tag", Tree::hex)?,
            })
        })
    }
}

fn parameters(tree: Tree) -> Result<BTreeMap<String, ParameterValue>> {
    let read = |(name, tree): (String, Tree)| match ParameterValue::from_tree(tree) {
        Ok(value) => Ok((name, value)),
        Err(e) => Err(e.within(shown(&name))),
    };
    tree.entries()?.into_iter().map(read).collect()
}

fn view(tree: Tree) -> Result<Map<String, Value>> {
    tree.entries()?.into_iter().map(|(name, tree)| Ok((name, tree.into_value()?))).collect()
}

fn task_id(tree: Tree) -> Result<[u8; 16]> {
    let text = tree.text()?;
    parse_uuid(&text).ok_or_else(|| InputError::new("a UUID, or its 16 bytes in hex", shown(&text)))
}
