//! `grey serve`: puts a node together from flags and a file, and runs it until it is told to end.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use grey_engine::{HostCommand, Isolation, Launcher, contain::Limits, discover::DiscoverEnv};
use grey_registry::DataFolder;
use grey_server::{
    Server,
    config::{self, Resolved, Whole},
};
use grey_serving::{Engines, LOAD_TIMEOUT_DEFAULT, Node, ServingConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    HostContext,
    args::ServeArgs,
    failure::Failure,
    log::{self, LogHandle},
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
    let env = DiscoverEnv::read(context.python_prefix);
    Running::new(&resolved, &serving, &env).log(&strays);
    // Not what tokio would take by itself, which counts only some of the limits.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(serving.machine.cores as usize)
        .enable_all()
        .build()
        .map_err(|e| Failure::unexpected(format!("cannot start the node's threads: {e}")))?;
    let starting = Starting { resolved, args, log, serving, data, env, host_command: context.host_command };
    runtime.block_on(serve(starting, json))
}

/// All that a node is put together from.
struct Starting {
    resolved: Resolved,
    args: SettingArgs,
    log: LogHandle,
    serving: ServingConfig,
    data: PathBuf,
    env: DiscoverEnv,
    host_command: HostCommand,
}

fn refused(e: grey_core::Error) -> Failure {
    Failure::refused(e.message())
}

/// Bytes of the key of the tenants' tags.
const TENANT_TAG_KEY_BYTES: usize = 32;

fn tenant_tag_key(path: &Path) -> Result<[u8; TENANT_TAG_KEY_BYTES], Failure> {
    let at = |e: std::io::Error| Failure::refused(format!("cannot read {} (tenant_tag_key_file): {e}", path.display()));
    // One byte more, to see that there is one.
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(TENANT_TAG_KEY_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(at)?;
    bytes.try_into().map_err(|b: Vec<u8>| {
        let found = if b.len() > TENANT_TAG_KEY_BYTES { "more".to_owned() } else { b.len().to_string() };
        Failure::refused(format!(
            "{} (tenant_tag_key_file): expected exactly {TENANT_TAG_KEY_BYTES} bytes, found {found}",
            path.display()
        ))
        .hint(format!("make one with: head -c {TENANT_TAG_KEY_BYTES} /dev/urandom > FILE"))
    })
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
    let Starting { resolved, args, log, mut serving, data, env, host_command } = starting;
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
    serving.tenant_tag_key = config.tenant_tag_key_file.as_deref().map(tenant_tag_key).transpose()?;
    let folder = DataFolder::open(&data).map_err(refused)?;
    let host_memory = config.limits.host_memory_bytes_max.map(Whole::get).or(serving.machine.memory_bytes);
    let launcher = Launcher {
        command: host_command,
        isolation: match config.isolation {
            config::Isolation::Process => Isolation::Process,
            config::Isolation::Inline => Isolation::Inline,
        },
        limits: Limits { data_bytes: host_memory, readable: Vec::new() },
        open: grey_engine::engines::open,
        load_timeout: LOAD_TIMEOUT_DEFAULT,
        // What a run gives must fit into what may be in flight.
        outputs_bytes_max: usize::try_from(serving.inflight_bytes_max).unwrap_or(usize::MAX),
    };
    let engines = Engines::new(launcher, env, config.engines.onnxruntime.library.clone());
    let unexpected = |e: std::io::Error| Failure::unexpected(format!("cannot listen for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unexpected)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(unexpected)?;
    let node = Node::start(serving, folder, engines).await.map_err(refused)?;
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
