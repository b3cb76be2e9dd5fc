//! Does it fit? What the policy allows, and what the caller knows.

use std::collections::{BTreeMap, BTreeSet};

use grey_core::{DType, Tensor};

use super::difference::{self, Differing};
use super::evidence::Evidence;
use super::finding::{Finding, brief, holds, several, texts};
use super::{ProofCase, SessionCase};
use crate::error::{hex, shown};
use crate::known::KnownTensor;
use crate::policy::Allowed;
use crate::uuid::uuid_text;
use crate::verdict::CheckResult;
use crate::view::{PROOF_MEMBER, view_of};
use crate::{ModelHash, Outcome, ParameterValue, Policy, TensorScheme, hash_tensors};

type Clause = Result<(), Finding>;

pub(super) fn check_04_attributes(s: &SessionCase<'_>) -> Finding {
    s.evidence.attributes()
}

pub(super) fn check_05_tcb(s: &SessionCase<'_>) -> Finding {
    s.evidence.tcb()
}

pub(super) fn check_07_measurement(s: &SessionCase<'_>) -> Finding {
    check_07_measurement_of(s.evidence.as_ref(), s.asked.policy)
}

/// Check 7 of any evidence, the session's or a batch's.
pub(super) fn check_07_measurement_of(evidence: &dyn Evidence, policy: &Policy) -> Finding {
    let expects = policy.expected_measurement.is_some()
        || policy.expected_mrenclave.is_some()
        || policy.expected_mrsigner.is_some()
        || policy.software_keys.is_some();
    if !expects {
        return Finding::fail("a policy that expects a measurement, a signer or a node key", "nothing expected");
    }
    match &policy.platforms {
        Some(allowed) if !allowed.contains(&evidence.platform()) => {
            Finding::fail(several(allowed, |p| p.name().to_owned()), evidence.platform().name())
        }
        _ => evidence.identity(policy),
    }
}

pub(super) fn check_11_outcome(p: &ProofCase<'_>) -> Finding {
    let (allowed, code) = (&p.session.asked.policy.outcomes, p.claims().outcome.code());
    let result = holds(allowed.contains(&code), several(allowed, u64::to_string), || code.to_string());
    match result {
        Ok(()) => Finding::pass(several(allowed, u64::to_string), code.to_string()),
        Err(failed) => failed,
    }
}

pub(super) fn check_12_model_hash(p: &ProofCase<'_>) -> Finding {
    let claimed = &p.claims().model_hash;
    let Some(known) = &p.session.asked.known.model_hash else {
        return Finding::not_asked(claimed.is_some(), "model hash");
    };
    let scheme = known.scheme.map_or("", |s| s.name());
    let expected = format!("{scheme} {}", hex(&known.hash)).trim_start().to_owned();
    match claimed {
        None => Finding::fail(expected, "none"),
        Some(ModelHash { scheme, hash }) => {
            let found = format!("{} {}", scheme.name(), hex(hash));
            let same = *hash == known.hash && known.scheme.is_none_or(|s| s == *scheme);
            if same { Finding::pass(expected, found) } else { Finding::fail(expected, found) }
        }
    }
}

pub(super) fn check_13_input_hash(p: &ProofCase<'_>) -> Finding {
    let claimed = p.claims().outcome.input_hash();
    match &p.session.asked.known.inputs {
        None => Finding::not_asked(claimed.is_some(), "input hash"),
        Some(inputs) => hash_of(p, inputs, claimed, None),
    }
}

pub(super) fn check_14_output_hash(p: &ProofCase<'_>) -> Finding {
    let (claimed, names) = match &p.claims().outcome {
        Outcome::Ok { output_hash, output_names, .. } => (Some(output_hash), Some(output_names.as_slice())),
        _ => (None, None),
    };
    match &p.session.asked.known.outputs {
        None => Finding::not_asked(claimed.is_some(), "output hash"),
        Some(outputs) => hash_of(p, outputs, claimed, names),
    }
}

/// Checks 13 and 14: the caller's tensors have the claimed hash, and the claimed `names` if there are
/// any. Every reason to fail that shows without the salt goes before the lack of one.
fn hash_of(p: &ProofCase<'_>, known: &[KnownTensor], claimed: Option<&[u8; 32]>, names: Option<&[String]>) -> Finding {
    let Some(claimed) = claimed else {
        return Finding::fail("a hash", format!("none: outcome {}", p.claims().outcome.code()));
    };
    let tensors = match possible(known) {
        Ok(tensors) => tensors,
        Err(failed) => return failed,
    };
    if let Some(names) = names {
        let given: BTreeSet<&str> = known.iter().map(|t| t.name.as_str()).collect();
        if !given.iter().eq(names.iter()) {
            let given: Vec<String> = given.into_iter().map(str::to_owned).collect();
            return Finding::fail(format!("outputs {}", texts(&given)), texts(names));
        }
    }
    let salt: Option<&[u8; 32]> = match (p.claims().tensor_scheme, p.session.asked.known.salt.as_deref()) {
        (TensorScheme::Plain, None) => None,
        (TensorScheme::Plain, Some(_)) => return Finding::fail("a salted hash", TensorScheme::Plain.name()),
        (TensorScheme::Salted, None) => return Finding::skipped("the salt", "none"),
        (TensorScheme::Salted, Some(salt)) => match salt.try_into() {
            Ok(salt) => Some(salt),
            Err(_) => return Finding::fail("a salt of 32 bytes", format!("{} bytes", salt.len())),
        },
    };
    match hash_tensors(&tensors, salt) {
        Ok(hash) => Finding::same(&hash, claimed, |h| hex(h)),
        Err(e) => Finding::fail("tensors that can be", e.to_string()),
    }
}

/// The tensors, if there can be such.
fn possible(known: &[KnownTensor]) -> Result<Vec<Tensor>, Finding> {
    const MESSAGE_CHARS_MAX: usize = 200;
    let impossible = |found: String| Finding::fail("tensors that can be", found);
    let mut names = BTreeSet::new();
    let mut tensors = Vec::new();
    for t in known {
        let name = shown(&t.name);
        if !names.insert(&t.name) {
            return Err(impossible(format!("{name} twice")));
        }
        let dtype: DType =
            t.datatype.parse().map_err(|_| impossible(format!("{name} of datatype {}", shown(&t.datatype))))?;
        let dimension = |d: &i128| i64::try_from(*d).ok().and_then(|d| u64::try_from(d).ok());
        let shape =
            t.shape.iter().map(|d| dimension(d).ok_or_else(|| impossible(format!("{name} with dimension {d}"))));
        let tensor = Tensor::new(t.name.as_str(), dtype, shape.collect::<Result<_, _>>()?, t.data.clone());
        tensors.push(tensor.map_err(|e| impossible(e.message().chars().take(MESSAGE_CHARS_MAX).collect()))?);
    }
    Ok(tensors)
}

pub(super) fn check_15_request(p: &ProofCase<'_>) -> Finding {
    let claims = p.claims();
    let Some(known) = &p.session.asked.known.request else { return Finding::not_asked(true, "request") };
    let text = |name: &str, known: &Option<String>, found: &String| -> Clause {
        let clause = |known: &String| holds(known == found, format!("{name} {}", shown(known)), || shown(found));
        known.as_ref().map_or(Ok(()), clause)
    };
    let task_id = known.task_id.map_or(Ok(()), |known| {
        let found = claims.task_id.bytes();
        holds(known == found, format!("task_id {}", uuid_text(&known)), || uuid_text(&found))
    });
    let tenant_tag = known.tenant_tag.map_or(Ok(()), |known| {
        holds(known == claims.tenant_tag, format!("tenant_tag {}", hex(&known)), || hex(&claims.tenant_tag))
    });
    let parameters = known.parameters.as_ref().map_or(Ok(()), |known| same_parameters(known, &claims.parameters));
    let clauses = [
        text("model_id", &known.model_id, &claims.model_id),
        text("model_version", &known.model_version, &claims.model_version),
        task_id,
        tenant_tag,
        parameters,
    ];
    Finding::all("the request as known", clauses)
}

/// Names the first parameter that differs.
fn same_parameters(known: &BTreeMap<String, ParameterValue>, found: &BTreeMap<String, ParameterValue>) -> Clause {
    let show = |value: Option<&ParameterValue>| match value {
        None => "none".to_owned(),
        Some(ParameterValue::Text(t)) => shown(t),
        Some(ParameterValue::Int(i)) => i.to_string(),
        Some(ParameterValue::Bool(b)) => b.to_string(),
    };
    let mut names = known.keys().chain(found.keys());
    names.find(|name| known.get(*name) != found.get(*name)).map_or(Ok(()), |name| {
        let expected = format!("parameter {} {}", shown(name), show(known.get(name)));
        Err(Finding::fail(expected, show(found.get(name))))
    })
}

pub(super) fn check_16_nonce(p: &ProofCase<'_>) -> Finding {
    let claimed = p.claims().nonce.as_ref();
    match &p.session.asked.known.nonce {
        None => Finding::not_asked(claimed.is_some(), "nonce"),
        Some(known) => Finding::same(&Some(known), &claimed, |n| n.map_or("none".to_owned(), |n| brief(n))),
    }
}

pub(super) fn check_17_freshness(p: &ProofCase<'_>) -> Finding {
    let age = p.session.asked.now.saturating_sub(p.claims().issued_at);
    match p.session.asked.policy.max_age {
        None => Finding::not_asked(true, "age"),
        Some(most) if age <= most => Finding::pass(format!("at most {most} s"), format!("{age} s")),
        Some(most) => Finding::fail(format!("at most {most} s"), format!("{age} s")),
    }
}

pub(super) fn check_18_replay(p: &ProofCase<'_>) -> Finding {
    let id = &p.claims().task_id;
    match &p.session.asked.known.seen {
        None => Finding::not_asked(true, "task id"),
        Some(seen) if seen.contains(&id.bytes()) => Finding::fail("a task id not seen before", id.to_string()),
        Some(_) => Finding::pass("a task id not seen before", id.to_string()),
    }
}

pub(super) fn check_19_execution(p: &ProofCase<'_>) -> Finding {
    let (policy, exec) = (p.session.asked.policy, p.claims().exec.as_ref());
    let executor = exec.and_then(|e| e.executor.as_ref()).map(|(name, _)| name);
    if policy.execution.is_none() && policy.executors.is_none() && executor.is_none() {
        return Finding::not_asked(exec.is_some(), "exec");
    }
    let class = policy.execution.map_or(Ok(()), |least| {
        let found = || exec.map_or("no exec", |e| e.class.name()).to_owned();
        holds(exec.is_some_and(|e| e.class >= least), format!("at least {}", least.name()), found)
    });
    let allowed = executor.map_or(Ok(()), |name| {
        let listed = policy.executors.as_ref().is_some_and(|allowed| allowed.contains(name));
        let expected = match &policy.executors {
            Some(Allowed::These(names)) => format!("an executor among {}", texts(names)),
            Some(Allowed::Any) | None => "no executor".to_owned(),
        };
        holds(listed, expected, || shown(name))
    });
    match Finding::all("an execution that the policy allows", [class, allowed]) {
        Finding { result: CheckResult::Pass, expected, .. } => {
            let found = exec.map_or("no exec".to_owned(), |e| match executor {
                None => e.class.name().to_owned(),
                Some(name) => format!("{}, by {}", e.class.name(), shown(name)),
            });
            Finding::pass(expected, found)
        }
        failed => failed,
    }
}

/// Compares member by member, but for `proof`, which is what is being verified.
pub(super) fn check_21_view(p: &ProofCase<'_>) -> Finding {
    let Some(known) = &p.session.asked.known.view else { return Finding::not_asked(true, "view") };
    let made = view_of(p.bundle, p.proof);
    let mut names = made.keys().chain(known.keys()).filter(|name| *name != PROOF_MEMBER);
    match names.find(|name| made.get(*name) != known.get(*name)) {
        None => Finding::pass("the bundle's view", "so it is"),
        Some(name) => {
            let Differing { place, made, known } =
                Differing { place: name.clone(), made: made.get(name), known: known.get(name) }.innermost();
            let (expected, found) = difference::texts(made, known);
            Finding::fail(format!("{} {expected}", shown(&place)), found)
        }
    }
}
