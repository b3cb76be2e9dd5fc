//! What `make bench` measures with: a load generator that costs less than what it measures, and the
//! time that proofs cost by themselves. Prints JSON; `bench/` compares. Not part of what is shipped;
//! may use any crate.

mod load;
mod proofs;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Requests per second of one body, over as many connections as are asked for.
    Load(LoadArgs),
    /// Nanoseconds per proof made and verified, and hashing in bytes per second.
    Proofs,
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
    /// How long it measures, after a fifth of that to warm up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Load(args) => load::run(&args),
        Command::Proofs => proofs::run(),
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
