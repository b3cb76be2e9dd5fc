//! Grey's errors as the exceptions of `grey.errors`.

use grey_core::{Error, ErrorKind};
use pyo3::{
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict},
};

/// Words of all kinds, for the test that sees that each has its class.
pub(crate) fn kinds() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|k| k.name()).collect()
}

/// The exception for `e`.
pub(crate) fn raised(py: Python<'_>, e: &Error) -> PyErr {
    let after = e.retry_after().map(|d| d.as_secs_f64());
    exception(py, e.kind().name(), (e.message(), after))
}

/// The exception for what a client of a node far away failed with.
pub(crate) fn raised_by_client(py: Python<'_>, e: &grey_client::Error) -> PyErr {
    use grey_client::Error as E;
    let word = match e {
        E::Refused(r) => {
            let after = r.retry_after.map(|d| d.as_secs_f64());
            return exception(py, r.kind.name(), (&r.message, after));
        }
        E::ProofRejected(r) => {
            let verdict = match serde_json::to_string(&r.verdict) {
                Ok(text) => text,
                Err(why) => return exception(py, ErrorKind::Internal.name(), (why.to_string(),)),
            };
            return exception(py, "proof_rejected", (e.to_string(), py.None(), verdict, PyBytes::new(py, &r.bundle)));
        }
        E::Argument(_) => ErrorKind::InvalidArgument.name(),
        E::Deadline(_) => ErrorKind::DeadlineExceeded.name(),
        E::Connect(_) => "connect_failed",
        E::Broken(_) => "connection_broken",
        E::NotANode(_) => "not_a_node",
        E::Answer(_) => "bad_answer",
        E::Closed => "closed",
    };
    exception(py, word, (e.to_string(),))
}

/// The exception for what should not happen.
pub(crate) fn internal(py: Python<'_>, why: &str) -> PyErr {
    exception(py, ErrorKind::Internal.name(), (why,))
}

/// The exception for an answer whose tensors no array can be.
pub(crate) fn bad_answer(py: Python<'_>, why: String) -> PyErr {
    exception(py, "bad_answer", (why,))
}

/// The exception for the use of a node after its end.
pub(crate) fn closed(py: Python<'_>) -> PyErr {
    exception(py, "closed", ("the node was closed",))
}

/// The exception for the use of what belongs to the process that this one was forked from.
pub(crate) fn forked(py: Python<'_>, pid: u32) -> PyErr {
    let message = format!(
        "this object belongs to process {pid}, from which this process was forked: its threads stayed there; make a \
         new one here, or start processes by 'spawn' instead of 'fork'"
    );
    exception(py, "forked", (message,))
}

fn exception<'py>(py: Python<'py>, kind: &str, args: impl pyo3::call::PyCallArgs<'py>) -> PyErr {
    static BY_KIND: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let made = || {
        let by_kind = BY_KIND.get_or_try_init(py, || {
            py.import("grey.errors")?.getattr("BY_KIND")?.cast_into::<PyDict>().map(Bound::unbind).map_err(PyErr::from)
        })?;
        by_kind.bind(py).as_any().get_item(kind)?.call1(args)
    };
    match made() {
        Ok(exception) => PyErr::from_value(exception),
        Err(e) => e,
    }
}
