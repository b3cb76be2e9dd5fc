//! Whole bundles, changed: never valid, never a panic. `PROPTEST_CASES` asks for more.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at its first surprise")]
#![allow(dead_code, reason = "another test needs the rest of the support")]

mod support;

use grey_proof::*;
use proptest::prelude::*;
use support::scene::*;

/// The node's key, and all that a caller can know.
fn asked() -> (Policy, Known) {
    let policy = Policy::from_json(&policy().to_string()).unwrap();
    (policy, Known::from_json(&full_known().to_string()).unwrap())
}

fn bundles() -> [Vec<u8>; 2] {
    [single(full_claims()).build(), batch(full_claims(), 8, 5).build()]
}

#[test]
fn no_byte_of_a_bundle_changes_unnoticed() {
    let (policy, known) = asked();
    let valid = |bundle: &[u8]| verify(bundle, &policy, NOW, &known).is_valid();
    for bundle in bundles() {
        assert!(valid(&bundle));
        for at in 0..bundle.len() {
            for flip in [0x01, 0x02, 0x20, 0x40, 0x80, 0xff] {
                let mut changed = bundle.clone();
                changed[at] ^= flip;
                assert!(!valid(&changed), "byte {at} ^ {flip:#x}");
            }
        }
    }
}

/// What the node signed cannot be cut, lengthened or doubled anywhere.
#[test]
fn no_byte_is_missing_or_added() {
    let (policy, known) = asked();
    let valid = |bundle: &[u8]| verify(bundle, &policy, NOW, &known).is_valid();
    for bundle in bundles() {
        for at in 0..bundle.len() {
            assert!(!valid(&bundle[..at]));
            assert!(!valid(&bundle[at + 1..]));
            assert!(!valid(&[&bundle[..at], &bundle[at + 1..]].concat()), "without byte {at}");
            for byte in [0, 0xff, bundle[at]] {
                assert!(!valid(&[&bundle[..at], &[byte], &bundle[at..]].concat()), "{byte} before byte {at}");
            }
        }
        assert!(!valid(&[&bundle[..], &[0]].concat()));
        assert!(!valid(&[&bundle[..], &bundle[..]].concat()));
    }
}

#[test]
fn ten_thousand_random_changes() {
    let (policy, known) = asked();
    let bundles = bundles();
    // SplitMix64, from a fixed seed.
    let mut state = 7u64;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for round in 0..10_000 {
        let bundle = &bundles[round % 2];
        let mut changed = bundle.clone();
        for _ in 0..=next() % 4 {
            let at = next() as usize % changed.len();
            changed[at] = next() as u8;
        }
        assert!(changed == *bundle || !verify(&changed, &policy, NOW, &known).is_valid(), "round {round}");
    }
}

/// A session's evidence is bound to its manifest, its nonce and the node's key.
#[test]
fn no_byte_of_a_session_changes_unnoticed() {
    let (policy, known) = asked();
    let bundle = single(full_claims()).build_session();
    assert!(verify_session(&bundle, &policy, NOW, &known).is_valid());
    for at in 0..bundle.len() {
        for flip in [0x01, 0x20, 0x80, 0xff] {
            let mut changed = bundle.clone();
            changed[at] ^= flip;
            assert!(!verify_session(&changed, &policy, NOW, &known).is_valid(), "byte {at} ^ {flip:#x}");
        }
    }
}

#[test]
fn evidence_of_hardware_is_never_valid() {
    let policies = [
        Policy::software(Allowed::Any),
        Policy { expected_mrenclave: Some([5; 32]), ..Policy::default() },
        Policy { expected_measurement: Some(ExpectedMeasurement::Of48([5; 48])), ..Policy::default() },
    ];
    for (platform, bytes) in [("SGX", 432), ("TDX", 632), ("SEV-SNP", 1184)] {
        let measurement = if platform == "SGX" { vec![5; 32] } else { vec![5; 48] };
        let scene = single(claims())
            .manifest(|m| {
                m.put(5, platform);
                m.put(6, support::item::Item::Bytes(measurement.clone()));
            })
            .claims(|c| {
                c.put(-70010, platform);
                c.put(-70011, support::item::Item::Bytes(measurement.clone()));
            })
            .bundle(move |b| {
                b.at(3).put(1, platform);
                b.at(3).put(2, support::item::Item::Bytes(vec![0; bytes]));
            });
        for policy in &policies {
            let verdict = verify(&scene.build(), policy, NOW, &Known::default());
            assert_eq!(verdict.overall, Overall::NotValid);
            let results: Vec<CheckResult> = verdict.checks.iter().map(|c| c.result).collect();
            let certificate = if platform == "SEV-SNP" { CheckResult::Fail } else { CheckResult::NotApplicable };
            assert_eq!(results[0], CheckResult::Pass, "{verdict}");
            assert_eq!(results[1..3], [CheckResult::Fail, certificate], "{verdict}");
            assert_eq!(results[3..9], [CheckResult::Fail; 6], "{verdict}");
            let found = format!("{platform} evidence: this version verifies SOFTWARE evidence only");
            assert_eq!(verdict.checks[1].found, found);
        }
    }
}

/// JSON that is a policy or known values, or nearly.
fn nearly_json() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec![
        "platforms",
        "expected_measurement",
        "expected_mrsigner",
        "expected_product",
        "software_keys",
        "min_tcb",
        "roots",
        "max_age",
        "outcomes",
        "executors",
        "inputs",
        "request",
        "parameters",
        "view",
        "seen",
        "nonce",
        "shape",
        "x",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("\"any\"".to_owned()),
        Just("\"AA==\"".to_owned()),
        "\"[0-9a-f]{0,64}\"",
        "-?[0-9]{1,25}(\\.[0-9]{1,5})?(e[+-]?[0-9]{1,6})?",
        "\"\\PC{0,8}\"",
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((names.clone(), inner), 0..6).prop_map(|members| {
                let members: Vec<String> = members.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn fuzz_any_bytes_have_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (policy, known) = asked();
        prop_assert!(!verify(&bytes, &policy, NOW, &known).is_valid());
        prop_assert!(!verify_session(&bytes, &policy, NOW, &known).is_valid());
        prop_assert!(view(&bytes).is_err());
    }

    #[test]
    fn fuzz_changed_bundles_have_a_verdict(
        form in 0usize..2,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
        strict: bool,
        archival: bool,
        now: u64,
    ) {
        let (mut policy, known) = asked();
        policy.strict = strict;
        policy.mode = if archival { Mode::Archival } else { Mode::Fresh };
        let whole = bundles()[form].clone();
        let mut bundle = whole.clone();
        for (at, byte) in changes {
            let at = at.index(bundle.len());
            bundle[at] = byte;
        }
        if let Some((from, to)) = cut {
            let (from, to) = (from.index(bundle.len()), to.index(bundle.len()));
            bundle.drain(from.min(to)..from.max(to));
        }
        let verdict = verify(&bundle, &policy, now, &known);
        prop_assert_eq!(verdict.checks.len(), 21);
        prop_assert!(bundle == whole || !verdict.is_valid());
        prop_assert_eq!(verdict.to_string().lines().count(), 23);
        let _ = view(&bundle);
    }

    #[test]
    fn fuzz_any_text_is_a_policy_or_an_error(text in "\\PC{0,200}", json in nearly_json()) {
        for text in [&text, &json] {
            let known = Known::from_json(text).unwrap_or_default();
            let policy = Policy::from_json(text).unwrap_or_else(|_| Policy::software(Allowed::Any));
            let _ = verify(&bundles()[0], &policy, NOW, &known);
            let _ = ParameterValue::from_json_text(text);
            if let Err(e) = Policy::from_json(text) {
                prop_assert!(e.place().starts_with("policy"));
            }
        }
    }

    #[test]
    fn fuzz_changed_json_is_known_or_an_error(
        of_policy: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..4),
    ) {
        let whole = if of_policy { policy() } else { full_known() };
        let mut text: Vec<char> = whole.to_string().chars().collect();
        for (at, c) in changes {
            let at = at.index(text.len());
            text[at] = c;
        }
        let text: String = text.into_iter().collect();
        let _ = (Policy::from_json(&text).is_ok(), Known::from_json(&text).is_ok());
        let _ = serde_json::from_str::<Policy>(&text);
    }
}
