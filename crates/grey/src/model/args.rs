//! The grammar of `grey model`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use grey_core::{Label, ModelId, Version, VersionChoice};

#[derive(Debug, Args)]
pub(crate) struct ModelCommand {
    /// Work on this data folder, which no node uses, instead of talking to a node
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: ModelVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelVerb {
    /// Register a model under a name, and load it
    #[command(
        after_help = "PATH is the model's file, a folder with all its files, or several files, e.g. an ONNX model \
                      with external data.\nThe same bytes again register nothing, but set labels and the example.\n\n\
                      Examples:\n  \
                      grey model add digits ./digits.onnx --metadata accuracy=0.97\n  \
                      grey model add encoder ./encoder/ --version 2 --label stable\n  \
                      grey model add encoder model.onnx model.onnx.data --example request.json\n  \
                      grey model add digits ./digits.onnx --data ./data"
    )]
    Add(AddArgs),
    /// All models and their versions
    #[command(after_help = "Examples:\n  grey model list --json\n  grey model list --data ./data")]
    List,
    /// All about one version
    #[command(after_help = "Example:\n  grey model show digits --version 1")]
    Show(ModelArgs),
    /// Say whether a model opens here, how it would be batched, whether it can be proven, and run it once
    #[command(
        after_help = "A registered model is looked at by its node (or in --data DIR), files by this command itself, \
                      without a node.\nWhat exists as a file or folder is one, unless --version, --data or --url says \
                      that a registered model is meant.\nExit code 0 if it is valid, 4 if not.\n\n\
                      Examples:\n  \
                      grey model validate ./digits.onnx\n  \
                      grey model validate ./encoder/ --example request.json\n  \
                      grey model validate digits --version stable"
    )]
    Validate(ValidateArgs),
    /// Let a label mean a version, move it, or take it away
    #[command(
        after_help = "Requests name a label as they name a version. `latest` is the label that requests without a \
                      version follow;\nevery added version takes it.\n\n\
                      Examples:\n  \
                      grey model label digits stable --version 3\n  \
                      grey model label digits latest --version stable\n  \
                      grey model label digits canary --remove"
    )]
    Label(LabelArgs),
    /// Load a version and wait until it is ready
    #[command(after_help = "Example:\n  grey model load digits --version 1")]
    Load(ModelArgs),
    /// Unload a version (all, if none is named); requests are refused until it is loaded again
    #[command(after_help = "Example:\n  grey model unload digits --version 1")]
    Unload(ModelArgs),
    /// Remove a version (all, if none is named) for good
    #[command(
        after_help = "Examples:\n  grey model remove digits --version 1\n  grey model remove digits --data ./data"
    )]
    Remove(ModelArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The model's name
    pub(crate) id: ModelId,
    /// Its file, its folder, or its files
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The version's name [default: the next integer]
    #[arg(long)]
    pub(crate) version: Option<Version>,
    /// A label that means this version from now on (repeatable)
    #[arg(long)]
    pub(crate) label: Vec<Label>,
    /// Free metadata (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) metadata: Vec<(String, String)>,
    /// A request in JSON that the model answers; kept with it, and used to find out how it may be batched
    #[arg(long, value_name = "FILE")]
    pub(crate) example: Option<PathBuf>,
    /// Register only
    #[arg(long)]
    pub(crate) no_load: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The model's name
    pub(crate) id: ModelId,
    /// The version, or a label
    #[arg(long)]
    pub(crate) version: Option<Version>,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// A registered model's name, or a model's file, folder or files
    #[arg(required = true, value_name = "ID|PATH")]
    pub(crate) what: Vec<PathBuf>,
    /// The version, or a label, of a registered model
    #[arg(long)]
    pub(crate) version: Option<VersionChoice>,
    /// Run this request (JSON) instead of the version's own example, or of made-up inputs
    #[arg(long, value_name = "FILE")]
    pub(crate) example: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("to").required(true).args(["version", "remove"]))]
pub(crate) struct LabelArgs {
    /// The model's name
    pub(crate) id: ModelId,
    /// The label
    pub(crate) label: Label,
    /// The version that it is to mean, or another label
    #[arg(long)]
    pub(crate) version: Option<VersionChoice>,
    /// Take the label away
    #[arg(long)]
    pub(crate) remove: bool,
}

fn key_value(s: &str) -> Result<(String, String), String> {
    let (key, value) = s.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}
