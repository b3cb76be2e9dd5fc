//! Proofs on arrival: put together with their session, examined, and judged by a policy.

use grey_core::{NONCE_BYTES, Tensor};
use grey_proof::{
    Bundle, Check, CheckResult, Known, KnownRequest, KnownTensor, Overall, Platform, Policy, SessionBundle,
    SoftwareKeys, Verdict,
};

use crate::{Answer, Error, InferCall, Result, clock, error::Rejected};

/// Bytes of a nonce that is made here.
const NONCE_MADE_BYTES: usize = 32;

/// Asks for a proof.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProveRequest {
    /// Repeated by the proof, 8 to 64 bytes; `None`: 32 random ones.
    pub nonce: Option<Vec<u8>>,
    /// Makes the proof's hashes of inputs and outputs unguessable for whoever has not got it.
    pub salt: Option<[u8; 32]>,
}

/// A proof, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The proof with its session: what is kept, and verified by anybody.
    pub bundle: Vec<u8>,
    /// The nonce of the proof and of the session's evidence.
    pub nonce: Vec<u8>,
    /// What the call's policy came to: valid, or there would be an error. `None` if there was no policy.
    pub verdict: Option<Verdict>,
}

/// What is sent for a proof: never less than what is needed to check it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub nonce: Vec<u8>,
    pub salt: Option<[u8; 32]>,
}

impl Asked {
    /// `None` if the call asks for no proof.
    pub fn of(call: &InferCall) -> Result<Option<Asked>> {
        let request = match (&call.prove, &call.verify) {
            (None, None) => return Ok(None),
            (request, _) => request.clone().unwrap_or_default(),
        };
        let nonce = match request.nonce {
            Some(nonce) if !NONCE_BYTES.contains(&nonce.len()) => {
                return Err(Error::Argument(format!("the nonce has {} bytes, expected 8 to 64", nonce.len())));
            }
            Some(nonce) => nonce,
            None => clock::random::<NONCE_MADE_BYTES>()
                .ok_or_else(|| Error::Argument("cannot make a nonce: the system gives no random bytes".into()))?
                .to_vec(),
        };
        Ok(Some(Asked { nonce, salt: request.salt }))
    }
}

/// What must hold of a proof that is worth keeping, whoever made it.
const EXAMINED: [Check; 7] = [
    Check::WellFormed,
    Check::Signature,
    Check::Outcome,
    Check::InputHash,
    Check::OutputHash,
    Check::Request,
    Check::Nonce,
];

/// Puts an answer's proof and its session together, refuses a proof that is not one of this request and this answer,
/// and judges it by the call's policy. Hashes inputs and outputs, which takes long where they are large.
///
/// `now` is in Unix seconds.
pub(crate) fn check(call: &InferCall, answer: &Answer, asked: &Asked, session: &[u8], now: u64) -> Result<Proven> {
    let proof = answer.proof.as_ref().ok_or_else(missing)?;
    let odd = |e: grey_proof::FormatError| Error::Answer(format!("its proof cannot be read: {e}"));
    let (session, manifest) = SessionBundle::parse(session).map_err(odd)?;
    let bundle = Bundle::new(proof.proof.to_vec(), session).encode().map_err(odd)?;
    let (_, parsed, _) = Bundle::parse(&bundle).map_err(odd)?;
    let known = Known {
        inputs: Some(known(&call.inputs)),
        outputs: Some(known(&answer.outputs)),
        salt: asked.salt.map(Vec::from),
        nonce: Some(asked.nonce.clone()),
        session_nonce: Some(asked.nonce.clone()),
        model_hash: call.model_hash,
        request: Some(KnownRequest {
            model_id: Some(call.model.to_string()),
            model_version: answer.version.as_ref().map(ToString::to_string),
            ..KnownRequest::default()
        }),
        ..Known::default()
    };
    let Some(policy) = &call.verify else {
        // Whom to trust nobody said: at the proof's own time, since clocks of two machines may differ.
        let anybody = Policy::software(SoftwareKeys::Any);
        let verdict = grey_proof::verify(&bundle, &anybody, parsed.claims().issued_at, &known);
        // Evidence of hardware is not verified here: that takes a policy.
        let is_software = manifest.measurement.platform() == Platform::Software;
        let of_session = [Check::KeyBinding, Check::Session];
        let examined = |c: Check| EXAMINED.contains(&c) || is_software && of_session.contains(&c);
        return match verdict.checks.iter().find(|c| examined(c.name) && c.result != CheckResult::Pass) {
            None => Ok(Proven { bundle, nonce: asked.nonce.clone(), verdict: None }),
            Some(c) => Err(Error::Answer(format!(
                "its proof is not one of this answer: {}: expected {}, found {}",
                c.name, c.expected, c.found
            ))),
        };
    };
    let verdict = grey_proof::verify(&bundle, policy, now, &known);
    if verdict.overall == Overall::Valid {
        Ok(Proven { bundle, nonce: asked.nonce.clone(), verdict: Some(verdict) })
    } else {
        Err(Error::ProofRejected(Box::new(Rejected { verdict, bundle })))
    }
}

pub(crate) fn missing() -> Error {
    Error::Answer("it has no proof, though one was asked for".into())
}

fn known(tensors: &[Tensor]) -> Vec<KnownTensor> {
    let one = |t: &Tensor| KnownTensor {
        name: t.name().to_owned(),
        datatype: t.dtype().name().to_owned(),
        shape: t.shape().iter().map(|d| i128::from(*d)).collect(),
        data: t.data().to_contiguous(),
    };
    tensors.iter().map(one).collect()
}
