//! Watching a host's process: its end, its exit status, its last words.

use std::{collections::VecDeque, fmt, os::fd::OwnedFd, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, unix::AsyncFd},
    sync::watch,
    time::timeout,
};

/// Longest wait for the exit status of a host that closed its socket.
const STATUS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Lines of a host's standard error kept for messages.
const STDERR_LINES_MAX: usize = 20;
/// Longest line of a host's standard error that is kept, in bytes.
const STDERR_LINE_BYTES_MAX: usize = 2000;

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

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
}

impl Process {
    pub(crate) fn kill(&self) {
        match pidfd_send_signal(&*self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => tracing::error!(pid = self.pid, "an engine host could not be killed: {e}"),
        }
    }

    /// Whether a signal or a debugger holds it (proc(5), state `T` or `t`): then it is nothing that it
    /// runs that takes so long.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The second field is the name, which may hold anything.
        stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with(['T', 't']))
    }
}

/// How a host ended whose end is certain; kills it if it only closed its socket.
pub(crate) async fn status(process: Option<&Process>, exit: &watch::Receiver<Option<HostExit>>) -> HostExit {
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

pub(crate) async fn keep_lines(pid: u32, stderr: std::process::ChildStderr, lines: Arc<Mutex<VecDeque<String>>>) {
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

pub(crate) async fn watch_exit(
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
