//! What is valid, and what is valid at claimed time: nothing fails.

use std::collections::BTreeMap;

use grey_proof::*;
use serde_json::{Value, json};

use crate::support::item::Item;
use crate::support::points::{lax, mixed_order_key, under_mixed_order_key};
use crate::support::scene::*;
use crate::vector::{Vector, of};

pub fn vectors() -> Vec<Vector> {
    [forms(), outcomes(), claims_of_all_kinds(), tensors(), times(), policies(), requests(), others()].concat()
}

fn forms() -> Vec<Vector> {
    let full = full_claims;
    let (mut without_proof, mut other_proof) =
        (view(&single(claims()).build()).unwrap(), view(&single(claims()).build()).unwrap());
    without_proof.remove("proof");
    other_proof.insert("proof".into(), json!(["anything"]));
    let with_view = |scene: Scene| {
        let mut known = full_known();
        known["view"] = Value::Object(view(&scene.build()).unwrap());
        known
    };
    vec![
        of("valid-single", &single(claims())),
        of("valid-single-full", &single(full())).known(full_known()),
        of("valid-single-view", &single(full())).known(with_view(single(full()))),
        of("valid-batch", &batch(claims(), 8, 5)),
        of("valid-batch-full", &batch(full(), 4, 1)).known(full_known()),
        of("valid-batch-view", &batch(full(), 4, 2)).known(with_view(batch(full(), 4, 2))),
        of("valid-batch-first-leaf", &batch(claims(), 4, 0)),
        of("valid-batch-last-leaf", &batch(claims(), 16, 15)),
        of("valid-batch-of-one", &batch(claims(), 1, 0)),
        of("valid-batch-path-of-32", &Scene { form: Form::Tall(32), ..single(claims()) }),
        of("valid-view-without-proof-member", &single(claims())).known(json!({ "view": without_proof })),
        of("valid-view-proof-member-is-not-compared", &single(claims())).known(json!({ "view": other_proof })),
        of("valid-strict", &Scene { strict: true, ..batch(claims(), 4, 3) }).and_policy(json!({ "strict": true })),
        of("valid-strict-not-asked", &Scene { strict: true, ..batch(claims(), 4, 3) }),
        of("valid-batch-evidence-unread-unless-strict", &single(claims()).bundle(|b| b.put(9, [1, 2, 3]))),
    ]
}

fn outcomes() -> Vec<Vector> {
    let input_hash = tensors_hash(&inputs(), None);
    let all: [(Outcome, &str); 8] = [
        (Outcome::InvalidInput, "invalid-input"),
        (Outcome::ModelFailed { input_hash }, "model-failed"),
        (Outcome::Deadline { input_hash }, "deadline"),
        (Outcome::Cancelled { input_hash }, "cancelled"),
        (Outcome::HostDied { input_hash }, "host-died"),
        (Outcome::Overloaded, "overloaded"),
        (Outcome::Refused, "refused"),
        (Outcome::Internal, "internal"),
    ];
    let mut vectors: Vec<Vector> = all
        .iter()
        .map(|(outcome, name)| {
            let known = if outcome.input_hash().is_some() { json!({ "inputs": inputs() }) } else { json!({}) };
            of(&format!("valid-outcome-{name}"), &single(failed(outcome.clone())))
                .and_policy(json!({ "outcomes": [0, outcome.code()] }))
                .known(known)
        })
        .collect();
    let with_exec = Claims { exec: Some(exec()), ..failed(Outcome::Internal) };
    vectors.push(of("valid-outcome-internal-with-exec", &single(with_exec)).and_policy(json!({ "outcomes": [8] })));
    let child = Claims { children: vec![[1; 32]], ..failed(Outcome::Refused) };
    vectors.push(of("valid-outcome-refused-with-children", &single(child)).and_policy(json!({ "outcomes": [7] })));
    vectors
}

fn claims_of_all_kinds() -> Vec<Vector> {
    let executed = |exec: Exec| single(Claims { exec: Some(exec), ..claims() });
    vec![
        of("valid-nonce-of-8-bytes", &single(Claims { nonce: Some(vec![1; 8]), ..claims() }))
            .known(json!({ "nonce": base64(&[1; 8]) })),
        of("valid-nonce-of-64-bytes", &single(Claims { nonce: Some(vec![1; 64]), ..claims() }))
            .known(json!({ "nonce": base64(&[1; 64]) })),
        of("valid-children-without-exec", &single(Claims { exec: None, children: vec![[1; 32], [1; 32]], ..claims() })),
        of(
            "valid-children-and-executors-without-exec",
            &single(Claims { exec: None, children: vec![[1; 32]], ..claims() }),
        )
        .and_policy(json!({ "executors": ["triton"] })),
        of("valid-upstream", &executed(upstream())).and_policy(json!({ "executors": ["vllm", "triton"] })),
        of("valid-upstream-any", &executed(upstream())).and_policy(json!({ "executors": "any", "execution": "none" })),
        of(
            "valid-upstream-other-name-in-2",
            &executed(Exec { engine: "x".into(), engine_version: "".into(), ..upstream() }),
        )
        .and_policy(json!({ "executors": ["triton"] })),
        of("valid-executors-of-nobody", &executed(exec())).and_policy(json!({ "executors": [] })),
        of("valid-execution-equal", &executed(exec())).and_policy(json!({ "execution": "slot" })),
        of("valid-execution-higher", &executed(Exec { class: Class::Portable, ..exec() }))
            .and_policy(json!({ "execution": "invariant" })),
        of(
            "valid-model-hash-of-files",
            &single(Claims {
                model_hash: Some(ModelHash { scheme: ModelHashScheme::Files, hash: [0xab; 32] }),
                ..claims()
            }),
        )
        .known(json!({ "model_hash": "AB".repeat(32), "model_hash_scheme": "sha256-files" })),
        of("valid-model-hash-without-scheme", &single(claims())).known(json!({ "model_hash": hex(&[9; 32]) })),
        of(
            "valid-empty-texts",
            &single(Claims {
                issuer: "".into(),
                model_id: "".into(),
                model_version: "".into(),
                outcome: Outcome::Ok {
                    input_hash: tensors_hash(&json!([]), None),
                    output_hash: tensors_hash(&json!([tensor("", "UINT8", &[0], &[])]), None),
                    output_names: vec!["".into()],
                },
                parameters: BTreeMap::from([("".into(), ParameterValue::Text("".into()))]),
                ..claims()
            }),
        )
        .known(json!({
            "inputs": [], "outputs": [tensor("", "UINT8", &[0], &[])],
            "request": { "model_id": "", "model_version": "", "parameters": { "": "" } },
        })),
        of("valid-claims-of-4096-bytes", &single(Claims { issuer: "i".repeat(4096 - claims_bytes("")), ..claims() })),
        of("valid-manifest-of-8192-bytes", &big_manifest(8192)),
        of(
            "valid-sealing-keys",
            &single(claims()).manifest(|m| {
                let keys = [(1, [3; 32]), (0, [3; 32]), (i64::MAX, [4; 32])];
                m.put(4, keys.map(|(kid, public)| sealing_key(kid, public)).to_vec());
            }),
        ),
        of(
            "valid-names-in-byte-order",
            &single(Claims {
                outcome: Outcome::Ok {
                    input_hash: [1; 32],
                    output_hash: [2; 32],
                    output_names: ["Z", "a", "aa", "b", "\u{ff5e}", "\u{1f600}"].map(String::from).to_vec(),
                },
                ..claims()
            }),
        ),
        of(
            "valid-segment-that-fills-its-bucket",
            &executed(Exec {
                segments: vec![Segment { bucket: i64::MAX as u64, position: i64::MAX as u64 - 1, rows: 1 }],
                ..exec()
            }),
        ),
        of(
            "valid-members-without-a-check",
            &single(claims()).bundle(|b| {
                b.put(6, []);
                b.put(7, [1]);
                b.put(8, [0xff; 9]);
            }),
        ),
        of("valid-token-unread-in-fresh", &single(claims()).bundle(|b| b.put(5, [0x30, 0])))
            .and_policy(json!({ "roots": { "tsa": ["MAA="] } })),
    ]
}

/// Bytes of the usual claims with this issuer, whose head is that of a long text.
fn claims_bytes(issuer: &str) -> usize {
    Claims { issuer: format!("{issuer}{}", "i".repeat(3000)), ..claims() }.encode().unwrap().len() - 3000
}

pub fn sealing_key(kid: i64, public: [u8; 32]) -> Item {
    let members: [(i64, Item); 5] = [(1, kid.into()), (2, 32.into()), (3, 1.into()), (4, 3.into()), (5, public.into())];
    Item::Map(members.map(|(key, value)| (key.into(), value)).to_vec())
}

/// A manifest with so many sealing keys that it has this length.
pub fn big_manifest(bytes: usize) -> Scene {
    // A kid of one byte, two or three; all others have one of five.
    const LAST: [i64; 3] = [3, 30, 300];
    let scene = |count: usize, short: usize, last: i64| {
        let kid = |i: usize| if i < short { 1000 + i as i64 } else { 100_000 + i as i64 };
        let keys = (1..count).map(|i| sealing_key(kid(i), [3; 32])).chain([sealing_key(last, [3; 32])]);
        single(claims()).manifest(|m| m.put(4, keys.collect::<Vec<_>>()))
    };
    let choices =
        (155..170).rev().flat_map(|count| (1..30).flat_map(move |short| LAST.map(|last| (count, short, last))));
    choices.map(|(c, s, l)| scene(c, s, l)).find(|s| s.manifest.encode().len() == bytes).unwrap()
}

fn tensors() -> Vec<Vector> {
    let salted = || {
        let outcome = Outcome::Ok {
            input_hash: tensors_hash(&inputs(), Some(&SALT)),
            output_hash: tensors_hash(&outputs(), Some(&SALT)),
            output_names: vec!["Empty".into(), "label".into(), "ok".into()],
        };
        Claims { outcome, tensor_scheme: TensorScheme::Salted, ..claims() }
    };
    let mut reversed = inputs();
    reversed.as_array_mut().unwrap().reverse();
    let named = |name: &str, tensors: Value| {
        let outcome = Outcome::Ok {
            input_hash: tensors_hash(&tensors, None),
            output_hash: [0; 32],
            output_names: vec!["y".into()],
        };
        of(name, &single(Claims { outcome, ..claims() })).known(json!({ "inputs": tensors }))
    };
    vec![
        of("valid-salted", &single(salted()))
            .known(json!({ "inputs": inputs(), "outputs": outputs(), "salt": base64(&SALT) })),
        of("valid-salted-batch", &batch(salted(), 2, 1))
            .known(json!({ "inputs": inputs(), "outputs": outputs(), "salt": base64(&SALT) })),
        of("valid-salted-nothing-known", &single(salted())),
        of("valid-salt-alone-asks-for-nothing", &single(claims())).known(json!({ "salt": "" })),
        of("not-valid-salted-and-no-salt", &single(salted())).known(json!({ "inputs": inputs() })).overall("not valid"),
        of("not-valid-salted-outputs-and-no-salt", &single(salted()))
            .known(json!({ "outputs": outputs() }))
            .overall("not valid"),
        of("valid-inputs-in-another-order", &single(claims())).known(json!({ "inputs": reversed })),
        named("valid-inputs-none", json!([])),
        named(
            "valid-inputs-of-every-dtype",
            json!([
                tensor("a", "BOOL", &[2], &[0, 1]),
                tensor("b", "UINT8", &[1], &[255]),
                tensor("c", "UINT16", &[1], &[1, 2]),
                tensor("d", "UINT32", &[1], &[1, 2, 3, 4]),
                tensor("e", "UINT64", &[1], &[1; 8]),
                tensor("f", "INT8", &[1, 1, 1], &[128]),
                tensor("g", "INT16", &[], &[0, 128]),
                tensor("h", "INT32", &[0], &[]),
                tensor("i", "INT64", &[1], &[255; 8]),
                tensor("j", "FP16", &[1], &[0, 128]),
                tensor("k", "BF16", &[1], &[193, 127]),
                tensor("l", "FP32", &[1], &[0, 0, 0, 128]),
                tensor("m", "FP64", &[1], &[1, 0, 0, 0, 0, 0, 248, 127]),
                tensor("n", "BYTES", &[1, 2], &[1, 0, 0, 0, 255, 0, 0, 0, 0]),
            ]),
        ),
        named("valid-inputs-empty-with-a-large-dimension", json!([tensor("x", "FP32", &[0, i64::MAX], &[])])),
        named("valid-inputs-bytes-scalar", json!([tensor("x", "BYTES", &[], &[0, 0, 0, 0])])),
    ]
}

fn times() -> Vec<Vector> {
    let at = |iat: u64| single(Claims { issued_at: iat, ..claims() });
    let archival = json!({ "mode": "archival" });
    let token = |b: &mut Item| b.put(5, [0x30, 0]);
    vec![
        of("valid-iat-is-not-before", &at(START)),
        of("valid-iat-is-not-after", &at(END)).now(END),
        of("valid-iat-ahead-by-the-skew", &at(NOW + 60)),
        of("valid-iat-ahead-by-a-given-skew", &at(NOW + 3600)).and_policy(json!({ "max_skew": 3600 })),
        of("valid-iat-ahead-passes-freshness", &at(NOW + 30)).and_policy(json!({ "max_age": 0 })),
        of("valid-age-is-the-most", &single(claims())).and_policy(json!({ "max_age": NOW - IAT })),
        of("valid-30-days-after-the-session", &single(claims())).now(END + 2_592_000),
        of("valid-session-of-no-time", &at(START).manifest(|m| m.put(8, START as i64))),
        of("valid-archival-at-claimed-time", &single(claims()))
            .and_policy(archival.clone())
            .overall("valid at claimed time"),
        of("valid-archival-years-later", &batch(claims(), 2, 0))
            .and_policy(archival.clone())
            .now(END + 1_000_000_000)
            .overall("valid at claimed time"),
        of("valid-archival-unverified-token", &single(claims()).bundle(token))
            .and_policy(json!({ "mode": "archival", "roots": { "tsa": ["MAA="] } }))
            .overall("valid at claimed time"),
        of("valid-archival-token-without-roots", &single(claims()).bundle(token))
            .and_policy(archival)
            .overall("valid at claimed time"),
        of("valid-fresh-by-name", &single(claims())).and_policy(json!({ "mode": "fresh" })),
    ]
}

fn policies() -> Vec<Vector> {
    let of = |name: &str, more: Value| of(name, &single(claims())).and_policy(more);
    vec![
        of("valid-any-software-key", json!({ "software_keys": "any" })),
        of("valid-one-of-several-keys", json!({ "software_keys": [hex(&[0; 32]), node_key_hex().to_uppercase()] })),
        of("valid-expected-measurement", json!({ "expected_measurement": hex(&[5; 32]) })),
        of("valid-platforms", json!({ "platforms": ["SGX", "SOFTWARE"] })),
        of(
            "valid-members-that-ask-nothing-of-software",
            json!({
                "max_vmpl": 0, "min_abi_minor": 51, "tcb_status": [], "allow_debug": false,
                "min_tcb": { "boot_loader": 3, "tee": 0, "snp": 8, "microcode": 115, "fmc": 1, "evaluation": 17 },
                "roots": { "amd": ["MAA="], "intel": [] },
            }),
        ),
        of(
            "valid-defaults-given",
            json!({
                "mode": "fresh", "max_skew": 60, "outcomes": [0], "strict": false, "min_tcb": {}, "roots": {},
                "tcb_status": ["UpToDate"], "executors": [],
            }),
        ),
    ]
}

fn requests() -> Vec<Vector> {
    let with = |parameters: &[(&str, ParameterValue)]| {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        single(Claims { parameters, ..claims() })
    };
    let (int, text) = (|n: i64| ParameterValue::Int(n), |t: &str| ParameterValue::Text(t.to_owned()));
    vec![
        of("valid-no-parameters", &with(&[])).known(json!({ "request": { "parameters": {} } })),
        of("valid-request-that-knows-nothing", &with(&[("a", int(1))])).known(json!({ "request": {} })),
        of(
            "valid-parameters-integers",
            &with(&[
                ("a", int(1)),
                ("b", int(1)),
                ("c", int(1)),
                ("d", int(0)),
                ("e", int(0)),
                ("f", int(i64::MAX)),
                ("g", int(i64::MIN)),
                ("h", int(1200)),
                ("i", int(1)),
                ("j", int(9_007_199_254_740_993)),
            ]),
        )
        .known_text(concat!(
            r#"{"request":{"parameters":{"a":1,"b":1.0,"c":1e0,"d":-0.0,"e":-0,"f":9223372036854775807,"#,
            r#""g":-9223372036854775808,"h":1.2E+3,"i":100e-2,"j":9007199254740993}}}"#
        )),
        of(
            "valid-parameters-other-numbers",
            &with(&[
                ("a", text("0.5")),
                ("b", text("1e+22")),
                ("c", text("18446744073709552000")),
                ("d", text("1e-7")),
                ("e", text("-0.000001")),
                ("f", text("9223372036854776000")),
                ("g", text("100000000000000000000")),
                ("h", text("5e-324")),
                ("i", text("1.7976931348623157e+308")),
                ("j", text("1424953923781206.2")),
                ("k", text("1e+21")),
                ("l", text("333333333.3333333")),
            ]),
        )
        .known_text(concat!(
            r#"{"request":{"parameters":{"a":0.50,"b":1e22,"c":18446744073709551616,"d":0.0000001,"e":-1e-6,"#,
            r#""f":9223372036854775808,"g":1e20,"h":5e-324,"i":1.7976931348623157e308,"j":1424953923781206.25,"#,
            r#""k":1000000000000000000000,"l":333333333.33333329}}}"#
        )),
        of(
            "valid-parameters-every-digit-counts",
            &with(&[("a", int(9_007_199_254_740_993)), ("b", text("1")), ("c", text("0"))]),
        )
        .known_text(r#"{"request":{"parameters":{"a":9007199254740993.0,"b":0.99999999999999999999,"c":1e-400}}}"#),
        of(
            "valid-parameters-text-and-bool",
            &with(&[
                ("a", text("0.5")),
                ("b", text("true")),
                ("c", ParameterValue::Bool(false)),
                ("é", text("\u{0}\u{1f600}")),
            ]),
        )
        .known(json!({ "request": { "parameters": { "a": "0.5", "b": "true", "c": false, "é": "\u{0}\u{1f600}" } } })),
        of("valid-task-id-in-hex", &single(claims()))
            .known(json!({ "request": { "task_id": "019A0000000070008000000000000009" }, "seen": [] })),
        of("valid-task-id-in-upper-case", &single(claims())).known(json!({
            "request": { "task_id": "019A0000-0000-7000-8000-000000000009" },
            "seen": ["019a0000000070008000000000000008", "00000000-0000-4000-8000-000000000000"],
        })),
    ]
}

fn others() -> Vec<Vector> {
    // The one message in eight for which the equation holds without cofactor.
    let scene = |blinding: u8| {
        single(Claims { blinding: [blinding; 16], ..claims() })
            .manifest(|m| m.at(3).put(-2, mixed_order_key(&key(1))))
            .signed(under_mixed_order_key)
    };
    let holds = |blinding: &u8| {
        let bundle = scene(*blinding).build();
        let (_, proof, _) = Bundle::parse(&bundle).unwrap();
        proof.verify_signature(&mixed_order_key(&key(1))).is_ok()
    };
    let blinding = (0..=255).find(holds).unwrap();
    assert!(!lax(&mixed_order_key(&key(1)), b"other", &under_mixed_order_key(&key(1), b"message")));
    vec![of("valid-key-of-mixed-order-where-the-equation-holds", &scene(blinding))]
}
