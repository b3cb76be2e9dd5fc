//! The command line of Grey, as a library: the cargo binary and the Python package's `grey` command
//! are both a few lines around [`main_from`]. Uses `grey-server` to serve and plain HTTP for
//! everything else, so every verb works against any node.

mod args;
mod client;
mod failure;
mod serve;
mod table;
mod verbs;

use std::{ffi::OsString, io::Write as _, path::PathBuf};

use clap::Parser as _;
pub use grey_engine::HostCommand;

use crate::{
    args::{Cli, Command},
    failure::Failure,
};

/// Exit code: done.
pub const EXIT_OK: u8 = 0;
/// Exit code: the node refused, or a file of the user's is not usable.
pub const EXIT_REFUSED: u8 = 1;
/// Exit code: the arguments make no sense.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: no node answered, or something went wrong that is nobody's argument.
pub const EXIT_UNEXPECTED: u8 = 3;

/// What the program around this library knows.
#[derive(Clone, Debug)]
pub struct HostContext {
    /// How an engine host is started.
    pub host_command: HostCommand,
    /// `sys.prefix`, where the program is a Python.
    pub python_prefix: Option<PathBuf>,
}

/// Runs the command line `args` (with the program's name first) and returns the exit code.
pub fn main_from(args: Vec<OsString>, context: HostContext) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors; both go where they belong. A closed pipe is the reader's choice.
            let _closed_pipe = e.print();
            return u8::try_from(e.exit_code()).unwrap_or(EXIT_USAGE);
        }
    };
    let json = cli.json;
    let outcome = match cli.command {
        Command::EngineHost => return engine_host(),
        Command::Serve(serve) => serve::run(serve, json, context),
        Command::Model { verb } => verbs::model(&client::Client::new(&cli.url), verb, json),
        Command::Infer(infer) => verbs::infer(&client::Client::new(&cli.url), &infer),
        Command::Engine { verb: args::EngineVerb::List } => verbs::engines(&client::Client::new(&cli.url), json),
    };
    match outcome {
        Ok(()) => EXIT_OK,
        Err(f) => report(&f),
    }
}

/// Becomes an engine host: the hidden verb `engine-host`, and `python -m grey.host`.
pub fn engine_host() -> u8 {
    grey_engine::host_main(grey_engine::engines::open)
}

fn report(f: &Failure) -> u8 {
    let hints: String = f.hints.iter().map(|h| format!("hint: {h}\n")).collect();
    // Where standard error is closed, the exit code says it alone.
    let _closed = write!(std::io::stderr(), "error: {}\n{hints}", f.message);
    f.exit
}
