//! Bundles: whatever is read is in the one encoding, has a verdict, and is valid only with the very proof, session
//! and evidence that a node signed.
//!
//! Input: how it is asked for (policy's mode and strictness, the time), then the bundle.
#![no_main]

#[path = "../../crates/grey-proof/tests/support/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "the support of tests, not all of which is needed")]
mod support;

use std::{collections::BTreeSet, sync::LazyLock};

use grey_fuzz::{Bytes, bounded};
use grey_proof::*;
use libfuzzer_sys::fuzz_target;
use support::scene::*;

/// Memory for each byte of a bundle: it is kept as bytes and as values, and stands in base64 in its view.
const BYTES_PER_BYTE: usize = 256;

struct Signed {
    policy: Policy,
    known: Known,
    /// Member 1 of every bundle.
    proofs: BTreeSet<Vec<u8>>,
    /// Members 2 and 3 of all bundles.
    session: SessionBundle,
}

static SIGNED: LazyLock<Signed> = LazyLock::new(|| {
    let bundles =
        [single(full_claims()), batch(full_claims(), 8, 5), Scene { strict: true, ..batch(full_claims(), 2, 0) }];
    let bundles = bundles.map(|scene| Bundle::parse(&scene.build()).expect("whole").0);
    Signed {
        policy: Policy::from_json(&policy().to_string()).expect("a policy"),
        known: Known::from_json(&full_known().to_string()).expect("known values"),
        proofs: bundles.iter().map(|b| b.proof.clone()).collect(),
        session: bundles[0].session.clone(),
    }
});

fn is_signed(found: &SessionBundle) -> bool {
    (&found.manifest, &found.evidence) == (&SIGNED.session.manifest, &SIGNED.session.evidence)
}

fn check(bundle: &[u8], policy: &Policy, now: u64) {
    let verdict = verify(bundle, policy, now, &SIGNED.known);
    assert_eq!(verdict.checks.len(), Check::ALL.len());
    assert_eq!(verdict.to_string().lines().count(), Check::ALL.len() + 2);
    let seen = view(bundle);
    match Bundle::parse(bundle) {
        Err(_) => assert!(!verdict.is_valid() && seen.is_err()),
        Ok((read, proof, manifest)) => {
            assert_eq!(read.encode().as_deref(), Ok(bundle), "one encoding");
            assert_eq!(manifest.encode().as_ref(), Ok(&read.session.manifest));
            let claims = proof.claims().encode().expect("what was read");
            assert_eq!(Claims::parse(&claims).as_ref(), Ok(proof.claims()));
            assert!(proof.batch_root().is_some() || claims == proof.payload(), "claims have one encoding");
            assert!(!verdict.is_valid() || SIGNED.proofs.contains(&read.proof) && is_signed(&read.session), "forged");
            assert!(!verdict.is_valid() || (START..=END).contains(&now) || policy.mode == Mode::Archival, "at {now}");
            // The view that is made of a bundle is the view of that bundle.
            let known = Known { view: Some(seen.expect("it is read")), ..Known::default() };
            let of_view = verify(bundle, policy, now, &known);
            let view = of_view.checks.iter().find(|c| c.name == Check::View).expect("check 21");
            assert_eq!(view.result, CheckResult::Pass, "{of_view}");
        }
    }
}

fn check_session(bundle: &[u8], policy: &Policy, now: u64) {
    let verdict = verify_session(bundle, policy, now, &SIGNED.known);
    match SessionBundle::parse(bundle) {
        Err(_) => assert!(!verdict.is_valid()),
        Ok((read, manifest)) => {
            assert_eq!(read.encode().as_deref(), Ok(bundle), "one encoding");
            assert_eq!(manifest.encode().as_ref(), Ok(&read.manifest));
            assert!(!verdict.is_valid() || is_signed(&read) && (START..=END).contains(&now), "forged, at {now}");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes(input);
    let how = input.byte();
    let mut policy = SIGNED.policy.clone();
    policy.strict = how & 1 != 0;
    policy.mode = if how & 2 == 0 { Mode::Fresh } else { Mode::Archival };
    LazyLock::force(&SIGNED);
    let now = [NOW, START - 1, END, END + 1, 0, u64::MAX, IAT, START][usize::from(how >> 2 & 7)];
    bounded(input.0.len(), BYTES_PER_BYTE, || {
        check(input.0, &policy, now);
        check_session(input.0, &policy, now);
    });
});
