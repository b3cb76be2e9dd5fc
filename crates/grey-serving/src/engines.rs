//! Which engines this node can start, and how.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use grey_core::{Error, ErrorKind, Result};
use grey_engine::{
    EngineKind, Host, HostError, Launcher,
    discover::{self, DiscoverEnv, Found, NotFound},
};
use tokio::sync::Mutex;

use crate::{api::EngineReport, clock};

/// When a start that failed for want of the node's own resources is tried again.
const RETRY_AFTER_WANT: Duration = Duration::from_secs(1);
/// For how long a report is given again: each starts a host per engine, and anybody may ask.
const REPORT_KEPT: Duration = Duration::from_secs(2);

/// Of several files that an engine opens, the one of this name is meant (as in Triton's repositories).
const MAIN_FILE: &str = "model.onnx";
/// Names that an error lists.
const NAMES_SHOWN_MAX: usize = 5;

/// Of the names of a version's files the one that an engine opens; the others are what it refers to.
///
/// # Errors
/// None of them, or several of which none is `model.onnx`.
pub fn main_file<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<&'a str> {
    let all: Vec<&str> = names.into_iter().collect();
    // One alone may be told why it is none.
    if let [one] = all[..] {
        return Engines::for_file(one).map(|_| one);
    }
    let opened: Vec<&str> = all.iter().copied().filter(|n| Engines::for_file(n).is_ok()).collect();
    match opened[..] {
        [one] => Ok(one),
        [] => Err(Error::invalid(format!(
            "none of the {} files is one that an engine opens: expected one that ends with .onnx",
            all.len()
        ))),
        _ if opened.contains(&MAIN_FILE) => Ok(MAIN_FILE),
        _ => {
            let shown: Vec<String> =
                opened.iter().take(NAMES_SHOWN_MAX).map(|n| n.escape_debug().to_string()).collect();
            let more = if opened.len() > NAMES_SHOWN_MAX { ", …" } else { "" };
            Err(Error::invalid(format!(
                "{} files are models ({}{more}): expected one, or one that is named {MAIN_FILE}",
                opened.len(),
                shown.join(", ")
            )))
        }
    }
}

/// The engines of a node.
pub struct Engines {
    launcher: Launcher,
    env: DiscoverEnv,
    onnxruntime_lib: Option<PathBuf>,
    /// The last report, and when it was made. Locked while one is made: who asks meanwhile gets it.
    reported: Mutex<Option<(Instant, Vec<EngineReport>)>>,
}

impl Engines {
    /// `onnxruntime_lib` is the operator's choice of library, tried before all others.
    pub fn new(launcher: Launcher, env: DiscoverEnv, onnxruntime_lib: Option<PathBuf>) -> Self {
        Engines { launcher, env, onnxruntime_lib, reported: Mutex::default() }
    }

    /// The engine that opens a file of this name.
    pub(crate) fn for_file(name: &str) -> Result<EngineKind> {
        if name.to_ascii_lowercase().ends_with(".onnx") {
            return Ok(EngineKind::OnnxRuntime);
        }
        Err(Error::invalid(format!(
            "cannot tell the engine of '{}' by its name: expected a file that ends with .onnx",
            name.escape_debug()
        )))
    }

    /// The engine of a manifest.
    pub(crate) fn by_name(name: &str) -> Result<EngineKind> {
        EngineKind::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| {
            Error::new(ErrorKind::LoadFailed, format!("this build of Grey has no engine '{}'", name.escape_debug()))
        })
    }

    fn find(&self, kind: EngineKind) -> std::result::Result<Found, NotFound> {
        match kind {
            EngineKind::OnnxRuntime => discover::onnxruntime(self.onnxruntime_lib.as_deref(), &self.env),
        }
    }

    /// Starts a host for `kind` that may read `folder` beside the runtime, and opens the runtime in it.
    pub(crate) async fn launch(&self, kind: EngineKind, folder: Option<PathBuf>) -> Result<Host> {
        let found = self.find(kind).map_err(|e| Error::new(ErrorKind::LoadFailed, e.to_string()))?;
        let mut launcher = self.launcher.clone();
        launcher.limits.readable.extend(folder);
        launcher.launch(kind, &found.library).await.map_err(|e| {
            let m = format!("cannot start a host for {kind}: {e}");
            match e {
                // The node's own want of descriptors, processes or memory; it passes.
                HostError::System { .. } => Error::new(ErrorKind::Unavailable, m).with_retry_after(RETRY_AFTER_WANT),
                _ => Error::new(ErrorKind::LoadFailed, m),
            }
        })
    }

    /// What `engine list` tells.
    pub async fn report(&self) -> Vec<EngineReport> {
        let mut last = self.reported.lock().await;
        if let Some((at, report)) = &*last
            && clock::now().saturating_duration_since(*at) < REPORT_KEPT
        {
            return report.clone();
        }
        let report = self.report_now().await;
        *last = Some((clock::now(), report.clone()));
        report
    }

    async fn report_now(&self) -> Vec<EngineReport> {
        let mut all = Vec::new();
        for kind in EngineKind::ALL {
            let mut report = EngineReport {
                engine: kind.name().to_owned(),
                usable: false,
                version: None,
                library: None,
                source: None,
                devices: Vec::new(),
                containment: BTreeMap::new(),
                isolation: self.launcher.isolation.name().to_owned(),
                problem: None,
                install: None,
                searched: Vec::new(),
            };
            match self.find(kind) {
                Err(e) => {
                    report.problem = Some(e.to_string());
                    report.searched = e.searched.iter().map(|p| p.display().to_string()).collect();
                    report.install = Some(e.install);
                }
                Ok(found) => {
                    report.library = Some(found.library.display().to_string());
                    report.source = Some(found.source.name().to_owned());
                    report.version = found.version;
                    match self.launcher.launch(kind, &found.library).await {
                        Ok(host) => {
                            let hello = host.hello();
                            report.usable = true;
                            report.version = Some(hello.engine.version.clone());
                            report.devices = hello.engine.devices.clone();
                            report.containment = hello.containment.clone();
                            host.unload().await;
                        }
                        Err(e) => {
                            report.problem = Some(e.to_string());
                            report.install = Some(discover::install_command(kind, &self.env));
                        }
                    }
                }
            }
            all.push(report);
        }
        all.extend(self.without_adapter());
        all
    }

    /// What `grey engine install` has brought for which this version has no engine.
    fn without_adapter(&self) -> Vec<EngineReport> {
        let Some(venv) = &self.env.managed else { return Vec::new() };
        let there = discover::PACKAGES.iter().filter(|p| p.kind.is_none());
        let there = there.filter_map(|p| Some((p, discover::installed(venv, p.package)?)));
        let report = |(p, version): (&discover::Package, String)| EngineReport {
            engine: p.engine.to_owned(),
            usable: false,
            version: Some(version),
            library: None,
            source: Some(discover::Source::Managed.name().to_owned()),
            devices: Vec::new(),
            containment: BTreeMap::new(),
            isolation: self.launcher.isolation.name().to_owned(),
            problem: Some(format!("installed, but this version of Grey has no adapter for {} yet", p.engine)),
            install: None,
            searched: Vec::new(),
        };
        there.map(report).collect()
    }
}
