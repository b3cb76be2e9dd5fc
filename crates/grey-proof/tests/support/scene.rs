//! A session and a proof, whole at first, of which a test bends one part. Whatever comes after that
//! part is hashed and signed anew, so that nothing else is wrong.

use std::collections::BTreeMap;

use grey_proof::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::item::Item;

/// Begin of the session.
pub const START: u64 = 1_800_000_000;
/// Its end, as late as may be.
pub const END: u64 = START + 86_400;
/// When the proof was made.
pub const IAT: u64 = START + 100;
/// When it is verified.
pub const NOW: u64 = START + 160;
/// The client's nonces.
pub const NONCE: [u8; 16] = [0x21; 16];
pub const SESSION_NONCE: [u8; 12] = [0x22; 12];
pub const SALT: [u8; 32] = [0x23; 32];

type Edit = Box<dyn Fn(&mut Item)>;
type Sign = Box<dyn Fn(&SigningKey, &[u8]) -> [u8; 64]>;

pub enum Form {
    Single,
    /// Leaves, and which is the proof's.
    Batch(usize, usize),
    /// A path of this many hashes through a tree that nobody made as a whole.
    Tall(usize),
}

pub struct Scene {
    pub form: Form,
    pub node_key: SigningKey,
    pub session_key: SigningKey,
    pub manifest: Item,
    pub claims: Item,
    /// The digest in claims, kid and root, where it is not the manifest's.
    pub digest: Option<[u8; 32]>,
    pub edit_protected: Edit,
    pub edit_root: Edit,
    pub edit_proof: Edit,
    pub edit_evidence: Edit,
    pub edit_bundle: Edit,
    pub sign: Sign,
    pub aad: Option<&'static [u8]>,
    /// Puts evidence over the batch into member 9.
    pub strict: bool,
}

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// The node's public key, as policies name it.
pub fn node_key_hex() -> String {
    hex(&key(9).verifying_key().to_bytes())
}

/// Takes the node's key, and asks for nothing else.
pub fn policy() -> Value {
    json!({ "software_keys": [node_key_hex()] })
}

/// A tensor as `known` has it.
pub fn tensor(name: &str, datatype: &str, shape: &[i64], data: &[u8]) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": shape, "data": base64(data) })
}

pub fn inputs() -> Value {
    json!([
        tensor("x", "FP32", &[2, 2], &[0, 0, 128, 63, 0, 0, 0, 128, 0, 0, 192, 127, 1, 0, 192, 127]),
        tensor("text", "BYTES", &[2], &[2, 0, 0, 0, b'h', b'i', 0, 0, 0, 0]),
        tensor("scale", "FP64", &[], &1.5f64.to_le_bytes()),
    ])
}

pub fn outputs() -> Value {
    json!([
        tensor("label", "INT64", &[2], &[3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]),
        tensor("Empty", "BOOL", &[0, 7], &[]),
        tensor("ok", "BOOL", &[2], &[1, 0]),
    ])
}

/// The hash of such tensors, made without the crate's hashing.
pub fn tensors_hash(tensors: &Value, salt: Option<&[u8]>) -> [u8; 32] {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut elements: Vec<(String, Item)> = Vec::new();
    for t in tensors.as_array().unwrap() {
        let text = |name: &str| t[name].as_str().unwrap().to_owned();
        let shape: Vec<Item> = t["shape"].as_array().unwrap().iter().map(|d| d.as_i64().unwrap().into()).collect();
        let data: [u8; 32] = Sha256::digest(STANDARD.decode(text("data")).unwrap()).into();
        let element = vec![Item::Text(text("name")), Item::Text(text("datatype")), shape.into(), data.into()];
        elements.push((text("name"), element.into()));
    }
    elements.sort_by(|a, b| a.0.cmp(&b.0));
    let array = Item::Array(elements.into_iter().map(|(_, e)| e).collect()).encode();
    let domain: &[u8] = if salt.is_some() { b"grey.tensor.v1+salt\0" } else { b"grey.tensor.v1\0" };
    Sha256::digest([domain, salt.unwrap_or_default(), &array].concat()).into()
}

pub fn manifest() -> Manifest {
    Manifest {
        id: [2; 16],
        signing_key: key(1).verifying_key().to_bytes(),
        sealing_keys: vec![],
        measurement: Measurement::software([5; 32]),
        not_before: START,
        not_after: END,
        code_sha256: [5; 32],
    }
}

pub fn exec() -> Exec {
    Exec {
        class: Class::Slot,
        engine: "onnxruntime".into(),
        engine_version: "1.32.0".into(),
        engine_sha256: [6; 32],
        device: "amd/x86-64-v4+avx512_bf16".into(),
        threads: 3,
        segments: vec![Segment { bucket: 4, position: 1, rows: 2 }],
        lengths: vec![],
        precision: "fp32".into(),
        sampling: BTreeMap::new(),
        executor: None,
        filler: Filler::Zero,
        switches: vec![],
    }
}

/// The run of an upstream, in its one form.
pub fn upstream() -> Exec {
    Exec {
        class: Class::None,
        engine: "triton".into(),
        engine_version: "2.60".into(),
        engine_sha256: [0; 32],
        device: "upstream".into(),
        threads: 0,
        segments: vec![Segment { bucket: 2, position: 0, rows: 2 }],
        precision: "unknown".into(),
        executor: Some(("triton".into(), "2.60".into())),
        ..exec()
    }
}

pub fn task_id() -> TaskId {
    "019a0000-0000-7000-8000-000000000009".parse().unwrap()
}

/// The least that an answer's claims say.
pub fn claims() -> Claims {
    Claims {
        issuer: "grey".into(),
        issued_at: IAT,
        task_id: task_id(),
        nonce: None,
        tenant_tag: tenant_tag(&[8; 32], "tenant"),
        model_id: "digits".into(),
        model_version: "1".into(),
        model_hash: Some(ModelHash { scheme: ModelHashScheme::File, hash: [9; 32] }),
        outcome: Outcome::Ok {
            input_hash: tensors_hash(&inputs(), None),
            output_hash: tensors_hash(&outputs(), None),
            output_names: vec!["Empty".into(), "label".into(), "ok".into()],
        },
        tensor_scheme: TensorScheme::Plain,
        exec: Some(exec()),
        measurement: Measurement::software([5; 32]),
        session_digest: [0; 32],
        blinding: [12; 16],
        children: vec![],
        sealed: None,
        parameters: BTreeMap::new(),
    }
}

/// Claims with everything that can be in them.
pub fn full_claims() -> Claims {
    Claims {
        nonce: Some(NONCE.to_vec()),
        exec: Some(Exec {
            lengths: vec![16, 128],
            sampling: BTreeMap::from([(1, 300)]),
            filler: Filler::OwnFirstRow,
            switches: vec!["denormals-off".into(), "prepack-off".into()],
            segments: vec![Segment { bucket: 4, position: 3, rows: 1 }, Segment { bucket: 1, position: 0, rows: 1 }],
            ..exec()
        }),
        children: vec![[13; 32]],
        sealed: Some(SealedRequest { hash: [14; 32], kid: 1 }),
        parameters: BTreeMap::from([
            ("top_k".into(), ParameterValue::Int(-5)),
            ("deep".into(), ParameterValue::Bool(true)),
            ("temperature".into(), ParameterValue::Text("0.5".into())),
        ]),
        ..claims()
    }
}

/// What a caller can know of [`full_claims`].
pub fn full_known() -> Value {
    json!({
        "inputs": inputs(), "outputs": outputs(),
        "nonce": base64(&NONCE), "session_nonce": base64(&SESSION_NONCE),
        "model_hash": hex(&[9; 32]), "model_hash_scheme": "sha256-file",
        "request": {
            "model_id": "digits", "model_version": "1",
            "parameters": { "top_k": -5, "deep": true, "temperature": 0.5 },
            "task_id": task_id().to_string(), "tenant_tag": hex(&tenant_tag(&[8; 32], "tenant")),
        },
        "seen": ["019a0000-0000-7000-8000-00000000000a"],
    })
}

/// The other outcomes' claims: no outputs, no exec, a model hash where inputs have one.
pub fn failed(outcome: Outcome) -> Claims {
    let model_hash = claims().model_hash.filter(|_| outcome.input_hash().is_some());
    Claims { outcome, model_hash, exec: None, ..claims() }
}

pub fn single(claims: Claims) -> Scene {
    Scene {
        form: Form::Single,
        node_key: key(9),
        session_key: key(1),
        manifest: Item::decode(&manifest().encode().unwrap()),
        claims: Item::decode(&claims.encode().unwrap()),
        digest: None,
        edit_protected: Box::new(|_| {}),
        edit_root: Box::new(|_| {}),
        edit_proof: Box::new(|_| {}),
        edit_evidence: Box::new(|_| {}),
        edit_bundle: Box::new(|_| {}),
        sign: Box::new(|key, message| {
            use ed25519_dalek::Signer as _;
            key.sign(message).to_bytes()
        }),
        aad: None,
        strict: false,
    }
}

pub fn batch(claims: Claims, leaves: usize, index: usize) -> Scene {
    Scene { form: Form::Batch(leaves, index), ..single(claims) }
}

/// Evidence by `key`, over a binding.
pub fn evidence(key: &SigningKey, binding: [u8; 64]) -> Item {
    Item::decode(&SoftwareEvidence::sign(binding, key).encode())
}

impl Scene {
    /// The same with claims bent; whatever is absent in `bend` stays.
    pub fn claims(mut self, bend: impl FnOnce(&mut Item)) -> Scene {
        bend(&mut self.claims);
        self
    }

    pub fn manifest(mut self, bend: impl FnOnce(&mut Item)) -> Scene {
        bend(&mut self.manifest);
        self
    }

    pub fn protected(self, bend: impl Fn(&mut Item) + 'static) -> Scene {
        Scene { edit_protected: Box::new(bend), ..self }
    }

    pub fn root(self, bend: impl Fn(&mut Item) + 'static) -> Scene {
        Scene { edit_root: Box::new(bend), ..self }
    }

    pub fn proof(self, bend: impl Fn(&mut Item) + 'static) -> Scene {
        Scene { edit_proof: Box::new(bend), ..self }
    }

    pub fn evidence(self, bend: impl Fn(&mut Item) + 'static) -> Scene {
        Scene { edit_evidence: Box::new(bend), ..self }
    }

    pub fn bundle(self, bend: impl Fn(&mut Item) + 'static) -> Scene {
        Scene { edit_bundle: Box::new(bend), ..self }
    }

    pub fn signed(self, sign: impl Fn(&SigningKey, &[u8]) -> [u8; 64] + 'static) -> Scene {
        Scene { sign: Box::new(sign), ..self }
    }

    /// The digest of the manifest.
    pub fn session_digest(&self) -> [u8; 32] {
        session_digest(&self.manifest.encode())
    }

    fn cose(&self, protected: Item, aad: &[u8], payload: Vec<u8>) -> Item {
        let mut protected = protected;
        (self.edit_protected)(&mut protected);
        let message = to_be_signed(&protected.encode(), self.aad.unwrap_or(aad), &payload);
        let signature = (self.sign)(&self.session_key, &message);
        let parts = vec![protected.embed(), Item::Map(vec![]), Item::Bytes(payload), signature.into()];
        Item::Tag18(Box::new(parts.into()))
    }

    /// The proof, and the payload that was signed.
    fn make_proof(&self) -> (Item, Vec<u8>) {
        let digest = self.digest.unwrap_or_else(|| self.session_digest());
        let mut claims = self.claims.clone();
        if let Item::Map(entries) = &mut claims
            && let Some((_, d)) = entries.iter_mut().find(|(k, _)| *k == Item::Int(-70012))
            && *d == Item::from([0; 32])
        {
            *d = digest.into();
        }
        let claims = claims.encode();
        let kid = || digest[..8].to_vec();
        let (leaf_index, size, path) = match self.form {
            Form::Single => {
                let protected =
                    Item::Map(vec![(1.into(), (-19).into()), (3.into(), 61.into()), (4.into(), Item::Bytes(kid()))]);
                return (self.cose(protected, b"grey.inference.v1", claims.clone()), claims);
            }
            Form::Batch(leaves, index) => {
                let mut level: Vec<[u8; 32]> = (0..leaves).map(|i| leaf_hash(&[i as u8])).collect();
                level[index] = leaf_hash(&claims);
                let tree = Tree::new(level).unwrap();
                (index, tree.size() as i64, tree.path(index as u64).unwrap())
            }
            Form::Tall(height) => (5, 1i64 << height, (0..height).map(|i| leaf_hash(&[i as u8])).collect()),
        };
        let mut at = leaf_index;
        let root = path.iter().fold(leaf_hash(&claims), |hash, sibling| {
            let (left, right) = if at & 1 == 1 { (sibling, &hash) } else { (&hash, sibling) };
            at >>= 1;
            Sha256::digest([&[1][..], left, right].concat()).into()
        });
        let mut root = Item::Map(vec![
            (1.into(), "grey.batch.v1".into()),
            (2.into(), root.into()),
            (3.into(), size.into()),
            (4.into(), digest.into()),
        ]);
        (self.edit_root)(&mut root);
        let payload = root.encode();
        let protected = Item::Map(vec![(1.into(), (-19).into()), (4.into(), Item::Bytes(kid()))]);
        let signed = self.cose(protected, b"grey.batch.v1", payload.clone());
        let path: Vec<Item> = path.into_iter().map(Item::from).collect();
        (Item::Array(vec![Item::Bytes(claims), (leaf_index as i64).into(), path.into(), signed]), payload)
    }

    fn session_members(&self) -> Item {
        let nonce = nonce32(&SESSION_NONCE);
        let mut made = evidence(&self.node_key, binding(&self.session_digest(), &nonce));
        (self.edit_evidence)(&mut made);
        let member_3 = vec![(1.into(), "SOFTWARE".into()), (2.into(), made.embed()), (3.into(), nonce.into())];
        Item::Map(vec![(2.into(), self.manifest.embed()), (3.into(), Item::Map(member_3))])
    }

    /// The bundle.
    pub fn build(&self) -> Vec<u8> {
        let (mut proof, payload) = self.make_proof();
        (self.edit_proof)(&mut proof);
        let mut bundle = self.session_members();
        bundle.put(1, proof.embed());
        if self.strict {
            bundle.put(9, evidence(&self.node_key, batch_report(&payload)).embed());
        }
        (self.edit_bundle)(&mut bundle);
        bundle.encode()
    }

    /// The session's bundle, without a proof.
    pub fn build_session(&self) -> Vec<u8> {
        let mut bundle = self.session_members();
        (self.edit_bundle)(&mut bundle);
        bundle.encode()
    }
}

/// The Sig_structure, by hand.
fn to_be_signed(protected: &[u8], aad: &[u8], payload: &[u8]) -> Vec<u8> {
    let parts = [
        "Signature1".into(),
        Item::Bytes(protected.to_vec()),
        Item::Bytes(aad.to_vec()),
        Item::Bytes(payload.to_vec()),
    ];
    Item::Array(parts.to_vec()).encode()
}
