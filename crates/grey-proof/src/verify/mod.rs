//! Verification (§5): one function per check, named by its number. `genuine` asks whether the bundle
//! is what it says it is, `fit` whether that is what the caller wants; both are made of every bundle.

mod difference;
mod evidence;
mod finding;
mod fit;
mod genuine;
mod timestamp;

use evidence::Evidence;
use finding::Finding;

use crate::verdict::{Check, CheckReport, CheckResult, Overall, Verdict};
use crate::{Bundle, Claims, Known, Manifest, Policy, Proof, SessionBundle, session_digest};

/// What the caller asks for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    policy: &'a Policy,
    now: u64,
    known: &'a Known,
}

/// A session as it was read, and what is asked of it.
struct SessionCase<'a> {
    asked: Asked<'a>,
    session: &'a SessionBundle,
    manifest: &'a Manifest,
    digest: [u8; 32],
    evidence: Box<dyn Evidence>,
}

/// A proof as it was read, and its session.
struct ProofCase<'a> {
    session: &'a SessionCase<'a>,
    bundle: &'a Bundle,
    proof: &'a Proof,
}

impl<'a> SessionCase<'a> {
    fn new(asked: Asked<'a>, session: &'a SessionBundle, manifest: &'a Manifest) -> SessionCase<'a> {
        let evidence = evidence::read(session.evidence.platform, &session.evidence.evidence, manifest);
        SessionCase { asked, session, manifest, digest: session_digest(&session.manifest), evidence }
    }
}

impl ProofCase<'_> {
    fn claims(&self) -> &Claims {
        self.proof.claims()
    }
}

/// Verifies a bundle: what the proof says, who says so, and whether it is what the caller expects.
/// `now` is in Unix seconds. The same arguments give the same verdict, anywhere.
pub fn verify(bundle: &[u8], policy: &Policy, now: u64, known: &Known) -> Verdict {
    let asked = Asked { policy, now, known };
    let (well_formed, read) = genuine::check_01_well_formed(bundle);
    let Some((bundle, proof, manifest)) = read else { return refused(&Check::ALL, well_formed) };
    let s = SessionCase::new(asked, &bundle.session, &manifest);
    let p = ProofCase { session: &s, bundle: &bundle, proof: &proof };
    let findings = [
        well_formed,
        genuine::check_02_evidence_signature(&s),
        genuine::check_03_certificate_matches_report(&s),
        fit::check_04_attributes(&s),
        fit::check_05_tcb(&s),
        genuine::check_06_evidence_time(&s),
        fit::check_07_measurement(&s),
        genuine::check_08_key_binding(&s),
        genuine::check_09_session(&p),
        genuine::check_10_signature(&p),
        fit::check_11_outcome(&p),
        fit::check_12_model_hash(&p),
        fit::check_13_input_hash(&p),
        fit::check_14_output_hash(&p),
        fit::check_15_request(&p),
        fit::check_16_nonce(&p),
        fit::check_17_freshness(&p),
        fit::check_18_replay(&p),
        fit::check_19_execution(&p),
        genuine::check_20_batch_report(&p),
        fit::check_21_view(&p),
    ];
    verdict(&Check::ALL, findings, asked, genuine::rests_on_claimed_time(&p))
}

/// Verifies a session's bundle, which holds no proof: checks 1 to 9, at the time `now`, whatever the
/// policy's mode. To be called before anything is sealed to the session's keys.
pub fn verify_session(bundle: &[u8], policy: &Policy, now: u64, known: &Known) -> Verdict {
    let checks: Vec<Check> = Check::ALL.into_iter().filter(|c| *c <= Check::LAST_OF_SESSION).collect();
    let policy = &Policy { mode: crate::Mode::Fresh, ..policy.clone() };
    let asked = Asked { policy, now, known };
    let (well_formed, read) = genuine::check_01_well_formed_session(bundle);
    let Some((session, manifest)) = read else { return refused(&checks, well_formed) };
    let s = SessionCase::new(asked, &session, &manifest);
    let findings = [
        well_formed,
        genuine::check_02_evidence_signature(&s),
        genuine::check_03_certificate_matches_report(&s),
        fit::check_04_attributes(&s),
        fit::check_05_tcb(&s),
        genuine::check_06_evidence_time(&s),
        fit::check_07_measurement(&s),
        genuine::check_08_key_binding(&s),
        genuine::check_09_session_alone(&s),
    ];
    verdict(&checks, findings, asked, false)
}

/// The verdict on bytes that cannot be read: nothing after check 1 has anything to look at.
fn refused(checks: &[Check], well_formed: Finding) -> Verdict {
    let rest = std::iter::repeat_with(|| Finding::skipped("", "not well formed"));
    let checks = reports(checks, std::iter::once(well_formed).chain(rest));
    Verdict { overall: Overall::NotValid, checks }
}

fn verdict(
    checks: &[Check],
    findings: impl IntoIterator<Item = Finding>,
    asked: Asked<'_>,
    rests_on_claimed_time: bool,
) -> Verdict {
    let checks = reports(checks, findings);
    let stands = |c: &CheckReport| match c.result {
        CheckResult::Pass | CheckResult::NotApplicable => true,
        CheckResult::Fail => false,
        CheckResult::Skipped => !is_required(c.name, asked),
    };
    let overall = match (checks.iter().all(stands), rests_on_claimed_time) {
        (false, _) => Overall::NotValid,
        (true, true) => Overall::ValidAtClaimedTime,
        (true, false) => Overall::Valid,
    };
    Verdict { overall, checks }
}

fn reports(checks: &[Check], findings: impl IntoIterator<Item = Finding>) -> Vec<CheckReport> {
    let report = |(name, f): (&Check, Finding)| CheckReport {
        name: *name,
        result: f.result,
        expected: f.expected,
        found: f.found,
    };
    checks.iter().zip(findings).map(report).collect()
}

/// Whether `valid` needs this check: always, or because the caller or the policy gave a value for it.
fn is_required(check: Check, Asked { policy, known, .. }: Asked<'_>) -> bool {
    match check {
        Check::WellFormed
        | Check::EvidenceSignature
        | Check::CertificateMatchesReport
        | Check::Attributes
        | Check::Tcb
        | Check::EvidenceTime
        | Check::Measurement
        | Check::KeyBinding
        | Check::Session
        | Check::Signature
        | Check::Outcome => true,
        Check::ModelHash => known.model_hash.is_some(),
        Check::InputHash => known.inputs.is_some(),
        Check::OutputHash => known.outputs.is_some(),
        Check::Request => known.request.is_some(),
        Check::Nonce => known.nonce.is_some(),
        Check::Freshness => policy.max_age.is_some(),
        Check::Replay => known.seen.is_some(),
        Check::Execution => policy.execution.is_some() || policy.executors.is_some(),
        Check::BatchReport => policy.strict,
        Check::View => known.view.is_some(),
    }
}
