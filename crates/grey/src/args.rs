//! The grammar of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use grey_core::{ModelId, Version};

/// Address of a node that was started without arguments.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8000";

/// Serve models, batched and isolated.
#[derive(Debug, Parser)]
#[command(
    name = "grey",
    version,
    max_term_width = 100,
    after_help = "Example:\n  grey serve &\n  grey model add digits ./digits.onnx\n  grey infer digits --input x.json"
)]
pub(crate) struct Cli {
    /// Address of the node that verbs talk to
    #[arg(long, global = true, env = "GREY_URL", default_value = DEFAULT_URL)]
    pub(crate) url: String,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a node
    Serve(ServeArgs),
    /// Register, list, load and remove models
    Model {
        #[command(subcommand)]
        verb: ModelVerb,
    },
    /// Send one request (an Open Inference Protocol body) and print the answer
    Infer(InferArgs),
    /// The runtimes that this node can use
    Engine {
        #[command(subcommand)]
        verb: EngineVerb,
    },
    /// Become an engine host; started by a node
    #[command(hide = true)]
    EngineHost,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum IsolationArg {
    /// An engine host is a process of its own
    Process,
    /// Engines run inside the node: a crash of a model is a crash of the node
    #[value(alias = "none")]
    Inline,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  grey serve --http 127.0.0.1:0 --data ./data --json")]
pub(crate) struct ServeArgs {
    /// Address to listen on; port 0 takes a free one and prints it [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,
    /// Folder of the registry and of what the node measured [default: the user's data directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Listen on addresses that other machines reach, without authentication
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Let the protocol's `load` bring a model's files, which are then registered
    #[arg(long)]
    pub(crate) allow_upload: bool,
    /// The ONNX Runtime library to use
    #[arg(long, value_name = "PATH")]
    pub(crate) onnxruntime_lib: Option<PathBuf>,
    /// Where models run [default: process]
    #[arg(long, value_enum)]
    pub(crate) isolation: Option<IsolationArg>,
    /// What to log, as for RUST_LOG
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub(crate) log: String,
    /// How to log
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelVerb {
    /// Register a model's file under a name, and load it
    #[command(after_help = "Example:\n  grey model add digits ./digits.onnx --metadata accuracy=0.97")]
    Add {
        /// The model's name
        id: ModelId,
        /// Its file
        file: PathBuf,
        /// The version's name [default: the next integer]
        #[arg(long)]
        version: Option<Version>,
        /// Register only
        #[arg(long)]
        no_load: bool,
        /// Free metadata
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        metadata: Vec<(String, String)>,
    },
    /// All models and their versions
    #[command(after_help = "Example:\n  grey model list --json")]
    List,
    /// All about one version
    #[command(after_help = "Example:\n  grey model show digits --version 1")]
    Show(ModelArgs),
    /// Load a version and wait until it is ready
    #[command(after_help = "Example:\n  grey model load digits --version 1")]
    Load(ModelArgs),
    /// Unload a version (all, if none is named); requests are refused until it is loaded again
    #[command(after_help = "Example:\n  grey model unload digits --version 1")]
    Unload(ModelArgs),
    /// Remove a version (all, if none is named) for good
    #[command(after_help = "Example:\n  grey model remove digits --version 1")]
    Remove(ModelArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The model's name
    pub(crate) id: ModelId,
    /// The version
    #[arg(long)]
    pub(crate) version: Option<Version>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  echo '{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1,2]}]}' | grey infer m --input -"
)]
pub(crate) struct InferArgs {
    /// The model's name
    pub(crate) model: ModelId,
    /// File with the request's body, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// The version [default: the latest]
    #[arg(long)]
    pub(crate) version: Option<Version>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EngineVerb {
    /// Which runtimes were found, where, which version, what contains them, how to install a missing one
    #[command(after_help = "Example:\n  grey engine list")]
    List,
}

fn key_value(s: &str) -> Result<(String, String), String> {
    let (key, value) = s.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["grey", "model", "add", "../x", "f"]).is_err());
        let cli =
            Cli::try_parse_from(["grey", "model", "add", "d", "f.onnx", "--metadata", "a=b=c", "--json"]).unwrap();
        assert!(cli.json);
        let Command::Model { verb: ModelVerb::Add { metadata, .. } } = cli.command else { panic!() };
        assert_eq!(metadata, [("a".to_owned(), "b=c".to_owned())]);
    }
}
