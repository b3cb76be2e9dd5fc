//! Policies, known values and parameters as a caller writes them in JSON.
#![no_main]

#[path = "../../crates/grey-proof/tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "the support of tests, not all of which is needed")]
mod support;

use std::sync::LazyLock;

use grey_fuzz::bounded;
use grey_proof::*;
use libfuzzer_sys::fuzz_target;
use support::scene::*;

static BUNDLE: LazyLock<Vec<u8>> = LazyLock::new(|| single(full_claims()).build());

/// Whether this policy takes the bundle's evidence at all: it must name the node's key, or any.
fn takes_the_key(policy: &Policy) -> bool {
    let key = key(9).verifying_key().to_bytes();
    policy.software_keys.as_ref().is_some_and(|keys| keys.contains(&key))
}

fn check(text: &str) {
    let (policy, known) = (Policy::from_json(text), Known::from_json(text));
    if let Err(e) = &policy {
        assert!(e.place().starts_with("policy") && e.to_string().len() <= 4096, "{e}");
    }
    if let Ok(policy) = &policy {
        // The same text through serde, as the configuration of others reads it.
        let other = serde_json::from_str::<Policy>(text);
        assert_eq!(other.ok().as_ref(), Some(policy));
        let verdict = verify(&BUNDLE, policy, NOW, &Known::default());
        assert_eq!(verdict.checks.len(), Check::ALL.len());
        assert!(!verdict.is_valid() || takes_the_key(policy), "{policy:?}");
    }
    if let Ok(known) = &known {
        let verdict = verify(&BUNDLE, &Policy::software(Allowed::Any), NOW, known);
        let result = |check| verdict.checks.iter().find(|c| c.name == check).map(|c| c.result);
        // What the caller knows is compared: only what is in the claims passes.
        let claims = full_claims();
        assert!(
            known.nonce.is_none() || (result(Check::Nonce) == Some(CheckResult::Pass)) == (known.nonce == claims.nonce)
        );
        assert!(!verdict.is_valid() || known.nonce.is_none() || known.nonce == claims.nonce);
    }
    if let Ok(value) = ParameterValue::from_json_text(text) {
        let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
        match json.as_f64().filter(|_| json.is_f64()) {
            None => assert_eq!(ParameterValue::from_json(&json), Ok(value), "from text and from a value"),
            // Such a value was rounded, the text was not.
            Some(float) => match &value {
                ParameterValue::Int(n) => assert_eq!(*n as f64, float),
                ParameterValue::Text(t) => assert_eq!(t.parse(), Ok(float)),
                other => panic!("the number {json} became {other:?}"),
            },
        }
    }
}

fuzz_target!(|input: &[u8]| {
    LazyLock::force(&BUNDLE);
    if let Ok(text) = std::str::from_utf8(input) {
        bounded(text.len(), 512, || check(text));
    }
});
