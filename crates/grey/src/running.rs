//! What a node runs with: settings, and what it decides on the machine.

use std::{net::IpAddr, path::PathBuf};

use grey_engine::{
    EngineKind,
    discover::{self, DiscoverEnv, Found, NotFound},
};
use grey_server::config::{Resolved, Setting, Source, quoted};
use grey_serving::{Machine, ServingConfig};
use serde_json::Value;

/// Settings, and what follows from them here.
pub(crate) struct Running<'a> {
    pub(crate) resolved: &'a Resolved,
    pub(crate) serving: &'a ServingConfig,
    pub(crate) data: Option<PathBuf>,
    pub(crate) onnxruntime: Result<Found, NotFound>,
}

impl Running<'_> {
    pub(crate) fn new<'a>(resolved: &'a Resolved, serving: &'a ServingConfig, env: &DiscoverEnv) -> Running<'a> {
        let library = resolved.config.engines.onnxruntime.library.as_deref();
        Running { resolved, serving, data: data(resolved), onnxruntime: discover::onnxruntime(library, env) }
    }

    /// The value of a setting, or what the node takes where nobody gave one: JSON, and in words.
    pub(crate) fn value(&self, setting: &Setting<'_>) -> (Value, String) {
        if !setting.value.is_null() {
            return (setting.value.clone(), quoted(&setting.value));
        }
        let path: Vec<&str> = setting.path.iter().map(String::as_str).collect();
        let found = match path.as_slice() {
            // A name is looked up by the node that listens there.
            ["allow_replay"] => {
                let host = self.resolved.config.http.host().trim_matches(['[', ']']).parse::<IpAddr>();
                host.ok().map(|ip| ip.is_loopback().into())
            }
            ["data"] => self.data.as_ref().map(|p| Value::from(p.display().to_string())),
            ["limits", "inflight_bytes_max"] => Some(self.serving.inflight_bytes_max.into()),
            ["limits", "host_memory_bytes_max"] => self.serving.machine.memory_bytes.map(Value::from),
            ["engines", "onnxruntime", "library"] => {
                self.onnxruntime.as_ref().ok().map(|f| Value::from(f.library.display().to_string()))
            }
            _ => None,
        };
        match found {
            Some(value) => {
                let words = quoted(&value);
                (value, words)
            }
            None => (Value::Null, setting.key.default_words.clone().unwrap_or_default().replace('`', "")),
        }
    }

    /// Tells the log, a line for each thing that a reader of it may wonder about.
    pub(crate) fn log(&self, strays: &[(String, String)]) {
        let Machine { cores, cores_by, memory_bytes, memory_by } = &self.serving.machine;
        let (memory, inflight) = (memory_bytes.map_or("unknown".into(), size), size(self.serving.inflight_bytes_max));
        tracing::info!("cores {cores} ({cores_by}), memory {memory} ({memory_by}), at most {inflight} in flight");
        match &self.onnxruntime {
            Ok(found) => {
                let version = found.version.as_deref().unwrap_or("of unknown version");
                tracing::info!(
                    "{} {version}: {} ({})",
                    EngineKind::OnnxRuntime,
                    found.library.display(),
                    found.source.name()
                );
            }
            Err(e) => tracing::warn!("{e}"),
        }
        for setting in self.resolved.settings().iter().filter(|s| *s.source != Source::Default) {
            tracing::info!("{}: {} ({})", setting.name(), quoted(&setting.value), setting.source);
        }
        for (stray, near) in strays {
            tracing::warn!("{stray} is no setting; did you mean {near}?");
        }
    }
}

/// The folder of the registry.
pub(crate) fn data(resolved: &Resolved) -> Option<PathBuf> {
    resolved.config.data.clone().or_else(default_data)
}

/// `$XDG_DATA_HOME/grey`, else `~/.local/share/grey` (XDG Base Directory Specification).
pub(crate) fn default_data() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share"))).map(|d| d.join("grey"))
}

/// Bytes for people, in binary units.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut n = bytes as f64;
    while n >= 1024.0 && unit + 1 < UNITS.len() {
        n /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes} {name}") } else { format!("{n:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(8 << 30), "8.0 GiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
