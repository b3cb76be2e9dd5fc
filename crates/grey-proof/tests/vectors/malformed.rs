//! What check 1 refuses. Each would be valid but for the one rule that it breaks: whatever comes after
//! the break is hashed and signed as ever.

use std::collections::BTreeMap;

use grey_proof::*;

use crate::support::item::Item;
use crate::support::scene::*;
use crate::valid::{big_manifest, sealing_key};
use crate::vector::{Vector, of, of_bytes};

pub fn vectors() -> Vec<Vector> {
    let all = [bytes(), members(), claims_members(), outcomes(), execs(), manifests(), proofs(), evidences()].concat();
    all.into_iter().map(|v| v.fails(Check::WellFormed)).collect()
}

fn named(name: &str, scene: &Scene) -> Vector {
    of(&format!("well-formed-{name}"), scene)
}

fn raw(name: &str, bundle: Vec<u8>) -> Vector {
    of_bytes(&format!("well-formed-{name}"), bundle)
}

/// Claims bent, in the single form.
fn claim(name: &str, bend: impl FnOnce(&mut Item)) -> Vector {
    named(&format!("claims-{name}"), &single(claims()).claims(bend))
}

fn bytes() -> Vec<Vector> {
    let whole = single(claims()).build();
    let nested = |depth: usize| Item::Raw([vec![0x81; depth], vec![0]].concat());
    vec![
        raw("empty", vec![]),
        raw("another-type", vec![0xf6]),
        raw("cut-short", whole[..whole.len() - 1].to_vec()),
        raw("trailing-byte", [&whole[..], &[0]].concat()),
        raw("indefinite-map", [&[0xbf][..], &whole[1..], &[0xff]].concat()),
        raw("map-head-not-shortest", [&[0xb8, 3][..], &whole[1..]].concat()),
        raw("a-proof-alone", sign_single(&full_claims(), &key(1)).unwrap()),
        named("bundle-nested-deeply", &single(claims()).bundle(move |b| b.put(6, nested(1000)))),
        claim("trailing-byte", |c| *c = Item::Raw([c.encode(), vec![0]].concat())),
        named("manifest-trailing-byte", &single(claims()).manifest(|m| *m = Item::Raw([m.encode(), vec![0]].concat()))),
        named("root-trailing-byte", &batch(claims(), 2, 0).root(|r| *r = Item::Raw([r.encode(), vec![0]].concat()))),
        named("proof-trailing-byte", &single(claims()).proof(|p| *p = Item::Raw([p.encode(), vec![0]].concat()))),
        named(
            "protected-trailing-byte",
            &single(claims()).protected(|p| *p = Item::Raw([p.encode(), vec![0]].concat())),
        ),
        named("evidence-trailing-byte", &single(claims()).evidence(|e| *e = Item::Raw([e.encode(), vec![0]].concat()))),
    ]
}

fn members() -> Vec<Vector> {
    let bend = |name: &str, bend: fn(&mut Item)| named(&format!("bundle-{name}"), &single(claims()).bundle(bend));
    vec![
        bend("no-proof", |b| b.drop(1)),
        bend("no-manifest", |b| b.drop(2)),
        bend("no-evidence", |b| b.drop(3)),
        bend("unknown-member", |b| b.put(10, [])),
        bend("member-0", |b| b.put(0, [])),
        bend("text-member", |b| b.put("proof", [])),
        bend("member-twice", |b| {
            b.put(6, [1]);
            b.push(6, [1]);
        }),
        bend("members-out-of-order", |b| b.swap(0, 1)),
        bend("timestamp-of-another-type", |b| b.put(5, "token")),
        bend("null-member", |b| b.put(6, Item::Raw(vec![0xf6]))),
        bend("collateral-for-software", |b| b.put(4, Item::Map(vec![(3.into(), [].into())]))),
        bend("collateral-empty", |b| b.put(4, Item::Map(vec![]))),
        bend("evidence-unknown-member", |b| b.at(3).put(4, [])),
        bend("evidence-no-nonce32", |b| b.at(3).drop(3)),
        bend("evidence-nonce32-of-31-bytes", |b| b.at(3).put(3, [0; 31])),
        bend("evidence-unknown-platform", |b| b.at(3).put(1, "software")),
        bend("evidence-too-short-for-sgx", |b| {
            b.at(3).put(1, "SGX");
            b.at(3).put(2, [0; 431]);
        }),
        bend("evidence-too-short-for-tdx", |b| {
            b.at(3).put(1, "TDX");
            b.at(3).put(2, [0; 631]);
        }),
        bend("evidence-too-short-for-sev-snp", |b| {
            b.at(3).put(1, "SEV-SNP");
            b.at(3).put(2, [0; 1183]);
        }),
        bend("collateral-of-the-other-vendor", |b| {
            b.at(3).put(1, "SEV-SNP");
            b.at(3).put(2, [0; 1184]);
            b.put(4, Item::Map(vec![(3.into(), [].into())]));
        }),
        bend("collateral-without-certificates", |b| {
            b.at(3).put(1, "SEV-SNP");
            b.at(3).put(2, [0; 1184]);
            b.put(4, Item::Map(vec![(1.into(), Item::Array(vec![]))]));
        }),
    ]
}

fn claims_members() -> Vec<Vector> {
    let with = |name: &str, claims: Claims, bend: fn(&mut Item)| {
        named(&format!("claims-{name}"), &single(claims).claims(bend))
    };
    let parameters = |name: &str, bend: fn(&mut Item)| with(&format!("parameters-{name}"), full_claims(), bend);
    let mut vectors = vec![
        claim("unknown-key", |c| c.put(-70020, 1)),
        claim("unused-key", |c| c.put(-70013, [0; 32])),
        claim("text-key", |c| c.put("iss", "grey")),
        claim("key-twice", |c| {
            let Item::Map(entries) = c else { return };
            let (key, value) = entries[1].clone();
            entries.insert(1, (key, value));
        }),
        claim("keys-out-of-order", |c| c.swap(1, 2)),
        claim("negative-key-first", |c| {
            let Item::Map(entries) = c else { return };
            entries.sort_by_key(|(k, _)| if let Item::Int(i) = k { *i } else { 0 });
        }),
        claim("iat-not-shortest", |c| {
            c.put(6, Item::Raw([&[0x1b, 0, 0, 0, 0][..], &(IAT as u32).to_be_bytes()].concat()))
        }),
        claim("iat-negative", |c| c.put(6, -1)),
        claim("iat-beyond-i64", |c| c.put(6, Item::Raw(vec![0x1b, 0x80, 0, 0, 0, 0, 0, 0, 0]))),
        claim("iat-float", |c| c.put(6, Item::Raw(vec![0xf9, 0x3c, 0]))),
        claim("iat-tagged", |c| c.put(6, Item::Raw([&[0xc1, 0x1a][..], &(IAT as u32).to_be_bytes()].concat()))),
        claim("key-not-shortest", |c| {
            let Item::Map(entries) = c else { return };
            entries[0].0 = Item::Raw(vec![0x18, 1]);
        }),
        claim("text-length-not-shortest", |c| c.put(1, Item::Raw(b"\x78\x04grey".to_vec()))),
        claim("text-indefinite", |c| c.put(1, Item::Raw(b"\x7f\x64grey\xff".to_vec()))),
        claim("text-not-utf-8", |c| c.put(1, Item::Raw(vec![0x62, 0xc3, 0x28]))),
        claim("text-with-surrogate", |c| c.put(1, Item::Raw(vec![0x63, 0xed, 0xa0, 0x80]))),
        claim("iss-bytes", |c| c.put(1, *b"grey")),
        claim("iss-null", |c| c.put(1, Item::Raw(vec![0xf6]))),
        claim("uuid-version-4", |c| c.at(7).bytes()[6] = 0x40),
        claim("uuid-another-variant", |c| c.at(7).bytes()[8] = 0xc0),
        claim("cti-of-15-bytes", |c| c.put(7, [0x70; 15])),
        claim("nonce-of-7-bytes", |c| c.put(10, [1; 7])),
        claim("nonce-of-65-bytes", |c| c.put(10, [1; 65])),
        claim("another-profile", |c| c.put(265, "urn:uuid:7b0c9e52-3f64-4c1d-9a58-2d6f1e80a4c4")),
        claim("profile-in-upper-case", |c| c.put(265, "URN:UUID:7B0C9E52-3F64-4C1D-9A58-2D6F1E80A4C3")),
        claim("tenant-tag-of-15-bytes", |c| c.put(-70001, [1; 15])),
        claim("model-hash-without-scheme", |c| c.drop(-70005)),
        claim("scheme-without-model-hash", |c| c.drop(-70004)),
        claim("unknown-model-hash-scheme", |c| c.put(-70005, "sha256")),
        claim("input-hash-of-31-bytes", |c| c.put(-70006, [1; 31])),
        claim("unknown-tensor-scheme", |c| c.put(-70008, "grey-tensor-v2")),
        claim("unknown-platform", |c| c.put(-70010, "Software")),
        claim("measurement-of-48-bytes", |c| c.put(-70011, [5; 48])),
        claim("no-children", |c| c.put(-70015, vec![])),
        claim("child-of-16-bytes", |c| c.put(-70015, vec![Item::from([1; 16])])),
        claim("sealed-of-three", |c| c.put(-70016, vec![Item::from([1; 32]), 1.into(), 1.into()])),
        claim("sealed-kid-negative", |c| c.put(-70016, vec![Item::from([1; 32]), (-1).into()])),
        claim("of-4097-bytes", |c| {
            let missing = 4097 - c.encode().len();
            // The text's head grows by two bytes.
            c.put(1, Item::Text("i".repeat(4 + missing - 2)));
            assert_eq!(c.encode().len(), 4097);
        }),
        parameters("empty", |c| c.put(-70019, Item::Map(vec![]))),
        parameters("null", |c| c.at(-70019).put("x", Item::Raw(vec![0xf6]))),
        parameters("float", |c| c.at(-70019).put("x", Item::Raw(vec![0xf9, 0x38, 0]))),
        parameters("list", |c| c.at(-70019).put("x", vec![1.into()])),
        parameters("bytes", |c| c.at(-70019).put("x", [1])),
        parameters("integer-key", |c| c.at(-70019).put(1, 1)),
        parameters("longer-key-first", |c| c.at(-70019).swap(0, 1)),
    ];
    for key in [1, 6, 7, 265, -70001, -70002, -70003, -70008, -70010, -70011, -70012, -70014, -70017] {
        vectors.push(claim(&format!("without-{}", key.to_string().trim_start_matches('-')), move |c| c.drop(key)));
    }
    vectors
}

fn outcomes() -> Vec<Vector> {
    let input_hash = [1; 32];
    let outcome = |name: &str, outcome: Outcome, bend: fn(&mut Item)| {
        named(&format!("outcome-{name}"), &single(failed(outcome)).claims(bend))
            .and_policy(serde_json::json!({ "outcomes": [0, 1, 2, 3, 4, 5, 6, 7, 8] }))
    };
    let exec_item = || {
        let mut item = Item::decode(&claims().encode().unwrap());
        item.at(-70009).clone()
    };
    let with_exec = |name: &str, of: Outcome| {
        let scene = single(failed(of)).claims(|c| c.put(-70009, exec_item()));
        named(&format!("outcome-{name}"), &scene)
            .and_policy(serde_json::json!({ "outcomes": [0, 1, 2, 3, 4, 5, 6, 7, 8] }))
    };
    vec![
        claim("outcome-9", |c| c.put(-70017, 9)),
        claim("outcome-negative", |c| c.put(-70017, -1)),
        claim("ok-without-input-hash", |c| c.drop(-70006)),
        claim("ok-without-model-hash", |c| {
            c.drop(-70004);
            c.drop(-70005);
        }),
        outcome("host-died-without-model-hash", Outcome::HostDied { input_hash }, |c| {
            c.drop(-70004);
            c.drop(-70005);
        }),
        outcome("invalid-input-with-model-hash", Outcome::InvalidInput, |c| {
            c.put(-70004, [1; 32]);
            c.put(-70005, "sha256-file");
        }),
        outcome("overloaded-with-model-hash", Outcome::Overloaded, |c| {
            c.put(-70004, [1; 32]);
            c.put(-70005, "sha256-file");
        }),
        outcome("refused-with-model-hash-scheme", Outcome::Refused, |c| c.put(-70005, "sha256-file")),
        outcome("internal-with-model-hash", Outcome::Internal, |c| {
            c.put(-70004, [1; 32]);
            c.put(-70005, "sha256-file");
        }),
        claim("ok-without-output-hash", |c| c.drop(-70007)),
        claim("ok-without-output-names", |c| c.drop(-70018)),
        claim("ok-without-exec", |c| c.drop(-70009)),
        claim("output-names-empty", |c| c.put(-70018, vec![])),
        claim("output-names-unsorted", |c| c.put(-70018, vec!["b".into(), "a".into()])),
        claim("output-names-twice", |c| c.put(-70018, vec!["a".into(), "a".into()])),
        claim("output-names-by-length", |c| c.put(-70018, vec!["b".into(), "aa".into()])),
        claim("output-names-in-utf-16-order", |c| c.put(-70018, vec!["\u{1f600}".into(), "\u{ff5e}".into()])),
        outcome("invalid-input-with-input-hash", Outcome::InvalidInput, |c| c.put(-70006, [1; 32])),
        outcome("overloaded-with-input-hash", Outcome::Overloaded, |c| c.put(-70006, [1; 32])),
        outcome("refused-with-input-hash", Outcome::Refused, |c| c.put(-70006, [1; 32])),
        outcome("internal-with-input-hash", Outcome::Internal, |c| c.put(-70006, [1; 32])),
        outcome("model-failed-without-input-hash", Outcome::ModelFailed { input_hash }, |c| c.drop(-70006)),
        outcome("deadline-without-input-hash", Outcome::Deadline { input_hash }, |c| c.drop(-70006)),
        outcome("cancelled-with-output-hash", Outcome::Cancelled { input_hash }, |c| c.put(-70007, [1; 32])),
        outcome("host-died-with-output-names", Outcome::HostDied { input_hash }, |c| c.put(-70018, vec!["y".into()])),
        with_exec("invalid-input-with-exec", Outcome::InvalidInput),
        with_exec("overloaded-with-exec", Outcome::Overloaded),
        with_exec("refused-with-exec", Outcome::Refused),
    ]
}

fn execs() -> Vec<Vector> {
    let exec_of = |name: &str, claims: Claims, bend: fn(&mut Item)| {
        named(&format!("exec-{name}"), &single(claims).claims(|c| bend(c.at(-70009))))
            .and_policy(serde_json::json!({ "executors": "any" }))
    };
    let exec = |name: &str, bend: fn(&mut Item)| exec_of(name, claims(), bend);
    let from_upstream = |name: &str, bend: fn(&mut Item)| {
        exec_of(&format!("upstream-{name}"), Claims { exec: Some(upstream()), ..claims() }, bend)
    };
    let segment = |b: i64, p: i64, r: i64| Item::Array(vec![b.into(), p.into(), r.into()]);
    let segments = |name: &str, items: Vec<Item>| {
        named(&format!("exec-segments-{name}"), &single(claims()).claims(|c| c.at(-70009).put(5, items)))
    };
    let mut vectors = vec![
        exec("unknown-key", |e| e.put(12, 1)),
        exec("unknown-class", |e| e.put(1, "Slot")),
        exec("engine-of-two", |e| e.put(2, vec!["a".into(), "b".into()])),
        exec("threads-negative", |e| e.put(4, -1)),
        exec("lengths-empty", |e| e.put(6, vec![])),
        exec("sampling-empty", |e| e.put(8, Item::Map(vec![]))),
        exec("sampling-negative-key", |e| e.put(8, Item::Map(vec![((-1).into(), 1.into())]))),
        exec("filler-zero-written-out", |e| e.put(10, "zero")),
        exec("switches-empty", |e| e.put(11, vec![])),
        exec("switches-unsorted", |e| e.put(11, vec!["b".into(), "a".into()])),
        exec("switches-twice", |e| e.put(11, vec!["a".into(), "a".into()])),
        segments("empty", vec![]),
        segments("no-rows", vec![segment(4, 1, 0)]),
        segments("beyond-the-bucket", vec![segment(4, 3, 2)]),
        segments("second-beyond-the-bucket", vec![segment(4, 0, 4), segment(2, 2, 1)]),
        segments("sum-beyond-i64", vec![segment(1, i64::MAX, 1)]),
        segments("of-two-numbers", vec![Item::Array(vec![1.into(), 0.into()])]),
        from_upstream("class-slot", |e| e.put(1, "slot")),
        from_upstream("library-hash", |e| *e.at(2).nth(2) = [1; 32].into()),
        from_upstream("another-device", |e| e.put(3, "amd/x86-64-v4")),
        from_upstream("threads", |e| e.put(4, 1)),
        from_upstream("position", |e| e.put(5, vec![vec![3.into(), 1.into(), 2.into()].into()])),
        from_upstream("bucket", |e| e.put(5, vec![vec![3.into(), 0.into(), 2.into()].into()])),
        from_upstream("two-segments", |e| {
            let one: Item = vec![2.into(), 0.into(), 2.into()].into();
            e.put(5, vec![one.clone(), one]);
        }),
        from_upstream("lengths", |e| e.put(6, vec![1.into()])),
        from_upstream("precision", |e| e.put(7, "fp32")),
        from_upstream("sampling", |e| e.put(8, Item::Map(vec![(1.into(), 1.into())]))),
        from_upstream("filler", |e| e.put(10, "self")),
        from_upstream("switches", |e| e.put(11, vec!["a".into()])),
        from_upstream("executor-without-version", |e| e.put(9, vec!["triton".into()])),
    ];
    for key in [1, 2, 3, 4, 5, 7] {
        let scene = single(claims()).claims(|c| c.at(-70009).drop(key));
        vectors.push(named(&format!("exec-without-{key}"), &scene));
    }
    vectors
}

fn manifests() -> Vec<Vector> {
    let bend = |name: &str, bend: fn(&mut Item)| named(&format!("manifest-{name}"), &single(claims()).manifest(bend));
    let keys = |name: &str, keys: Vec<Item>| {
        named(&format!("manifest-sealing-{name}"), &single(claims()).manifest(|m| m.put(4, keys)))
    };
    let bent = |bend: fn(&mut Item)| {
        let mut item = sealing_key(1, [3; 32]);
        bend(&mut item);
        vec![item]
    };
    let mut vectors = vec![
        bend("another-word", |m| m.put(1, "grey.session.v2")),
        bend("unknown-key", |m| m.put(10, [])),
        bend("id-of-15-bytes", |m| m.put(2, [2; 15])),
        bend("key-of-another-type", |m| m.at(3).put(1, 2)),
        bend("key-of-another-curve", |m| m.at(3).put(-1, 4)),
        bend("key-with-algorithm", |m| m.at(3).put(3, -19)),
        bend("key-of-31-bytes", |m| m.at(3).put(-2, [1; 31])),
        bend("measurement-of-48-bytes", |m| m.put(6, [5; 48])),
        bend("measurement-of-32-bytes-for-tdx", |m| m.put(5, "TDX")),
        bend("not-before-negative", |m| m.put(7, -1)),
        bend("not-after-beyond-i64", |m| m.put(8, Item::Raw(vec![0x1b, 0x80, 0, 0, 0, 0, 0, 0, 0]))),
        bend("keys-out-of-order", |m| m.swap(0, 1)),
        keys("kid-twice", vec![sealing_key(1, [3; 32]), sealing_key(2, [3; 32]), sealing_key(1, [4; 32])]),
        keys("another-kem", bent(|k| k.put(2, 16))),
        keys("another-kdf", bent(|k| k.put(3, 2))),
        keys("another-aead", bent(|k| k.put(4, 1))),
        keys("without-kid", bent(|k| k.drop(1))),
        keys("unknown-key", bent(|k| k.put(6, 1))),
        keys("public-key-of-33-bytes", bent(|k| k.put(5, [3; 33]))),
        named("manifest-of-8193-bytes", &big_manifest(8193)),
    ];
    for key in 1..=9 {
        let scene = single(claims()).manifest(|m| m.drop(key));
        vectors.push(named(&format!("manifest-without-{key}"), &scene));
    }
    vectors
}

fn proofs() -> Vec<Vector> {
    let one = |name: &str, bend: fn(&mut Item)| named(&format!("single-{name}"), &single(claims()).proof(bend));
    let many = |name: &str, bend: fn(&mut Item)| named(&format!("batch-{name}"), &batch(claims(), 4, 1).proof(bend));
    let root = |name: &str, bend: fn(&mut Item)| named(&format!("root-{name}"), &batch(claims(), 4, 1).root(bend));
    let header =
        |name: &str, bend: fn(&mut Item)| named(&format!("single-protected-{name}"), &single(claims()).protected(bend));
    vec![
        header("alg-eddsa", |p| p.put(1, -8)),
        header("alg-es256", |p| p.put(1, -7)),
        header("without-alg", |p| p.drop(1)),
        header("without-content-type", |p| p.drop(3)),
        header("another-content-type", |p| p.put(3, 60)),
        header("without-kid", |p| p.drop(4)),
        header("kid-of-32-bytes", |p| p.put(4, [1; 32])),
        header("crit", |p| p.put(2, vec![4.into()])),
        one("unprotected-kid", |p| *p.nth(1) = Item::Map(vec![(4.into(), [1].into())])),
        one("detached-payload", |p| *p.nth(2) = Item::Raw(vec![0xf6])),
        one("signature-of-63-bytes", |p| *p.nth(3) = [1; 63].into()),
        one("signature-of-65-bytes", |p| *p.nth(3) = [1; 65].into()),
        one("without-tag", |p| {
            let Item::Tag18(inner) = p.clone() else { return };
            *p = *inner;
        }),
        one("tag-17", |p| {
            let Item::Tag18(inner) = p.clone() else { return };
            *p = Item::Raw([vec![0xd1], inner.encode()].concat());
        }),
        one("tag-cwt-around", |p| *p = Item::Raw([vec![0xd8, 61], p.encode()].concat())),
        one("tag-not-shortest", |p| *p = Item::Raw([&[0xd8, 18], &p.encode()[1..]].concat())),
        one("five-elements", |p| {
            let Item::Tag18(inner) = p else { return };
            let Item::Array(items) = &mut **inner else { return };
            items.push(Item::Bytes(vec![]));
        }),
        many("three-elements", |p| {
            let Item::Array(items) = p else { return };
            items.remove(0);
        }),
        many("leaf-index-negative", |p| *p.nth(1) = (-1).into()),
        many("path-of-31-bytes", |p| *p.nth(2).nth(0) = [1; 31].into()),
        named("batch-path-of-33", &Scene { form: Form::Tall(33), ..single(claims()) }),
        named("batch-protected-content-type", &batch(claims(), 4, 1).protected(|p| p.put(3, 61))),
        named("batch-protected-alg-eddsa", &batch(claims(), 4, 1).protected(|p| p.put(1, -8))),
        root("another-word", |r| r.put(1, "grey.batch.v2")),
        root("size-3", |r| r.put(3, 3)),
        root("size-0", |r| r.put(3, 0)),
        root("size-negative", |r| r.put(3, -4)),
        root("unknown-key", |r| r.put(5, 1)),
        root("without-root", |r| r.drop(2)),
        root("without-session", |r| r.drop(4)),
        root("without-size", |r| r.drop(3)),
        named("batch-claims-not-well-formed", &batch(claims(), 4, 1).claims(|c| c.put(-70017, 9))),
        named(
            "batch-names-unsorted",
            &batch(Claims { parameters: BTreeMap::new(), ..claims() }, 4, 1)
                .claims(|c| c.put(-70018, vec!["b".into(), "a".into()])),
        ),
    ]
}

fn evidences() -> Vec<Vector> {
    let bend = |name: &str, bend: fn(&mut Item)| named(&format!("evidence-{name}"), &single(claims()).evidence(bend));
    vec![
        bend("another-word", |e| *e.nth(0) = "grey.software.v2".into()),
        bend("of-three", |e| {
            let Item::Array(items) = e else { return };
            items.pop();
        }),
        bend("binding-of-32-bytes", |e| *e.nth(1) = [1; 32].into()),
        bend("key-of-33-bytes", |e| *e.nth(2) = [1; 33].into()),
        bend("signature-of-63-bytes", |e| *e.nth(3) = [1; 63].into()),
        bend("empty", |e| *e = Item::Raw(vec![])),
    ]
}
