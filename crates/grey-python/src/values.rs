//! What calls to a node take and give in Python, wherever the node is.

use std::time::Duration;

use grey_core::{Error, Parameter, Parameters};
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyString},
};

use crate::errors::raised;

/// Parameters of the Open Inference Protocol, of a dict.
pub(crate) fn parameters(given: &Bound<'_, PyAny>) -> PyResult<Parameters> {
    let mut out = Parameters::new();
    for (name, value) in given.cast::<PyDict>()?.iter() {
        let name: String = name.extract()?;
        // A bool is an int to Python.
        let value = if value.is_instance_of::<PyBool>() {
            Parameter::Bool(value.extract()?)
        } else if value.is_instance_of::<PyInt>() {
            Parameter::Int(value.extract()?)
        } else if value.is_instance_of::<PyFloat>() {
            Parameter::Float(value.extract()?)
        } else if value.is_instance_of::<PyString>() {
            Parameter::Text(value.extract()?)
        } else {
            let found = value.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "parameter '{name}': expected a bool, an int, a float or a text, found {found}"
            )));
        };
        out.insert(name, value);
    }
    Ok(out)
}

/// The 32 bytes of a salt.
pub(crate) fn salt(given: &Bound<'_, PyAny>) -> PyResult<[u8; 32]> {
    let salt = given.extract::<Bound<'_, PyBytes>>()?;
    salt.as_bytes().try_into().map_err(|_| {
        let found = salt.as_bytes().len();
        raised(given.py(), &Error::invalid(format!("salt: expected 32 bytes, found {found}")))
    })
}

/// A time of at least nothing.
pub(crate) fn seconds(py: Python<'_>, timeout: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(timeout)
        .map_err(|_| raised(py, &Error::invalid(format!("timeout: expected seconds, 0 or more, found {timeout}"))))
}

/// The parts of a `grey.InferResult` beside its outputs.
pub(crate) struct Made<'a> {
    pub model: &'a str,
    pub version: &'a str,
    pub id: &'a str,
    pub parameters: &'a Parameters,
    /// The proof with its session.
    pub bundle: Option<&'a [u8]>,
    /// The verdict on it, in JSON.
    pub verdict: Option<&'a str>,
    pub queue_seconds: Option<f64>,
    pub execute_seconds: Option<f64>,
}

/// A `grey.InferResult`.
pub(crate) fn infer_result(py: Python<'_>, outputs: &Bound<'_, PyDict>, made: Made<'_>) -> PyResult<Py<PyAny>> {
    static CLASSES: PyOnceLock<[Py<PyAny>; 3]> = PyOnceLock::new();
    let [infer_result, inference_proof, verdict] = CLASSES.get_or_try_init(py, || {
        let of = |module: &str, class: &str| Ok::<_, PyErr>(py.import(module)?.getattr(class)?.unbind());
        Ok::<_, PyErr>([
            of("grey.results", "InferResult")?,
            of("grey.proofs", "InferenceProof")?,
            of("grey.verdict", "Verdict")?,
        ])
    })?;
    let parameters = PyDict::new(py);
    for (name, value) in made.parameters {
        match value {
            Parameter::Bool(v) => parameters.set_item(name, v)?,
            Parameter::Int(v) => parameters.set_item(name, v)?,
            Parameter::Float(v) => parameters.set_item(name, v)?,
            Parameter::Text(v) => parameters.set_item(name, v)?,
        }
    }
    let proof = match made.bundle {
        None => py.None(),
        Some(bundle) => inference_proof.call_method1(py, "from_bundle", (PyBytes::new(py, bundle),))?,
    };
    let times = (made.queue_seconds, made.execute_seconds);
    let head = (outputs, made.model, made.version, made.id, parameters, proof, times.0, times.1);
    match made.verdict {
        None => infer_result.call1(py, head),
        Some(text) => {
            let verdict = verdict.call_method1(py, "from_json", (text,))?;
            let (a, b, c, d, e, f, g, h) = head;
            infer_result.call1(py, (a, b, c, d, e, f, g, h, verdict))
        }
    }
}
