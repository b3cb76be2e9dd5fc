//! Starts hosts: a process or a thread, a greeting, a handle.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    contain::Limits,
    engine::EngineKind,
    handle::{Hello, Host, HostError, Inner, lost, system},
    host::{OpenEngine, host_loop},
    link::Link,
    protocol::{FromHost, ToHost},
    watch::{HostExit, Process, keep_lines, watch_exit},
    wire::{Attachment, HostEnd, NodeEnd},
};

/// Longest wait for a host's greeting: a runtime on a cold disk takes seconds.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a host gets of its node's environment: what loaders, runtimes and Python read. All else (the
/// credentials of stores and clouds above all) stays with the node, since models are untrusted.
const HOST_ENVIRONMENT: [&str; 8] =
    ["PATH", "HOME", "TZ", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "RUST_BACKTRACE", "NO_COLOR"];
/// Beginnings of further names that a host gets.
const HOST_ENVIRONMENT_PREFIXES: [&str; 13] = [
    "LC_",
    "PYTHON",
    "OMP_",
    "KMP_",
    "GOMP_",
    "MKL_",
    "OPENBLAS_",
    "ORT_",
    "CUDA_",
    "NVIDIA_",
    "TF_",
    "XLA_",
    "MALLOC_",
];

/// mimalloc reserves a gigabyte at once, which counts against a host's limit of memory unless it is
/// reserved without the right to write, and made writable piece by piece.
const ALLOCATOR: [(&str, &str); 1] = [("MIMALLOC_ARENA_EAGER_COMMIT", "0")];

fn for_hosts(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|n| {
        HOST_ENVIRONMENT.contains(&n) || HOST_ENVIRONMENT_PREFIXES.iter().any(|prefix| n.starts_with(prefix))
    })
}

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
    /// Most bytes that the outputs of one run may take together.
    pub outputs_bytes_max: usize,
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
        let link = Link::new(wire, process.is_some(), self.outputs_bytes_max);
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
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| for_hosts(name)))
            .envs(ALLOCATOR)
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
