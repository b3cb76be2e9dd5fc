//! The node's log, on standard error.

use grey_server::config::{LogFilter, LogFormat, NodeConfig};
use tracing_subscriber::{EnvFilter, Registry, fmt, prelude::*, reload};

use crate::{failure::Failure, style};

/// Changes what is logged.
#[derive(Clone)]
pub(crate) struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Logs what `filter` says from now on.
    pub(crate) fn set(&self, filter: &LogFilter) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter.as_str()).map_err(|e| e.to_string())?;
        self.0.reload(filter).map_err(|e| e.to_string())
    }
}

/// Starts logging.
pub(crate) fn start(config: &NodeConfig) -> Result<LogHandle, Failure> {
    let filter = EnvFilter::try_new(config.log.as_str()).map_err(|e| Failure::refused(format!("log: {e}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(style::is_on(&std::io::stderr()))).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    started.map_err(|e| Failure::unexpected(format!("cannot start logging: {e}")))?;
    Ok(LogHandle(handle))
}
