//! What this machine can do without a running node: engines, and data folders that no node uses.

use std::path::{Path, PathBuf};

use grey_core::ErrorKind;
use grey_engine::{Isolation, Launcher, contain::Limits, discover::DiscoverEnv};
use grey_registry::DataFolder;
use grey_server::{NodeConfig, config};
use grey_serving::{Engines, LOAD_TIMEOUT_DEFAULT, Offline};
use tokio::runtime::Runtime;

use crate::{HostContext, failure::Failure};

/// How a refusal of the library is told.
pub(crate) fn refused(e: grey_core::Error) -> Failure {
    match e.kind() {
        ErrorKind::Internal => Failure::unexpected(e.message()),
        _ => Failure::refused(e.message()),
    }
}

/// The threads of verbs that start engine hosts or open a registry.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::unexpected(format!("cannot start threads: {e}")))
}

/// The engines that a node with this configuration would have; outputs of one run take `outputs_bytes_max` at most.
pub(crate) fn engines(config: &NodeConfig, context: HostContext, outputs_bytes_max: u64) -> Engines {
    let env = DiscoverEnv::read(context.python_prefix.clone());
    engines_in(config, context, outputs_bytes_max, env)
}

/// The same, where runtimes are looked for in `env` alone.
pub(crate) fn engines_in(
    config: &NodeConfig,
    context: HostContext,
    outputs_bytes_max: u64,
    env: DiscoverEnv,
) -> Engines {
    let launcher = Launcher {
        command: context.host_command,
        isolation: match config.isolation {
            config::Isolation::Process => Isolation::Process,
            config::Isolation::Inline => Isolation::Inline,
        },
        limits: Limits { data_bytes: config.host_memory_bytes(), readable: Vec::new() },
        open: grey_engine::engines::open,
        load_timeout: LOAD_TIMEOUT_DEFAULT,
        // What a run gives must fit into what may be in flight.
        outputs_bytes_max: usize::try_from(outputs_bytes_max).unwrap_or(usize::MAX),
    };
    Engines::new(launcher, env, config.engines.onnxruntime.library.clone())
}

/// A data folder without a node.
pub(crate) struct Folder {
    pub(crate) runtime: Runtime,
    pub(crate) offline: Offline,
    // Goes last, if it goes.
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    /// Opens the folder; makes it only if `make` says so.
    pub(crate) fn open(path: &Path, make: bool, context: HostContext) -> Result<Folder, Failure> {
        if !make && !DataFolder::is_one(path) {
            return Err(Failure::refused(format!("{} is no data folder of a node", path.display()))
                .hint("register a model in a new one with: grey model add NAME FILE --data DIR"));
        }
        Self::open_in(path, context, None)
    }

    /// A folder that ends with this value.
    pub(crate) fn temporary(context: HostContext) -> Result<Folder, Failure> {
        let folder = tempfile::Builder::new().prefix("grey-").tempdir();
        let folder = folder.map_err(|e| Failure::refused(format!("cannot make a temporary folder: {e}")))?;
        let path = folder.path().to_owned();
        Self::open_in(&path, context, Some(folder))
    }

    fn open_in(path: &Path, context: HostContext, temporary: Option<tempfile::TempDir>) -> Result<Folder, Failure> {
        let data = DataFolder::open(path).map_err(|e| match DataFolder::holder(path) {
            None => refused(e),
            Some(holder) => {
                let failure = Failure::refused(format!("the data folder {} is in use by {holder}", path.display()));
                match holder.url {
                    Some(url) => failure.hint(format!("talk to that node: leave --data out, and say --url {url}")),
                    None => failure.hint("talk to that node: leave --data out, and name it with --url"),
                }
            }
        })?;
        let config = NodeConfig::default();
        let serving = config.to_serving();
        let engines = engines(&config, context, serving.inflight_bytes_max);
        let runtime = runtime()?;
        let offline = runtime.block_on(Offline::open(serving, data, engines)).map_err(refused)?;
        Ok(Folder { runtime, offline, _temporary: temporary })
    }

    /// Runs a call to its end.
    pub(crate) fn run<T>(&self, call: impl Future<Output = grey_core::Result<T>>) -> Result<T, Failure> {
        self.runtime.block_on(call).map_err(refused)
    }
}

/// Where models are looked for and registered.
pub(crate) enum Place {
    /// A running node.
    Node(crate::client::Client),
    /// A folder that no node uses.
    Folder(PathBuf, HostContext),
}
