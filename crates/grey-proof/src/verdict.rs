use std::fmt;

use serde::{Serialize, Serializer};

/// The checks of §5, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Check {
    /// The bytes are what the format says.
    WellFormed = 1,
    /// The evidence verifies up to a vendor's key.
    EvidenceSignature,
    /// The certificate is the report's.
    CertificateMatchesReport,
    /// No debugging, no migration.
    Attributes,
    /// The platform's firmware is recent enough.
    Tcb,
    /// Certificates, lists and collateral are valid at the time that counts.
    EvidenceTime,
    /// What runs there is what the policy expects.
    Measurement,
    /// The evidence is of this session.
    KeyBinding,
    /// Claims, manifest and evidence agree, and the times lie within the session.
    Session,
    /// The session's key signed the claims.
    Signature,
    /// The outcome is one that the policy takes.
    Outcome,
    /// The model is the known one.
    ModelHash,
    /// The inputs are the known ones.
    InputHash,
    /// The outputs are the known ones.
    OutputHash,
    /// The request is the known one.
    Request,
    /// The nonce is the known one.
    Nonce,
    /// The proof is young enough.
    Freshness,
    /// The proof was not seen before.
    Replay,
    /// Determinism class and executor.
    Execution,
    /// Evidence over the executed batch.
    BatchReport,
    /// The JSON view is the bundle's.
    View,
}

impl Check {
    /// Every check, in order.
    pub const ALL: [Check; 21] = [
        Check::WellFormed,
        Check::EvidenceSignature,
        Check::CertificateMatchesReport,
        Check::Attributes,
        Check::Tcb,
        Check::EvidenceTime,
        Check::Measurement,
        Check::KeyBinding,
        Check::Session,
        Check::Signature,
        Check::Outcome,
        Check::ModelHash,
        Check::InputHash,
        Check::OutputHash,
        Check::Request,
        Check::Nonce,
        Check::Freshness,
        Check::Replay,
        Check::Execution,
        Check::BatchReport,
        Check::View,
    ];

    /// The last check that is made of a session alone, without a proof.
    pub(crate) const LAST_OF_SESSION: Check = Check::Session;

    /// 1 to 21.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in verdicts.
    pub const fn name(self) -> &'static str {
        match self {
            Check::WellFormed => "well-formed",
            Check::EvidenceSignature => "evidence-signature",
            Check::CertificateMatchesReport => "certificate-matches-report",
            Check::Attributes => "attributes",
            Check::Tcb => "tcb",
            Check::EvidenceTime => "evidence-time",
            Check::Measurement => "measurement",
            Check::KeyBinding => "key-binding",
            Check::Session => "session",
            Check::Signature => "signature",
            Check::Outcome => "outcome",
            Check::ModelHash => "model-hash",
            Check::InputHash => "input-hash",
            Check::OutputHash => "output-hash",
            Check::Request => "request",
            Check::Nonce => "nonce",
            Check::Freshness => "freshness",
            Check::Replay => "replay",
            Check::Execution => "execution",
            Check::BatchReport => "batch-report",
            Check::View => "view",
        }
    }
}

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckResult {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// It was not made: not asked for, or what it needs is missing.
    Skipped,
    /// There is nothing of the kind to check.
    NotApplicable,
}

impl CheckResult {
    /// The word in verdicts.
    pub const fn name(self) -> &'static str {
        match self {
            CheckResult::Pass => "pass",
            CheckResult::Fail => "fail",
            CheckResult::Skipped => "skipped",
            CheckResult::NotApplicable => "not applicable",
        }
    }
}

/// What came of all checks together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overall {
    /// Every required check passed.
    Valid,
    /// A check failed, or a required one was skipped.
    NotValid,
    /// Valid, if the node's own clock is believed: nobody else vouches for the time.
    ValidAtClaimedTime,
}

impl Overall {
    /// The words in verdicts.
    pub const fn name(self) -> &'static str {
        match self {
            Overall::Valid => "valid",
            Overall::NotValid => "not valid",
            Overall::ValidAtClaimedTime => "valid at claimed time",
        }
    }
}

/// One check of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Which.
    pub name: Check,
    /// What came of it.
    pub result: CheckResult,
    /// What was asked for, for people.
    pub expected: String,
    /// What was there, for people.
    pub found: String,
}

/// The answer of [`verify`](crate::verify) and [`verify_session`](crate::verify_session).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[must_use]
pub struct Verdict {
    /// The checks together.
    pub overall: Overall,
    /// Every check, in order.
    pub checks: Vec<CheckReport>,
}

impl Verdict {
    /// Whether `overall` is `valid`; nothing else counts as true.
    pub fn is_valid(&self) -> bool {
        self.overall == Overall::Valid
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CheckReport> {
        self.checks.iter().filter(|c| c.result == CheckResult::Fail)
    }
}

/// The overall result, and a table of the checks.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 4] = ["check", "result", "expected", "found"];
        let rows: Vec<[&str; 4]> = std::iter::once(HEAD)
            .chain(self.checks.iter().map(|c| [c.name.name(), c.result.name(), &c.expected, &c.found]))
            .collect();
        let width = |at: usize| rows.iter().filter_map(|r| r.get(at)).map(|t| t.chars().count()).max().unwrap_or(0);
        let (names, results, expected) = (width(0), width(1), width(2));
        write!(f, "{}", self.overall)?;
        for [name, result, expects, found] in &rows {
            let line = format!("{name:names$}  {result:results$}  {expects:expected$}  {found}");
            write!(f, "\n{}", line.trim_end())?;
        }
        Ok(())
    }
}

macro_rules! is_its_name {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.name())
            }
        }
    )*};
}

is_its_name!(Check, CheckResult, Overall);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        for (i, check) in (1..).zip(Check::ALL) {
            assert_eq!(check.number(), i, "{check}");
        }
    }

    #[test]
    fn words_of_the_format() {
        let report = |name, result, expected: &str, found: &str| CheckReport {
            name,
            result,
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let verdict = Verdict {
            overall: Overall::NotValid,
            checks: vec![
                report(Check::WellFormed, CheckResult::Pass, "a bundle", "one"),
                report(Check::Tcb, CheckResult::NotApplicable, "", "SOFTWARE"),
                report(Check::Outcome, CheckResult::Fail, "one of 0, 1", "2"),
            ],
        };
        assert_eq!(
            serde_json::to_string(&verdict).unwrap(),
            concat!(
                r#"{"overall":"not valid","checks":["#,
                r#"{"name":"well-formed","result":"pass","expected":"a bundle","found":"one"},"#,
                r#"{"name":"tcb","result":"not applicable","expected":"","found":"SOFTWARE"},"#,
                r#"{"name":"outcome","result":"fail","expected":"one of 0, 1","found":"2"}]}"#
            )
        );
        let table = "not valid\n\
                     check        result          expected     found\n\
                     well-formed  pass            a bundle     one\n\
                     tcb          not applicable               SOFTWARE\n\
                     outcome      fail            one of 0, 1  2";
        assert_eq!(verdict.to_string(), table);
        assert!(!verdict.is_valid());
        assert_eq!(verdict.failed().map(|c| c.name).collect::<Vec<_>>(), [Check::Outcome]);
    }
}
