//! Well formed, and refused by exactly one check.

use std::collections::BTreeMap;

use grey_proof::*;
use serde_json::{Value, json};

use crate::support::item::Item;
use crate::support::points::*;
use crate::support::scene::*;
use crate::vector::{Vector, of};

pub fn vectors() -> Vec<Vector> {
    [
        measurement(),
        key_binding(),
        session(),
        signature(),
        outcome(),
        model_hash(),
        input_hash(),
        output_hash(),
        request(),
        nonce(),
        freshness_and_replay(),
        execution(),
        batch_report_(),
        view_(),
    ]
    .concat()
}

fn failing(check: Check, name: &str, scene: &Scene) -> Vector {
    of(&format!("{check}-{name}"), scene).fails(check)
}

fn measurement() -> Vec<Vector> {
    let with = |name: &str, policy: Value| failing(Check::Measurement, name, &single(claims())).policy(policy);
    let any = |name: &str, more: Value| {
        let mut policy = json!({ "software_keys": "any" });
        policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(name, policy)
    };
    vec![
        with("nothing-expected", json!({})),
        with("only-platforms", json!({ "platforms": ["SOFTWARE"] })),
        with("only-a-product", json!({ "expected_product": 0, "min_security_version": 0 })),
        with("no-software-keys", json!({ "expected_measurement": hex(&[5; 32]) })),
        with(
            "no-software-keys-by-platform",
            json!({
                "platforms": ["SOFTWARE"], "expected_measurement": hex(&[5; 32]),
            }),
        ),
        with("another-node-key", json!({ "software_keys": [hex(&key(8).verifying_key().to_bytes())] })),
        with("session-key-for-node-key", json!({ "software_keys": [hex(&key(1).verifying_key().to_bytes())] })),
        with("no-key-allowed", json!({ "software_keys": [] })),
        any("another-platform", json!({ "platforms": ["SGX", "TDX", "SEV-SNP"] })),
        any("no-platform", json!({ "platforms": [] })),
        any("another-measurement", json!({ "expected_measurement": hex(&[6; 32]) })),
        any("measurement-of-48-bytes", json!({ "expected_measurement": hex(&[5; 48]) })),
        any("mrenclave", json!({ "expected_mrenclave": hex(&[5; 32]) })),
        any(
            "mrsigner",
            json!({
                "expected_mrsigner": hex(&[5; 32]), "expected_product": 0, "min_security_version": 0,
            }),
        ),
        any("product", json!({ "expected_product": 0 })),
        any("security-version", json!({ "min_security_version": 0 })),
        any("rtmrs", json!({ "expected_rtmrs": [hex(&[0; 48]), hex(&[0; 48]), hex(&[0; 48]), hex(&[0; 48])] })),
        any("host-data", json!({ "expected_host_data": hex(&[0; 32]) })),
        any("id-key", json!({ "expected_id_key": hex(&[0; 48]) })),
    ]
}

/// The message that SOFTWARE evidence signs.
fn evidence_message(e: &mut Item) -> Vec<u8> {
    [&b"grey.software.v1\0"[..], e.nth(1).bytes()].concat()
}

fn key_binding() -> Vec<Vector> {
    let bent = |name: &str, bend: fn(&mut Item)| {
        failing(Check::KeyBinding, name, &single(claims()).evidence(bend)).policy(json!({ "software_keys": "any" }))
    };
    let resigned = |name: &str, binding_of: fn(&mut Item) -> [u8; 64]| {
        failing(Check::KeyBinding, name, &single(claims()).evidence(move |e| *e = evidence(&key(9), binding_of(e))))
    };
    let digest = single(claims()).session_digest();
    let wrong_session = move |e: &mut Item| *e = evidence(&key(9), binding(&[7; 32], &nonce32(&SESSION_NONCE)));
    let tensor_binding = move |e: &mut Item| *e = evidence(&key(9), batch_report(&digest));
    vec![
        failing(Check::KeyBinding, "another-session", &single(claims()).evidence(wrong_session)),
        failing(Check::KeyBinding, "batch-report-for-binding", &single(claims()).evidence(tensor_binding)),
        resigned("binding-changed", |e| {
            let mut bytes: [u8; 64] = e.nth(1).bytes().as_slice().try_into().unwrap();
            bytes[63] ^= 1;
            bytes
        }),
        failing(Check::KeyBinding, "another-nonce32", &single(claims()).bundle(|b| b.at(3).put(3, [1; 32]))),
        failing(Check::KeyBinding, "another-session-nonce", &single(claims()))
            .known(json!({ "session_nonce": base64(&[0x22; 11]) })),
        failing(Check::KeyBinding, "session-nonce-for-random", &{
            let scene = single(claims());
            let random = evidence(&key(9), binding(&scene.session_digest(), &[1; 32])).embed();
            scene.bundle(move |b| {
                b.at(3).put(2, random.clone());
                b.at(3).put(3, [1; 32]);
            })
        })
        .known(json!({ "session_nonce": base64(&SESSION_NONCE) })),
        bent("signature-changed", |e| e.nth(3).bytes()[0] ^= 1),
        bent("signature-by-another-key", |e| *e.nth(2) = key(8).verifying_key().to_bytes().into()),
        bent("signature-without-domain", |e| {
            use ed25519_dalek::Signer as _;
            *e.nth(3) = key(9).sign(e.nth(1).bytes()).to_bytes().into();
        }),
        bent("s-not-below-l", |e| {
            let signature: [u8; 64] = e.nth(3).bytes().as_slice().try_into().unwrap();
            *e.nth(3) = s_not_below_l(signature).into();
        }),
        bent("small-order-key", |e| {
            *e.nth(2) = IDENTITY.into();
            *e.nth(3) = of_nothing().into();
        }),
        bent("unreduced-key", |e| {
            *e.nth(2) = IDENTITY_UNREDUCED.into();
            *e.nth(3) = of_nothing().into();
        }),
        bent("only-with-cofactor", |e| {
            let message = evidence_message(e);
            *e.nth(3) = with_mixed_order_r(&key(9), &message).into();
        }),
        bent("no-point", |e| *e.nth(2) = [2; 32].into()),
    ]
}

fn session() -> Vec<Vector> {
    let bend = |name: &str, scene: &Scene| failing(Check::Session, name, scene);
    let at = |iat: u64| single(Claims { issued_at: iat, ..claims() });
    let other_kid = |p: &mut Item| p.put(4, [0; 8]);
    let platforms = |m: &mut Item| m.put(5, "SGX");
    vec![
        bend("reversed", &at(START).manifest(|m| m.put(8, START as i64 - 1))),
        bend("overlong", &single(claims()).manifest(|m| m.put(8, END as i64 + 1))),
        bend("iat-before-not-before", &at(START - 1)),
        bend("iat-after-not-after", &at(END + 1)).now(END + 1),
        bend("iat-in-the-future", &at(NOW + 61)),
        bend("iat-beyond-a-given-skew", &at(NOW + 1)).and_policy(json!({ "max_skew": 0 })),
        bend("iat-in-the-future-archival", &at(NOW + 61)).and_policy(json!({ "mode": "archival" })),
        bend("stale", &single(claims())).now(END + 2_592_001),
        bend("claims-of-another-session", &single(claims()).claims(|c| c.put(-70012, [1; 32]))),
        bend("claims-of-another-session-batch", &batch(claims(), 2, 1).claims(|c| c.put(-70012, [1; 32]))),
        bend("all-of-another-session", &Scene { digest: Some([1; 32]), ..single(claims()) }),
        bend("another-kid", &single(claims()).protected(other_kid)),
        bend("another-kid-batch", &batch(claims(), 4, 1).protected(other_kid)),
        bend("root-of-another-session", &batch(claims(), 4, 1).root(|r| r.put(4, [1; 32]))),
        bend("manifest-of-another-platform", &single(claims()).manifest(platforms)),
        bend("claims-of-another-platform", &single(claims()).claims(|c| c.put(-70010, "SGX"))),
        bend(
            "claims-and-manifest-of-another-platform",
            &single(claims()).manifest(platforms).claims(|c| {
                c.put(-70010, "SGX");
            }),
        ),
        bend("claims-of-another-measurement", &single(claims()).claims(|c| c.put(-70011, [6; 32]))),
        bend(
            "measurement-is-not-the-code",
            &single(claims()).manifest(|m| m.put(6, [6; 32])).claims(|c| {
                c.put(-70011, [6; 32]);
            }),
        ),
    ]
}

fn signature() -> Vec<Vector> {
    let bend = |name: &str, scene: &Scene| failing(Check::Signature, name, scene);
    let with_key = |public: [u8; 32], blinding: u8| {
        single(Claims { blinding: [blinding; 16], ..claims() }).manifest(move |m| m.at(3).put(-2, public))
    };
    // A message for which the equation holds under a key of order 8.
    let order_8 = (0..=255)
        .map(|blinding| with_key(ORDER_8, blinding).signed(|_, _| of_nothing()))
        .find(|scene| holds_laxly(scene, &ORDER_8))
        .unwrap();
    let mixed = (0..=255)
        .map(|blinding| with_key(mixed_order_key(&key(1)), blinding).signed(under_mixed_order_key))
        .find(|scene| !holds_laxly(scene, &mixed_order_key(&key(1))))
        .unwrap();
    let path = |name: &str, bend_path: fn(&mut Vec<Item>)| {
        bend(
            name,
            &batch(claims(), 8, 5).proof(move |p| {
                if let Item::Array(path) = p.nth(2) {
                    bend_path(path);
                }
            }),
        )
    };
    vec![
        bend("changed", &single(claims()).proof(|p| p.nth(3).bytes()[0] ^= 1)),
        bend("changed-s", &single(claims()).proof(|p| p.nth(3).bytes()[40] ^= 1)),
        bend("changed-batch", &batch(claims(), 4, 1).proof(|p| p.nth(3).nth(3).bytes()[0] ^= 1)),
        bend("claims-changed", &single(claims()).proof(|p| p.nth(2).inside(|c| c.put(-70001, [1; 16])))),
        bend("root-changed", &batch(claims(), 4, 1).proof(|p| p.nth(3).nth(2).inside(|r| r.put(2, [1; 32])))),
        bend("by-another-key", &Scene { session_key: key(3), ..single(claims()) }),
        bend("by-the-node-key", &Scene { session_key: key(9), ..batch(claims(), 2, 0) }),
        bend("of-the-batch-aad", &Scene { aad: Some(b"grey.batch.v1"), ..single(claims()) }),
        bend("of-the-single-aad", &Scene { aad: Some(b"grey.inference.v1"), ..batch(claims(), 4, 1) }),
        bend("without-aad", &Scene { aad: Some(b""), ..single(claims()) }),
        bend("zero", &single(claims()).signed(|_, _| [0; 64])),
        bend(
            "s-not-below-l",
            &single(claims()).proof(|p| {
                let signature: [u8; 64] = p.nth(3).bytes().as_slice().try_into().unwrap();
                *p.nth(3) = s_not_below_l(signature).into();
            }),
        ),
        bend(
            "s-not-below-l-batch",
            &batch(claims(), 4, 1).proof(|p| {
                let signature: [u8; 64] = p.nth(3).nth(3).bytes().as_slice().try_into().unwrap();
                *p.nth(3).nth(3) = s_not_below_l(signature).into();
            }),
        ),
        bend("neutral-key", &with_key(IDENTITY, 12).signed(|_, _| of_nothing())),
        bend("small-order-key", &order_8),
        bend("unreduced-key", &with_key(IDENTITY_UNREDUCED, 12).signed(|_, _| of_nothing())),
        bend("no-point", &with_key([2; 32], 12)),
        bend("small-order-r", &single(claims()).signed(with_small_order_r)),
        bend("only-with-cofactor", &single(claims()).signed(with_mixed_order_r)),
        bend("only-with-cofactor-batch", &batch(claims(), 4, 1).signed(with_mixed_order_r)),
        bend("only-with-cofactor-by-key", &mixed),
        path("path-changed", |p| p[2].bytes()[31] ^= 1),
        path("path-too-short", |p| drop(p.pop())),
        path("path-too-long", |p| p.push([1; 32].into())),
        path("path-empty", |p| p.clear()),
        path("path-reversed", |p| p.reverse()),
        bend("another-index", &batch(claims(), 8, 5).proof(|p| *p.nth(1) = 4.into())),
        bend("index-is-the-size", &batch(claims(), 8, 0).proof(|p| *p.nth(1) = 8.into())),
        bend("index-plus-the-size", &batch(claims(), 8, 5).proof(|p| *p.nth(1) = 13.into())),
        bend("index-largest", &batch(claims(), 8, 7).proof(|p| *p.nth(1) = i64::MAX.into())),
        bend("another-size", &batch(claims(), 8, 5).root(|r| r.put(3, 16))),
        bend("batch-of-one-with-path", &batch(claims(), 1, 0).proof(|p| *p.nth(2) = vec![Item::from([1; 32])].into())),
        bend("claims-of-another-leaf", &batch(claims(), 4, 1).proof(|p| p.nth(0).inside(|c| c.put(-70014, [1; 16])))),
    ]
}

/// Whether a verifier that is laxer in the order of points takes the scene's signature.
fn holds_laxly(scene: &Scene, public: &[u8; 32]) -> bool {
    let bundle = scene.build();
    let (_, proof, _) = Bundle::parse(&bundle).unwrap();
    let protected = Item::Map(vec![(1.into(), (-19).into()), (3.into(), 61.into()), (4.into(), (*proof.kid()).into())]);
    let parts = vec![
        "Signature1".into(),
        protected.embed(),
        (*b"grey.inference.v1").into(),
        Item::Bytes(proof.payload().to_vec()),
    ];
    lax(public, &Item::Array(parts).encode(), proof.signature())
}

fn outcome() -> Vec<Vector> {
    let input_hash = [1; 32];
    vec![
        failing(Check::Outcome, "invalid-input", &single(failed(Outcome::InvalidInput))),
        failing(Check::Outcome, "internal", &batch(failed(Outcome::Internal), 2, 1)),
        failing(Check::Outcome, "not-listed", &single(failed(Outcome::HostDied { input_hash })))
            .and_policy(json!({ "outcomes": [0, 1, 2, 3, 4, 6, 7, 8] })),
        failing(Check::Outcome, "list-replaces-the-default", &single(claims())).and_policy(json!({ "outcomes": [2] })),
        failing(Check::Outcome, "none-listed", &single(claims())).and_policy(json!({ "outcomes": [] })),
    ]
}

fn model_hash() -> Vec<Vector> {
    let known = |name: &str, known: Value| failing(Check::ModelHash, name, &single(claims())).known(known);
    let without = single(failed(Outcome::Internal));
    vec![
        known("differs", json!({ "model_hash": hex(&[8; 32]) })),
        known("scheme-differs", json!({ "model_hash": hex(&[9; 32]), "model_hash_scheme": "sha256-files" })),
        failing(Check::ModelHash, "absent", &without)
            .and_policy(json!({ "outcomes": [8] }))
            .known(json!({ "model_hash": hex(&[9; 32]) })),
    ]
}

fn salted() -> Claims {
    let outcome = Outcome::Ok {
        input_hash: tensors_hash(&inputs(), Some(&SALT)),
        output_hash: tensors_hash(&outputs(), Some(&SALT)),
        output_names: vec!["Empty".into(), "label".into(), "ok".into()],
    };
    Claims { outcome, tensor_scheme: TensorScheme::Salted, ..claims() }
}

/// Tensors of which one, the first, is replaced.
fn with_first(tensors: Value, first: Value) -> Value {
    let mut tensors = tensors;
    tensors[0] = first;
    tensors
}

/// Tensors that cannot be, under the name and dtype of a given one.
fn impossible(name: &str) -> Vec<(&'static str, Value)> {
    let of = |datatype: &str, shape: Value, data: &[u8]| json!({ "name": name, "datatype": datatype, "shape": shape, "data": base64(data) });
    vec![
        ("unknown-datatype", of("FLOAT", json!([1]), &[0; 4])),
        ("datatype-in-lower-case", of("fp32", json!([1]), &[0; 4])),
        ("data-too-short", of("FP32", json!([2, 2]), &[0; 15])),
        ("data-too-long", of("FP32", json!([]), &[0; 5])),
        ("data-for-an-empty-shape", of("FP32", json!([0]), &[0; 4])),
        ("dimension-below-0", of("FP32", json!([-1]), &[])),
        ("dimension-above-i64", of("FP32", json!([0, 9_223_372_036_854_775_808u64]), &[])),
        ("product-that-overflows", of("FP32", json!([4_294_967_296u64, 4_294_967_296u64]), &[])),
        ("bool-of-2", of("BOOL", json!([1]), &[2])),
        ("bytes-cut-short", of("BYTES", json!([1]), &[2, 0, 0, 0, 1])),
        ("bytes-of-another-count", of("BYTES", json!([2]), &[0, 0, 0, 0])),
    ]
}

fn input_hash() -> Vec<Vector> {
    let known = |name: &str, scene: &Scene, known: Value| failing(Check::InputHash, name, scene).known(known);
    let plain = |name: &str, inputs: Value| known(name, &single(claims()), json!({ "inputs": inputs }));
    let first = |name: &str, datatype: &str, shape: &[i64], data: &[u8]| {
        with_first(inputs(), tensor(name, datatype, shape, data))
    };
    let data = [0, 0, 128, 63, 0, 0, 0, 128, 0, 0, 192, 127, 1, 0, 192, 127];
    let mut positive_zero = data;
    positive_zero[7] = 0;
    let mut other_nan = data;
    other_nan[12] = 2;
    let mut one_more = inputs();
    one_more.as_array_mut().unwrap().push(tensor("z", "UINT8", &[0], &[]));
    let mut twice = inputs();
    twice.as_array_mut().unwrap().push(inputs()[0].clone());
    let invalid = single(failed(Outcome::InvalidInput));
    let mut vectors = vec![
        plain("positive-for-negative-zero", first("x", "FP32", &[2, 2], &positive_zero)),
        plain("another-nan", first("x", "FP32", &[2, 2], &other_nan)),
        plain("another-dtype", first("x", "INT32", &[2, 2], &data)),
        plain("another-shape", first("x", "FP32", &[4], &data)),
        plain("another-name", first("X", "FP32", &[2, 2], &data)),
        plain("one-more", one_more),
        plain("none", json!([])),
        plain("outputs-for-inputs", outputs()),
        plain("name-twice", twice.clone()),
        known("absent", &invalid, json!({ "inputs": [] })).and_policy(json!({ "outcomes": [1] })),
        known("salt-for-unsalted", &single(claims()), json!({ "inputs": inputs(), "salt": base64(&SALT) })),
        known("salt-of-31-bytes", &single(salted()), json!({ "inputs": inputs(), "salt": base64(&SALT[1..]) })),
        known("salt-empty", &single(salted()), json!({ "inputs": inputs(), "salt": "" })),
        known("another-salt", &single(salted()), json!({ "inputs": inputs(), "salt": base64(&[0; 32]) })),
        known("name-twice-and-no-salt", &single(salted()), json!({ "inputs": twice })),
        known("impossible-and-no-salt", &single(salted()), json!({ "inputs": first("x", "FP32", &[3], &data) })),
    ];
    for (name, tensor) in impossible("x") {
        vectors.push(plain(name, with_first(inputs(), tensor)));
    }
    vectors
}

fn output_hash() -> Vec<Vector> {
    let known = |name: &str, scene: &Scene, known: Value| failing(Check::OutputHash, name, scene).known(known);
    let plain = |name: &str, outputs: Value| known(name, &single(claims()), json!({ "outputs": outputs }));
    let mut fewer = outputs();
    fewer.as_array_mut().unwrap().pop();
    let mut twice = outputs();
    twice.as_array_mut().unwrap().push(outputs()[2].clone());
    let renamed = with_first(outputs(), tensor("Label", "INT64", &[2], &[0; 16]));
    // The hash is that of other names than the claims list.
    let unlisted = single(claims()).claims(|c| c.put(-70018, vec!["label".into(), "ok".into()]));
    let input_hash = [1; 32];
    vec![
        plain("differs", with_first(outputs(), tensor("label", "INT64", &[2], &[0; 16]))),
        plain("fewer", fewer.clone()),
        plain("none", json!([])),
        plain("another-name", renamed),
        plain("name-twice", twice),
        plain("unknown-datatype", with_first(outputs(), tensor("label", "TEXT", &[2], &[0; 16]))),
        plain("another-size", with_first(outputs(), tensor("label", "INT64", &[3], &[0; 16]))),
        known("names-are-not-the-claimed", &unlisted, json!({ "outputs": outputs() })),
        known("names-and-no-salt", &single(salted()), json!({ "outputs": fewer })),
        known("salt-for-unsalted", &single(claims()), json!({ "outputs": outputs(), "salt": base64(&SALT) })),
        known("salt-of-33-bytes", &single(salted()), json!({ "outputs": outputs(), "salt": base64(&[0x23; 33]) })),
        known("another-salt", &single(salted()), json!({ "outputs": outputs(), "salt": base64(&[0; 32]) })),
        known("of-a-failure", &single(failed(Outcome::ModelFailed { input_hash })), json!({ "outputs": [] }))
            .and_policy(json!({ "outcomes": [0, 2] })),
    ]
}

fn request() -> Vec<Vector> {
    let known = |name: &str, request: Value| {
        failing(Check::Request, name, &single(full_claims())).known(json!({ "request": request }))
    };
    let parameters = |name: &str, parameters: Value| known(name, json!({ "parameters": parameters }));
    let without = single(claims());
    vec![
        known("another-model", json!({ "model_id": "Digits" })),
        known("another-version", json!({ "model_id": "digits", "model_version": "1.0" })),
        known("another-task", json!({ "task_id": "019a0000-0000-7000-8000-000000000008" })),
        known("task-of-another-version", json!({ "task_id": "019a0000-0000-4000-8000-000000000009" })),
        known("another-tenant", json!({ "tenant_tag": hex(&[0; 16]) })),
        parameters("parameter-differs", json!({ "top_k": -4, "deep": true, "temperature": 0.5 })),
        parameters("parameter-missing", json!({ "top_k": -5, "deep": true })),
        parameters("parameter-added", json!({ "top_k": -5, "deep": true, "temperature": 0.5, "x": 1 })),
        parameters("no-parameters", json!({})),
        parameters("text-for-integer", json!({ "top_k": "-5", "deep": true, "temperature": 0.5 })),
        parameters("text-for-bool", json!({ "top_k": -5, "deep": "true", "temperature": 0.5 })),
        parameters("number-text-in-another-form", json!({ "top_k": -5, "deep": true, "temperature": "0.50" })),
        parameters("name-in-another-case", json!({ "Top_k": -5, "deep": true, "temperature": 0.5 })),
        failing(Check::Request, "parameters-absent", &without)
            .known(json!({ "request": { "parameters": { "top_k": 1 } } })),
    ]
}

fn nonce() -> Vec<Vector> {
    let with = single(Claims { nonce: Some(NONCE.to_vec()), ..claims() });
    vec![
        failing(Check::Nonce, "differs", &with).known(json!({ "nonce": base64(&[0x20; 16]) })),
        failing(Check::Nonce, "longer", &with).known(json!({ "nonce": base64(&[0x21; 17]) })),
        failing(Check::Nonce, "empty", &with).known(json!({ "nonce": "" })),
        failing(Check::Nonce, "absent", &single(claims())).known(json!({ "nonce": base64(&NONCE) })),
    ]
}

fn freshness_and_replay() -> Vec<Vector> {
    let id = task_id().to_string();
    vec![
        failing(Check::Freshness, "older", &single(claims())).and_policy(json!({ "max_age": NOW - IAT - 1 })),
        failing(Check::Freshness, "older-than-nothing", &single(claims())).and_policy(json!({ "max_age": 0 })),
        failing(Check::Freshness, "older-archival", &single(claims()))
            .and_policy(json!({ "max_age": 59, "mode": "archival" })),
        failing(Check::Replay, "seen", &single(claims()))
            .known(json!({ "seen": ["019a0000-0000-7000-8000-000000000008", id] })),
        failing(Check::Replay, "seen-in-hex", &batch(claims(), 2, 0)).known(json!({ "seen": [id.replace('-', "")] })),
    ]
}

fn execution() -> Vec<Vector> {
    let executed = |exec: Exec| single(Claims { exec: Some(exec), ..claims() });
    let without = single(Claims { exec: None, children: vec![[1; 32]], ..claims() });
    let bend = |name: &str, scene: &Scene, more: Value| failing(Check::Execution, name, scene).and_policy(more);
    vec![
        bend("lower-class", &executed(exec()), json!({ "execution": "invariant" })),
        bend("class-none", &executed(Exec { class: Class::None, ..exec() }), json!({ "execution": "slot" })),
        bend("no-exec", &without, json!({ "execution": "none" })),
        bend("executor-nobody-asked-for", &executed(upstream()), json!({})),
        bend("executor-not-listed", &executed(upstream()), json!({ "executors": ["vllm"] })),
        bend("executor-by-its-version", &executed(upstream()), json!({ "executors": ["2.60"] })),
        bend("no-executor-allowed", &executed(upstream()), json!({ "executors": [] })),
        bend("upstream-of-a-lower-class", &executed(upstream()), json!({ "executors": "any", "execution": "slot" })),
    ]
}

fn batch_report_() -> Vec<Vector> {
    let strict = || json!({ "strict": true });
    let bend = |name: &str, scene: &Scene| failing(Check::BatchReport, name, scene).and_policy(strict());
    let scene = || Scene { strict: true, ..batch(claims(), 4, 3) };
    let bent = |name: &str, edit: fn(&mut Item)| bend(name, &scene().bundle(move |b| b.at(9).inside(edit)));
    vec![
        bend("single-form", &single(claims()).bundle(|b| b.put(9, evidence(&key(9), [0; 64]).embed()))),
        bend("single-form-over-its-payload", &Scene { strict: true, ..single(claims()) }),
        bend("none", &batch(claims(), 4, 3)),
        bend("none-and-single", &single(claims())),
        bend("of-another-batch", &scene().bundle(|b| b.put(9, evidence(&key(9), batch_report(b"other")).embed()))),
        bend(
            "the-sessions-evidence",
            &scene().bundle(|b| {
                let evidence = b.at(3).at(2).clone();
                b.put(9, evidence);
            }),
        ),
        bend("no-evidence", &scene().bundle(|b| b.put(9, []))),
        bent("trailing-byte", |e| *e = Item::Raw([e.encode(), vec![0]].concat())),
        bent("signature-changed", |e| e.nth(3).bytes()[0] ^= 1),
        bent("s-not-below-l", |e| {
            let signature: [u8; 64] = e.nth(3).bytes().as_slice().try_into().unwrap();
            *e.nth(3) = s_not_below_l(signature).into();
        }),
        failing(
            Check::BatchReport,
            "by-another-key",
            &scene().bundle(|b| {
                b.at(9).inside(|e| {
                    let binding: [u8; 64] = e.nth(1).bytes().as_slice().try_into().unwrap();
                    *e = evidence(&key(8), binding);
                });
            }),
        )
        .policy(json!({ "software_keys": "any", "strict": true })),
    ]
}

fn view_() -> Vec<Vector> {
    let bend = |name: &str, scene: Scene, edit: fn(&mut serde_json::Map<String, Value>)| {
        let mut view = view(&scene.build()).unwrap();
        edit(&mut view);
        failing(Check::View, name, &scene).known(json!({ "view": view }))
    };
    let full = || single(Claims { parameters: BTreeMap::new(), ..full_claims() });
    let changed = |member: &'static str, value: Value| {
        let scene = full();
        let mut view = view(&scene.build()).unwrap();
        assert!(view.insert(member.into(), value).is_some());
        failing(Check::View, &format!("another-{}", member.replace('_', "-")), &scene).known(json!({ "view": view }))
    };
    vec![
        changed("task_id", json!("019A0000-0000-7000-8000-000000000009")),
        changed("model_id", json!("letters")),
        changed("model_version", json!(1)),
        changed("model_hash", json!("09".repeat(31))),
        changed("input_hash", json!("00".repeat(32))),
        changed("output_hash", json!("00".repeat(32))),
        changed("measurement", json!("00".repeat(32))),
        changed("platform", json!("SGX")),
        changed("report_data", json!("")),
        changed("signature", json!(base64(&[0; 64]))),
        changed("timestamp", json!(IAT + 1)),
        changed("nonce", json!(base64(&[0; 16]))),
        changed("exec", json!({ "class": "portable" })),
        bend("timestamp-is-text", full(), |v| drop(v.insert("timestamp".into(), json!(IAT.to_string())))),
        bend("without-nonce", full(), |v| drop(v.remove("nonce"))),
        bend("null-for-absent", single(claims()), |v| drop(v.insert("nonce".into(), Value::Null))),
        bend("one-more", single(claims()), |v| drop(v.insert("note".into(), json!("")))),
        bend("exec-one-more", full(), |v| v["exec"]["note"] = json!(1)),
        bend("exec-without-switches", full(), |v| drop(v["exec"].as_object_mut().unwrap().remove("switches"))),
        bend("exec-another-segment", full(), |v| v["exec"]["segments"][1] = json!([1, 0, 2])),
        bend("empty", batch(claims(), 2, 0), |v| v.clear()),
    ]
}
