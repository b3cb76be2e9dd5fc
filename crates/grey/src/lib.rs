//! The command line of Grey, as a library: the cargo binary and the Python package's `grey` command
//! are both a few lines around [`main_from`]. Uses `grey-server` to serve and plain HTTP for
//! everything else, so every verb works against any node. Proofs are verified and explained without one.

mod args;
mod arrays;
mod bench;
mod client;
mod clock;
mod completions;
mod config;
mod doctor;
mod encoding;
mod engine;
mod failure;
mod files;
mod infer;
mod local;
mod log;
mod model;
mod open_node;
mod proof;
#[cfg(test)]
mod reference;
mod reload;
mod request;
mod running;
mod serve;
mod settings;
mod style;
mod table;
mod top;
mod usage;
mod verbs;

use std::{ffi::OsString, io::Write as _, path::PathBuf, time::Duration};

use clap::{CommandFactory as _, FromArgMatches as _, error::ErrorKind};
pub use grey_engine::HostCommand;
pub use model::model_files;
pub use open_node::open_node;

use crate::{
    args::{Cli, Command, ProofVerb},
    engine::EngineCommand,
    failure::Failure,
    local::Place,
    model::ModelCommand,
};

/// Exit code: done.
pub const EXIT_OK: u8 = 0;
/// Exit code: the node refused, or a file of the user's is not usable.
pub const EXIT_REFUSED: u8 = 1;
/// Exit code: the arguments make no sense.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: no node answered, or something went wrong that is nobody's argument.
pub const EXIT_UNEXPECTED: u8 = 3;
/// Exit code: all went well, and the answer is no: a proof that is not `valid`, a run that was not
/// reproduced.
pub const EXIT_NO: u8 = 4;

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
    let color = style::ColorArg::of(&args);
    style::choose(color);
    let json = args.iter().take_while(|a| *a != "--").any(|a| a == "--json");
    let cli = match parse(args, color) {
        Ok(cli) => cli,
        Err(end) => return end.exit(json),
    };
    let url = cli.url.clone().filter(|url| !url.is_empty());
    let timeout = cli.timeout;
    let client = || client::Client::new(url.as_deref().unwrap_or(args::DEFAULT_URL), timeout);
    let place = |data: Option<PathBuf>| place(data, url.as_deref(), timeout, &context);
    let done = |()| EXIT_OK;
    let outcome = match cli.command {
        Command::EngineHost => return engine_host(),
        Command::Serve(serve) => serve::run(*serve, json, context.clone()).map(done),
        Command::Config { verb } => config::run(verb, json, context.clone()),
        Command::Model(ModelCommand { data, verb }) => {
            let named = data.is_some() || is_flag(url.as_deref());
            place(data).and_then(|place| model::run(place, named, context.clone(), verb, json))
        }
        Command::Infer(infer) => infer::run(&client(), &infer, json).map(done),
        Command::Bench(bench) => bench::run(&client(), &bench, json).map(done),
        Command::Proof { verb } => match verb {
            ProofVerb::Verify(verify) => proof::verify(&verify, json),
            ProofVerb::Show { file } => proof::show(&file, json).map(done),
            ProofVerb::Replay(replay) => proof::replay(&client(), &replay, json),
        },
        Command::Completions(completions) => completions::run(&completions).map(done),
        Command::Top(top) => top::run(url.as_deref().unwrap_or(args::DEFAULT_URL), &top, json).map(done),
        Command::Doctor(doctor) => doctor::run(&doctor, &context, json),
        Command::Engine(EngineCommand { verb }) => engine::run(place, &context, verb, json).map(done),
    };
    outcome.unwrap_or_else(|f| report(&f, json))
}

/// Why there is nothing to run.
enum End {
    /// Help or version was asked for, or no verb was named: clap's own text.
    Shown(clap::Error),
    Failed(Failure),
}

fn parse(args: Vec<OsString>, color: style::ColorArg) -> Result<Cli, End> {
    let mut grammar = Cli::command().color(color.of_clap());
    let parsed = grammar.try_get_matches_from_mut(args).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            End::Shown(e)
        }
        _ => End::Failed(usage::failure(&e, &grammar)),
    })
}

impl End {
    fn exit(self, json: bool) -> u8 {
        match self {
            End::Shown(e) if json && e.use_stderr() => report(&usage::failure(&e, &Cli::command()), json),
            End::Shown(e) => {
                // A closed pipe is the reader's choice.
                let _closed_pipe = e.print();
                u8::try_from(e.exit_code()).unwrap_or(EXIT_USAGE)
            }
            End::Failed(f) => report(&f, json),
        }
    }
}

/// Whether the address was given by `--url`, and not by the environment.
fn is_flag(url: Option<&str>) -> bool {
    url.is_some_and(|url| std::env::var("GREY_URL").as_deref() != Ok(url))
}

/// Where a verb works: on the folder of `--data`, else on a node.
fn place(
    data: Option<PathBuf>,
    url: Option<&str>,
    timeout: Option<Duration>,
    context: &HostContext,
) -> Result<Place, Failure> {
    match data {
        None => Ok(Place::Node(client::Client::new(url.unwrap_or(args::DEFAULT_URL), timeout))),
        Some(_) if is_flag(url) => Err(Failure::usage("--url and --data exclude each other")
            .hint("--url talks to a running node; --data works on a folder that no node uses")),
        Some(path) => Ok(Place::Folder(path, context.clone())),
    }
}

/// Becomes an engine host: the hidden verb `engine-host`, and `python -m grey.host`.
pub fn engine_host() -> u8 {
    grey_engine::host_main(grey_engine::engines::open)
}

fn report(f: &Failure, json: bool) -> u8 {
    say(&if json { f.json() } else { f.told(style::Paint::stderr()) });
    f.exit
}

/// Writes to standard error. Where that is closed, the exit code says it alone.
pub(crate) fn say(text: &str) {
    let _closed = write!(std::io::stderr(), "{text}");
}
