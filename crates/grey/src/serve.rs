//! `grey serve`: a node's configuration from flags and a file; runs the node until it is told to end.

use std::path::PathBuf;

use grey_server::{NodeConfig, Server, config};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::{
    HostContext,
    args::{IsolationArg, LogFormat, ServeArgs},
    failure::Failure,
    open_node, style,
    verbs::print,
};

/// Runs a node until SIGTERM or SIGINT has drained it.
pub(crate) fn run(args: ServeArgs, json: bool, context: HostContext) -> Result<(), Failure> {
    start_logging(&args)?;
    let (config, data) = configure(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::unexpected(format!("cannot start the node's threads: {e}")))?;
    runtime.block_on(serve(config, data, json, context))
}

fn refused(e: grey_core::Error) -> Failure {
    Failure::refused(e.message())
}

fn configure(args: &ServeArgs) -> Result<(NodeConfig, PathBuf), Failure> {
    let mut config = match &args.config {
        None => NodeConfig::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Failure::refused(format!("cannot read {}: {e}", path.display())))?;
            NodeConfig::from_yaml(&text)
                .map_err(|e| Failure::refused(format!("{}: {}", path.display(), e.message())))?
        }
    };
    if let Some(http) = &args.http {
        config.http.clone_from(http);
    }
    config.insecure |= args.insecure;
    config.allow_upload |= args.allow_upload;
    if args.allow_replay {
        config.allow_replay = Some(true);
    }
    if args.onnxruntime_lib.is_some() {
        config.engines.onnxruntime.library = args.onnxruntime_lib.clone();
    }
    match args.isolation {
        Some(IsolationArg::Process) => config.isolation = config::Isolation::Process,
        Some(IsolationArg::Inline) => config.isolation = config::Isolation::Inline,
        None => {}
    }
    let data = args.data.clone().or_else(|| config.data.clone()).or_else(default_data).ok_or_else(|| {
        Failure::refused("there is no home directory to keep data in").hint("name a folder with --data DIR")
    })?;
    Ok((config, data))
}

/// `$XDG_DATA_HOME/grey`, else `~/.local/share/grey` (XDG Base Directory Specification).
pub(crate) fn default_data() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share"))).map(|d| d.join("grey"))
}

fn start_logging(args: &ServeArgs) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&args.log).map_err(|e| {
        Failure::usage(format!("--log '{}': {e}", args.log)).hint("try --log info, or --log grey=debug")
    })?;
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match args.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(style::is_on(&std::io::stderr()))).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    started.map_err(|e| Failure::unexpected(format!("cannot start logging: {e}")))
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

async fn serve(mut config: NodeConfig, data: PathBuf, json: bool, context: HostContext) -> Result<(), Failure> {
    match grey_engine::contain::raise_open_files() {
        Ok(files) => config.limits.connections_max = connections(config.limits.connections_max, files),
        Err(e) => tracing::warn!("the limit of open files cannot be raised: {e}"),
    }
    if let Err(e) = grey_engine::contain::protect_memory() {
        tracing::warn!("other processes of this user can read the node's memory: {e}");
    }
    let unexpected = |e: std::io::Error| Failure::unexpected(format!("cannot listen for signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unexpected)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected)?;
    let node = open_node(&config, &data, context).await.map_err(refused)?;
    let server = Server::bind(&config, node.clone()).await.map_err(refused)?;

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
