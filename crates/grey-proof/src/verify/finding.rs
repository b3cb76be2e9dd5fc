use crate::error::{hex, shown};
use crate::verdict::CheckResult;

/// What one check found; the texts are for people.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) result: CheckResult,
    pub(super) expected: String,
    pub(super) found: String,
}

impl Finding {
    fn new(result: CheckResult, expected: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding { result, expected: expected.into(), found: found.into() }
    }

    pub(super) fn pass(expected: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(CheckResult::Pass, expected, found)
    }

    pub(super) fn fail(expected: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(CheckResult::Fail, expected, found)
    }

    /// Not made, though there is something of the kind.
    pub(super) fn skipped(expected: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(CheckResult::Skipped, expected, found)
    }

    pub(super) fn not_applicable(found: impl Into<String>) -> Finding {
        Finding::new(CheckResult::NotApplicable, "", found)
    }

    /// Nobody asked: skipped, or not applicable where the proof holds no such thing.
    pub(super) fn not_asked(there: bool, what: &str) -> Finding {
        match there {
            true => Finding::skipped("not asked", what),
            false => Finding::not_applicable(format!("no {what}")),
        }
    }

    /// Pass if both are the same.
    pub(super) fn same<T: PartialEq>(expected: &T, found: &T, show: impl Fn(&T) -> String) -> Finding {
        let result = if expected == found { CheckResult::Pass } else { CheckResult::Fail };
        Finding::new(result, show(expected), show(found))
    }

    /// The first that does not hold, else a pass.
    pub(super) fn all(expected: &str, clauses: impl IntoIterator<Item = Result<(), Finding>>) -> Finding {
        match clauses.into_iter().find_map(Result::err) {
            Some(failed) => failed,
            None => Finding::pass(expected, "so it is"),
        }
    }
}

/// One clause of a check.
pub(super) fn holds(it_does: bool, expected: impl Into<String>, found: impl FnOnce() -> String) -> Result<(), Finding> {
    if it_does { Ok(()) } else { Err(Finding::fail(expected, found())) }
}

/// Bytes of a caller or a proof: in hex, cut after 64 bytes.
pub(super) fn brief(bytes: &[u8]) -> String {
    match bytes.get(..64) {
        Some(start) if bytes.len() > 64 => format!("{}… ({} bytes)", hex(start), bytes.len()),
        _ => hex(bytes),
    }
}

/// Items of a list, the first few of them.
pub(super) fn several<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    const SHOWN_MAX: usize = 8;
    let mut shown: Vec<String> = items.iter().take(SHOWN_MAX).map(show).collect();
    if items.len() > SHOWN_MAX {
        shown.push("…".to_owned());
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// Untrusted texts.
pub(super) fn texts(items: &[String]) -> String {
    several(items, |t| shown(t))
}
