//! What a loaded version's answers may be proven as (proof format, § Determinism classes). Pure: the
//! operators' word, the operator's option and the self-test in, a class and its reasons out.

use grey_engine::{Determinism, Repeats};
use grey_proof::{Class, Filler};

use crate::{
    api::ProofsView,
    selftest::{Found, SelfTestRecord},
};

/// What a loaded version's answers may be proven as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelDeterminism {
    /// The class, or why no proof is made, as it follows "… cannot be proven: ".
    pub(crate) class: Result<Class, String>,
    /// Why this class and not a higher one.
    pub(crate) reason: String,
    /// A proven request shares its run with nobody and is not padded.
    pub(crate) alone: bool,
    /// What a replay fills the other rows with.
    pub(crate) filler: Filler,
    /// Claim exec 7.
    pub(crate) precision: String,
    /// Claim exec 11, strictly ascending.
    pub(crate) switches: Vec<String>,
    /// How far the self-test is.
    pub(crate) self_test: SelfTested,
}

/// How far the self-test of a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SelfTested {
    /// None is made, as no proof is.
    Never,
    /// It has not ended.
    NotYet,
    /// It ended without a result, which is tried again at the next load.
    CutShort(String),
    /// Its result.
    Found(SelfTestRecord),
}

/// What answers may be proven as. `proofs` is the option of the load; `shares` says whether requests
/// may share runs, and so whether they run in other places than alone at the front.
pub(crate) fn decide(engine: &Determinism, proofs: bool, shares: bool, tested: &SelfTested) -> ModelDeterminism {
    let found = match tested {
        SelfTested::Found(record) => Some(record),
        SelfTested::Never | SelfTested::NotYet | SelfTested::CutShort(_) => None,
    };
    let class = match refusal(engine, proofs, found) {
        Some(why) => Err(why),
        None => Ok(class(engine, shares, tested)),
    };
    let (class, reason) = match class {
        Ok((class, reason)) => (Ok(class), reason),
        Err(why) => (Err(why.clone()), why),
    };
    ModelDeterminism {
        class,
        reason,
        alone: engine.repeats == Repeats::Alone || (shares && !shown_apart(tested)),
        filler: if found.is_some_and(|r| r.zero_rows_refused) { Filler::OwnFirstRow } else { Filler::Zero },
        precision: engine.precision.clone(),
        switches: engine.switches.clone(),
        self_test: tested.clone(),
    }
}

/// Whether the self-test has shown that a row keeps its bytes whatever stands beside it. A declared
/// batch axis shows nothing.
fn shown_apart(tested: &SelfTested) -> bool {
    match tested {
        SelfTested::Found(r) => matches!(r.found, Found::Everywhere | Found::Slot),
        SelfTested::Never | SelfTested::NotYet | SelfTested::CutShort(_) => false,
    }
}

fn refusal(engine: &Determinism, proofs: bool, found: Option<&SelfTestRecord>) -> Option<String> {
    if !proofs {
        return Some("it was loaded with proofs: off, and the option is fixed for the life of a load".into());
    }
    if engine.repeats == Repeats::Never {
        return Some(engine.reason.clone());
    }
    let record = found?;
    match record.found {
        Found::Changes => Some(format!("self-test: {}", record.reason)),
        // Where a scale is computed over the whole batch rows mix, and a proven request runs alone.
        Found::Mixes if engine.repeats != Repeats::Alone => Some(format!("self-test: {}", record.reason)),
        Found::Mixes | Found::Everywhere | Found::Slot | Found::Nothing => None,
    }
}

/// What follows for proven requests where nothing shows that rows keep apart.
const ALONE: &str = "; proven requests run alone";

fn class(engine: &Determinism, shares: bool, tested: &SelfTested) -> (Class, String) {
    if engine.repeats != Repeats::Everywhere {
        // A test of bytes depends on weights and data: passing it raises nothing.
        return (Class::Slot, engine.reason.clone());
    }
    if !shares {
        return (Class::Slot, "requests never share a run: each runs whole and unpadded".into());
    }
    match tested {
        SelfTested::Never | SelfTested::NotYet => (Class::Slot, format!("not self-tested yet{ALONE}")),
        SelfTested::CutShort(why) => (Class::Slot, format!("not self-tested: {why}{ALONE}")),
        SelfTested::Found(r) => match r.found {
            Found::Everywhere => (Class::Invariant, engine.reason.clone()),
            Found::Nothing => (Class::Slot, format!("self-test: {}{ALONE}", r.reason)),
            Found::Changes | Found::Mixes | Found::Slot => (Class::Slot, format!("self-test: {}", r.reason)),
        },
    }
}

impl ModelDeterminism {
    /// What `model show` tells of it.
    pub(crate) fn view(&self, on: bool) -> ProofsView {
        ProofsView {
            on,
            class: self.class.as_ref().ok().map(|c| c.name()),
            reason: self.reason.clone(),
            alone: self.alone,
            precision: Some(self.precision.clone()),
            switches: self.switches.clone(),
            self_test: match &self.self_test {
                SelfTested::Never => "none".into(),
                SelfTested::NotYet => "not ended".into(),
                SelfTested::CutShort(why) => format!("cut short: {why}"),
                SelfTested::Found(record) => record.reason.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(repeats: Repeats) -> Determinism {
        Determinism {
            repeats,
            reason: "its operators say so".into(),
            precision: "fp32".into(),
            switches: vec!["a=1".into()],
        }
    }

    fn found(found: Found) -> SelfTested {
        SelfTested::Found(SelfTestRecord { found, reason: "seen".into(), zero_rows_refused: false, sizes: vec![1, 2] })
    }

    fn of(repeats: Repeats, tested: &SelfTested) -> Result<(Class, String), String> {
        let d = decide(&engine(repeats), true, true, tested);
        let reason = d.reason.clone();
        d.class.map(|c| (c, reason))
    }

    #[test]
    fn operators_and_test_both_allow_what_is_stated() {
        let says = || "its operators say so".to_owned();
        assert_eq!(of(Repeats::Everywhere, &found(Found::Everywhere)), Ok((Class::Invariant, says())));
        assert_eq!(of(Repeats::Everywhere, &found(Found::Slot)), Ok((Class::Slot, "self-test: seen".into())));
        assert_eq!(
            of(Repeats::Everywhere, &found(Found::Nothing)),
            Ok((Class::Slot, "self-test: seen; proven requests run alone".into()))
        );
        let not_yet = "not self-tested yet; proven requests run alone";
        assert_eq!(of(Repeats::Everywhere, &SelfTested::NotYet), Ok((Class::Slot, not_yet.into())));
        let slow = SelfTested::CutShort("too slow".into());
        assert_eq!(
            of(Repeats::Everywhere, &slow),
            Ok((Class::Slot, "not self-tested: too slow; proven requests run alone".into()))
        );
        // Passing promotes nothing.
        assert_eq!(of(Repeats::Slot, &found(Found::Everywhere)), Ok((Class::Slot, says())));
        assert_eq!(of(Repeats::Alone, &found(Found::Everywhere)), Ok((Class::Slot, says())));
        assert_eq!(of(Repeats::Never, &found(Found::Everywhere)), Err(says()));
    }

    #[test]
    fn what_changes_is_refused() {
        for repeats in [Repeats::Alone, Repeats::Slot, Repeats::Everywhere] {
            assert_eq!(of(repeats, &found(Found::Changes)), Err("self-test: seen".into()), "{repeats:?}");
        }
        assert_eq!(of(Repeats::Slot, &found(Found::Mixes)), Err("self-test: seen".into()));
        assert_eq!(of(Repeats::Everywhere, &found(Found::Mixes)), Err("self-test: seen".into()));
        assert!(of(Repeats::Alone, &found(Found::Mixes)).is_ok(), "rows mix there, so it runs alone");
    }

    #[test]
    fn the_option_is_named() {
        let d = decide(&engine(Repeats::Everywhere), false, true, &found(Found::Everywhere));
        assert!(d.class.as_ref().unwrap_err().contains("proofs: off"), "{d:?}");
        assert_eq!(d.reason, d.class.unwrap_err());
    }

    #[test]
    fn what_never_shares_a_run_is_slot() {
        let d = decide(&engine(Repeats::Everywhere), true, false, &found(Found::Everywhere));
        assert_eq!((d.class, d.alone), (Ok(Class::Slot), false));
        assert!(d.reason.contains("never share"), "{}", d.reason);
    }

    #[test]
    fn where_and_beside_what_it_runs() {
        assert!(decide(&engine(Repeats::Alone), true, true, &SelfTested::NotYet).alone);
        let d = decide(&engine(Repeats::Slot), true, true, &found(Found::Slot));
        assert_eq!((d.alone, d.filler, d.precision.as_str(), d.switches.len()), (false, Filler::Zero, "fp32", 1));
        let refused =
            SelfTestRecord { found: Found::Slot, reason: "seen".into(), zero_rows_refused: true, sizes: vec![1, 2] };
        let d = decide(&engine(Repeats::Slot), true, true, &SelfTested::Found(refused));
        assert_eq!(d.filler, Filler::OwnFirstRow);
    }

    #[test]
    fn proven_requests_run_alone_until_rows_are_shown_to_keep_apart() {
        let cut = SelfTested::CutShort("too slow".into());
        for tested in [SelfTested::NotYet, cut, found(Found::Nothing)] {
            for repeats in [Repeats::Slot, Repeats::Everywhere] {
                let d = decide(&engine(repeats), true, true, &tested);
                assert_eq!((d.alone, d.class), (true, Ok(Class::Slot)), "{tested:?}");
                assert!(!decide(&engine(repeats), true, false, &tested).alone, "it runs alone in any case");
            }
        }
        for tested in [found(Found::Slot), found(Found::Everywhere)] {
            assert!(!decide(&engine(Repeats::Everywhere), true, true, &tested).alone);
        }
    }
}
