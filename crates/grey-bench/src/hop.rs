//! What a run in an engine host takes, seen from the node: in a process, and in a thread of its own.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use grey_core::{DType, Payload};
use grey_engine::{
    Artifact, BatchInput, EngineKind, Host, HostCommand, Isolation, Launcher, LoadOptions, ModelHandle, SealedFile,
    contain::Limits, engines,
};
use serde_json::{Value, json};

use crate::{HopArgs, StageArgs, clock::now};

/// Floats of one row: 4 KiB, and 6 MiB.
const ROW_FLOATS: [u64; 2] = [1 << 10, 3 << 19];
/// Runs that are measured, of each kind by turns; as many before warm up.
const RUNS: usize = 400;

fn wrong(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(e.to_string())
}

struct Measured {
    host: Host,
    model: ModelHandle,
}

async fn start(isolation: Isolation, library: &Path, model: &Path) -> io::Result<Measured> {
    let launcher = Launcher {
        command: HostCommand { program: std::env::current_exe()?, args: vec!["engine-host".into()] },
        isolation,
        limits: Limits::default(),
        open: engines::open,
        load_timeout: Duration::from_secs(30),
        outputs_bytes_max: 64 << 20,
    };
    let host = launcher.launch(EngineKind::OnnxRuntime, library).await.map_err(wrong)?;
    let mut file = SealedFile::writer("identity.onnx")?;
    file.write_all(&std::fs::read(model)?)?;
    let loaded = host.load(Artifact::File(file.seal()?), LoadOptions::default()).await.map_err(wrong)?;
    Ok(Measured { host, model: loaded.handle })
}

impl Measured {
    /// Time of one run.
    async fn run(&self, row: &Bytes) -> io::Result<Duration> {
        let input = BatchInput {
            index: 0,
            dtype: DType::Fp32,
            shape: vec![1, row.len() as u64 / 4],
            parts: vec![Payload::from(row.clone())],
        };
        let begin = now();
        self.host.run(self.model, vec![input], vec![0], None).await.map_err(wrong)?;
        Ok(begin.elapsed())
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |t| t.as_nanos() as f64 / 1e3)
}

/// Medians of an in and an out copy of so many bytes.
fn copies(row: &Bytes) -> f64 {
    let mut to = vec![0u8; row.len()];
    let one = |to: &mut Vec<u8>| {
        let begin = now();
        to.copy_from_slice(row);
        std::hint::black_box(&to);
        begin.elapsed()
    };
    let times = (0..RUNS).map(|_| one(&mut to) + one(&mut to)).collect();
    median(times)
}

/// Measures; microseconds, medians.
pub(crate) fn run(args: &HopArgs) -> io::Result<Value> {
    // As on a node, where the thread that waits for the answer is the one that watches sockets.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (process, thread) = (
            start(Isolation::Process, &args.library, &args.model).await?,
            start(Isolation::Inline, &args.library, &args.model).await?,
        );
        let mut sizes = Vec::new();
        for floats in ROW_FLOATS {
            let row = Bytes::from(vec![0u8; floats as usize * 4]);
            let mut times: [Vec<Duration>; 2] = Default::default();
            for i in 0..2 * RUNS {
                for (times, host) in times.iter_mut().zip([&process, &thread]) {
                    let took = host.run(&row).await?;
                    if i >= RUNS {
                        times.push(took);
                    }
                }
            }
            let [process_us, thread_us] = times.map(median);
            sizes.push(json!({
                "bytes": row.len(),
                "process_us": process_us,
                "thread_us": thread_us,
                "copies_us": copies(&row),
            }));
        }
        Ok(Value::Array(sizes))
    })
}

/// So many runs of the smaller size in a host that is a thread: valgrind knows no pidfd.
pub(crate) fn round_trips(args: &StageArgs, times: u64) -> io::Result<()> {
    let of = |path: &Option<PathBuf>, flag: &str| path.clone().ok_or_else(|| wrong(format!("{flag} is needed")));
    let (library, model) = (of(&args.library, "--library")?, of(&args.model, "--model")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let host = start(Isolation::Inline, &library, &model).await?;
        let row = Bytes::from(vec![0u8; ROW_FLOATS[0] as usize * 4]);
        for _ in 0..times {
            host.run(&row).await?;
        }
        Ok(())
    })
}

/// Becomes the host.
pub(crate) fn host() -> std::process::ExitCode {
    std::process::ExitCode::from(grey_engine::host_main(engines::open))
}
