//! A running host, as the node holds it: load, run, unload, and what can go wrong.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use grey_core::Signature;
use tokio::{sync::watch, time::timeout};

use crate::{
    engine::{Determinism, EngineInfo, LoadOptions},
    link::{BatchInput, Broken, Link, RunOutputs},
    memory::SealedFile,
    protocol::{ArtifactPlace, FromHost, ModelHandle, ToHost},
    watch::{HostExit, Process, status},
    wire::Attachment,
};

/// Longest wait for a host to end by itself before it is killed.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// Why a host could not be started or a model not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    /// The process or its memory cannot be made.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The host said why it cannot open its runtime.
    #[error("{0}")]
    Refused(String),
    /// The host said why it cannot open the model.
    #[error("{0}")]
    BadModel(String),
    /// The host ended.
    #[error("the engine host ended: {0}")]
    Died(HostExit),
    /// The host did not answer in time and was killed.
    #[error("the engine host did not {what} within {limit:?} and was ended")]
    TooSlow {
        /// What it was to do.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The host broke the protocol and was killed.
    #[error("the engine host broke the protocol: {0}")]
    Protocol(String),
}

/// Why a run gave no outputs.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RunError {
    /// The model refused the inputs; the host lives.
    #[error("{0}")]
    Model(String),
    /// The host ended during the run.
    #[error("the engine host died: {0}")]
    HostDied(HostExit),
    /// The caller's patience ended before the run; the host goes on.
    #[error("the run was given up")]
    GivenUp,
    /// The run took too long, and the host was ended.
    #[error("the run took longer than {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
        /// How the host ended.
        exit: HostExit,
    },
}

/// A model's files on their way to a host.
#[derive(Debug)]
pub enum Artifact {
    /// One sealed file.
    File(SealedFile),
    /// A folder.
    Folder {
        /// Where it is.
        path: PathBuf,
        /// The file to open first.
        main: String,
    },
}

/// A model that a host has opened.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// Names it in runs.
    pub handle: ModelHandle,
    /// What it takes and gives.
    pub signature: Signature,
    /// What its operators say about repeating its bytes.
    pub determinism: Determinism,
    /// Memory that its host alone has written, bytes.
    pub memory_bytes: u64,
}

/// What a host said of itself.
#[derive(Clone, Debug)]
pub struct Hello {
    /// The runtime.
    pub engine: EngineInfo,
    /// Containment layer → `yes`, or why it does not hold.
    pub containment: BTreeMap<String, String>,
}

/// A running host. Cheap to clone; the process is killed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Host(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) hello: Hello,
    pub(crate) process: Option<Process>,
    pub(crate) exit: watch::Receiver<Option<HostExit>>,
    pub(crate) link: tokio::sync::Mutex<Link>,
    pub(crate) load_timeout: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(p) = &self.process {
            p.kill();
        }
    }
}

pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> HostError {
    move |e| HostError::System { what, source: Arc::new(e) }
}

/// What it means that the conversation broke off.
pub(crate) async fn lost(
    e: &io::Error,
    process: Option<&Process>,
    exit: &watch::Receiver<Option<HostExit>>,
) -> HostError {
    if e.kind() == io::ErrorKind::Other {
        // Not a broken pipe: the peer sent what is no message.
        if let Some(p) = process {
            p.kill();
        }
        return HostError::Protocol(e.to_string());
    }
    HostError::Died(status(process, exit).await)
}

impl Host {
    /// What it said of itself.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// Its process; `None` for `inline`.
    pub fn pid(&self) -> Option<u32> {
        self.0.process.as_ref().map(|p| p.pid)
    }

    /// Ends it now.
    pub fn kill(&self) {
        if let Some(p) = &self.0.process {
            p.kill();
        }
    }

    /// Waits for its end.
    pub async fn exited(&self) -> HostExit {
        let mut exit = self.0.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(known) => known.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| HostExit { status: "it cannot be watched".into(), stderr: String::new() })
    }

    /// Opens a model.
    pub async fn load(&self, artifact: Artifact, options: LoadOptions) -> Result<LoadedModel, HostError> {
        let mut link = self.0.link.lock().await;
        let handle = ModelHandle(u32::try_from(link.id()).unwrap_or(u32::MAX));
        let loading = async {
            let (place, attached) = match artifact {
                Artifact::File(f) => {
                    let copy = f.fd().try_clone_to_owned().map_err(|e| Broken::System(e.to_string()))?;
                    let place = ArtifactPlace::Attached { len: f.len(), name: f.name().to_owned() };
                    (place, vec![Attachment::Descriptor(copy)])
                }
                Artifact::Folder { path, main } => (ArtifactPlace::Folder { path, main }, Vec::new()),
            };
            link.settle().await?;
            link.loading = Some(handle);
            link.wire.send(ToHost::Load { model: handle, artifact: place, options }, attached).await?;
            let answer = link.wire.receive().await?;
            link.loading = None;
            match answer {
                FromHost::Ready { model, signature, determinism, memory_bytes } if model == handle => {
                    let signature: Signature = serde_json::from_str(&signature)
                        .map_err(|e| Broken::Lie(format!("its signature cannot be read: {e}")))?;
                    signature.check_limits().map_err(Broken::Model)?;
                    // Unlike names in a signature, these texts are the host's own, whatever the model.
                    determinism.check_limits().map_err(|e| Broken::Lie(format!("it told of determinism {e}")))?;
                    link.models.insert(handle, signature.outputs.iter().map(|o| o.datatype).collect());
                    Ok(LoadedModel { handle, signature, determinism, memory_bytes })
                }
                FromHost::LoadFailed { model, message } if model == handle => Err(Broken::Model(message)),
                _ => Err(Broken::Lie("it answered Load with something else".into())),
            }
        };
        match timeout(self.0.load_timeout, loading).await {
            Ok(Ok(m)) => Ok(m),
            Ok(Err(Broken::Model(m))) => Err(HostError::BadModel(m)),
            Ok(Err(Broken::Lie(m))) => {
                self.kill();
                Err(HostError::Protocol(m))
            }
            Ok(Err(Broken::System(m))) => Err(HostError::Protocol(m)),
            Ok(Err(Broken::Lost(e))) => Err(lost(&e, self.0.process.as_ref(), &self.0.exit).await),
            Err(_) => {
                self.kill();
                Err(HostError::TooSlow { what: "open the model", limit: self.0.load_timeout })
            }
        }
    }

    /// Runs one batch; `wanted` are positions of outputs, ascending. `limit` ends the host.
    /// A dropped future leaves the host usable: its answer is read and forgotten before the next run.
    pub async fn run(
        &self,
        model: ModelHandle,
        inputs: Vec<BatchInput>,
        wanted: Vec<usize>,
        limit: Option<Duration>,
    ) -> Result<RunOutputs, RunError> {
        self.run_within(model, inputs, wanted, limit, None).await
    }

    /// As [`Host::run`], but gives up after `patience`, counted from when the host is free for this
    /// run, with [`RunError::GivenUp`] and a host that goes on.
    pub async fn run_within(
        &self,
        model: ModelHandle,
        inputs: Vec<BatchInput>,
        wanted: Vec<usize>,
        limit: Option<Duration>,
        patience: Option<Duration>,
    ) -> Result<RunOutputs, RunError> {
        let mut link = self.0.link.lock().await;
        // A run that was given up has a limit of its own: it must not use up that of this one.
        let settled = match limit {
            None => link.settle().await,
            Some(limit) => timeout(limit, link.settle()).await.unwrap_or_else(|_| {
                Err(Broken::Lie(format!("a run that was given up did not end within another {limit:?}")))
            }),
        };
        let running = async {
            settled?;
            let run = link.run(model, &inputs, &wanted);
            match patience {
                None => run.await.map(Some),
                Some(p) => timeout(p, run).await.ok().transpose(),
            }
        };
        let result = match limit {
            None => running.await,
            Some(limit) => match timeout(limit, running).await {
                Ok(r) => r,
                Err(_) => {
                    let stopped = self.0.process.as_ref().is_some_and(Process::is_stopped);
                    self.kill();
                    let mut exit = status(self.0.process.as_ref(), &self.0.exit).await;
                    if stopped {
                        // Nobody's run hung: as if the signal had ended it.
                        exit.status = format!("it was stopped by a signal for longer than {limit:?} and was ended");
                        return Err(RunError::HostDied(exit));
                    }
                    return Err(RunError::Timeout { limit, exit });
                }
            },
        };
        match result {
            Ok(Some(out)) => Ok(out),
            Ok(None) => Err(RunError::GivenUp),
            Err(Broken::Model(m) | Broken::System(m)) => Err(RunError::Model(m)),
            Err(Broken::Lie(m)) => {
                self.kill();
                let mut exit = status(self.0.process.as_ref(), &self.0.exit).await;
                exit.status = format!("it broke the protocol and was ended: {m}");
                Err(RunError::HostDied(exit))
            }
            Err(Broken::Lost(e)) => {
                if e.kind() == io::ErrorKind::Other {
                    self.kill();
                }
                let mut exit = status(self.0.process.as_ref(), &self.0.exit).await;
                if e.kind() == io::ErrorKind::Other {
                    exit.status = format!("it broke the protocol and was ended: {e}");
                }
                Err(RunError::HostDied(exit))
            }
        }
    }

    /// Tells the host to end and waits until it has; kills it if it takes too long.
    pub async fn unload(&self) {
        {
            // A run in flight finishes first, unless it hangs.
            let Ok(mut link) = timeout(END_WAIT_MAX, self.0.link.lock()).await else {
                self.kill();
                self.exited().await;
                return;
            };
            // The host ends when its socket is closed; closing says all that Unload says.
            link.close();
        }
        if timeout(END_WAIT_MAX, self.exited()).await.is_err() {
            tracing::warn!(pid = self.pid(), "an engine host did not end by itself and is killed");
            self.kill();
            if self.0.process.is_some() {
                self.exited().await;
            }
        }
    }
}
