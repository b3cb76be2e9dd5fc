//! `grey proof show`: a proof in plain words. It verifies nothing, and says so.

use std::path::Path;

use grey_proof::{
    Bundle, Claims, Manifest, Outcome, ParameterValue, Platform, Proof, SoftwareEvidence, session_digest, task_id_text,
};
use serde_json::Value;

use super::{file::ProofFile, words};
use crate::{
    encoding::{base64, escaped, hex, quoted_path},
    failure::Failure,
    verbs::{print, print_json},
};

/// Explains a proof's file.
pub(crate) fn show(path: &Path, json: bool) -> Result<(), Failure> {
    let file = ProofFile::read(path)?;
    let (bundle, proof, manifest) = file.open(path)?;
    let view = grey_proof::view(&file.bundle).map_err(|e| Failure::unexpected(e.to_string()))?;
    if json {
        return print_json(&Value::Object(view));
    }
    let mut out = explained(&bundle, &proof, &manifest);
    if file.view.as_ref().is_some_and(|v| differs(v, &view)) {
        out.push_str(&format!(
            "\nCareful: what else stands in {} is not what its member 'proof' states. Above is 'proof'.\n",
            path.display()
        ));
    }
    let trust = node_key(&bundle).map_or_else(
        || format!("--expected-measurement {}", hex(proof.claims().measurement.bytes())),
        |key| format!("--software-key {}", hex(&key)),
    );
    out.push_str(&format!(
        "\nNothing of this was verified: it is what the file says, and so is the key or measurement here. Compare it\n\
         with what you know, and verify with:\n  grey proof verify {} {trust}\n",
        quoted_path(path)
    ));
    print(&out)
}

/// Whether a file's view is another than its bundle's. `proof` may be written in more than one way.
fn differs(of_file: &serde_json::Map<String, Value>, of_bundle: &serde_json::Map<String, Value>) -> bool {
    let names = of_file.keys().chain(of_bundle.keys()).filter(|n| *n != "proof");
    names.into_iter().any(|n| of_file.get(n) != of_bundle.get(n))
}

fn node_key(bundle: &Bundle) -> Option<[u8; 32]> {
    let evidence = &bundle.session.evidence;
    let software = (evidence.platform == Platform::Software).then(|| SoftwareEvidence::parse(&evidence.evidence).ok());
    software.flatten().map(|e| e.node_key)
}

fn explained(bundle: &Bundle, proof: &Proof, manifest: &Manifest) -> String {
    let claims = proof.claims();
    let mut out = String::new();
    section(&mut out, "What it states", &stated(claims));
    if let Some(exec) = &claims.exec {
        section(&mut out, "How it was computed", &words::execution(exec));
    }
    section(&mut out, "Who says so", &signer(bundle, proof, manifest));
    out.push_str("\nWhat it does not say\n");
    for line in not_said(claims) {
        out.push_str(&format!("  - {line}\n"));
    }
    out
}

fn section(out: &mut String, title: &str, lines: &[(&str, String)]) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(&format!("{title}\n"));
    for (name, text) in lines {
        out.push_str(&format!("  {name:<11} {text}\n"));
    }
}

fn stated(claims: &Claims) -> Vec<(&'static str, String)> {
    let mut out = vec![("model", format!("{} version {}", escaped(&claims.model_id), escaped(&claims.model_version)))];
    out.push((
        "model hash",
        claims.model_hash.map_or("none".to_owned(), |m| format!("{}:{}", m.scheme.name(), hex(&m.hash))),
    ));
    out.push(("outcome", format!("{} ({})", words::outcome(&claims.outcome), claims.outcome.code())));
    if let Some(hash) = claims.outcome.input_hash() {
        out.push(("input hash", hex(hash)));
    }
    if let Outcome::Ok { output_hash, output_names, .. } = &claims.outcome {
        out.push(("output hash", hex(output_hash)));
        out.push(("outputs", output_names.iter().map(|n| escaped(n)).collect::<Vec<_>>().join(", ")));
    }
    out.push(("hashed as", claims.tensor_scheme.name().to_owned()));
    if !claims.parameters.is_empty() {
        let one = |(name, value): (&String, &ParameterValue)| match value {
            ParameterValue::Text(t) => format!("{}=\"{}\"", escaped(name), escaped(t)),
            ParameterValue::Int(n) => format!("{}={n}", escaped(name)),
            ParameterValue::Bool(b) => format!("{}={b}", escaped(name)),
        };
        out.push(("parameters", claims.parameters.iter().map(one).collect::<Vec<_>>().join(", ")));
    }
    out.push(("when", format!("{}, by the node's clock", words::utc(claims.issued_at))));
    out.push(("task", task_id_text(&claims.task_id)));
    out.push(("nonce", claims.nonce.as_deref().map_or("none".to_owned(), base64)));
    out.push(("tenant tag", hex(&claims.tenant_tag)));
    if !claims.children.is_empty() {
        out.push(("child proofs", claims.children.iter().map(|c| hex(c)).collect::<Vec<_>>().join(", ")));
    }
    if let Some(sealed) = &claims.sealed {
        out.push(("sealed", format!("request {} to key {}", hex(&sealed.hash), sealed.kid)));
    }
    out
}

fn signer(bundle: &Bundle, proof: &Proof, manifest: &Manifest) -> Vec<(&'static str, String)> {
    let platform = manifest.measurement.platform();
    let means = match platform {
        Platform::Software => "without a TEE, it says who signed and nothing of hardware",
        Platform::Sgx => "an Intel SGX enclave, if its evidence verifies",
        Platform::Tdx => "an Intel TDX virtual machine, if its evidence verifies",
        Platform::SevSnp => "an AMD SEV-SNP virtual machine, if its evidence verifies",
    };
    let mut out = vec![
        ("node", format!("'{}', as it calls itself", escaped(&proof.claims().issuer))),
        ("platform", format!("{}: {means}", platform.name())),
        ("measurement", hex(manifest.measurement.bytes())),
    ];
    if let Some(key) = node_key(bundle) {
        out.push(("node key", hex(&key)));
    }
    out.push(("session", hex(&session_digest(&bundle.session.manifest))));
    out.push(("", format!("from {} to {}", words::utc(manifest.not_before), words::utc(manifest.not_after))));
    let form = match proof.batch_root() {
        None => "of this proof alone (single form)".to_owned(),
        Some(root) => format!("of a tree of {} proofs and fillers, of which this is one (batch form)", root.size),
    };
    out.push(("signature", format!("Ed25519, {form}")));
    let there = [
        (bundle.session.collateral.is_some(), "certificates and lists for offline verification"),
        (bundle.session.timestamp.is_some(), "a timestamp of a third party"),
        (bundle.session.batch_evidence.is_some(), "evidence over the executed batch"),
    ];
    let there: Vec<&str> = there.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
    if !there.is_empty() {
        out.push(("with it", there.join(", ")));
    }
    out
}

fn not_said(claims: &Claims) -> Vec<&'static str> {
    let mut out =
        vec!["that the answer is right or the model good", "what the inputs and outputs are: it holds their hashes"];
    if claims.measurement.platform() == Platform::Software {
        out.push("that the node's code is what it says it is: whoever has its key could have signed anything");
    }
    out.push(match claims.nonce {
        Some(_) => "that the clock was right: how old it can be at most knows only who made the nonce",
        None => "that it is fresh: it has no nonce, and the time is the node's own word",
    });
    out.push("that the node stated nothing else, or that requests without a proof did not happen");
    out
}
