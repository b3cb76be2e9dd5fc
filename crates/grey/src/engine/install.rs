//! `grey engine install`: runtimes from PyPI into an environment that Grey manages.

use std::{
    fs::{File, OpenOptions},
    io::IsTerminal as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    str::FromStr,
};

use grey_core::nearest;
use grey_engine::discover::{self, DiscoverEnv, PACKAGES, Package};
use grey_server::NodeConfig;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::{args::InstallArgs, python};
use crate::{
    HostContext,
    failure::Failure,
    local,
    verbs::{print, print_json},
};

/// How often pip asks an index again that does not answer: who waits at a terminal can ask again.
const PIP_RETRIES: &str = "1";
/// Seconds that pip waits for an index.
const PIP_WAIT_S: &str = "20";
/// Lines of pip's errors that are told.
const LINES_MAX: usize = 8;
/// Characters of such a line.
const LINE_CHARS_MAX: usize = 400;

/// A runtime, and the version of it if one was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    what: Package,
    version: Option<String>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once("==") {
            None => (text, None),
            Some((name, version)) => (name, Some(version)),
        };
        if let Some(v) = version
            && (v.is_empty() || !v.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'!' | b'*')))
        {
            return Err(format!("'{v}' is no version, expected one like 1.32.0"));
        }
        let what = PACKAGES.into_iter().find(|p| p.engine == name || p.package == name);
        let what = what.ok_or_else(|| {
            let known: Vec<&str> = PACKAGES.iter().map(|p| p.engine).collect();
            let meant =
                nearest(name, known.iter().copied()).map_or_else(String::new, |n| format!("; did you mean '{n}'?"));
            format!("unknown engine, expected {}{meant}", known.join(", "))
        })?;
        Ok(Wanted { what, version: version.map(str::to_owned) })
    }
}

impl Wanted {
    /// As pip takes it.
    fn requirement(&self) -> String {
        match &self.version {
            None => self.what.package.to_owned(),
            Some(v) => format!("{}=={v}", self.what.package),
        }
    }
}

/// Grey's own environment.
fn managed() -> Result<PathBuf, Failure> {
    let found = DiscoverEnv::read(None).managed.filter(|p| p.is_absolute());
    found.ok_or_else(|| {
        Failure::refused("there is no home directory to keep an environment in").hint("set HOME or XDG_DATA_HOME")
    })
}

pub(super) fn run(args: &InstallArgs, context: &HostContext, json: bool) -> Result<(), Failure> {
    let venv = managed()?;
    let _lock = lock(&venv)?;
    let python = environment(&venv, args.python.as_deref(), context, json)?;
    let requirements: Vec<String> = args.engines.iter().map(Wanted::requirement).collect();
    say(&format!("installing {} into {}", requirements.join(", "), venv.display()), json);
    let mut pip = pip(&python, json);
    pip.args(["install", "--retries", PIP_RETRIES, "--timeout", PIP_WAIT_S]);
    if args.upgrade {
        pip.arg("--upgrade");
    }
    finished(pip.args(&requirements), &format!("pip cannot install {}", requirements.join(", ")))?;
    report(&args.engines, &venv, context, json)
}

/// What was installed, and whether a node can use it.
fn report(engines: &[Wanted], venv: &Path, context: &HostContext, json: bool) -> Result<(), Failure> {
    let mut installed = Vec::new();
    for Wanted { what, .. } in engines {
        let version = discover::installed(venv, what.package);
        let (usable, problem) = match what.kind {
            None => (false, Some(format!("this version of Grey has no adapter for {} yet", what.engine))),
            Some(kind) => opens(kind.name(), venv, context)?,
        };
        installed.push(json!({
            "engine": what.engine, "package": what.package, "version": version, "environment": venv,
            "usable": usable, "problem": problem,
        }));
    }
    if json {
        return print_json(&Value::from(installed));
    }
    let mut failed = None;
    for (found, Wanted { what, .. }) in installed.iter().zip(engines) {
        let version = crate::verbs::text(found, "version");
        let problem = crate::verbs::text(found, "problem");
        print(&match (what.kind, problem.is_empty()) {
            (Some(_), true) => format!("{} {version} is installed, and models run on it\n", what.engine),
            (Some(_), false) => {
                failed = Some(problem);
                format!("{} {version} is installed\n", what.engine)
            }
            (None, _) => format!("{} {version} is installed; {problem}, so no model runs on it\n", what.engine),
        })?;
    }
    if let Some(problem) = failed {
        return Err(Failure::refused(format!("what was installed cannot be used: {problem}"))
            .hint("try another version, e.g. grey engine install onnxruntime==VERSION"));
    }
    // What the user has made active goes before it.
    let env = DiscoverEnv::read(context.python_prefix.clone());
    if engines.iter().any(|e| e.what.kind.is_some())
        && let Ok(found) = discover::onnxruntime(None, &env)
        && found.source == discover::Source::Virtualenv
    {
        crate::say(&format!(
            "note: the active Python environment has an ONNX Runtime of its own, which goes first: {}\n",
            found.library.display()
        ));
    }
    Ok(())
}

/// Whether a host opens the runtime of this environment, and why not.
fn opens(engine: &str, venv: &Path, context: &HostContext) -> Result<(bool, Option<String>), Failure> {
    let env = DiscoverEnv { managed: Some(venv.to_owned()), ..DiscoverEnv::default() };
    let config = NodeConfig::default();
    let outputs = config.to_serving().inflight_bytes_max;
    let engines = local::engines_in(&config, context.clone(), outputs, env);
    let report = local::runtime()?.block_on(engines.report());
    let found = report.into_iter().find(|e| e.engine == engine);
    Ok(found.map_or((false, Some("it is not found".to_owned())), |e| (e.usable, e.problem)))
}

/// One install at a time.
fn lock(venv: &Path) -> Result<File, Failure> {
    let failed = |e: std::io::Error| Failure::refused(format!("cannot make {}: {e}", venv.display()));
    std::fs::create_dir_all(venv.parent().unwrap_or(venv)).map_err(failed)?;
    let path = venv.with_extension("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Failure::refused(format!("another command changes {} just now", venv.display()))
                .hint("wait until it has ended"))
        }
        Err(e) => Err(failed(e.into())),
    }
}

/// The environment's Python; makes the environment if there is none, or only half of one.
fn environment(venv: &Path, python: Option<&Path>, context: &HostContext, json: bool) -> Result<PathBuf, Failure> {
    let own = venv.join("bin/python");
    if python::ask(&own, "import pip").is_some() {
        return Ok(own);
    }
    let maker = match python {
        Some(named) => named.to_owned(),
        None => python::find(context).ok_or_else(|| {
            Failure::refused("no python3 is on the search path; runtimes come as Python packages")
                .hint("install Python, e.g. apt install python3 python3-venv, or name one with --python")
        })?,
    };
    let version = python::version(&maker)
        .ok_or_else(|| Failure::refused(format!("{} does not run as a Python", maker.display())))?;
    if !python::makes_environments(&maker) {
        return Err(Failure::refused(format!(
            "{} (Python {version}) cannot make environments: its modules venv and ensurepip are not there",
            maker.display()
        ))
        .hint(python::NO_VENV_FIX)
        .hint("or name another Python with --python"));
    }
    say(&format!("making an environment with Python {version} in {}", venv.display()), json);
    let mut make = Command::new(&maker);
    make.args(["-I", "-m", "venv", "--clear"]).arg(venv).stdin(Stdio::null()).stdout(Stdio::null());
    finished(&mut make, &format!("cannot make an environment in {}", venv.display()))?;
    Ok(own)
}

/// pip of an environment, its progress on standard error if a person looks at that.
fn pip(python: &Path, json: bool) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]).stdin(Stdio::null());
    let terminal = std::io::stderr();
    match terminal.as_fd().try_clone_to_owned() {
        Ok(fd) if terminal.is_terminal() && !json => pip.stdout(fd),
        _ => pip.arg("--quiet").stdout(Stdio::null()),
    };
    pip
}

/// Runs a command to its end; its last errors are the failure's.
fn finished(command: &mut Command, what: &str) -> Result<(), Failure> {
    let ran = command.stderr(Stdio::piped()).spawn().and_then(|child| child.wait_with_output());
    let done: Output = ran.map_err(|e| Failure::refused(format!("{what}: {e}")))?;
    if done.status.success() {
        return Ok(());
    }
    let told = told(&String::from_utf8_lossy(&done.stderr));
    let told = if told.is_empty() { done.status.to_string() } else { told };
    Err(Failure::refused(format!("{what}: {told}"))
        .hint("pip takes its index and proxies from PIP_INDEX_URL, HTTPS_PROXY and pip.conf"))
}

/// What matters of a program's errors: what pip calls one, else the last lines.
fn told(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().filter_map(|l| l.strip_prefix("ERROR: ")).collect();
    let chosen = if errors.is_empty() { &lines[lines.len().saturating_sub(LINES_MAX)..] } else { &errors[..] };
    let cut = |line: &&str| {
        let short: String = line.chars().take(LINE_CHARS_MAX).collect();
        if short.len() < line.len() { format!("{short}…") } else { short }
    };
    chosen.iter().take(LINES_MAX).map(cut).collect::<Vec<_>>().join("\n  ")
}

/// What is being done; standard output is for what was.
fn say(text: &str, json: bool) {
    if !json {
        crate::say(&format!("{text}\n"));
    }
}

/// `grey engine remove`.
pub(super) fn remove(engine: &Wanted, json: bool) -> Result<(), Failure> {
    let venv = managed()?;
    let name = engine.what.engine;
    if discover::installed(&venv, engine.what.package).is_none() {
        return Err(Failure::refused(format!("{name} is not installed in {}", venv.display()))
            .hint("only what 'grey engine install' brought is removed; 'grey engine list' says where a runtime is"));
    }
    let _lock = lock(&venv)?;
    let mut pip = pip(&venv.join("bin/python"), json);
    finished(pip.args(["uninstall", "--yes", engine.what.package]), &format!("pip cannot remove {name}"))?;
    if json { print_json(&json!({"removed": [name]})) } else { print(&format!("{name} is removed\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions() {
        let of = |text: &str| text.parse::<Wanted>();
        assert_eq!(of("onnxruntime").unwrap().requirement(), "onnxruntime");
        assert_eq!(of("litert==2.1.0").unwrap().requirement(), "ai-edge-litert==2.1.0");
        assert_eq!(
            of("onnxrutime").unwrap_err(),
            "unknown engine, expected onnxruntime, torch, tensorflow, litert; did you mean 'onnxruntime'?"
        );
        for bad in ["", "jax", "torch==", "torch==1 --index-url=x", "torch>=1", "--pre"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_pip_calls_an_error_is_told() {
        assert_eq!(told("WARNING: Retrying\nERROR: No matching distribution\n\n"), "No matching distribution");
        assert_eq!(told("a\nb\n"), "a\n  b");
        assert_eq!(told(""), "");
        assert!(told(&format!("ERROR: {}", "x".repeat(1000))).len() < 500);
    }
}
