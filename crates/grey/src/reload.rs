//! SIGHUP: reads the file again, takes over what a running node can take, and tells what needs a restart.

use std::path::Path;

use grey_server::{
    Settings,
    config::{Change, Reload, Resolved, quoted, resolve},
};
use grey_serving::Node;
use serde_json::Value;

use crate::{log::LogHandle, settings::SettingArgs};

/// A running node that can be told other settings.
pub(crate) struct Reloader {
    /// What it runs with.
    pub(crate) running: Resolved,
    pub(crate) args: SettingArgs,
    pub(crate) node: Node,
    pub(crate) settings: Settings,
    pub(crate) log: LogHandle,
}

impl Reloader {
    /// Reads the file again. A mistake changes nothing.
    pub(crate) fn reload(&mut self) {
        if self.args.config.is_none() {
            tracing::warn!("SIGHUP: this node was started without a file (--config) that could be read again");
            return;
        }
        // A pipe, which a shell may have given at the start, has nothing more to say, and would be waited for.
        let is_file = |path: &Path| std::fs::metadata(path).map_or(true, |m| m.is_file() || m.is_dir());
        if let Some(path) = self.args.config.as_deref().filter(|path| !is_file(path)) {
            return tracing::error!("SIGHUP: nothing is changed: {} is no file that can be read again", path.display());
        }
        let layers = match self.args.read() {
            Ok(layers) => layers,
            Err(e) => return tracing::error!("SIGHUP: nothing is changed: {}", e.message),
        };
        let new = match resolve(&layers) {
            Ok(new) => new,
            Err(problems) => {
                for problem in problems.iter() {
                    let hint = problem.hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default();
                    tracing::error!("SIGHUP: nothing is changed: {problem}{hint}");
                }
                return;
            }
        };
        let changes = self.running.take_over(new);
        let config = &self.running.config;
        self.settings.apply(config);
        self.node.reconfigure(config.to_serving());
        if let Err(e) = self.log.set(&config.log) {
            tracing::error!("SIGHUP: the log's filter stays: {e}");
        }
        for change in &changes {
            tell(change);
        }
        let waiting = changes.iter().filter(|c| c.reload == Reload::Restart).count();
        let taken = changes.len() - waiting;
        tracing::info!("SIGHUP: configuration read again; settings changed: {taken}, waiting for a restart: {waiting}");
    }
}

fn tell(change: &Change) {
    let words = |value: &Value| if value.is_null() { "unset".to_owned() } else { quoted(value) };
    let (name, before, after) = (change.name(), words(&change.before), words(&change.after));
    match change.reload {
        Reload::Now => tracing::info!("SIGHUP: {name}: {after}, was {before}"),
        Reload::Load => {
            let how = match change.path.as_slice() {
                [models, id, ..] if models == "models" => {
                    format!("to load '{id}' again: grey model unload {id} && grey model load {id}")
                }
                _ => "to load one again: grey model unload MODEL && grey model load MODEL".to_owned(),
            };
            tracing::info!("SIGHUP: {name}: {after}, was {before}, for models from their next load on; {how}");
        }
        Reload::Restart => tracing::warn!("SIGHUP: {name}: stays {before}, {after} needs a restart"),
    }
}
