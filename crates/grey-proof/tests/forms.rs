//! Claims, proofs, manifests and bundles: one encoding each, every rule kept, and no byte of a signed
//! proof that can change unnoticed.

#![expect(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::collections::BTreeMap;

use grey_proof::*;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn manifest() -> Manifest {
    Manifest {
        id: [2; 16],
        signing_key: key().verifying_key().to_bytes(),
        sealing_keys: vec![SealingKey { kid: 1, public_key: [3; 32] }, SealingKey { kid: 0, public_key: [4; 32] }],
        measurement: Measurement::software([5; 32]),
        not_before: 1_800_000_000,
        not_after: 1_800_086_400,
        code_sha256: [5; 32],
    }
}

fn task_id() -> TaskId {
    TaskId::new([1, 0x9a, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 9]).unwrap()
}

fn exec() -> Exec {
    Exec {
        class: Class::Slot,
        engine: "onnxruntime".into(),
        engine_version: "1.32.0".into(),
        engine_sha256: [6; 32],
        device: "amd/x86-64-v4+avx512_bf16".into(),
        threads: 3,
        segments: vec![Segment { bucket: 8, position: 2, rows: 3 }, Segment { bucket: 4, position: 0, rows: 4 }],
        lengths: vec![128],
        precision: "fp32".into(),
        sampling: BTreeMap::from([(1, 300)]),
        executor: None,
        filler: Filler::OwnFirstRow,
        switches: vec!["a".into(), "b".into()],
    }
}

fn claims() -> Claims {
    Claims {
        issuer: "grey".into(),
        issued_at: 1_800_000_100,
        task_id: task_id(),
        nonce: Some(vec![7; 16]),
        tenant_tag: tenant_tag(&[8; 32], "tenant"),
        model_id: "digits".into(),
        model_version: "1".into(),
        model_hash: Some(ModelHash { scheme: ModelHashScheme::File, hash: [9; 32] }),
        outcome: Outcome::Ok {
            input_hash: [10; 32],
            output_hash: [11; 32],
            output_names: vec!["Y".into(), "y".into()],
        },
        tensor_scheme: TensorScheme::Plain,
        exec: Some(exec()),
        measurement: Measurement::software([5; 32]),
        session_digest: session_digest(&manifest().encode().unwrap()),
        blinding: [12; 16],
        children: vec![[13; 32]],
        sealed: Some(SealedRequest { hash: [14; 32], kid: 1 }),
        parameters: BTreeMap::from([
            ("top_k".into(), ParameterValue::Int(-5)),
            ("z".into(), ParameterValue::Bool(true)),
            ("temperature".into(), ParameterValue::Text("0.5".into())),
        ]),
    }
}

fn batch() -> Vec<u8> {
    let leaf = claims().leaf().unwrap();
    assert_eq!(*leaf.hash(), leaf_hash(leaf.claims()));
    let tree = Tree::new(vec![[1; 32], *leaf.hash(), [2; 32], [3; 32]]).unwrap();
    SignedBatchRoot::sign(tree, session_digest(&manifest().encode().unwrap()), &key()).proof(&leaf, 1).unwrap()
}

fn place(claims: &Claims) -> String {
    claims.encode().unwrap_err().place().to_owned()
}

#[test]
fn what_is_encoded_is_read() {
    let bytes = claims().encode().unwrap();
    assert_eq!(Claims::parse(&bytes), Ok(claims()));
    let bytes = manifest().encode().unwrap();
    assert_eq!(Manifest::parse(&bytes), Ok(manifest()));
    let failed = Claims {
        outcome: Outcome::ModelFailed { input_hash: [1; 32] },
        exec: None,
        nonce: None,
        children: vec![],
        sealed: None,
        parameters: BTreeMap::new(),
        ..claims()
    };
    assert_eq!(Claims::parse(&failed.encode().unwrap()), Ok(failed));
}

#[test]
fn rules_hold_and_errors_name_the_place() {
    let with_exec = |exec: Exec| place(&Claims { exec: Some(exec), ..claims() });
    assert_eq!(with_exec(Exec { switches: vec!["b".into(), "a".into()], ..exec() }), "claims/-70009/11");
    assert_eq!(with_exec(Exec { switches: vec!["a".into(), "a".into()], ..exec() }), "claims/-70009/11");
    assert_eq!(with_exec(Exec { segments: vec![], ..exec() }), "claims/-70009/5");
    for (bucket, position, rows) in [(8, 6, 3), (8, 0, 0), (1, i64::MAX as u64, 1)] {
        let segments = vec![Segment { bucket, position, rows }];
        assert_eq!(with_exec(Exec { segments, ..exec() }), "claims/-70009/5/0");
    }
    assert_eq!(with_exec(Exec { threads: 1 << 63, ..exec() }), "claims/-70009/4");
    assert_eq!(with_exec(Exec { executor: Some(("up".into(), "1".into())), ..exec() }), "claims/-70009/9");
    assert!(Claims { exec: None, ..claims() }.encode().is_ok(), "children stand for the exec");
    assert_eq!(place(&Claims { exec: None, children: vec![], ..claims() }), "claims/-70009");
    assert_eq!(place(&Claims { outcome: Outcome::Overloaded, ..claims() }), "claims/-70004");
    assert_eq!(place(&Claims { outcome: Outcome::Overloaded, model_hash: None, ..claims() }), "claims/-70009");
    assert_eq!(place(&Claims { model_hash: None, ..claims() }), "claims/-70004");
    assert_eq!(place(&Claims { nonce: Some(vec![0; 7]), ..claims() }), "claims/10");
    assert_eq!(place(&Claims { nonce: Some(vec![0; 65]), ..claims() }), "claims/10");
    assert_eq!(place(&Claims { model_id: "m".repeat(5000), ..claims() }), "claims");
    let outcome = Outcome::Ok { input_hash: [0; 32], output_hash: [0; 32], output_names: vec![] };
    assert_eq!(place(&Claims { outcome, ..claims() }), "claims/-70018");
    assert!(Measurement::new(Platform::Tdx, [0; 32]).is_err());
    assert!(TaskId::new([0; 16]).is_err());
    let twice = Manifest { sealing_keys: vec![SealingKey { kid: 1, public_key: [0; 32] }; 2], ..manifest() };
    assert_eq!(twice.encode().unwrap_err().place(), "manifest/4");
}

#[test]
fn an_upstreams_run_has_one_form() {
    let upstream = Exec {
        class: Class::None,
        engine_sha256: [0; 32],
        device: "upstream".into(),
        threads: 0,
        segments: vec![Segment { bucket: 3, position: 0, rows: 3 }],
        lengths: vec![],
        precision: "unknown".into(),
        sampling: BTreeMap::new(),
        executor: Some(("triton".into(), "2".into())),
        filler: Filler::Zero,
        switches: vec![],
        ..exec()
    };
    let claims = Claims { exec: Some(upstream.clone()), ..claims() };
    assert_eq!(Claims::parse(&claims.encode().unwrap()), Ok(claims.clone()));
    let segments = vec![Segment { bucket: 4, position: 0, rows: 3 }];
    assert_eq!(place(&Claims { exec: Some(Exec { segments, ..upstream }), ..claims }), "claims/-70009/9");
}

/// Any single byte changed in any way: another answer than before, and no panic.
#[test]
fn no_byte_of_a_proof_changes_unnoticed() {
    let public = key().verifying_key().to_bytes();
    for bytes in [sign_single(&claims(), &key()).unwrap(), batch()] {
        let proof = Proof::parse(&bytes).unwrap();
        assert_eq!(proof.verify_signature(&public), Ok(()));
        assert_eq!(proof.claims(), &claims());
        assert_eq!(proof.kid()[..], claims().session_digest[..8]);
        assert!(proof.verify_signature(&[9; 32]).is_err());
        for at in 0..bytes.len() {
            for flip in [0x01, 0x20, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let verified = Proof::parse(&changed).is_ok_and(|p| p.verify_signature(&public).is_ok());
                assert!(!verified, "byte {at} ^ {flip:#x}");
            }
            assert!(Proof::parse(&bytes[..at]).is_err());
        }
        assert!(Proof::parse(&[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn bundles_carry_what_was_put_in() {
    let manifest_bytes = manifest().encode().unwrap();
    let bound = binding(&session_digest(&manifest_bytes), &[1; 32]);
    let evidence = SoftwareEvidence::sign(bound, &SigningKey::from_bytes(&[9; 32])).encode();
    let evidence = SessionEvidence { platform: Platform::Software, evidence, nonce32: [1; 32] };
    let session = SessionBundle { batch_evidence: Some(vec![1]), ..SessionBundle::new(manifest_bytes, evidence) };
    let bundle = Bundle { proof: batch(), session: session.clone() };
    let bytes = bundle.encode().unwrap();
    let (read, proof, manifest_read) = Bundle::parse(&bytes).unwrap();
    assert_eq!((&read, &manifest_read), (&bundle, &manifest()));
    assert_eq!(proof.claims(), &claims());
    let alone = session.encode().unwrap();
    assert_eq!(SessionBundle::parse(&alone), Ok((session.clone(), manifest())));
    assert_eq!(SessionBundle::parse(&bytes).unwrap_err().place(), "bundle/1");
    assert_eq!(Bundle::parse(&alone).unwrap_err().place(), "bundle/1");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        if let Ok((b, ..)) = Bundle::parse(&changed) {
            assert_eq!(b.encode(), Ok(changed), "byte {at}: one form");
        }
    }
    let collateral = Some(Collateral::Dcap(vec![]));
    assert_eq!(SessionBundle { collateral, ..session.clone() }.encode().unwrap_err().place(), "bundle/4/3");
    let evidence = SessionEvidence { platform: Platform::SevSnp, evidence: vec![0; 1184], nonce32: [0; 32] };
    let certificates = vec![vec![1]];
    let collateral = Some(Collateral::Snp { certificates, revocation_lists: vec![] });
    let hardware = SessionBundle { evidence, collateral, ..session };
    assert_eq!(SessionBundle::parse(&hardware.encode().unwrap()).unwrap().0, hardware);
    let evidence = SessionEvidence { evidence: vec![0; 1183], ..hardware.evidence.clone() };
    assert_eq!(SessionBundle { evidence, ..hardware }.encode().unwrap_err().place(), "bundle/3/2");
}

/// HMAC-SHA-256 of "what do ya want for nothing?" under a key of 32 bytes, by RFC 2104 from SHA-256.
#[test]
fn tenant_tags_are_hmac() {
    use sha2::{Digest, Sha256};
    let key = [0x0b; 32];
    let pad = |x: u8| (0..64).map(|i| x ^ key.get(i).copied().unwrap_or(0)).collect::<Vec<u8>>();
    let inner = Sha256::digest([pad(0x36), b"tenant".to_vec()].concat());
    let outer = Sha256::digest([pad(0x5c), inner.to_vec()].concat());
    assert_eq!(tenant_tag(&key, "tenant")[..], outer[..16]);
}

/// The single form and what its signature covers (RFC 9052 §4.4), byte by byte and by hand.
#[test]
fn the_single_form_is_cose_sign1() {
    let payload = claims().encode().unwrap();
    let digest = claims().session_digest;
    let protected = [&[0xa3, 0x01, 0x32, 0x03, 0x18, 0x3d, 0x04, 0x48][..], &digest[..8]].concat();
    let payload = [&[0x59][..], &(payload.len() as u16).to_be_bytes(), &payload].concat();
    let signed =
        [&[0x84, 0x6a][..], b"Signature1", &[0x50], &protected, &[0x51], b"grey.inference.v1", &payload].concat();
    let proof = sign_single(&claims(), &key()).unwrap();
    let signature: [u8; 64] = proof[proof.len() - 64..].try_into().unwrap();
    assert!(verify_strict(&key().verifying_key().to_bytes(), &signed, &signature));
    let expected = [&[0xd2, 0x84, 0x50][..], &protected, &[0xa0], &payload, &[0x58, 0x40], &signature].concat();
    assert_eq!(proof, expected);
}
