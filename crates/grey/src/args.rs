//! The grammar of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use grey_core::{ModelId, Version};
use grey_proof::{ExpectedMeasurement, KnownModelHash, Mode};

use crate::{
    config::ConfigVerb,
    doctor::DoctorArgs,
    encoding::{Base64, SaltSource, Seconds, SoftwareKey, hex32, measurement, model_hash, nonce},
    engine::EngineCommand,
    model::ModelCommand,
    settings::SettingArgs,
};

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
    /// Address of the node that verbs talk to [default: http://127.0.0.1:8000]
    #[arg(long, global = true, env = "GREY_URL")]
    pub(crate) url: Option<String>,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a node
    Serve(Box<ServeArgs>),
    /// Register, list, load and remove models
    Model(ModelCommand),
    /// Send one request (an Open Inference Protocol body) and print the answer
    Infer(InferArgs),
    /// Verify, explain and replay proofs of inference
    Proof {
        #[command(subcommand)]
        verb: ProofVerb,
    },
    /// Watch a node: models, queues, latencies, hosts, memory
    Top(TopArgs),
    /// The runtimes that this node can use
    Engine(EngineCommand),
    /// What works on this machine, and what to do about what does not
    Doctor(DoctorArgs),
    /// Check, show and describe a node's configuration
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Become an engine host; started by a node
    #[command(hide = true)]
    EngineHost,
}

#[derive(Debug, Args)]
#[command(
    after_help = "On a terminal q quits; elsewhere each look is printed, with --json as a line of JSON.\n\nExamples:\n  grey top\n  grey top --once\n  grey top --json --interval 10 >> looks.jsonl"
)]
pub(crate) struct TopArgs {
    /// Take two looks, print what happened in between, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Time between two looks, 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    pub(crate) interval: Seconds,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Settings are flags, variables (--help tells them) and a file: docs/configuration.md.\n\nExamples:\n  grey serve --http 127.0.0.1:0 --data ./data --json\n  grey serve --config grey.yaml"
)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  echo '{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1,2]}]}' | grey infer m --input -\n  grey infer m --input x.json --output y.json --prove proof.json"
)]
pub(crate) struct InferArgs {
    /// The model's name
    pub(crate) model: ModelId,
    /// File with the request's body, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// The version, or a label [default: the latest]
    #[arg(long)]
    pub(crate) version: Option<Version>,
    /// Write the answer's JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Ask for a proof, and write it to this file: as JSON, or as the bare bundle if FILE ends in .proof
    #[arg(long, value_name = "FILE")]
    pub(crate) prove: Option<PathBuf>,
    /// Nonce for the proof and its evidence, 8 to 64 bytes [default: 32 random bytes]
    #[arg(long, value_name = "BASE64", value_parser = nonce, requires = "prove")]
    pub(crate) nonce: Option<Base64>,
    /// File with a salt of 32 bytes, for inputs or outputs that could be guessed; keep it
    #[arg(long, value_name = "FILE", requires = "prove")]
    pub(crate) salt: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProofVerb {
    /// Verify a proof, offline: needs no node and no network
    #[command(
        after_help = "Exit code 0 only for 'valid', 4 for any other verdict.\n\nExample:\n  grey proof verify proof.json --software-key HEX --input x.json --output y.json"
    )]
    Verify(Box<VerifyArgs>),
    /// Explain what a proof states; this verifies nothing
    #[command(after_help = "Example:\n  grey proof show proof.json")]
    Show {
        /// The proof: JSON or bundle
        file: PathBuf,
    },
    /// Have a node run the request again and compare the bytes
    #[command(
        after_help = "Exit code 0 only for 'reproduced', 4 for other bytes.\n\nExample:\n  grey proof replay proof.json --input x.json --output y.json"
    )]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The proof: JSON or bundle
    pub(crate) file: PathBuf,
    /// The node's key for SOFTWARE proofs (repeatable), or `any`; says nothing of hardware
    #[arg(long, value_name = "HEX|any", help_heading = "Whom to trust")]
    pub(crate) software_key: Vec<SoftwareKey>,
    /// What must run there, on any platform
    #[arg(long, value_name = "HEX", value_parser = measurement, help_heading = "Whom to trust")]
    pub(crate) expected_measurement: Option<ExpectedMeasurement>,
    /// The SGX enclave that must run there
    #[arg(long, value_name = "HEX", value_parser = hex32, help_heading = "Whom to trust")]
    pub(crate) expected_mrenclave: Option<[u8; 32]>,
    /// File with a policy (YAML); flags add to it
    #[arg(long, value_name = "FILE", help_heading = "Whom to trust")]
    pub(crate) policy: Option<PathBuf>,
    /// Which times count [default: fresh]
    #[arg(long, value_parser = mode, value_name = "fresh|archival", help_heading = "Times")]
    pub(crate) mode: Option<Mode>,
    /// Greatest age of the proof
    #[arg(long, value_name = "SECONDS", help_heading = "Times")]
    pub(crate) max_age: Option<u64>,
    /// The time to verify at, in Unix seconds [default: the clock]
    #[arg(long, value_name = "UNIX", help_heading = "Times")]
    pub(crate) now: Option<u64>,
    /// The request's body
    #[arg(long, value_name = "FILE", help_heading = "What you know")]
    pub(crate) input: Option<PathBuf>,
    /// The answer's JSON
    #[arg(long, value_name = "FILE", help_heading = "What you know")]
    pub(crate) output: Option<PathBuf>,
    /// The model's hash, with or without its scheme
    #[arg(long, value_name = "HEX", value_parser = model_hash, help_heading = "What you know")]
    pub(crate) model_hash: Option<KnownModelHash>,
    /// The nonce of the request
    #[arg(long, value_name = "BASE64", help_heading = "What you know")]
    pub(crate) nonce: Option<Base64>,
    /// The nonce for which the session's evidence was made
    #[arg(long, value_name = "BASE64", help_heading = "What you know")]
    pub(crate) session_nonce: Option<Base64>,
    /// The salt of the request, or a file with it
    #[arg(long, value_name = "BASE64|@FILE", help_heading = "What you know")]
    pub(crate) salt: Option<SaltSource>,
    /// File with known values (JSON); flags add to it
    #[arg(long, value_name = "FILE", help_heading = "What you know")]
    pub(crate) known: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The proof: JSON or bundle
    pub(crate) file: PathBuf,
    /// The request's body
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// The answer's JSON, to say by how much the outputs differ
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The salt of the request, or a file with it
    #[arg(long, value_name = "BASE64|@FILE")]
    pub(crate) salt: Option<SaltSource>,
}

fn mode(text: &str) -> Result<Mode, String> {
    let all = [Mode::Fresh, Mode::Archival];
    all.into_iter().find(|m| m.name() == text).ok_or_else(|| "expected fresh or archival".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::model::ModelVerb;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["grey", "model", "add", "../x", "f"]).is_err());
        let cli =
            Cli::try_parse_from(["grey", "model", "add", "d", "f.onnx", "--metadata", "a=b=c", "--json"]).unwrap();
        assert!(cli.json);
        let Command::Model(ModelCommand { verb: ModelVerb::Add(add), data: None }) = cli.command else { panic!() };
        assert_eq!(add.metadata, [("a".to_owned(), "b=c".to_owned())]);
        let label = |args: &[&str]| Cli::try_parse_from(["grey", "model", "label", "d", "stable"].iter().chain(args));
        assert!(label(&["--version", "2"]).is_ok() && label(&["--remove"]).is_ok());
        assert!(label(&[]).is_err() && label(&["--remove", "--version", "2"]).is_err());
    }
}
