//! The Python that makes environments, and the one that Grey manages.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::HostContext;

/// The Python to make environments with: the one that runs this program, else `python3` of the search path.
pub(crate) fn find(context: &HostContext) -> Option<PathBuf> {
    let own = context.python_prefix.as_ref().map(|p| p.join("bin/python3"));
    own.into_iter().chain(in_path("python3")).find(|p| p.is_file())
}

/// Programs of this name on the search path.
fn in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter(|d| d.is_absolute()).map(|d| d.join(name)).collect()
}

/// What a Python prints for a line of code; `None` if it fails.
pub(crate) fn ask(python: &Path, code: &str) -> Option<String> {
    let mut command = Command::new(python);
    command.args(["-I", "-c", code]).stdin(Stdio::null()).stderr(Stdio::null());
    let done = command.output().ok()?;
    let said = String::from_utf8(done.stdout).ok()?;
    done.status.success().then(|| said.trim().to_owned())
}

/// Its version, e.g. `3.12.4`.
pub(crate) fn version(python: &Path) -> Option<String> {
    ask(python, "import platform; print(platform.python_version())")
}

/// Whether it can make environments with pip in them: Debian has that in a package of its own.
pub(crate) fn makes_environments(python: &Path) -> bool {
    ask(python, "import venv, ensurepip").is_some()
}

/// What to do where it cannot.
pub(crate) const NO_VENV_FIX: &str = "on Debian and Ubuntu: apt install python3-venv";
