//! The verifier. What goes in and out is bytes and JSON text, as the proof format writes them; what the
//! arguments mean is documented in `_native.pyi`.

use std::fmt::Display;

use grey_proof::{Bundle, Known, Policy, SessionBundle, Verdict};
use pyo3::{create_exception, exceptions::PyValueError, prelude::*};
use serde_json::Value;

create_exception!(
    grey,
    ProofInputError,
    PyValueError,
    "A policy, known values or a proof that cannot be read; the text names the member."
);

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("ProofInputError", m.py().get_type::<ProofInputError>())?;
    m.add_function(wrap_pyfunction!(verify, m)?)?;
    m.add_function(wrap_pyfunction!(verify_session, m)?)?;
    m.add_function(wrap_pyfunction!(view, m)?)?;
    m.add_function(wrap_pyfunction!(bundle, m)?)?;
    m.add_function(wrap_pyfunction!(policy_from_yaml, m)?)
}

#[pyfunction]
fn verify(py: Python<'_>, bundle: &[u8], policy: &str, now: u64, known: &str) -> PyResult<String> {
    py.detach(|| judged(grey_proof::verify, bundle, policy, now, known)).map_err(refused)
}

#[pyfunction]
fn verify_session(py: Python<'_>, bundle: &[u8], policy: &str, now: u64, known: &str) -> PyResult<String> {
    py.detach(|| judged(grey_proof::verify_session, bundle, policy, now, known)).map_err(refused)
}

#[pyfunction]
fn view(py: Python<'_>, bundle: &[u8]) -> PyResult<String> {
    let made = py.detach(|| grey_proof::view(bundle)).map_err(refused)?;
    Ok(Value::Object(made).to_string())
}

#[pyfunction]
fn bundle(proof: &[u8], session: &[u8]) -> PyResult<Vec<u8>> {
    let (session, _) = SessionBundle::parse(session).map_err(refused)?;
    Bundle::new(proof.to_vec(), session).encode().map_err(refused)
}

#[pyfunction]
fn policy_from_yaml(text: &str) -> PyResult<String> {
    let read = serde_saphyr::from_str::<Value>(text).map_err(|e| refused(format!("policy: {e}")))?;
    Ok(read.to_string())
}

type Judge = fn(&[u8], &Policy, u64, &Known) -> Verdict;

fn judged(judge: Judge, bundle: &[u8], policy: &str, now: u64, known: &str) -> Result<String, String> {
    let policy = Policy::from_json(policy).map_err(|e| e.to_string())?;
    let known = Known::from_json(known).map_err(|e| e.to_string())?;
    serde_json::to_string(&judge(bundle, &policy, now, &known)).map_err(|e| e.to_string())
}

fn refused(why: impl Display) -> PyErr {
    ProofInputError::new_err(why.to_string())
}
