//! The node's side: starts hosts, watches them, and runs batches in them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::OsString,
    fmt, io,
    os::{fd::OwnedFd, unix::net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use grey_core::{DType, Payload, Signature};
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, pidfd_open, pidfd_send_signal, waitid};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, unix::AsyncFd},
    net::UnixStream,
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    clock,
    contain::Limits,
    engine::{EngineInfo, EngineKind, LoadOptions},
    host::{OpenEngine, host_loop},
    memory::{SEGMENT_BYTES_MAX, SealedFile, Segment, align_up, segment_size},
    protocol::{ArtifactPlace, FailKind, FromHost, ModelHandle, TensorPlace, ToHost},
    wire::{Attachment, HostEnd, NodeEnd},
};

/// Longest wait for a host's greeting: a runtime on a cold disk takes seconds.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a host to end by itself before it is killed.
const END_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the exit status of a host that closed its socket.
const STATUS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Lines of a host's standard error kept for messages.
const STDERR_LINES_MAX: usize = 20;
/// Longest line of a host's standard error that is kept, in bytes.
const STDERR_LINE_BYTES_MAX: usize = 2000;
/// Answers to runs that nobody waits for any more, read before the next run at most.
const STALE_ANSWERS_MAX: usize = 64;
/// How often one run may ask for more memory: an honest host asks at most once for each output, and
/// only in the run after which the node knows how much its outputs need.
const SEGMENTS_PER_RUN_MAX: usize = 32;

/// Where hosts live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// A process each.
    Process,
    /// Threads of the node: no protection, for enclaves and where the user forbids processes.
    Inline,
}

impl Isolation {
    /// Stable word.
    pub const fn name(self) -> &'static str {
        match self {
            Isolation::Process => "process",
            Isolation::Inline => "inline",
        }
    }
}

/// The command that becomes a host: it must end in [`crate::host_main`].
#[derive(Clone, Debug)]
pub struct HostCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Starts hosts.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// What becomes a host.
    pub command: HostCommand,
    /// Where hosts live.
    pub isolation: Isolation,
    /// What hosts may use and read.
    pub limits: Limits,
    /// Opens the runtime of `inline` hosts.
    pub open: OpenEngine,
    /// Longest time for opening a model, and for a new host's greeting.
    pub load_timeout: Duration,
}

/// How a host ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostExit {
    /// E.g. `killed by signal 9 (SIGKILL)`.
    pub status: String,
    /// The last lines of its standard error.
    pub stderr: String,
}

impl fmt::Display for HostExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.status)?;
        if !self.stderr.is_empty() {
            write!(f, "; its last words: {}", self.stderr)?;
        }
        Ok(())
    }
}

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
    /// Private memory of its host, bytes.
    pub memory_bytes: u64,
}

/// One input of a batch.
#[derive(Clone, Debug)]
pub struct BatchInput {
    /// Position in the signature.
    pub index: usize,
    /// Element type.
    pub dtype: DType,
    /// Dimensions of the whole batch, padding included.
    pub shape: Vec<u64>,
    /// The rows, in order. Rows that are missing at the end are zeros (empty strings for `BYTES`).
    pub parts: Vec<Payload>,
}

/// One output of a run: the node's own bytes.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// Position in the signature.
    pub index: usize,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Elements; exactly as many bytes as dtype and shape say, except for `BYTES`.
    pub data: Bytes,
}

/// What a run gave, and how long its parts took.
#[derive(Clone, Debug)]
pub struct RunOutputs {
    /// The outputs wanted, by position.
    pub outputs: Vec<RunOutput>,
    /// Copying rows into shared memory.
    pub copy_in: Duration,
    /// From sending the run to its answer.
    pub execute: Duration,
    /// Copying outputs out.
    pub copy_out: Duration,
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
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hello: Hello,
    process: Option<Process>,
    exit: watch::Receiver<Option<HostExit>>,
    link: tokio::sync::Mutex<Link>,
    load_timeout: Duration,
}

#[derive(Clone, Debug)]
struct Process {
    pid: u32,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    fn kill(&self) {
        match pidfd_send_signal(&*self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => tracing::error!(pid = self.pid, "an engine host could not be killed: {e}"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(p) = &self.process {
            p.kill();
        }
    }
}

/// The conversation with a host; one run at a time.
#[derive(Debug)]
struct Link {
    wire: NodeEnd,
    shared: bool,
    next_id: u64,
    /// Declared types of the outputs of the models that are open.
    models: HashMap<ModelHandle, Vec<DType>>,
    /// A load whose answer nobody read.
    loading: Option<ModelHandle>,
    /// A run whose answer nobody read.
    unread: Option<u64>,
    input: Option<(u64, Arc<Segment>)>,
    output: Option<(u64, Arc<Segment>)>,
    /// Bytes that the outputs of the last run took: the next one gets as much at once.
    output_need: usize,
}

fn system(what: &'static str) -> impl Fn(io::Error) -> HostError {
    move |e| HostError::System { what, source: Arc::new(e) }
}

impl Launcher {
    /// Starts a host, opens `library` in it and waits for its greeting.
    pub async fn launch(&self, engine: EngineKind, library: &Path) -> Result<Host, HostError> {
        let (exit_tx, exit) = watch::channel(None);
        let (wire, process, attached) = match self.isolation {
            Isolation::Process => {
                let (wire, process) = self.spawn(exit_tx)?;
                let node =
                    pidfd_open(getpid(), PidfdFlags::empty()).map_err(|e| system("open the node's pidfd")(e.into()))?;
                (wire, Some(process), vec![Attachment::Descriptor(node)])
            }
            Isolation::Inline => (self.thread(exit_tx)?, None, Vec::new()),
        };
        let link = Link {
            wire,
            shared: process.is_some(),
            next_id: 1,
            models: HashMap::new(),
            loading: None,
            unread: None,
            input: None,
            output: None,
            output_need: 1,
        };
        // The process dies with this guard if anything below fails.
        let starting = Starting { process, exit, link };
        let init = ToHost::Init { engine, library: library.to_owned(), limits: self.limits.clone() };
        let host = starting.greet(init, attached, self.load_timeout);
        let limit = HELLO_WAIT_MAX.min(self.load_timeout);
        match timeout(limit, host).await {
            Ok(r) => r,
            Err(_) => Err(HostError::TooSlow { what: "greet its node", limit }),
        }
    }

    fn spawn(&self, exit: watch::Sender<Option<HostExit>>) -> Result<(NodeEnd, Process), HostError> {
        let (ours, theirs) = BlockingStream::pair().map_err(system("make a socket pair"))?;
        ours.set_nonblocking(true).map_err(system("make a socket pair"))?;
        let mut child = Command::new(&self.command.program)
            .args(&self.command.args)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(system("start an engine host"))?;
        let pid = child.id();
        let stderr = child.stderr.take();
        let pidfd = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the new process has no pid"))
            .and_then(|p| Ok(pidfd_open(p, PidfdFlags::NONBLOCK)?))
            .map_err(system("open the host's pidfd"));
        let pidfd = match pidfd {
            Ok(fd) => Arc::new(fd),
            Err(e) => {
                // Without a pidfd the child can be neither watched nor ended safely later.
                let _already_failing = child.kill().and_then(|()| child.wait());
                return Err(e);
            }
        };
        let process = Process { pid, pidfd: pidfd.clone() };
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let reader = stderr.map(|s| tokio::spawn(keep_lines(pid, s, lines.clone())));
        tokio::spawn(watch_exit(pid, pidfd, lines, reader, exit));
        let stream = UnixStream::from_std(ours).map_err(|e| {
            process.kill();
            system("watch the host's socket")(e)
        })?;
        Ok((NodeEnd::process(stream), process))
    }

    fn thread(&self, exit: watch::Sender<Option<HostExit>>) -> Result<NodeEnd, HostError> {
        let (to, from_node) = std::sync::mpsc::channel();
        let (to_node, from) = mpsc::unbounded_channel();
        let open = self.open;
        std::thread::Builder::new()
            .name("engine-host".into())
            .spawn(move || {
                let mut end = HostEnd::Inline { from: from_node, to: to_node };
                // The status must be known before the channel closes, whatever an engine does.
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host_loop(&mut end, open, false)));
                let status = match ended {
                    Ok(Ok(())) => "its thread ended".to_owned(),
                    Ok(Err(e)) => format!("its thread ended: {e}"),
                    Err(_) => "its thread panicked".to_owned(),
                };
                exit.send_replace(Some(HostExit { status, stderr: String::new() }));
            })
            .map_err(system("start a thread for an engine host"))?;
        Ok(NodeEnd::Inline { to, from })
    }
}

/// A host that has not greeted yet.
struct Starting {
    process: Option<Process>,
    exit: watch::Receiver<Option<HostExit>>,
    link: Link,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(p) = &self.process {
            p.kill();
        }
    }
}

impl Starting {
    async fn greet(
        mut self,
        init: ToHost,
        attached: Vec<Attachment>,
        load_timeout: Duration,
    ) -> Result<Host, HostError> {
        let greeting = match self.link.wire.send(init, attached).await {
            Ok(()) => self.link.wire.receive().await,
            Err(e) => Err(e),
        };
        let hello = match greeting {
            Ok(FromHost::Hello { engine, containment }) => Hello { engine, containment },
            Ok(FromHost::Refused { message }) => return Err(HostError::Refused(message)),
            Ok(_) => return Err(HostError::Protocol("its first message was no greeting".into())),
            Err(e) => return Err(lost(&e, self.process.as_ref(), &self.exit).await),
        };
        // The guard's work is done: the process now belongs to the host.
        let (process, exit) = (self.process.take(), self.exit.clone());
        let link = std::mem::replace(&mut self.link, Link::closed());
        Ok(Host(Arc::new(Inner { hello, process, exit, link: tokio::sync::Mutex::new(link), load_timeout })))
    }
}

/// What it means that the conversation broke off.
async fn lost(e: &io::Error, process: Option<&Process>, exit: &watch::Receiver<Option<HostExit>>) -> HostError {
    if e.kind() == io::ErrorKind::Other {
        // Not a broken pipe: the peer sent what is no message.
        if let Some(p) = process {
            p.kill();
        }
        return HostError::Protocol(e.to_string());
    }
    HostError::Died(status(process, exit).await)
}

/// How a host ended whose end is certain; kills it if it only closed its socket.
async fn status(process: Option<&Process>, exit: &watch::Receiver<Option<HostExit>>) -> HostExit {
    let mut exit = exit.clone();
    if process.is_none() {
        // A thread says how it ended before its channel closes, and cannot be ended from outside.
        let known = exit.borrow().clone();
        let lives =
            || HostExit { status: "it is a thread of the node and cannot be ended".into(), stderr: String::new() };
        return known.unwrap_or_else(lives);
    }
    for _ in 0..2 {
        if let Ok(Ok(known)) = timeout(STATUS_WAIT_MAX, exit.wait_for(Option::is_some)).await
            && let Some(e) = known.clone()
        {
            return e;
        }
        if let Some(p) = process {
            p.kill();
        }
    }
    HostExit { status: "it did not end after SIGKILL".into(), stderr: String::new() }
}

async fn keep_lines(pid: u32, stderr: std::process::ChildStderr, lines: Arc<Mutex<VecDeque<String>>>) {
    let pipe = match tokio::net::unix::pipe::Receiver::from_owned_fd(OwnedFd::from(stderr)) {
        Ok(p) => p,
        Err(e) => {
            tracing::error!(pid, "the standard error of an engine host cannot be read: {e}");
            return;
        }
    };
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A host may write without end and without a newline: read no more than is kept.
        let mut limited = tokio::io::AsyncReadExt::take(&mut reader, STDERR_LINE_BYTES_MAX as u64);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) => {
                tracing::warn!(pid, "reading the standard error of an engine host: {e}");
                return;
            }
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        tracing::warn!(pid, "engine host: {text}");
        let mut lines = lines.lock();
        if lines.len() == STDERR_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

async fn watch_exit(
    pid: u32,
    pidfd: Arc<OwnedFd>,
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: Option<tokio::task::JoinHandle<()>>,
    exit: watch::Sender<Option<HostExit>>,
) {
    // SAFETY: the registration owns a share of the descriptor, which therefore stays open and the
    // same for as long as it is registered.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd.clone(), tokio::io::Interest::READABLE) };
    let readable = match registered {
        Ok(fd) => fd,
        Err(e) => {
            tracing::error!(pid, "an engine host cannot be watched: {e}");
            return;
        }
    };
    let status = loop {
        if let Err(e) = readable.readable().await.map(|mut guard| guard.clear_ready()) {
            break format!("it cannot be watched: {e}");
        }
        match waitid(WaitId::PidFd(rustix::fd::AsFd::as_fd(&*pidfd)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(s)) => {
                break match (s.exit_status(), s.terminating_signal()) {
                    (Some(code), _) => format!("exit code {code}"),
                    (_, Some(signal)) => format!("killed by signal {signal}{}", signal_name(signal)),
                    _ => "ended".to_owned(),
                };
            }
            Ok(None) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => break format!("its status is lost: {e}"),
        }
    };
    // What it wrote last is already in the pipe; a grandchild may hold the pipe open, so not for long.
    if let Some(r) = reader {
        let _cut_short = timeout(Duration::from_millis(200), r).await;
    }
    let stderr = lines.lock().iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
    exit.send_replace(Some(HostExit { status, stderr }));
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGFPE => " (SIGFPE)",
        libc::SIGILL => " (SIGILL)",
        libc::SIGTERM => " (SIGTERM)",
        libc::SIGSYS => " (SIGSYS)",
        _ => "",
    }
}

/// What went wrong in a conversation.
enum Broken {
    Lost(io::Error),
    Lie(String),
    Model(String),
    System(String),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Broken::Lost(e)
    }
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
                FromHost::Ready { model, signature, memory_bytes } if model == handle => {
                    let signature: Signature = serde_json::from_str(&signature)
                        .map_err(|e| Broken::Lie(format!("its signature cannot be read: {e}")))?;
                    link.models.insert(handle, signature.outputs.iter().map(|o| o.datatype).collect());
                    Ok(LoadedModel { handle, signature, memory_bytes })
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
        let mut link = self.0.link.lock().await;
        let running = async {
            link.settle().await?;
            link.run(model, &inputs, &wanted).await
        };
        let result = match limit {
            None => running.await,
            Some(limit) => match timeout(limit, running).await {
                Ok(r) => r,
                Err(_) => {
                    self.kill();
                    let exit = status(self.0.process.as_ref(), &self.0.exit).await;
                    return Err(RunError::Timeout { limit, exit });
                }
            },
        };
        match result {
            Ok(out) => Ok(out),
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
            link.wire = Link::closed().wire;
            link.input = None;
            link.output = None;
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

impl Link {
    /// A link to nobody.
    fn closed() -> Link {
        let (to, _) = std::sync::mpsc::channel();
        let (_, from) = mpsc::unbounded_channel();
        Link {
            wire: NodeEnd::Inline { to, from },
            shared: false,
            next_id: 1,
            models: HashMap::new(),
            loading: None,
            unread: None,
            input: None,
            output: None,
            output_need: 1,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Reads the answer of a load or run that was given up.
    async fn settle(&mut self) -> Result<(), Broken> {
        if let Some(stale) = self.loading {
            match self.wire.receive().await? {
                // The model stays open without anybody who could name it, and ends with its host.
                FromHost::Ready { model, .. } | FromHost::LoadFailed { model, .. } if model == stale => {
                    self.loading = None;
                }
                _ => return Err(Broken::Lie("it answered Load with something else".into())),
            }
        }
        let Some(stale) = self.unread else { return Ok(()) };
        for _ in 0..STALE_ANSWERS_MAX {
            match self.wire.receive().await? {
                FromHost::Done { run, .. } | FromHost::Failed { run, .. } if run == stale => {
                    self.unread = None;
                    return Ok(());
                }
                FromHost::NeedSegment { run, .. } if run == stale => {
                    self.wire.send(ToHost::Cancel { run }, Vec::new()).await?;
                }
                FromHost::Partial { .. } => {}
                _ => return Err(Broken::Lie("it answered for another run".into())),
            }
        }
        Err(Broken::Lie("it does not stop answering for a run that was given up".into()))
    }

    async fn run(&mut self, model: ModelHandle, inputs: &[BatchInput], wanted: &[usize]) -> Result<RunOutputs, Broken> {
        let began = clock::now();
        let declared =
            self.models.get(&model).ok_or_else(|| Broken::Model("the model is not open in this host".into()))?;
        let wanted: Vec<(usize, DType)> =
            wanted.iter().map(|w| declared.get(*w).map(|d| (*w, *d))).collect::<Option<_>>().ok_or_else(|| {
                Broken::Model(format!("the model has {} outputs, not all of {wanted:?}", declared.len()))
            })?;
        let too_large = || Broken::Model(format!("the batch is larger than {SEGMENT_BYTES_MAX} bytes"));
        let mut places = Vec::with_capacity(inputs.len());
        let mut used = 0usize;
        for input in inputs {
            let len = input_len(input).ok_or_else(too_large)?;
            places.push(TensorPlace {
                index: u32::try_from(input.index).map_err(|_| too_large())?,
                dtype: input.dtype,
                shape: input.shape.clone(),
                segment: 0,
                offset: used as u64,
                len: len as u64,
            });
            used = used.checked_add(len).and_then(align_up).ok_or_else(too_large)?;
        }
        let (input_id, memory) = self.segment(true, used).await?;
        for (place, input) in places.iter_mut().zip(inputs) {
            place.segment = input_id;
            copy_input(&memory, place, input)
                .ok_or_else(|| Broken::Model("an input is larger than its shape".into()))?;
        }
        let (output_segment, first) = self.segment(false, self.output_need).await?;
        let mut outputs_at: Vec<(u64, Arc<Segment>)> = vec![(output_segment, first)];
        let run = self.id();
        let wanted32 =
            wanted.iter().map(|(w, _)| u32::try_from(*w)).collect::<Result<_, _>>().map_err(|_| too_large())?;
        let copied = clock::now();
        self.unread = Some(run);
        let mut asked = 0;
        self.wire
            .send(ToHost::Run { model, run, inputs: places, wanted: wanted32, output_segment }, Vec::new())
            .await?;
        loop {
            match self.wire.receive().await? {
                FromHost::Done { run: r, outputs, nanos: _ } if r == run => {
                    self.unread = None;
                    let answered = clock::now();
                    let outputs = read_outputs(&outputs, &wanted, &outputs_at).map_err(Broken::Lie)?;
                    self.output_need = outputs.iter().filter_map(|o| align_up(o.data.len())).sum::<usize>().max(1);
                    return Ok(RunOutputs {
                        outputs,
                        copy_in: copied.saturating_duration_since(began),
                        execute: answered.saturating_duration_since(copied),
                        copy_out: clock::now().saturating_duration_since(answered),
                    });
                }
                FromHost::Failed { run: r, kind, message } if r == run => {
                    self.unread = None;
                    return Err(match kind {
                        FailKind::Model => Broken::Model(message),
                        FailKind::Protocol => Broken::Lie(message),
                    });
                }
                FromHost::NeedSegment { run: r, bytes } if r == run => {
                    asked += 1;
                    if asked > SEGMENTS_PER_RUN_MAX {
                        return Err(Broken::Lie("it does not stop asking for memory".into()));
                    }
                    let grown = usize::try_from(bytes).unwrap_or(usize::MAX);
                    let held: usize = outputs_at.iter().map(|s| s.1.len()).sum();
                    // The limit is for all segments of a run together.
                    if segment_size(grown).is_none_or(|size| size > SEGMENT_BYTES_MAX - held) {
                        self.wire.send(ToHost::Cancel { run }, Vec::new()).await?;
                        continue;
                    }
                    self.output = None;
                    match self.segment(false, grown).await {
                        Ok(s) => outputs_at.push(s),
                        Err(Broken::System(why)) => {
                            // The host waits for memory: told that there is none, it fails the run.
                            self.wire.send(ToHost::Cancel { run }, Vec::new()).await?;
                            return Err(Broken::System(why));
                        }
                        Err(e) => return Err(e),
                    }
                }
                // Generation will read these; a batch run has no use for them.
                FromHost::Partial { run: r, .. } if r == run => {}
                _ => return Err(Broken::Lie("it answered for another run".into())),
            }
        }
    }

    /// The input or output segment, made anew if it is too small.
    async fn segment(&mut self, input: bool, need: usize) -> Result<(u64, Arc<Segment>), Broken> {
        let slot = if input { &self.input } else { &self.output };
        if let Some((id, s)) = slot
            && s.len() >= need
        {
            return Ok((*id, s.clone()));
        }
        let size = segment_size(need)
            .ok_or_else(|| Broken::Model(format!("the batch is larger than {SEGMENT_BYTES_MAX} bytes")))?;
        let no_memory = |e: io::Error| Broken::System(format!("no memory for a batch of {size} bytes: {e}"));
        let (segment, attached) = if self.shared {
            let (s, fd) = Segment::shared(size).map_err(no_memory)?;
            (Arc::new(s), Attachment::Descriptor(fd))
        } else {
            let s = Arc::new(Segment::plain(size).map_err(no_memory)?);
            (s.clone(), Attachment::Memory(s))
        };
        let id = self.id();
        self.wire.send(ToHost::Segment { id, len: size as u64 }, vec![attached]).await?;
        let slot = if input { &mut self.input } else { &mut self.output };
        *slot = Some((id, segment.clone()));
        Ok((id, segment))
    }
}

/// Bytes of an input with its padding.
fn input_len(input: &BatchInput) -> Option<usize> {
    match grey_core::payload_len(input.dtype, &input.shape) {
        Some(n) => Some(n),
        None if input.dtype == DType::Bytes => {
            let elements = grey_core::element_count(&input.shape)?;
            let given: usize = input.parts.iter().map(Payload::len).sum();
            // Rows that are missing hold empty strings; how many elements the parts hold is not
            // counted here, so room is left for all of them.
            given.checked_add(elements.checked_mul(grey_core::ELEMENT_LENGTH_BYTES)?)
        }
        None => None,
    }
}

/// Copies the rows in and fills up with zeros; `None` if they do not fit their place.
fn copy_input(memory: &Segment, place: &mut TensorPlace, input: &BatchInput) -> Option<()> {
    let (mut at, len) = (usize::try_from(place.offset).ok()?, usize::try_from(place.len).ok()?);
    let end = at.checked_add(len)?;
    for chunk in input.parts.iter().flat_map(|p| p.chunks()) {
        let next = at.checked_add(chunk.len())?;
        if next > end || !memory.copy_in(at, chunk) {
            return None;
        }
        at = next;
    }
    if input.dtype == DType::Bytes {
        let given: usize = input.parts.iter().map(count_strings).sum();
        let missing = grey_core::element_count(&input.shape)?.checked_sub(given)?;
        let padding = missing.checked_mul(grey_core::ELEMENT_LENGTH_BYTES)?;
        memory.zero(at, padding).then_some(())?;
        place.len = u64::try_from(at + padding).ok()?.checked_sub(place.offset)?;
        return Some(());
    }
    memory.zero(at, end - at).then_some(())
}

/// Elements of well-formed `BYTES` data.
fn count_strings(p: &Payload) -> usize {
    let flat = p.to_contiguous();
    let (mut rest, mut n) = (&flat[..], 0);
    while let Some((head, tail)) = rest.split_first_chunk() {
        rest = tail.get(u32::from_le_bytes(*head) as usize..).unwrap_or_default();
        n += 1;
    }
    n
}

/// Copies outputs out after checking every word of what the host says about them.
fn read_outputs(
    places: &[TensorPlace],
    wanted: &[(usize, DType)],
    segments: &[(u64, Arc<Segment>)],
) -> Result<Vec<RunOutput>, String> {
    wanted
        .iter()
        .map(|(w, declared)| {
            let mut found = places.iter().filter(|p| p.index as usize == *w);
            let place = found.next().ok_or_else(|| format!("output {w} is missing"))?;
            if found.next().is_some() {
                return Err(format!("output {w} came twice"));
            }
            if place.dtype != *declared {
                return Err(format!("output {w} is {}, but the model declares {declared}", place.dtype));
            }
            let lies = || format!("output {w}: its place or size is not possible");
            let (offset, len) =
                (usize::try_from(place.offset).map_err(|_| lies())?, usize::try_from(place.len).map_err(|_| lies())?);
            if place.dtype != DType::Bytes && grey_core::payload_len(place.dtype, &place.shape) != Some(len) {
                return Err(lies());
            }
            let (_, segment) = segments.iter().find(|(id, _)| *id == place.segment).ok_or_else(lies)?;
            let data = segment.copy_out(offset, len).ok_or_else(lies)?;
            Ok(RunOutput { index: *w, dtype: place.dtype, shape: place.shape.clone(), data: Bytes::from(data) })
        })
        .collect()
}
