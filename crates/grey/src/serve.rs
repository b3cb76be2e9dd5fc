//! `grey serve`: a node's configuration from flags and a file; runs the node until it is told to end.

use std::{path::PathBuf, time::Duration};

use grey_engine::discover::DiscoverEnv;
use grey_server::{
    Server,
    config::{Resolved, Whole},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    HostContext,
    args::ServeArgs,
    failure::Failure,
    log::{self, LogHandle},
    open_node,
    reload::Reloader,
    running::{self, Running},
    settings::{SettingArgs, settle},
    verbs::print,
};

/// Runs a node until SIGTERM or SIGINT has drained it.
pub(crate) fn run(args: ServeArgs, json: bool, context: HostContext) -> Result<(), Failure> {
    let args = args.settings;
    let (resolved, strays) = settle(&args.read()?)?;
    let log = log::start(&resolved.config)?;
    let data = running::data(&resolved).ok_or_else(|| {
        Failure::refused("there is no home directory to keep data in").hint("name a folder with --data DIR")
    })?;
    let serving = resolved.config.to_serving();
    let env = DiscoverEnv::read(context.python_prefix.clone());
    Running::new(&resolved, &serving, &env).log(&strays);
    // Not what tokio would take by itself, which counts only some of the limits.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(serving.machine.cores as usize)
        .enable_all()
        .build()
        .map_err(|e| Failure::unexpected(format!("cannot start the node's threads: {e}")))?;
    let starting = Starting { resolved, args, log, data, context };
    let ended = runtime.block_on(serve(starting, json));
    // A thread may hang in a file system for good.
    runtime.shutdown_timeout(THREADS_END_MAX);
    ended
}

/// How long threads that still do something may keep a node that has ended.
const THREADS_END_MAX: Duration = Duration::from_secs(2);

/// All that a node is put together from.
struct Starting {
    resolved: Resolved,
    args: SettingArgs,
    log: LogHandle,
    data: PathBuf,
    context: HostContext,
}

fn refused(e: grey_core::Error) -> Failure {
    Failure::refused(e.message())
}

/// Descriptors that connections leave to hosts, models and the registry.
const RESERVED_FILES: u64 = 512;

/// Most connections under a limit of `files` descriptors.
fn connections(configured: u32, files: u64) -> u32 {
    let room = u32::try_from(files.saturating_sub(RESERVED_FILES).max(1)).unwrap_or(u32::MAX);
    if room < configured {
        tracing::warn!(
            "at most {room} connections, not {configured} (limits.connections_max): this process may open {files} files"
        );
    }
    configured.min(room)
}

async fn serve(starting: Starting, json: bool) -> Result<(), Failure> {
    let Starting { resolved, args, log, data, context } = starting;
    let mut config = resolved.config.clone();
    match grey_engine::contain::raise_open_files() {
        Ok(files) => {
            let most = connections(config.limits.connections_max.get_u32(), files);
            config.limits.connections_max = Whole::clamped(most.into());
        }
        Err(e) => tracing::warn!("the limit of open files cannot be raised: {e}"),
    }
    if let Err(e) = grey_engine::contain::protect_memory() {
        tracing::warn!("other processes of this user can read the node's memory: {e}");
    }
    let unexpected = |e: std::io::Error| Failure::unexpected(format!("cannot listen for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unexpected)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(unexpected)?;
    let node = open_node(&config, &data, context).await.map_err(refused)?;
    let server = Server::bind(&config, node.clone()).await.map_err(refused)?;
    let mut reloader = Reloader { running: resolved, args, node: node.clone(), settings: server.settings(), log };
    tokio::spawn(async move {
        // Ends with the runtime.
        while hangup.recv().await.is_some() {
            // Not on one of the node's threads, which a file system that hangs would hold.
            let reloaded = tokio::task::spawn_blocking(move || {
                reloader.reload();
                reloader
            });
            match reloaded.await {
                Ok(r) => reloader = r,
                Err(e) => return tracing::error!("SIGHUP is not heard any more: {e}"),
            }
        }
    });

    let url = format!("http://{}", server.local_addr());
    // Only a convenience for those who find the folder in use.
    if let Err(e) = node.announce(&url) {
        tracing::warn!("{e}");
    }
    let folder = node.data_dir().display().to_string();
    if json {
        let line = serde_json::json!({"event": "ready", "url": url, "pid": std::process::id(), "data": folder});
        print(&format!("{line}\n"))?;
    } else {
        print(&format!("grey {} listening on {url} (data {folder})\n", env!("CARGO_PKG_VERSION")))?;
    }
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("interrupted: draining; once more ends at once"),
        }
        // The second signal ends the process at once; hosts follow their node.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(i32::from(crate::EXIT_UNEXPECTED));
        });
    };
    server.run(shutdown).await.map_err(refused)?;
    tracing::info!("ended");
    Ok(())
}
