//! Sessions alone: checks 1 to 9.

use grey_proof::Check;
use serde_json::json;

use crate::support::item::Item;
use crate::support::scene::*;
use crate::vector::{Vector, of_bytes};

pub fn vectors() -> Vec<Vector> {
    let of = |name: &str, scene: &Scene| of_bytes(name, scene.build_session());
    let failing = |check: Check, name: &str, scene: &Scene| of(&format!("{check}-{name}"), scene).fails(check);
    let plain = || single(claims());
    let bytes = plain().build_session();
    vec![
        of("valid", &plain()),
        of("valid-session-nonce", &plain()).known(json!({ "session_nonce": base64(&SESSION_NONCE) })),
        of("valid-at-the-start", &plain()).now(START),
        of("valid-at-the-end", &plain()).now(END),
        of("valid-members-5-to-9", &plain().bundle(|b| (5..=9).for_each(|key| b.put(key, [1])))),
        of("valid-mode-is-ignored", &plain()).and_policy(json!({ "mode": "archival" })),
        of("valid-strict-asks-nothing", &plain()).and_policy(json!({ "strict": true, "execution": "portable" })),
        of("valid-known-of-a-proof-asks-nothing", &plain()).known(json!({ "nonce": base64(&NONCE), "seen": [] })),
        of("valid-measurement", &plain())
            .policy(json!({ "software_keys": "any", "expected_measurement": hex(&[5; 32]) })),
        of_bytes("well-formed-with-a-proof", plain().build()).fails(Check::WellFormed),
        of_bytes("well-formed-cut-short", bytes[..bytes.len() - 1].to_vec()).fails(Check::WellFormed),
        of_bytes("well-formed-trailing-byte", [&bytes[..], &[0]].concat()).fails(Check::WellFormed),
        failing(Check::WellFormed, "manifest", &plain().manifest(|m| m.drop(4))),
        failing(Check::WellFormed, "unknown-member", &plain().bundle(|b| b.put(10, []))),
        failing(
            Check::WellFormed,
            "collateral-for-software",
            &plain().bundle(|b| {
                b.put(4, Item::Map(vec![(3.into(), [].into())]));
            }),
        ),
        failing(Check::Measurement, "nothing-expected", &plain()).policy(json!({})),
        failing(Check::Measurement, "another-node-key", &Scene { node_key: key(8), ..plain() }),
        failing(Check::KeyBinding, "another-session-nonce", &plain()).known(json!({ "session_nonce": base64(&NONCE) })),
        failing(Check::KeyBinding, "another-nonce32", &plain().bundle(|b| b.at(3).put(3, [0; 32]))),
        failing(Check::KeyBinding, "signature-changed", &plain().evidence(|e| e.nth(3).bytes()[63] ^= 1)),
        failing(Check::Session, "before-it", &plain()).now(START - 1),
        failing(Check::Session, "after-it", &plain()).now(END + 1),
        failing(Check::Session, "after-it-archival", &plain()).now(END + 1).and_policy(json!({ "mode": "archival" })),
        failing(Check::Session, "skew-does-not-count", &plain()).now(START - 1).and_policy(json!({ "max_skew": 60 })),
        failing(Check::Session, "overlong", &plain().manifest(|m| m.put(8, END as i64 + 1))),
        failing(Check::Session, "reversed", &plain().manifest(|m| m.put(8, START as i64 - 1))).now(START),
        failing(Check::Session, "another-platform", &plain().manifest(|m| m.put(5, "SGX"))),
        failing(Check::Session, "measurement-is-not-the-code", &plain().manifest(|m| m.put(6, [6; 32]))),
    ]
}
