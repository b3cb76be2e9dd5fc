//! `POST /grey/v1/verify`: the verdict on a proof by this node, for those who look at it in a browser. It is
//! the node's word: whoever doubts the node runs `grey proof verify` elsewhere.

use axum::extract::{Request, State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use grey_core::{Error, ErrorKind, ModelId, ModelRef, Payload, Result, Tensor, VersionChoice};
use grey_proof::{Bundle, Known, Policy, Proof, SessionBundle, Verdict};
use grey_serving::Identity;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Answer, Shared,
    error::json_response,
    infer::read_body,
    proofs::{decoded_proof, is_bundle},
};
use crate::{
    clock, known_tensors,
    oip::{self, Budget, DecodeContext, json},
};

/// Longest text of a policy or of known values that is read: far above any that people write (tensors come as a
/// request and an answer), since what is made of it is many times as large.
const KNOWN_TEXT_BYTES_MAX: usize = 1 << 20;

/// The request's body. Texts stay as they came: by way of a 64-bit float some numbers would become others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask<'a> {
    /// Base64 of a bundle, or of a proof of this node (`grey_proof` of an answer).
    proof: String,
    /// The inference request; of it, its inputs.
    #[serde(borrow)]
    request: Option<&'a RawValue>,
    /// The inference answer; of it, its outputs.
    #[serde(borrow)]
    answer: Option<&'a RawValue>,
    /// What else the caller knows, as `grey proof verify --known` has it.
    #[serde(borrow)]
    known: Option<&'a RawValue>,
    /// The policy, as `grey proof verify --policy` has it; absent: this node, by its own word.
    #[serde(borrow)]
    policy: Option<&'a RawValue>,
}

/// One of a request's or an answer's lists of tensors.
#[derive(Deserialize)]
struct Tensors<'a> {
    #[serde(borrow)]
    inputs: Option<&'a RawValue>,
    #[serde(borrow)]
    outputs: Option<&'a RawValue>,
}

/// The answer.
#[derive(Serialize)]
struct Judged {
    #[serde(flatten)]
    verdict: Verdict,
    /// The time that was verified at, Unix seconds.
    at: u64,
    /// The policy that was used.
    policy: Value,
    /// Base64 of the bundle that was verified.
    bundle: String,
    /// The bundle for people; `null` if it cannot be read.
    view: Option<Map<String, Value>>,
}

/// What was asked, read.
struct Case {
    proof: Vec<u8>,
    known: Known,
    policy: Policy,
    /// The policy's text.
    stated: Value,
}

/// See the module.
pub(super) async fn verify(State(app): State<Shared>, request: Request) -> Answer {
    let (parts, incoming) = request.into_parts();
    let (body, permit) = read_body(&app, &parts.headers, incoming).await?;
    let identity = app.node.identity().clone();
    // The permit lives as long as the copies that are made of the body.
    let (mut case, permit) = blocking(move || {
        let mut permit = permit;
        read(&body, &mut |bytes| permit.grow(bytes), &identity).map(|case| (case, permit))
    })
    .await??;
    if !is_bundle(&case.proof) {
        case.proof = bundled(&app, &mut case).await?;
    }
    let judged = blocking(move || judge(&case)).await?;
    drop(permit);
    Ok(json_response(StatusCode::OK, &judged))
}

/// Hashes and signatures of what may be large: off the threads that serve connections.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("the proof was not verified: {e}")))
}

fn read(body: &Payload, budget: &mut Budget<'_>, identity: &Identity) -> Result<Case> {
    let data = json::contiguous(body, budget)?;
    let text = std::str::from_utf8(&data).map_err(|e| Error::invalid(format!("the body is not UTF-8: {e}")))?;
    let bad = |e: String| Error::invalid(format!("the body is not what it should be: {e}"));
    // The proof's text is a copy, as are those with escapes.
    budget(text.len().saturating_add(json::survey(text).map_err(bad)?))?;
    let ask: Ask<'_> = json::object(text).map_err(bad)?;
    for (name, given) in [("policy", ask.policy), ("known", ask.known)] {
        let found = given.map_or(0, |raw| raw.get().len());
        if found > KNOWN_TEXT_BYTES_MAX {
            let why = format!("{name} has {found} bytes, expected at most {KNOWN_TEXT_BYTES_MAX}");
            return Err(Error::new(ErrorKind::TooLarge, why));
        }
    }
    let proof = decoded_proof(&ask.proof).map_err(|e| e.context("proof"))?;
    let (policy, stated) = match ask.policy {
        None => {
            let own = own_policy(identity);
            (Policy::from_json(&own.to_string()).map_err(|e| Error::internal(e.to_string()))?, own)
        }
        Some(raw) => {
            let policy = Policy::from_json(raw.get()).map_err(|e| Error::invalid(e.to_string()))?;
            (policy, serde_json::from_str(raw.get()).map_err(|e| bad(e.to_string()))?)
        }
    };
    let mut known = match ask.known {
        None => Known::default(),
        Some(raw) => Known::from_json(raw.get()).map_err(|e| Error::invalid(e.to_string()))?,
    };
    for (document, name, of, known) in [
        (ask.request, "request", (|t| t.inputs) as fn(Tensors<'_>) -> Option<&RawValue>, &mut known.inputs),
        (ask.answer, "answer", |t| t.outputs, &mut known.outputs),
    ] {
        let Some(document) = document else { continue };
        if known.is_some() {
            return Err(Error::invalid(format!("known has the tensors of '{name}' as well: leave one of them out")));
        }
        let tensors: Tensors<'_> = json::object(document.get()).map_err(|e| bad(format!("{name}: {e}")))?;
        let list = of(tensors).ok_or_else(|| bad(format!("{name} has no list of tensors")))?;
        *known = Some(known_tensors(&decode(list, name, budget)?));
    }
    Ok(Case { proof, known, policy, stated })
}

/// Tensors as a node decodes them; outputs are written as inputs are.
fn decode(list: &RawValue, name: &str, budget: &mut Budget<'_>) -> Result<Vec<Tensor>> {
    budget(list.get().len())?;
    let body = Payload::from(format!("{{\"inputs\":{}}}", list.get()).into_bytes());
    // The decoder wants a name, and never looks at it.
    let model = ModelRef { id: ModelId::new(name)?, version: VersionChoice::Latest };
    let cx = DecodeContext {
        model: &model,
        header_length: None,
        tenant: None,
        signature: None,
        prove: None,
        now: clock::now(),
    };
    let decoded = oip::decode(cx, &body, budget).map_err(|e| e.context(name))?;
    Ok(decoded.request.inputs)
}

/// What makes a proof one of this node, if its word is taken.
fn own_policy(identity: &Identity) -> Value {
    match identity.platform {
        "SOFTWARE" => json!({"software_keys": [identity.node_key]}),
        _ => json!({"expected_measurement": identity.measurement}),
    }
}

/// A proof of this node with its session, whose evidence is made anew if the caller gave a nonce for it.
async fn bundled(app: &Shared, case: &mut Case) -> Result<Vec<u8>> {
    let proof = Proof::parse(&case.proof).map_err(|e| Error::invalid(format!("proof: {e}")))?;
    let nonce = case.known.session_nonce.clone().or_else(|| case.known.nonce.clone());
    let session = app.node.session(proof.claims().session_digest, nonce.clone()).await?;
    case.known.session_nonce = nonce;
    let odd = |e: grey_proof::FormatError| Error::internal(format!("a session of this node cannot be read: {e}"));
    let (session, _) = SessionBundle::parse(&session).map_err(odd)?;
    let bundle = Bundle::new(std::mem::take(&mut case.proof), session);
    bundle.encode().map_err(|e| Error::invalid(format!("proof: {e}")))
}

fn judge(case: &Case) -> Judged {
    let at = clock::unix_seconds();
    Judged {
        verdict: grey_proof::verify(&case.proof, &case.policy, at, &case.known),
        at,
        policy: case.stated.clone(),
        bundle: STANDARD.encode(&case.proof),
        view: grey_proof::view(&case.proof).ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity { platform: "SOFTWARE", measurement: "00".repeat(32), node_key: "11".repeat(32) }
    }

    fn read_text(text: &[u8]) -> Result<Case> {
        read(&Payload::from(text.to_vec()), &mut |_| Ok(()), &identity())
    }

    #[test]
    fn without_a_policy_it_is_this_node_by_its_own_word() {
        let case = read_text(br#"{"proof": "AA=="}"#).unwrap();
        assert_eq!(case.policy.software_keys, Some(grey_proof::Allowed::These(vec![[0x11; 32]])));
        assert_eq!(case.stated, json!({"software_keys": ["11".repeat(32)]}));
        let hardware = Identity { platform: "SGX", ..identity() };
        assert_eq!(own_policy(&hardware), json!({"expected_measurement": "00".repeat(32)}));
    }

    #[test]
    fn long_texts_are_refused_before_they_are_read() {
        for name in ["policy", "known"] {
            let text = format!("{{\"proof\": \"AA==\", \"{name}\": [{}]}}", " ".repeat(KNOWN_TEXT_BYTES_MAX));
            let e = read_text(text.as_bytes()).err().unwrap();
            assert!(e.kind() == ErrorKind::TooLarge && e.message().starts_with(name), "{e}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = read_text(&bytes);
        }

        #[test]
        fn no_json_panics(parts in proptest::collection::vec(prop_oneof![
            Just("{"), Just("}"), Just("["), Just("]"), Just(","), Just(":"), Just("null"), Just("1e999"), Just("-1"),
            Just("\"proof\":\"AA==\""), Just("\"request\":"), Just("\"answer\":"), Just("\"inputs\":"), Just("\"outputs\":"),
            Just("\"known\":"), Just("\"policy\":"), Just("\"nonce\""), Just("\"AA==\""), Just("\"name\":\"x\""),
            Just("\"datatype\":\"FP32\""), Just("\"shape\":[1]"), Just("\"data\":[1]"),
        ], 0..40)) {
            let _any = read_text(parts.concat().as_bytes());
            let _any = read_text(format!("{{\"proof\":\"AA==\",{}}}", parts.concat()).as_bytes());
        }
    }
}
