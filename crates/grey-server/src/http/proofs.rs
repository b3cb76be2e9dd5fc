//! Sessions, whose evidence makes proofs verifiable, and replays.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    response::IntoResponse,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use grey_core::{Error, ErrorKind, InferRequest, ModelId, ModelRef, Parameter, Result, Tensor, VersionChoice};
use grey_proof::{BUNDLE_BYTES_MAX, Bundle, Claims, PROOF_BYTES_MAX, Proof};
use grey_serving::{Replay, ReplayRequest};
use http::header;
use serde_json::{Value, json};

use super::{
    Answer, Shared,
    body::ChunkBody,
    error::shown,
    infer::{LENGTH, read_body},
    target::Query,
};
use crate::{
    clock,
    oip::{self, DecodeContext},
};

/// `GET /grey/v1/sessions/{digest}[?nonce=BASE64URL]`: the session-bundle as CBOR.
pub(super) async fn session(State(app): State<Shared>, Path(digest): Path<String>, Query(query): Query) -> Answer {
    let bytes = session_digest(&digest)?;
    let mut nonce = None;
    for (key, value) in query {
        if key != "nonce" || nonce.is_some() {
            return Err(Error::invalid(format!("query parameter '{}', expected nonce, once", shown(&key))).into());
        }
        let decoded = URL_SAFE_NO_PAD
            .decode(&value)
            .map_err(|e| Error::invalid(format!("query parameter 'nonce' is not base64url (without padding): {e}")))?;
        nonce = Some(decoded);
    }
    let bundle = app.node.session(bytes, nonce).await?;
    let headers = [(header::CONTENT_TYPE, "application/cbor"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, bundle).into_response())
}

fn session_digest(text: &str) -> Result<[u8; 32]> {
    let bad = || Error::invalid(format!("session '{}', expected 64 digits of lower-case hex", shown(text)));
    text.parse::<grey_registry::Sha256Hash>().map(|h| h.0).map_err(|_| bad())
}

/// `POST /grey/v1/replay`: an inference request whose parameter `grey_proof` is the base64 of a proof,
/// or of its bundle. For operators, where the node allows it.
pub(super) async fn replay(State(app): State<Shared>, request: Request) -> Answer {
    if !app.settings.allow_replay() {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            "this node replays no proofs: allow_replay is false, as it is unless set where a node listens for \
             others than this machine (--allow-replay, allow_replay: true)",
        )
        .into());
    }
    let (parts, incoming) = request.into_parts();
    let header_length = parts.headers.get(&LENGTH).map(|v| oip::header_length(v.as_bytes())).transpose()?;
    if header_length == Some(0) {
        return Err(Error::invalid("a replay needs an inference request in JSON, found a raw binary one").into());
    }
    let (body, mut permit) = read_body(&app, &parts.headers, incoming).await?;
    let decoded = tokio::task::spawn_blocking(move || {
        // Which model it is the proof says; a name only stands in messages.
        let model = ModelRef { id: ModelId::new("replay")?, version: VersionChoice::Latest };
        let cx = DecodeContext {
            model: &model,
            header_length,
            tenant: None,
            signature: None,
            prove: Some(true),
            now: clock::now(),
        };
        let decoded = oip::decode(cx, &body, &mut |bytes| permit.grow(bytes))?;
        Ok::<_, Error>((to_replay(decoded.request)?, permit))
    })
    .await;
    let (request, mut permit) = decoded.map_err(|e| Error::internal(format!("decoding failed: {e}")))??;
    let replay = app.node.replay(&request).await?;
    permit.account(replay.outputs.iter().map(|t| t.data().len()).sum());
    // Base64 of outputs that may be large, in the report and in its text.
    let encoded = tokio::task::spawn_blocking(move || {
        let text = Bytes::from(report(&replay).to_string());
        permit.account(text.len());
        Body::new(ChunkBody::new(vec![text], permit))
    });
    let body = encoded.await.map_err(|e| Error::internal(format!("encoding failed: {e}")))?;
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((headers, body).into_response())
}

fn to_replay(request: InferRequest) -> Result<ReplayRequest> {
    let mut parameters = request.parameters;
    let text = match parameters.remove("grey_proof") {
        Some(Parameter::Text(t)) => t,
        _ => return Err(Error::invalid("parameter 'grey_proof' is missing, expected the base64 of a proof or bundle")),
    };
    let bytes = decoded_proof(&text).map_err(|e| e.context("parameter 'grey_proof'"))?;
    let claims = claims(&bytes)?;
    let salt = request.proof.and_then(|p| p.salt);
    Ok(ReplayRequest { claims, inputs: request.inputs, salt })
}

/// The bytes of a proof or bundle in base64.
pub(super) fn decoded_proof(text: &str) -> Result<Vec<u8>> {
    let bytes =
        STANDARD.decode(text).map_err(|e| Error::invalid(format!("it is not base64 (standard, padded): {e}")))?;
    if bytes.len() > BUNDLE_BYTES_MAX {
        let found = bytes.len();
        return Err(Error::invalid(format!("it has {found} bytes, expected at most {BUNDLE_BYTES_MAX}")));
    }
    Ok(bytes)
}

/// Whether these bytes are meant to be a bundle and no proof alone.
pub(super) fn is_bundle(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|b| b >> 5 == CBOR_MAP)
}

/// Of a bundle, or of a proof alone: a bundle is a map, a proof an array.
fn claims(bytes: &[u8]) -> Result<Claims> {
    let proof = match Bundle::parse(bytes) {
        Ok((_, proof, _)) => Ok(proof),
        Err(of_bundle) if bytes.len() > PROOF_BYTES_MAX => Err(of_bundle),
        Err(of_bundle) => Proof::parse(bytes).map_err(|of_proof| if is_bundle(bytes) { of_bundle } else { of_proof }),
    };
    let proof = proof.map_err(|e| Error::invalid(format!("parameter 'grey_proof' is no proof: {e}")))?;
    Ok(proof.claims().clone())
}

/// Major type of a map (RFC 8949 §3.1).
const CBOR_MAP: u8 = 5;

fn report(replay: &Replay) -> Value {
    let hex = |h: &[u8; 32]| base16ct::lower::encode_string(h);
    let tensor = |t: &Tensor| {
        json!({
            "name": t.name(),
            "datatype": t.dtype().name(),
            "shape": t.shape(),
            "data": STANDARD.encode(t.data().to_contiguous()),
        })
    };
    let outputs: Vec<Value> = replay.outputs.iter().map(tensor).collect();
    let (id, version) = &replay.model;
    json!({
        "result": replay.replayed,
        "model": BTreeMap::from([("id", id), ("version", version)]),
        "class": replay.class,
        "output_hash": {
            "recorded": hex(&replay.recorded_output_hash),
            "replayed": hex(&replay.replayed_output_hash),
        },
        "profile_differences": replay.differences,
        "outputs": outputs,
    })
}
