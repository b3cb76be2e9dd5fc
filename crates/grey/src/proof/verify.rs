//! `grey proof verify`: policy and known values from files and flags, the verdict, and what to do about it.

use std::{collections::BTreeMap, path::Path};

use grey_core::Tensor;
use grey_proof::{
    Allowed, Check, CheckReport, CheckResult, ExpectedMeasurement, Known, KnownModelHash, KnownTensor, Mode, Overall,
    Policy, SoftwareEvidence, SoftwareKeys, Verdict,
};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::file::ProofFile;
use crate::{
    EXIT_NO, EXIT_OK,
    args::VerifyArgs,
    clock,
    encoding::{SaltSource, SoftwareKey, base64, escaped, hex},
    failure::Failure,
    files,
    infer::{known_request, read_outputs},
    request::known,
    say,
    style::Paint,
    table::table,
    verbs::print,
};

/// Digits that a cell of the table keeps of longer hex; failed checks show all.
const HEX_DIGITS_SHOWN: usize = 16;

/// Verifies a proof's file and prints the verdict; the exit code is the answer.
pub(crate) fn verify(args: &VerifyArgs, json: bool) -> Result<u8, Failure> {
    let file = ProofFile::read(&args.file)?;
    let policy = policy(args)?;
    let known = known_values(args, &file)?;
    let now = args.now.map_or_else(clock::unix_now, Ok)?;
    let verdict = grey_proof::verify(&file.bundle, &policy, now, &known);
    if json {
        let verdict = serde_json::to_value(&verdict);
        let verdict = verdict.map_err(|e| Failure::unexpected(format!("cannot write the verdict: {e}")))?;
        print(&format!("{verdict:#}\n"))?;
    } else {
        print(&told(&verdict, &policy, &file))?;
    }
    let hints = hints(&verdict, &policy, &known);
    if !json {
        let paint = Paint::stderr();
        say(&hints.iter().map(|h| format!("{} {h}\n", paint.advice("hint:"))).collect::<String>());
    } else if !hints.is_empty() {
        say(&format!("{}\n", serde_json::json!({"hints": hints})));
    }
    Ok(if verdict.is_valid() { EXIT_OK } else { EXIT_NO })
}

/// Takes a flag's value where the file has none. Both may stand only if they are the same.
fn agree<T: PartialEq>(
    value: &mut Option<T>,
    flag: Option<T>,
    (name, member): (&str, &str),
    file: Option<&Path>,
    show: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    let (Some(stated), Some(given)) = (&value, &flag) else {
        *value = value.take().or(flag);
        return Ok(());
    };
    if stated == given {
        return Ok(());
    }
    let file = file.map_or_else(String::new, |f| f.display().to_string());
    let (stated, given) = (show(stated), show(given));
    let both = if stated == given {
        format!("both give {stated}, but with other values")
    } else {
        format!("the file says {stated}, the flag {given}")
    };
    let why = format!("{name} contradicts '{member}' of {file}: {both}");
    Err(Failure::usage(why).hint("leave one of them out: a flag adds to a file and changes nothing in it"))
}

fn policy(args: &VerifyArgs) -> Result<Policy, Failure> {
    let file = args.policy.as_deref();
    let (mut policy, states_mode) = match file {
        None => (Policy::default(), false),
        Some(path) => read_policy(path)?,
    };
    let show_keys = |keys: &SoftwareKeys| match keys {
        Allowed::Any => "any".to_owned(),
        Allowed::These(keys) if keys.is_empty() => "[]".to_owned(),
        Allowed::These(keys) => keys.iter().map(|k| hex(k)).collect::<Vec<_>>().join(", "),
    };
    let keys = software_keys(&args.software_key)?;
    agree(&mut policy.software_keys, keys, ("--software-key", "software_keys"), file, show_keys)?;
    let show_measurement = |m: &ExpectedMeasurement| hex(m.bytes());
    agree(
        &mut policy.expected_measurement,
        args.expected_measurement,
        ("--expected-measurement", "expected_measurement"),
        file,
        show_measurement,
    )?;
    agree(
        &mut policy.expected_mrenclave,
        args.expected_mrenclave,
        ("--expected-mrenclave", "expected_mrenclave"),
        file,
        |m| hex(m),
    )?;
    agree(&mut policy.max_age, args.max_age, ("--max-age", "max_age"), file, u64::to_string)?;
    let mut mode = states_mode.then_some(policy.mode);
    agree(&mut mode, args.mode, ("--mode", "mode"), file, |m| m.name().to_owned())?;
    policy.mode = mode.unwrap_or(Mode::Fresh);
    Ok(policy)
}

fn software_keys(given: &[SoftwareKey]) -> Result<Option<SoftwareKeys>, Failure> {
    let key = |k: &SoftwareKey| if let SoftwareKey::This(key) = k { Some(*key) } else { None };
    let these: Vec<[u8; 32]> = given.iter().filter_map(key).collect();
    match (given.contains(&SoftwareKey::Any), these.first()) {
        // Whoever names a key does not mean to allow all others.
        (true, Some(key)) => {
            Err(Failure::usage(format!("--software-key: expected either 'any' or keys, found 'any' and {}", hex(key)))
                .hint("leave 'any' out: it allows every node's key"))
        }
        (true, None) => Ok(Some(Allowed::Any)),
        (false, Some(_)) => Ok(Some(Allowed::These(these))),
        (false, None) => Ok(None),
    }
}

/// The policy, and whether it names a mode.
fn read_policy(path: &Path) -> Result<(Policy, bool), Failure> {
    let text = files::read_text(path)?;
    let refused = |e: serde_saphyr::Error| {
        let failure = Failure::refused(format!("{}: {e}", path.display()));
        if is_unquoted_hex(&failure.message) {
            return failure.hint("put hex in quotes: some of it looks like a number");
        }
        failure
    };
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Err(Failure::refused(format!("{}: the policy is empty, expected at least one member", path.display())));
    }
    let policy: Policy = serde_saphyr::from_str(&text).map_err(refused)?;
    let members: BTreeMap<String, IgnoredAny> = serde_saphyr::from_str(&text).map_err(refused)?;
    Ok((policy, members.contains_key("mode")))
}

/// Whether a policy's mistake is hex that YAML takes for a number: digits, or digits around an `e`.
fn is_unquoted_hex(message: &str) -> bool {
    let is_member = ["policy/expected_", "policy/software_keys"].iter().any(|place| message.contains(place));
    // Too large a number is refused before anybody knows of which member it is. Hashes are of one of two lengths.
    let infinite = message.split_once("non-finite float `").and_then(|(_, rest)| rest.split_once('`'));
    is_member && message.contains("expected text, found the number")
        || infinite.is_some_and(|(digits, _)| matches!(digits.len(), 64 | 96))
}

fn known_values(args: &VerifyArgs, file: &ProofFile) -> Result<Known, Failure> {
    let path = args.known.as_deref();
    let mut known = match path {
        None => Known::default(),
        Some(path) => Known::from_json(&files::read_text(path)?)
            .map_err(|e| Failure::refused(format!("{}: {e}", path.display())))?,
    };
    for tensors in [&mut known.inputs, &mut known.outputs].into_iter().flatten() {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let show_tensors = |tensors: &Vec<KnownTensor>| {
        let one = |t: &KnownTensor| {
            format!("{} {} {:?} ({} bytes)", escaped(&t.name), escaped(&t.datatype), t.shape, t.data.len())
        };
        format!("tensors {}", tensors.iter().map(one).collect::<Vec<_>>().join(", "))
    };
    agree(
        &mut known.inputs,
        given(&args.input, |inputs| known_request(inputs)?.inputs())?,
        ("--input", "inputs"),
        path,
        show_tensors,
    )?;
    agree(
        &mut known.outputs,
        given(args.output.as_slice(), |paths| match paths {
            [path, ..] => read_outputs(path),
            [] => Ok(Vec::new()),
        })?,
        ("--output", "outputs"),
        path,
        show_tensors,
    )?;
    let salt = args.salt.as_ref().map(SaltSource::read).transpose()?.map(Vec::from);
    // A salt is a secret, also in messages.
    agree(&mut known.salt, salt, ("--salt", "salt"), path, |_| "a salt".to_owned())?;
    let of = |given: &Option<crate::encoding::Base64>| given.as_ref().map(|n| n.0.clone());
    agree(&mut known.nonce, of(&args.nonce), ("--nonce", "nonce"), path, |n| base64(n))?;
    agree(&mut known.session_nonce, of(&args.session_nonce), ("--session-nonce", "session_nonce"), path, |n| {
        base64(n)
    })?;
    let show_hash = |m: &KnownModelHash| match m.scheme {
        None => hex(&m.hash),
        Some(scheme) => format!("{}:{}", scheme.name(), hex(&m.hash)),
    };
    agree(&mut known.model_hash, args.model_hash, ("--model-hash", "model_hash"), path, show_hash)?;
    if let Some(view) = &file.view {
        // The member `proof` is what gets verified; it is compared with nothing.
        let members = |view: &Map<String, Value>| {
            let mut view = view.clone();
            view.remove("proof");
            view
        };
        if known.view.as_ref().is_some_and(|stated| members(stated) != members(view)) {
            let (known, file) = (path.map_or_else(String::new, |p| p.display().to_string()), args.file.display());
            return Err(Failure::usage(format!("'view' of {known} is not the view in {file}"))
                .hint("leave 'view' out: the members of a JSON proof are verified in any case"));
        }
        known.view = Some(view.clone());
    }
    Ok(known)
}

/// The tensors of the files that a flag names, if it names any.
fn given<T>(
    files: &[T],
    read: impl Fn(&[T]) -> Result<Vec<Tensor>, Failure>,
) -> Result<Option<Vec<KnownTensor>>, Failure> {
    if files.is_empty() { Ok(None) } else { Ok(Some(known(&read(files)?))) }
}

fn told(verdict: &Verdict, policy: &Policy, file: &ProofFile) -> String {
    let row = |c: &CheckReport| {
        let cell = |text: &str| if c.result == CheckResult::Fail { text.to_owned() } else { brief(text) };
        vec![c.name.name().to_owned(), c.result.name().to_owned(), cell(&c.expected), cell(&c.found)]
    };
    let rows: Vec<Vec<String>> = verdict.checks.iter().map(row).collect();
    let mut out = table(&["CHECK", "RESULT", "EXPECTED", "FOUND"], &rows);
    if let (Overall::Valid | Overall::ValidAtClaimedTime, Some(Allowed::Any), Some(key)) =
        (verdict.overall, &policy.software_keys, node_key(file))
    {
        out.push_str(&format!("any node's key was accepted; this one's is {}\n", hex(&key)));
    }
    out.push_str(&last_line(verdict));
    out
}

fn node_key(file: &ProofFile) -> Option<[u8; 32]> {
    let (bundle, ..) = grey_proof::Bundle::parse(&file.bundle).ok()?;
    SoftwareEvidence::parse(&bundle.session.evidence.evidence).ok().map(|e| e.node_key)
}

/// The first check that stands in the way: one that failed, or else one that could not be made.
fn obstacle(verdict: &Verdict) -> Option<&CheckReport> {
    let not_asked = |c: &&CheckReport| c.result == CheckResult::Skipped && c.expected != "not asked";
    verdict.failed().next().or_else(|| verdict.checks.iter().find(not_asked))
}

fn last_line(verdict: &Verdict) -> String {
    match (verdict.overall, obstacle(verdict)) {
        (Overall::NotValid, Some(c)) if c.result == CheckResult::Skipped => {
            format!("not valid: {}: not checked, needs {}\n", c.name, c.expected)
        }
        (Overall::NotValid, Some(c)) => format!("not valid: {}: {}\n", c.name, c.found),
        (overall, _) => format!("{overall}\n"),
    }
}

/// Long hex, cut; two that differ are told apart by their beginning.
fn brief(text: &str) -> String {
    let is_long = |word: &str| word.len() > HEX_DIGITS_SHOWN + 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let cut = |word: &str| match word.get(..HEX_DIGITS_SHOWN) {
        Some(start) if is_long(word) => format!("{start}…"),
        _ => word.to_owned(),
    };
    text.split(' ').map(cut).collect::<Vec<_>>().join(" ")
}

/// What the caller can do about a verdict.
fn hints(verdict: &Verdict, policy: &Policy, known: &Known) -> Vec<String> {
    let of = |check: Check| verdict.checks.iter().find(|c| c.name == check);
    let failed = |check: Check| of(check).is_some_and(|c| c.result == CheckResult::Fail);
    let mut hints = Vec::new();
    if failed(Check::Measurement) {
        let expects = policy.expected_measurement.is_some()
            || policy.expected_mrenclave.is_some()
            || policy.expected_mrsigner.is_some();
        if !expects && policy.software_keys.is_none() {
            hints.push("anybody can make a proof: say whose you expect".to_owned());
            hints.push(
                "for a node without a TEE: --software-key HEX with its key (proofs.node_key of GET /grey/v1/node, asked \
                 of somebody you trust), or --software-key any"
                    .to_owned(),
            );
            hints.push("for hardware: --expected-mrenclave, --expected-measurement or --policy".to_owned());
        }
    }
    let unsalted =
        |check: Check| of(check).is_some_and(|c| c.result == CheckResult::Skipped && c.expected == "the salt");
    if unsalted(Check::InputHash) || unsalted(Check::OutputHash) {
        hints.push("the proof is salted: give the request's salt with --salt BASE64 or --salt @FILE".to_owned());
    }
    let or_salt = if known.salt.is_some() { ", or not with this salt" } else { "" };
    for (check, what) in [(Check::InputHash, "inputs"), (Check::OutputHash, "outputs")] {
        if failed(check) {
            hints.push(format!("these {what} are not those of the proof{or_salt}"));
        }
    }
    if verdict.overall == Overall::ValidAtClaimedTime {
        hints.push(
            "only the node's own clock vouches for the time; a timestamp token of roots.tsa would settle it".to_owned(),
        );
    }
    hints
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command, ProofVerb};

    fn args(more: &[&str]) -> Box<VerifyArgs> {
        let line = ["grey", "proof", "verify", "p.json"].iter().chain(more);
        let Command::Proof { verb: ProofVerb::Verify(args) } = Cli::try_parse_from(line).unwrap().command else {
            panic!()
        };
        args
    }

    fn file(folder: &Path, name: &str, text: &str) -> String {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    #[test]
    fn flags_add_to_a_policy_and_never_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let key = "ab".repeat(32);
        let path = file(folder.path(), "p.yaml", &format!("software_keys: [{key}]\nmode: fresh\nmax_age: 5\n"));
        let p = policy(&args(&["--policy", &path, "--software-key", &key.to_uppercase(), "--mode", "fresh"])).unwrap();
        assert_eq!((p.max_age, p.software_keys), (Some(5), Some(Allowed::These(vec![[0xab; 32]]))));
        let f = policy(&args(&["--policy", &path, "--software-key", "any"])).unwrap_err();
        assert_eq!(f.exit, crate::EXIT_USAGE);
        assert_eq!(
            f.message,
            format!("--software-key contradicts 'software_keys' of {path}: the file says {key}, the flag any")
        );
        let f = policy(&args(&["--software-key", "any", "--software-key", &key])).unwrap_err();
        assert_eq!(f.exit, crate::EXIT_USAGE);
        assert_eq!(f.message, format!("--software-key: expected either 'any' or keys, found 'any' and {key}"));
        let none = file(folder.path(), "none.yaml", "software_keys: []\n");
        let f = policy(&args(&["--policy", &none, "--software-key", "any"])).unwrap_err();
        assert!(f.message.ends_with("the file says [], the flag any"), "{f:?}");
        for more in [["--mode", "archival"], ["--max-age", "6"]] {
            let f = policy(&args(&["--policy", &path, more[0], more[1]])).unwrap_err();
            assert!(f.message.starts_with(&format!("{} contradicts", more[0])), "{f:?}");
        }
        let path = file(folder.path(), "p.yaml", "strict: true\n");
        let p = policy(&args(&["--policy", &path, "--mode", "archival", "--expected-mrenclave", &key])).unwrap();
        assert_eq!((p.strict, p.mode, p.expected_mrenclave), (true, Mode::Archival, Some([0xab; 32])));
    }

    #[test]
    fn bad_policies_name_file_member_expected_and_found() {
        let folder = tempfile::tempdir().unwrap();
        for (text, says) in [
            ("max_age: soon\n", "policy/max_age: expected an integer"),
            ("expected_mrenclave: ab\n", "policy/expected_mrenclave: expected 32 bytes in hex, found 'ab'"),
            ("max_agee: 1\n", "policy/max_agee: expected one of platforms, "),
            ("# nothing\n", "the policy is empty"),
            ("mode: [\n", "line "),
        ] {
            let path = file(folder.path(), "p.yaml", text);
            let f = policy(&args(&["--policy", &path])).unwrap_err();
            assert!(f.message.starts_with(&path) && f.message.contains(says), "{f:?} should say {says}");
            assert_eq!(f.exit, crate::EXIT_REFUSED);
        }
        for text in ["max_age: -1\n", "max_age: 1e3\n", "max_age: 1e999\n", "tcb_status: [1]\n"] {
            let path = file(folder.path(), "p.yaml", text);
            let f = policy(&args(&["--policy", &path])).unwrap_err();
            assert!(f.hints.is_empty(), "{text}: {f:?}");
        }
        // A hash may look like a number.
        for digits in ["12".repeat(32), format!("12e4{}", "5".repeat(60))] {
            let path = file(folder.path(), "p.yaml", &format!("expected_mrenclave: {digits}\n"));
            let f = policy(&args(&["--policy", &path])).unwrap_err();
            assert!(f.hints.iter().any(|h| h.contains("quotes")), "{f:?}");
            let list = file(folder.path(), "list.yaml", &format!("software_keys: [{digits}]\n"));
            let f = policy(&args(&["--policy", &list])).unwrap_err();
            assert!(f.hints.iter().any(|h| h.contains("quotes")), "{f:?}");
            let path = file(folder.path(), "p.yaml", &format!("expected_mrenclave: '{digits}'\n"));
            assert!(policy(&args(&["--policy", &path])).unwrap().expected_mrenclave.is_some());
        }
    }

    #[test]
    fn known_values_come_from_both() {
        let folder = tempfile::tempdir().unwrap();
        let x = r#"{"inputs":[{"name":"b","datatype":"INT8","shape":[1],"data":[1]},{"name":"a","datatype":"INT8","shape":[1],"data":[2]}]}"#;
        let x = file(folder.path(), "x.json", x);
        let same = r#"{"inputs":[{"name":"b","datatype":"INT8","shape":[1],"data":"AQ=="},{"name":"a","datatype":"INT8","shape":[1],"data":"Ag=="}],"nonce":"AAAAAAAAAAA="}"#;
        let path = file(folder.path(), "known.json", same);
        let none = ProofFile { bundle: Vec::new(), view: None };
        let known = known_values(&args(&["--known", &path, "--input", &x, "--session-nonce", "AAAA"]), &none).unwrap();
        assert_eq!((known.nonce, known.session_nonce), (Some(vec![0; 8]), Some(vec![0; 3])));
        assert_eq!(known.inputs.unwrap()[0].name, "a");
        let f = known_values(&args(&["--known", &path, "--nonce", "AQAAAAAAAAA="]), &none).unwrap_err();
        assert!(f.message.ends_with("the file says AAAAAAAAAAA=, the flag AQAAAAAAAAA="), "{f:?}");
        for (tensor, says) in [
            (
                r#"{"name":"a","datatype":"UINT8","shape":[1,1],"data":"Ag=="}"#,
                "the file says tensors a UINT8 [1, 1] (1 bytes), the flag tensors a INT8 [1] (1 bytes), b INT8 [1] (1 bytes)",
            ),
            (
                r#"{"name":"a","datatype":"INT8","shape":[1],"data":"Aw=="},{"name":"b","datatype":"INT8","shape":[1],"data":"AQ=="}"#,
                "both give tensors a INT8 [1] (1 bytes), b INT8 [1] (1 bytes), but with other values",
            ),
        ] {
            let path = file(folder.path(), "known.json", &format!("{{\"inputs\":[{tensor}]}}"));
            let f = known_values(&args(&["--known", &path, "--input", &x]), &none).unwrap_err();
            assert!(f.message.ends_with(says), "{f:?} should say {says}");
        }
        let path = file(folder.path(), "known.json", "{\"salt\":7}");
        let f = known_values(&args(&["--known", &path]), &none).unwrap_err();
        assert!(f.message.ends_with("known.json: known/salt: expected text, found the number 7"), "{f:?}");
    }

    #[test]
    fn long_hex_is_cut_in_the_table() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(brief(&format!("SOFTWARE, node key {digits}")), "SOFTWARE, node key 0123456789abcdef…");
        assert_eq!(brief("iat within 1700000000 to 1700086400"), "iat within 1700000000 to 1700086400");
    }

    #[test]
    fn verdicts_end_with_their_reason() {
        let verdict = grey_proof::verify(&[0xa0], &Policy::default(), 0, &Known::default());
        assert_eq!(last_line(&verdict), "not valid: well-formed: none\n");
        let report = |name, result, expected: &str| CheckReport {
            name,
            result,
            expected: expected.to_owned(),
            found: "none".to_owned(),
        };
        let checks = vec![
            report(Check::ModelHash, CheckResult::Skipped, "not asked"),
            report(Check::InputHash, CheckResult::Skipped, "the salt"),
        ];
        let verdict = Verdict { overall: Overall::NotValid, checks };
        assert_eq!(last_line(&verdict), "not valid: input-hash: not checked, needs the salt\n");
        assert!(hints(&verdict, &Policy::default(), &Known::default())[0].contains("--salt"));
    }
}
