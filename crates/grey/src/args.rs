//! The grammar of the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use grey_core::{ModelId, Version};
use grey_proof::{ExpectedMeasurement, KnownModelHash, Mode};

use crate::{
    bench::{BenchArgs, time},
    completions::CompletionsArgs,
    config::ConfigVerb,
    doctor::DoctorArgs,
    encoding::{Base64, SaltSource, Seconds, SoftwareKey, hex32, measurement, model_hash, nonce},
    engine::EngineCommand,
    infer::{ImageArgs, InputArg},
    model::ModelCommand,
    settings::SettingArgs,
    style::ColorArg,
};

/// Address of a node that was started without arguments.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8000";

/// Serve models, batched and isolated.
#[derive(Debug, Parser)]
#[command(
    name = "grey",
    version,
    max_term_width = 100,
    after_help = "Example:\n  grey serve &\n  grey model add digits ./digits.onnx\n  grey infer digits --input x.json\n\n\
                  Exit codes:\n  0  done\n  1  the node refused, or a file is not usable\n  2  the arguments make no sense\n  \
                  3  no node answered, or something unexpected happened\n  4  the answer is no, e.g. a proof that is not valid"
)]
pub(crate) struct Cli {
    /// Address of the node that verbs talk to [default: http://127.0.0.1:8000]
    #[arg(long, global = true, env = "GREY_URL", value_parser = crate::client::address)]
    pub(crate) url: Option<String>,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Longest wait for an answer, e.g. 5s [default: 30s; 15m where a model is opened or run]
    #[arg(long, global = true, value_name = "TIME", value_parser = time)]
    pub(crate) timeout: Option<Duration>,
    /// When to colour what is printed
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value = "auto")]
    pub(crate) color: ColorArg,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a node
    Serve(Box<ServeArgs>),
    /// Register, list, load and remove models
    Model(ModelCommand),
    /// Send one request and print the answer
    Infer(Box<InferArgs>),
    /// Measure a model under load: rates, latencies, and where the time goes
    Bench(Box<BenchArgs>),
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
    /// Print a script that completes verbs and flags in a shell
    Completions(CompletionsArgs),
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
    after_help = "Examples:\n  echo '{\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1,2]}]}' | grey infer m --input -\n  grey infer m --input x.json --output y.json --prove proof.json\n  grey infer m --input x.npy --output y.npz\n  grey infer m --input ids=ids.npy --input mask=mask.npy\n  grey infer photos --input cat.jpg --resize --scale 1/255"
)]
pub(crate) struct InferArgs {
    /// The model's name
    pub(crate) model: ModelId,
    /// The request: a body in JSON, or an input as .npy, .npz, PNG or JPEG; `-` is standard input (repeatable)
    #[arg(long, value_name = "[NAME=]FILE", required = true, value_parser = InputArg::parse)]
    pub(crate) input: Vec<InputArg>,
    /// The version, or a label [default: the latest]
    #[arg(long)]
    pub(crate) version: Option<Version>,
    /// Write the answer to this file: its JSON, or its arrays if FILE ends in .npz
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write the arrays that are sent to this file, e.g. those of pictures, for whoever verifies a proof
    #[arg(long, value_name = "FILE.npz")]
    pub(crate) save_input: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pictures: ImageArgs,
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
    /// The request: its body in JSON, or its inputs as .npy or .npz (repeatable)
    #[arg(long, value_name = "[NAME=]FILE", help_heading = "What you know", value_parser = InputArg::parse)]
    pub(crate) input: Vec<InputArg>,
    /// The answer: its JSON, or its arrays (.npz)
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
    /// The request: its body in JSON, or its inputs as .npy or .npz (repeatable)
    #[arg(long, value_name = "[NAME=]FILE", required = true, value_parser = InputArg::parse)]
    pub(crate) input: Vec<InputArg>,
    /// The answer (JSON or .npz), to say by how much the outputs differ
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
