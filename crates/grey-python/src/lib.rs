//! `grey._native`: what the Python package is a thin front of: the command line, and the proof
//! format's verifier. More of the node arrives here with the Python API.

mod arrays;
mod bridge;
mod client;
mod clock;
mod errors;
mod line;
mod node;
mod proofs;
mod values;

use std::{ffi::OsString, path::PathBuf};

use grey::{HostCommand, HostContext};
use pyo3::prelude::*;

/// What a Python is started with to become an engine host: `-P` keeps the current folder, where anything may lie, out
/// of what it imports.
const HOST_ARGS: [&str; 3] = ["-P", "-m", "grey.host"];

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the `grey` command line and returns its exit code.
///
/// `args` starts with the program's name. Engine hosts are started as `executable -m grey.host`,
/// so that the wheel needs no other program; `prefix` is `sys.prefix`, where runtimes are looked
/// for first. The GIL is released meanwhile.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<OsString>, executable: PathBuf, prefix: PathBuf) -> u8 {
    let host_command = HostCommand { program: executable, args: crate::HOST_ARGS.map(Into::into).into() };
    py.detach(|| grey::main_from(args, HostContext { host_command, python_prefix: Some(prefix) }))
}

/// Becomes an engine host and returns its exit code. Never returns before its node lets it go.
#[pyfunction]
fn engine_host(py: Python<'_>) -> u8 {
    py.detach(grey::engine_host)
}

/// The native part of the package `grey`.
#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(main, m)?)?;
    m.add_function(wrap_pyfunction!(engine_host, m)?)?;
    m.add("ERROR_KINDS", errors::kinds())?;
    m.add_class::<node::Node>()?;
    m.add_class::<node::Room>()?;
    m.add_class::<bridge::Call>()?;
    m.add_class::<client::Client>()?;
    proofs::add_to(m)
}
