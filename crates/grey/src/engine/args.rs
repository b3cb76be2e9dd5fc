//! The grammar of `grey engine`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::install::Wanted;

#[derive(Debug, Args)]
pub(crate) struct EngineCommand {
    #[command(subcommand)]
    pub(crate) verb: EngineVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EngineVerb {
    /// Which runtimes were found, where, which version, what contains them, how to install a missing one
    #[command(after_help = "Examples:\n  grey engine list\n  grey engine list --data ./data")]
    List {
        /// Look from this data folder, which no node uses, instead of asking a node
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Install runtimes from PyPI into a Python environment that Grey manages
    #[command(
        after_help = "The environment is $XDG_DATA_HOME/grey/venv (~/.local/share/grey/venv). A node looks there after \
                      the Python environment\nthat is active where it starts, and before the system. pip's own \
                      settings (PIP_INDEX_URL, pip.conf) hold.\n\n\
                      Engines: onnxruntime, torch, tensorflow, litert. This version of Grey runs models on onnxruntime; \
                      it has no adapter\nfor the others yet.\n\n\
                      Examples:\n  \
                      grey engine install onnxruntime\n  \
                      grey engine install onnxruntime==1.32.0\n  \
                      grey engine install --upgrade onnxruntime torch"
    )]
    Install(InstallArgs),
    /// Remove a runtime that was installed by `grey engine install`
    #[command(after_help = "Example:\n  grey engine remove torch")]
    Remove {
        /// The engine
        engine: Wanted,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The engines, each with the version of its runtime if it is to be a certain one
    #[arg(required = true, value_name = "ENGINE[==VERSION]")]
    pub(crate) engines: Vec<Wanted>,
    /// Take the newest version where an older one is installed
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// The Python that makes the environment [default: python3]
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
}
