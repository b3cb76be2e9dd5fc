//! Grey's errors as the exceptions of `grey.errors`.

use grey_core::{Error, ErrorKind};
use pyo3::{prelude::*, sync::PyOnceLock, types::PyDict};

/// Words of all kinds, for the test that sees that each has its class.
pub(crate) fn kinds() -> Vec<&'static str> {
    ErrorKind::ALL.iter().map(|k| k.name()).collect()
}

/// The exception for `e`.
pub(crate) fn raised(py: Python<'_>, e: &Error) -> PyErr {
    let after = e.retry_after().map(|d| d.as_secs_f64());
    exception(py, e.kind().name(), (e.message(), after))
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
