//! What `make bench` measures with: a load generator that costs less than what it measures, a bare
//! server to compare with, and the time that proofs, the hop to a host and the parts of a request's way cost by
//! themselves. Prints JSON; `bench/` compares. Not part of what is shipped; may use any crate.

mod clock;
mod echo;
mod hop;
mod load;
mod proofs;
mod stages;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
enum Command {
    /// Requests per second of one body, over as many connections as are asked for.
    Load(LoadArgs),
    /// Nanoseconds per proof made and verified, and hashing in bytes per second.
    Proofs,
    /// A bare server that sends each body back. Prints its address.
    Echo,
    /// Microseconds of a run in an engine host, against the runtime's own time.
    Hop(HopArgs),
    /// One part of a request's way, so often: for callgrind, and for a watch.
    Stage(StageArgs),
    /// Not for people: becomes the host that `hop` starts.
    #[command(hide = true)]
    EngineHost,
}

#[derive(clap::Args)]
struct StageArgs {
    /// Which.
    stage: stages::Stage,
    /// How often.
    #[arg(long)]
    times: u64,
    /// ONNX Runtime's library, for `host-round-trip`.
    #[arg(long)]
    library: Option<PathBuf>,
    /// A model that gives back its FP32 input `[N, M]`, for `host-round-trip`.
    #[arg(long)]
    model: Option<PathBuf>,
}

#[derive(clap::Args)]
struct HopArgs {
    /// ONNX Runtime's library.
    #[arg(long)]
    library: PathBuf,
    /// A model that gives back its FP32 input `[N, M]`.
    #[arg(long)]
    model: PathBuf,
}

#[derive(clap::Args)]
struct LoadArgs {
    /// `HOST:PORT` of a node.
    #[arg(long)]
    address: String,
    /// Path of the request, e.g. `/v2/models/digits/infer`.
    #[arg(long)]
    path: String,
    /// The body.
    #[arg(long)]
    body: PathBuf,
    /// Further header lines, `NAME: VALUE`.
    #[arg(long)]
    header: Vec<String>,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds between an answer and the connection's next request.
    #[arg(long, default_value_t = 0.0)]
    pause: f64,
    /// How long it measures, after a fifth of that to warm up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Load(args) => load::run(&args),
        Command::Proofs => proofs::run(),
        Command::Echo => echo::run(),
        Command::Hop(args) => hop::run(&args),
        Command::Stage(args) => stages::run(&args),
        Command::EngineHost => return hop::host(),
    };
    match result {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("grey-bench: {e}");
            ExitCode::FAILURE
        }
    }
}
