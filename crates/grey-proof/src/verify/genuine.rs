//! Is it genuine? Read as the format says, vouched for by the evidence, signed by the session.

use super::evidence;
use super::finding::{Finding, holds};
use super::fit::check_07_measurement_of;
use super::timestamp::vouched_time;
use super::{ProofCase, SessionCase};
use crate::error::hex;
use crate::verdict::CheckResult;
use crate::{Bundle, FormatError, Manifest, Mode, Platform, Proof, SessionBundle, batch_report, binding, nonce32};

/// Longest session, in seconds.
const SESSION_SECONDS_MAX: u64 = 86_400;
/// How long after its session a SOFTWARE proof stays fresh, in seconds: 30 days.
const SOFTWARE_FRESH_SECONDS: u64 = 2_592_000;
/// How long after its session a token may have been made, in seconds.
const TOKEN_SECONDS: u64 = 86_400;

type Clause = Result<(), Finding>;

fn well_formed<T>(what: &str, read: Result<T, FormatError>) -> (Finding, Option<T>) {
    match read {
        Ok(read) => (Finding::pass(what, "one"), Some(read)),
        Err(e) => (Finding::fail(format!("{}: {}", e.place(), e.expected()), e.found()), None),
    }
}

pub(super) fn check_01_well_formed(bundle: &[u8]) -> (Finding, Option<(Bundle, Proof, Manifest)>) {
    well_formed("a bundle", Bundle::parse(bundle))
}

pub(super) fn check_01_well_formed_session(bundle: &[u8]) -> (Finding, Option<(SessionBundle, Manifest)>) {
    well_formed("a session's bundle", SessionBundle::parse(bundle))
}

pub(super) fn check_02_evidence_signature(s: &SessionCase<'_>) -> Finding {
    s.evidence.signature()
}

pub(super) fn check_03_certificate_matches_report(s: &SessionCase<'_>) -> Finding {
    s.evidence.certificate()
}

pub(super) fn check_06_evidence_time(s: &SessionCase<'_>) -> Finding {
    s.evidence.time()
}

/// What check 6 says beside its result: whether, in *archival*, only the node's clock speaks for the
/// time of the proof.
pub(super) fn rests_on_claimed_time(p: &ProofCase<'_>) -> bool {
    let s = p.session;
    let window = s.manifest.not_before..=s.manifest.not_after.saturating_add(TOKEN_SECONDS);
    let vouched = || vouched_time(&p.bundle.proof, s.session, &s.asked.policy.roots);
    s.asked.policy.mode == Mode::Archival && !vouched().is_some_and(|time| window.contains(&time))
}

pub(super) fn check_08_key_binding(s: &SessionCase<'_>) -> Finding {
    let nonce = &s.session.evidence.nonce32;
    let asked_nonce = s.asked.known.session_nonce.as_deref().map_or(Ok(()), |given| {
        let expected = nonce32(given);
        holds(*nonce == expected, format!("nonce32 {}", hex(&expected)), || hex(nonce))
    });
    let bound = s.evidence.report_data().and_then(|found| {
        let expected = binding(&s.digest, nonce);
        holds(found == expected, format!("report data {}", hex(&expected)), || hex(&found))
    });
    Finding::all("evidence bound to this session", [bound, asked_nonce])
}

/// What check 9 asks without regard to claims.
fn session_clauses(s: &SessionCase<'_>) -> [Clause; 3] {
    let (from, to) = (s.manifest.not_before, s.manifest.not_after);
    let seconds = to.checked_sub(from);
    let (evidence, manifest) = (s.evidence.platform(), &s.manifest.measurement);
    [
        holds(
            seconds.is_some_and(|n| n <= SESSION_SECONDS_MAX),
            format!("a session of at most {SESSION_SECONDS_MAX} s"),
            || format!("{from} to {to}"),
        ),
        holds(
            evidence == manifest.platform(),
            format!("{} in manifest and evidence", manifest.platform().name()),
            || format!("evidence of {}", evidence.name()),
        ),
        s.evidence.measurement().and_then(|found| {
            let expected = format!("measurement of the manifest, {}", hex(manifest.bytes()));
            holds(found == manifest.bytes(), expected, || format!("evidence of {}", hex(&found)))
        }),
    ]
}

pub(super) fn check_09_session(p: &ProofCase<'_>) -> Finding {
    let (s, claims) = (p.session, p.claims());
    let (from, to, iat, now) = (s.manifest.not_before, s.manifest.not_after, claims.issued_at, s.asked.now);
    let latest = now.saturating_add(s.asked.policy.max_skew);
    let fresh_until = to.saturating_add(SOFTWARE_FRESH_SECONDS);
    let ages = s.evidence.platform() == Platform::Software && s.asked.policy.mode == Mode::Fresh;
    let (stated, manifest) = (&claims.measurement, &s.manifest.measurement);
    let root = p.proof.batch_root().map_or(&s.digest, |root| &root.session_digest);
    let claims_clauses = [
        holds((from..=to).contains(&iat), format!("iat within {from} to {to}"), || format!("{iat}")),
        holds(iat <= latest, format!("iat of at most {latest}"), || format!("{iat}")),
        holds(!ages || now <= fresh_until, format!("now at most {fresh_until}"), || format!("{now}")),
        holds(claims.session_digest == s.digest, format!("session {} in the claims", hex(&s.digest)), || {
            hex(&claims.session_digest)
        }),
        holds(s.digest.starts_with(p.proof.kid()), format!("the kid of {}", hex(&s.digest)), || hex(p.proof.kid())),
        holds(*root == s.digest, format!("session {} in the root", hex(&s.digest)), || hex(root)),
        holds(
            stated == manifest,
            format!("{} {} in the claims", manifest.platform().name(), hex(manifest.bytes())),
            || format!("{} {}", stated.platform().name(), hex(stated.bytes())),
        ),
    ];
    Finding::all("claims, manifest and evidence of one session", session_clauses(s).into_iter().chain(claims_clauses))
}

/// Check 9 where there are no claims: the session is one that runs now.
pub(super) fn check_09_session_alone(s: &SessionCase<'_>) -> Finding {
    let (from, to, now) = (s.manifest.not_before, s.manifest.not_after, s.asked.now);
    let runs = holds((from..=to).contains(&now), format!("now within {from} to {to}"), || format!("{now}"));
    Finding::all("a session that runs now", session_clauses(s).into_iter().chain([runs]))
}

pub(super) fn check_10_signature(p: &ProofCase<'_>) -> Finding {
    let key = &p.session.manifest.signing_key;
    match p.proof.verify_signature(key) {
        Ok(()) => Finding::pass(format!("signed by {}", hex(key)), "so it is"),
        Err(why) => Finding::fail(format!("signed by {}", hex(key)), why),
    }
}

pub(super) fn check_20_batch_report(p: &ProofCase<'_>) -> Finding {
    const EXPECTED: &str = "evidence over the executed batch";
    let (s, member) = (p.session, p.bundle.session.batch_evidence.as_deref());
    if !s.asked.policy.strict {
        return Finding::not_asked(member.is_some(), "batch evidence");
    }
    if p.proof.batch_root().is_none() {
        return Finding::fail(EXPECTED, "the single form");
    }
    let Some(raw) = member else { return Finding::fail(EXPECTED, "none") };
    let evidence = evidence::read(s.evidence.platform(), raw, s.manifest);
    let asked_before = [
        evidence.signature(),
        evidence.certificate(),
        evidence.attributes(),
        evidence.tcb(),
        check_07_measurement_of(evidence.as_ref(), s.asked.policy),
    ];
    let asked_before = asked_before.into_iter().map(|f| match f.result {
        CheckResult::Pass | CheckResult::NotApplicable => Ok(()),
        CheckResult::Fail | CheckResult::Skipped => Err(f),
    });
    let same = evidence.attester().and_then(|found| {
        let expected = s.evidence.attester()?;
        holds(found == expected, format!("evidence by {}", hex(&expected)), || hex(&found))
    });
    let bound = evidence.report_data().and_then(|found| {
        let expected = batch_report(p.proof.payload());
        holds(found == expected, format!("report data {}", hex(&expected)), || hex(&found))
    });
    Finding::all(EXPECTED, asked_before.chain([same, bound]))
}
