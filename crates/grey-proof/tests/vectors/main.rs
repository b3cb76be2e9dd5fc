//! The files in `vectors/`: made here from fixed seeds, compared with what is stored, and judged.
//! `GREY_WRITE_VECTORS=1` writes them anew.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at its first surprise")]

#[path = "../support/mod.rs"]
mod support;

mod errors;
mod failing;
mod malformed;
mod sessions;
mod valid;
mod vector;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use grey_proof::{Check, Known, Policy, Verdict, verify, verify_session};
use serde::Deserialize;
use serde_json::value::RawValue;
use vector::{ErrorVector, Vector};

/// A vector as anyone reads it from its file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    bundle: String,
    policy: Box<RawValue>,
    now: u64,
    known: Box<RawValue>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    overall: String,
    check: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorFile {
    name: String,
    policy: Box<RawValue>,
    known: Box<RawValue>,
    error: String,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

/// Text of every JSON file in a folder, by name without the ending.
fn stored(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path());
    let json = entries.filter(|p| p.extension().is_some_and(|e| e == "json"));
    json.map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(p).unwrap())).collect()
}

fn compare(folder: &Path, made: Vec<(String, String)>) {
    let count = made.len();
    let made: BTreeMap<String, String> = made.into_iter().collect();
    assert_eq!(made.len(), count, "every name once");
    if std::env::var_os("GREY_WRITE_VECTORS").is_some() {
        fs::create_dir_all(folder).unwrap();
        for name in stored(folder).keys().filter(|n| !made.contains_key(*n)) {
            fs::remove_file(folder.join(format!("{name}.json"))).unwrap();
        }
        made.iter().for_each(|(name, text)| fs::write(folder.join(format!("{name}.json")), text).unwrap());
    }
    let stored = stored(folder);
    assert_eq!(stored.keys().collect::<Vec<_>>(), made.keys().collect::<Vec<_>>(), "the files of {}", folder.display());
    for (name, text) in &made {
        assert_eq!(stored.get(name), Some(text), "{name}: GREY_WRITE_VECTORS=1 writes the files anew");
    }
}

fn proofs() -> Vec<Vector> {
    [valid::vectors(), malformed::vectors(), failing::vectors()].concat()
}

#[test]
fn files_are_what_is_made() {
    let texts = |vectors: Vec<Vector>| vectors.iter().map(|v| (v.name.clone(), v.text())).collect();
    compare(&folder(""), texts(proofs()));
    compare(&folder("sessions"), texts(sessions::vectors()));
    compare(&folder("errors"), errors::vectors().iter().map(|v: &ErrorVector| (v.name.clone(), v.text())).collect());
}

/// Exactly the named check fails, and the verdict is the named one.
fn judge(name: &str, text: &str, verify: impl Fn(&[u8], &Policy, u64, &Known) -> Verdict) -> (String, Option<String>) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let file: File = serde_json::from_str(text).unwrap();
    assert_eq!(file.name, name);
    let (policy, known) = (Policy::from_json(file.policy.get()).unwrap(), Known::from_json(file.known.get()).unwrap());
    let verdict = verify(&STANDARD.decode(&file.bundle).unwrap(), &policy, file.now, &known);
    let failed: Vec<&str> = verdict.failed().map(|c| c.name.name()).collect();
    let expected: Vec<&str> = file.expect.check.iter().map(String::as_str).collect();
    assert_eq!((verdict.overall.name(), failed), (file.expect.overall.as_str(), expected), "{name}\n{verdict}");
    assert_eq!(verdict.is_valid(), file.expect.overall == "valid");
    (file.expect.overall, file.expect.check)
}

#[test]
fn every_file_has_its_verdict() {
    let judged: Vec<_> = stored(&folder("")).iter().map(|(name, text)| judge(name, text, verify)).collect();
    let failing: BTreeSet<&str> = judged.iter().filter_map(|(_, check)| check.as_deref()).collect();
    let of_software = Check::ALL.into_iter().filter(|c| !(2..=6).contains(&c.number()));
    assert_eq!(failing, of_software.map(Check::name).collect(), "each check that can fail for SOFTWARE does");
    assert!(judged.iter().any(|(overall, _)| overall == "valid at claimed time"), "the cap of check 6");
    let sessions: Vec<_> =
        stored(&folder("sessions")).iter().map(|(name, text)| judge(name, text, verify_session)).collect();
    let failing: BTreeSet<&str> = sessions.iter().filter_map(|(_, check)| check.as_deref()).collect();
    assert_eq!(failing, BTreeSet::from(["well-formed", "measurement", "key-binding", "session"]));
}

/// What YAML makes of a policy's JSON, which is YAML as well, is the same policy; here any other
/// reader than the strict one stands for it.
#[test]
fn policies_read_the_same_by_any_reader() {
    for text in stored(&folder("")).values() {
        let file: File = serde_json::from_str(text).unwrap();
        let by_serde: Policy = serde_json::from_str(file.policy.get()).unwrap();
        assert_eq!(Ok(by_serde), Policy::from_json(file.policy.get()));
    }
}

#[test]
fn every_error_is_one() {
    for (name, text) in stored(&folder("errors")) {
        let file: ErrorFile = serde_json::from_str(&text).unwrap();
        assert_eq!(file.name, name);
        let policy = Policy::from_json(file.policy.get()).map(|_| ());
        let known = Known::from_json(file.known.get()).map(|_| ());
        match file.error.as_str() {
            "policy" => assert!(policy.is_err() && known.is_ok(), "{name}: {policy:?} {known:?}"),
            "known" => assert!(known.is_err() && policy.is_ok(), "{name}: {policy:?} {known:?}"),
            other => panic!("{name}: {other}"),
        }
        assert!(serde_json::from_str::<Policy>(file.policy.get()).is_ok() == policy.is_ok(), "{name}");
    }
}
