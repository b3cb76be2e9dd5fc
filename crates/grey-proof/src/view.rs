use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::error::hex;
use crate::{Bundle, Exec, Filler, FormatError, Outcome, Proof, task_id_text};

/// The member of a view that holds the bundle itself.
pub(crate) const PROOF_MEMBER: &str = "proof";

/// The JSON view of a bundle, `InferenceProof` (§4): for people and logs. Only its member `proof` is
/// ever verified; check 21 compares the rest.
///
/// # Errors
/// Whatever [`Bundle::parse`] refuses.
pub fn view(bundle: &[u8]) -> Result<Map<String, Value>, FormatError> {
    let (read, proof, _) = Bundle::parse(bundle)?;
    let mut view = view_of(&read, &proof);
    view.insert(PROOF_MEMBER.to_owned(), base64(bundle));
    Ok(view)
}

/// All of the view but the member `proof`.
pub(crate) fn view_of(bundle: &Bundle, proof: &Proof) -> Map<String, Value> {
    let claims = proof.claims();
    let mut view = Members::default();
    view.put("task_id", task_id_text(&claims.task_id));
    view.put("model_id", claims.model_id.as_str());
    view.put("model_version", claims.model_version.as_str());
    view.put_some("model_hash", claims.model_hash.map(|m| hex(&m.hash)));
    view.put_some("input_hash", claims.outcome.input_hash().map(|h| hex(h)));
    if let Outcome::Ok { output_hash, .. } = &claims.outcome {
        view.put("output_hash", hex(output_hash));
    }
    view.put("measurement", hex(claims.measurement.bytes()));
    view.put("platform", claims.measurement.platform().name());
    view.put("report_data", base64(&bundle.session.evidence.evidence));
    view.put("signature", base64(proof.signature()));
    view.put("timestamp", claims.issued_at);
    view.put_some("nonce", claims.nonce.as_deref().map(base64));
    view.put_some("exec", claims.exec.as_ref().map(exec_view));
    view.0
}

fn exec_view(exec: &Exec) -> Value {
    let mut view = Members::default();
    view.put("class", exec.class.name());
    view.put("engine", exec.engine.as_str());
    view.put("engine_version", exec.engine_version.as_str());
    view.put("engine_sha256", hex(&exec.engine_sha256));
    view.put("device", exec.device.as_str());
    view.put("threads", exec.threads);
    let segments = exec.segments.iter().map(|s| Value::from(vec![s.bucket, s.position, s.rows]));
    view.put("segments", segments.collect::<Vec<_>>());
    view.put_some("lengths", some(exec.lengths.is_empty(), || exec.lengths.clone()));
    view.put("precision", exec.precision.as_str());
    let sampling = || exec.sampling.iter().map(|(k, v)| (k.to_string(), Value::from(*v))).collect::<Map<_, _>>();
    view.put_some("sampling", some(exec.sampling.is_empty(), sampling));
    view.put_some("executor", exec.executor.as_ref().map(|(name, version)| vec![name.as_str(), version.as_str()]));
    view.put_some("filler", (exec.filler == Filler::OwnFirstRow).then_some("self"));
    view.put_some("switches", some(exec.switches.is_empty(), || exec.switches.clone()));
    Value::Object(view.0)
}

/// What an empty list or map stands for: absence.
fn some<T>(empty: bool, value: impl FnOnce() -> T) -> Option<T> {
    if empty { None } else { Some(value()) }
}

fn base64(bytes: &[u8]) -> Value {
    STANDARD.encode(bytes).into()
}

#[derive(Default)]
struct Members(Map<String, Value>);

impl Members {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn put_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }
}
