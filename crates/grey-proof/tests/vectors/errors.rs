//! Policies and known values that are an error: no verdict is given on them.

use serde_json::{Value, json};

use crate::support::scene::{hex, inputs};
use crate::vector::ErrorVector;

pub fn vectors() -> Vec<ErrorVector> {
    let policies = policies().into_iter().map(|(name, policy)| ErrorVector::policy(name, &policy));
    let known = known().into_iter().map(|(name, known)| ErrorVector::known(name, &known.to_string()));
    let texts = [
        ("parameter-beyond-a-float", r#"{"request":{"parameters":{"x":1e400}}}"#),
        ("parameter-below-a-float", r#"{"request":{"parameters":{"x":-1e400}}}"#),
        ("shape-of-a-fraction", r#"{"inputs":[{"name":"x","datatype":"UINT8","shape":[1.0],"data":"AA=="}]}"#),
    ];
    policies.chain(known).chain(texts.map(|(name, text)| ErrorVector::known(name, text))).collect()
}

fn policies() -> Vec<(&'static str, Value)> {
    let h32 = hex(&[5; 32]);
    vec![
        ("is-a-list", json!([])),
        ("is-null", json!(null)),
        ("unknown-member", json!({ "expected_measurment": h32 })),
        ("null-member", json!({ "max_age": null })),
        ("platforms-is-text", json!({ "platforms": "SGX" })),
        ("unknown-platform", json!({ "platforms": ["SEV"] })),
        ("measurement-of-20-bytes", json!({ "expected_measurement": hex(&[5; 20]) })),
        ("measurement-not-hex", json!({ "expected_measurement": "g".repeat(64) })),
        ("measurement-of-odd-digits", json!({ "expected_measurement": "5".repeat(63) })),
        ("measurement-with-prefix", json!({ "expected_measurement": format!("0x{h32}") })),
        ("measurement-empty", json!({ "expected_measurement": "" })),
        ("mrenclave-of-48-bytes", json!({ "expected_mrenclave": hex(&[5; 48]) })),
        ("mrsigner-alone", json!({ "expected_mrsigner": h32 })),
        ("mrsigner-without-product", json!({ "expected_mrsigner": h32, "min_security_version": 1 })),
        ("mrsigner-without-version", json!({ "expected_mrsigner": h32, "expected_product": 1 })),
        ("product-is-text", json!({ "expected_product": "1" })),
        ("product-is-negative", json!({ "expected_product": -1 })),
        ("product-is-bool", json!({ "expected_product": true })),
        ("version-is-a-fraction", json!({ "min_security_version": 1.5 })),
        ("three-rtmrs", json!({ "expected_rtmrs": [hex(&[0; 48]), hex(&[0; 48]), hex(&[0; 48])] })),
        ("rtmr-of-32-bytes", json!({ "expected_rtmrs": [h32, h32, h32, h32] })),
        ("host-data-of-31-bytes", json!({ "expected_host_data": hex(&[5; 31]) })),
        ("id-key-of-32-bytes", json!({ "expected_id_key": h32 })),
        ("software-keys-is-all", json!({ "software_keys": "all" })),
        ("software-keys-is-a-key", json!({ "software_keys": h32 })),
        ("software-key-of-31-bytes", json!({ "software_keys": [hex(&[5; 31])] })),
        ("software-keys-lists-any", json!({ "software_keys": ["any"] })),
        ("tcb-status-is-text", json!({ "tcb_status": "UpToDate" })),
        ("min-tcb-unknown-member", json!({ "min_tcb": { "bootloader": 1 } })),
        ("min-tcb-is-a-number", json!({ "min_tcb": 1 })),
        ("allow-debug-is-a-number", json!({ "allow_debug": 0 })),
        ("roots-unknown-member", json!({ "roots": { "arm": [] } })),
        ("roots-is-text", json!({ "roots": { "amd": "MAA=" } })),
        ("root-not-base64", json!({ "roots": { "amd": ["M!A="] } })),
        ("root-not-padded", json!({ "roots": { "tsa": ["MAA"] } })),
        ("root-with-other-bits", json!({ "roots": { "tsa": ["MAB="] } })),
        ("root-of-the-url-alphabet", json!({ "roots": { "intel": ["__8="] } })),
        ("root-in-two-lines", json!({ "roots": { "intel": ["MAAA\nMAAA"] } })),
        ("unknown-mode", json!({ "mode": "Fresh" })),
        ("max-age-is-negative", json!({ "max_age": -1 })),
        ("max-skew-beyond-i64", json!({ "max_skew": 9_223_372_036_854_775_808u64 })),
        ("unknown-class", json!({ "execution": "strict" })),
        ("executors-is-a-name", json!({ "executors": "triton" })),
        ("executor-is-a-number", json!({ "executors": [1] })),
        ("outcomes-is-a-number", json!({ "outcomes": 0 })),
        ("outcome-is-text", json!({ "outcomes": ["ok"] })),
        ("outcome-9", json!({ "outcomes": [9] })),
        ("strict-is-text", json!({ "strict": "true" })),
    ]
}

fn known() -> Vec<(&'static str, Value)> {
    let tensor = |edit: fn(&mut Value)| {
        let mut inputs = inputs();
        edit(&mut inputs[0]);
        json!({ "inputs": inputs })
    };
    let request = |request: Value| json!({ "request": request });
    vec![
        ("is-text", json!("{}")),
        ("unknown-member", json!({ "input": [] })),
        ("null-member", json!({ "nonce": null })),
        ("inputs-is-an-object", json!({ "inputs": {} })),
        ("tensor-without-name", tensor(|t| drop(t.as_object_mut().unwrap().remove("name")))),
        ("tensor-without-datatype", tensor(|t| drop(t.as_object_mut().unwrap().remove("datatype")))),
        ("tensor-without-shape", tensor(|t| drop(t.as_object_mut().unwrap().remove("shape")))),
        ("tensor-without-data", tensor(|t| drop(t.as_object_mut().unwrap().remove("data")))),
        ("tensor-unknown-member", tensor(|t| t["parameters"] = json!({}))),
        ("tensor-data-is-a-list", tensor(|t| t["data"] = json!([1, 2]))),
        ("tensor-data-not-base64", tensor(|t| t["data"] = json!("AAA"))),
        ("tensor-shape-is-text", tensor(|t| t["shape"] = json!(["2"]))),
        ("tensor-datatype-is-null", tensor(|t| t["datatype"] = json!(null))),
        ("salt-in-hex-digits", json!({ "salt": "2" })),
        ("nonce-is-a-number", json!({ "nonce": 1 })),
        ("session-nonce-not-padded", json!({ "session_nonce": "AAAAAAAAAAA" })),
        ("model-hash-of-31-bytes", json!({ "model_hash": hex(&[9; 31]) })),
        ("model-hash-scheme-alone", json!({ "model_hash_scheme": "sha256-file" })),
        ("unknown-model-hash-scheme", json!({ "model_hash": hex(&[9; 32]), "model_hash_scheme": "sha512" })),
        ("request-unknown-member", request(json!({ "model": "digits" }))),
        ("request-model-is-a-number", request(json!({ "model_version": 1 }))),
        ("task-id-cut-short", request(json!({ "task_id": "019a0000-0000-7000-8000-00000000000" }))),
        ("task-id-in-braces", request(json!({ "task_id": "{019a0000-0000-7000-8000-000000000009}" }))),
        ("task-id-with-hyphens-elsewhere", request(json!({ "task_id": "019a00000-000-7000-8000-000000000009" }))),
        ("tenant-tag-of-15-bytes", request(json!({ "tenant_tag": hex(&[0; 15]) }))),
        ("parameters-is-a-list", request(json!({ "parameters": [] }))),
        ("parameter-null", request(json!({ "parameters": { "x": null } }))),
        ("parameter-list", request(json!({ "parameters": { "x": [1] } }))),
        ("parameter-object", request(json!({ "parameters": { "x": {} } }))),
        ("view-is-a-list", json!({ "view": [] })),
        ("seen-is-text", json!({ "seen": "019a0000-0000-7000-8000-000000000009" })),
        ("seen-is-no-task-id", json!({ "seen": ["x"] })),
    ]
}
