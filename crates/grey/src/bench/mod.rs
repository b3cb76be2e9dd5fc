//! `grey bench`: a load on one model, and where its time goes.

mod load;
mod made_up;
mod report;
mod server;

use std::{io::IsTerminal as _, time::Duration};

use bytes::Bytes;
use clap::Args;
use grey_core::{ModelId, Version};
use hyper::Uri;
use tokio::sync::watch;

use self::{
    load::{Plan, Sent, Tally, Until},
    made_up::{Draw, ShapeArg},
    report::Report,
};
use crate::{
    client::Client,
    failure::Failure,
    infer::{ImageArgs, InputArg, request, signature},
    request::binary,
    say,
    verbs::{print, print_json},
};

/// Most connections: each is a descriptor here and at the node.
const CONNECTIONS_MAX: u32 = 10_000;
/// Requests that differ, where inputs are made up: caches of one input would tell of nothing.
const BODIES: usize = 16;
/// Most bytes of all of them together.
const BODIES_BYTES_MAX: usize = 64 << 20;
/// Longest wait for an answer, where no flag says another.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(
    after_help = "Latency is a client's: from the moment that a request is due to the end of its answer. Ctrl-C ends the \
                  run with the table so far. Exit code 0 if any request was answered.\n\n\
                  Examples:\n  grey bench digits\n  grey bench digits --concurrency 64 --duration 30s --rows 4\n  \
                  grey bench digits --rate 500 --json\n  grey bench encoder --shape ids=1x128 --shape mask=1x128\n  \
                  grey bench digits --input x.npy --requests 1000"
)]
pub(crate) struct BenchArgs {
    /// The model's name
    pub(crate) model: ModelId,
    /// The version [default: the latest]
    #[arg(long)]
    pub(crate) version: Option<Version>,
    /// Connections, each with one request at a time
    #[arg(long, short, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub(crate) concurrency: u32,
    /// How long to measure, e.g. 30s or 2m
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) duration: Duration,
    /// Measure this many requests instead
    #[arg(long, short = 'n', value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests: Option<u64>,
    /// Send this many requests a second, whether or not the last ones are answered [default: as many as go]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Load that is not measured before
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    pub(crate) warmup: Duration,
    /// Rows of each request
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with_all = ["input", "shape"], value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rows: u64,
    /// The whole shape of an input whose sizes the model leaves open (repeatable)
    #[arg(long, value_name = "NAME=SIZES", conflicts_with = "input", value_parser = ShapeArg::parse)]
    pub(crate) shape: Vec<ShapeArg>,
    /// Send this request instead of made-up numbers, as for `grey infer` (repeatable)
    #[arg(long, value_name = "[NAME=]FILE", value_parser = InputArg::parse)]
    pub(crate) input: Vec<InputArg>,
    #[command(flatten)]
    pub(crate) pictures: ImageArgs,
    /// What the made-up numbers are drawn from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Threads of the load itself
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
}

/// A time as people write it: `10s`, `500ms`, `2m`, or seconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("expected a time such as 10s, 500ms or 2m, found '{}'", text.escape_debug());
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1e3,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|d| *d <= Duration::from_secs(30 * 24 * 3600)).ok_or_else(wrong)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|r: &f64| (1e-3..=1e7).contains(r));
    rate.ok_or_else(|| "expected requests per second, a number above 0".to_owned())
}

/// Runs the load and prints its report.
pub(crate) fn run(client: &Client, args: &BenchArgs, json: bool) -> Result<(), Failure> {
    if args.duration.is_zero() {
        return Err(Failure::usage("--duration: expected a time above 0"));
    }
    let client = client.about(&args.model);
    let version = args.version.as_ref().map_or_else(String::new, |v| format!("/versions/{v}"));
    let model = format!("/v2/models/{}{version}", args.model);
    let signature = signature(&client, &model)?;
    let (bodies, rows) = bodies(args, &signature)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(args.threads))
        .enable_all()
        .build()
        .map_err(|e| Failure::unexpected(format!("cannot start the load's threads: {e}")))?;
    let plan = |connections: usize, bodies: &[Sent]| -> Result<Plan, Failure> {
        let (address, path) = place(client.url(), &format!("{model}/infer"))?;
        let timeout = client.timeout().unwrap_or(TIMEOUT_DEFAULT);
        Ok(Plan { address, path, bodies: bodies.to_vec(), connections, rate: args.rate, timeout })
    };
    let connections = args.concurrency as usize;
    // Where it cannot be raised, connections that fail say so.
    let _as_it_is = grey_engine::contain::raise_open_files();
    let (end, stop) = watch::channel(false);
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let _nobody_listens_anymore = end.send(true);
        }
        // The second one ends the process.
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(i32::from(crate::EXIT_UNEXPECTED));
        }
    });
    let failed = |e: String| Failure::unexpected(format!("the load broke off: {e}"));
    // One request by itself says what is wrong with all of them.
    let once = runtime.block_on(load::run(plan(1, &bodies)?, Until::Requests(1), stop.clone(), |_, _| {}));
    let once = once.map_err(failed)?;
    if let Some((kind, (_, what))) = once.failures.first_key_value() {
        return Err(first_failed(kind, what));
    }
    if !args.warmup.is_zero() {
        let warmup = Until::Elapsed(args.warmup);
        runtime.block_on(load::run(plan(connections, &bodies)?, warmup, stop.clone(), |_, _| {})).map_err(failed)?;
    }
    let until = args.requests.map_or(Until::Elapsed(args.duration), Until::Requests);
    let before = server::snapshot(&client, &model)?;
    let cpu_before = crate::clock::own_cpu();
    let is_shown = !json && std::io::stderr().is_terminal();
    let progress = |elapsed: Duration, tally: &Tally| {
        if is_shown && elapsed >= Duration::from_millis(500) {
            say(&format!("\r{}\x1b[K", under_way(elapsed, until, tally)));
        }
    };
    let tally = runtime.block_on(load::run(plan(connections, &bodies)?, until, stop, progress)).map_err(failed)?;
    if is_shown {
        say("\r\x1b[K");
    }
    let cpu = crate::clock::own_cpu().saturating_sub(cpu_before);
    let after = server::snapshot(&client, &model)?;
    let report = Report {
        model: args.model.to_string(),
        version: args.version.as_ref().map(ToString::to_string),
        url: client.url().to_owned(),
        connections: args.concurrency,
        rate: args.rate,
        rows,
        threads: args.threads,
        cpu,
        server: after.zip(before).map(|(after, before)| after.since(&before)),
        tally,
    };
    if json {
        print_json(&report.json())?
    } else {
        print(&report.told())?
    }
    if report.tally.latency_us.is_empty() {
        return Err(Failure::refused("no request was answered").hint("the report says why, and how often"));
    }
    Ok(())
}

fn first_failed(kind: &str, what: &str) -> Failure {
    match kind.strip_prefix("status ") {
        Some("400") => Failure::refused(format!("the model refused the first request: {what}"))
            .hint("send real inputs with --input FILE, or other shapes with --shape NAME=SIZES"),
        Some(status) => Failure::refused(format!("the first request was refused with {status}: {what}")),
        None => Failure::unexpected(format!("the first request was not answered ({kind}): {what}")),
    }
}

fn under_way(elapsed: Duration, until: Until, tally: &Tally) -> String {
    let done = tally.latency_us.len();
    let of = match until {
        Until::Elapsed(all) => format!("{:.0} of {:.0} s", elapsed.as_secs_f64(), all.as_secs_f64()),
        Until::Requests(all) => format!("{done} of {all} requests"),
    };
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
    format!("{of}: {rate:.0} requests/s, {} failed", tally.failed())
}

/// The bodies that are sent in turn, and the rows of each.
fn bodies(args: &BenchArgs, signature: &[crate::infer::InputSpec]) -> Result<(Vec<Sent>, u64), Failure> {
    let answer = || vec![("binary_data_output", serde_json::Value::Bool(true))];
    // Rows are counted where the model takes any number of them.
    let rows_of = |tensors: &[grey_core::Tensor]| {
        let is_open = signature.iter().all(|i| i.shape.first() == Some(&-1));
        tensors.first().and_then(grey_core::Tensor::rows).filter(|_| is_open).unwrap_or(1)
    };
    if !args.input.is_empty() {
        let request = request(&args.input, &args.pictures, || Ok(signature.to_vec()))?;
        let rows = rows_of(&request.inputs()?);
        let body = request.body(answer())?;
        return Ok((vec![(body.bytes.into(), body.header_length)], rows));
    }
    if let Some(flag) = args.pictures.given() {
        return Err(Failure::usage(format!("{flag} is about pictures, and no --input is one")));
    }
    let mut draw = Draw(args.seed);
    let mut bodies = Vec::new();
    let (mut bytes, mut rows) = (0, 1);
    while bodies.len() < BODIES && (bodies.is_empty() || bytes < BODIES_BYTES_MAX) {
        let tensors = made_up::inputs(signature, args.rows, &args.shape, &mut draw)?;
        rows = rows_of(&tensors);
        let body = binary(&tensors, answer());
        bytes += body.bytes.len();
        bodies.push((Bytes::from(body.bytes), body.header_length));
    }
    Ok((bodies, rows))
}

/// Where a URL leads: `HOST:PORT`, and the path there.
fn place(url: &str, path: &str) -> Result<(String, hyper::http::uri::PathAndQuery), Failure> {
    let wrong = || {
        Failure::usage(format!("'{url}' is no address of a node")).hint("an address looks like http://127.0.0.1:8000")
    };
    let uri: Uri = format!("{url}{path}").parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong());
    }
    let host = uri.host().ok_or_else(wrong)?;
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    Ok((address, uri.path_and_query().cloned().ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_write_them() {
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(time("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "x", "-1s", "5d", "s", "1e300h", "nan"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(rate("0").is_err() && rate("inf").is_err() && rate("0.5").is_ok());
    }

    #[test]
    fn addresses_lead_somewhere() {
        let (address, path) = place("http://a.example:81/x", "/v2/models/m/infer").unwrap();
        assert_eq!((address.as_str(), path.as_str()), ("a.example:81", "/x/v2/models/m/infer"));
        assert_eq!(place("http://[::1]", "/v2").unwrap().0, "[::1]:80");
        assert!(place("https://a", "/v2").is_err() && place("nonsense", "/v2").is_err());
    }
}
