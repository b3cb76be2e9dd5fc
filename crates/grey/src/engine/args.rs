//! The grammar of `grey engine`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct EngineCommand {
    /// Look from this data folder, which no node uses, instead of asking a node
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: EngineVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EngineVerb {
    /// Which runtimes were found, where, which version, what contains them, how to install a missing one
    #[command(after_help = "Examples:\n  grey engine list\n  grey engine list --data ./data")]
    List,
}
