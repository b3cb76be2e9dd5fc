//! Rust futures for Python: [`wait`] for one in a plain call, or get an asyncio future by [`start`].
//!
//! The threads that run Grey never take the GIL. What has ended for an event loop lies in a list until the loop
//! fetches it, and one eventfd, which the loop watches, says that there is something: a thousand answers that come
//! together cost the loop one wake-up.

use std::{
    collections::HashMap,
    future::Future,
    io,
    mem::ManuallyDrop,
    ops::Deref,
    os::fd::{AsRawFd as _, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use pyo3::{exceptions::PyOSError, prelude::*, sync::PyOnceLock};
use rustix::event::{EventfdFlags, eventfd};
use tokio::{runtime::Runtime, task::AbortHandle};

use crate::errors::{forked, internal};

/// How long a plain call waits between looks for signals: a Ctrl-C is felt at once.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// The threads that run Grey in this process, and the event loops that wait for them.
pub(crate) struct Process {
    pid: u32,
    runtime: Runtime,
    ends: Mutex<Vec<Py<LoopEnd>>>,
}

// Locked only while the GIL is held, and never across anything that lets it go: a fork, which holds the GIL, too,
// leaves it unlocked to the child.
static PROCESS: Mutex<Option<&'static Process>> = Mutex::new(None);

/// This process's; a forked child gets threads of its own.
pub(crate) fn process(_py: Python<'_>) -> PyResult<&'static Process> {
    let mut current = PROCESS.lock();
    let pid = std::process::id();
    if let Some(process) = *current
        && process.pid == pid
    {
        return Ok(process);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("grey")
        .enable_all()
        .build()
        .map_err(|e| PyOSError::new_err(format!("cannot start the node's threads: {e}")))?;
    // For as long as the process lives. The parent's, in a child, cannot be ended: its threads are not here.
    let process: &'static Process = Box::leak(Box::new(Process { pid, runtime, ends: Mutex::default() }));
    *current = Some(process);
    Ok(process)
}

impl Process {
    /// Whether this is the process that it was made in.
    pub(crate) fn is_here(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Refuses whatever was made in another process.
    pub(crate) fn here(&'static self, py: Python<'_>) -> PyResult<&'static Process> {
        if self.is_here() { Ok(self) } else { Err(forked(py, self.pid)) }
    }

    /// Runs `future` while other Python threads go on. A signal's exception (Ctrl-C) ends the wait and drops it.
    pub(crate) fn wait<T: Send>(&'static self, py: Python<'_>, future: impl Future<Output = T> + Send) -> PyResult<T> {
        let mut future = pin!(future);
        loop {
            let step = async { tokio::time::timeout(SIGNALS_EVERY, future.as_mut()).await };
            match py.detach(|| self.runtime.block_on(step)) {
                Ok(done) => return Ok(done),
                Err(_not_yet) => py.check_signals()?,
            }
        }
    }

    /// Runs `future`, and then `finish` in the thread of the running event loop. Returns an asyncio future for what
    /// that gives, and the [`Call`] by which it is given up.
    pub(crate) fn start<T: Send + 'static>(
        &'static self,
        py: Python<'_>,
        future: impl Future<Output = T> + Send + 'static,
        finish: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<(Py<PyAny>, Call)> {
        let end_object = self.end(py)?;
        let end = end_object.get();
        let promise = end.create_future.call0(py)?;
        let ended = end.ended.clone();
        let mut waiting = end.waiting.lock();
        let number = waiting.next;
        waiting.next += 1;
        let task = self.runtime.spawn(async move {
            let done = future.await;
            ended.push(number, Box::new(move |py| finish(py, done)));
        });
        waiting.promises.insert(number, promise.clone_ref(py));
        drop(waiting);
        Ok((promise, Call { end: end_object, number, task: task.abort_handle() }))
    }

    /// Where the running event loop gets its results.
    fn end(&'static self, py: Python<'_>) -> PyResult<Py<LoopEnd>> {
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let running = RUNNING
            .get_or_try_init(py, || Ok::<_, PyErr>(py.import("asyncio")?.getattr("get_running_loop")?.unbind()))?;
        let event_loop = running.call0(py)?;
        if let Some(end) = self.ends.lock().iter().find(|e| e.get().event_loop.is(&event_loop)) {
            return Ok(end.clone_ref(py));
        }
        let end = Py::new(py, LoopEnd::new(py, &event_loop)?)?;
        event_loop.call_method1(py, "add_reader", (end.get().ended.wake.as_raw_fd(), end.getattr(py, "fetch")?))?;
        let open: Vec<Py<LoopEnd>> = {
            // Without the lock: `is_closed` is Python.
            let known: Vec<_> = self.ends.lock().iter().map(|e| e.clone_ref(py)).collect();
            let closed = |e: &Py<LoopEnd>| {
                let answer = e.get().event_loop.call_method0(py, "is_closed")?;
                answer.is_truthy(py)
            };
            known.into_iter().filter(|e| !closed(e).unwrap_or(true)).collect()
        };
        let mut ends = self.ends.lock();
        *ends = open;
        ends.push(end.clone_ref(py));
        Ok(end)
    }
}

/// What only its own process drops. In a forked child its threads are not there, the locks that ending it would take
/// may be held for good, and a file's lock that it let go would be the parent's.
pub(crate) struct Ours<T> {
    process: &'static Process,
    value: ManuallyDrop<T>,
}

impl<T> Ours<T> {
    pub(crate) fn new(process: &'static Process, value: T) -> Self {
        Ours { process, value: ManuallyDrop::new(value) }
    }
}

impl<T> Deref for Ours<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Ours<T> {
    fn drop(&mut self) {
        if self.process.is_here() {
            // SAFETY: nobody uses it after this, the drop of what holds it.
            unsafe { ManuallyDrop::drop(&mut self.value) }
        }
    }
}

/// A call that is under way.
#[pyclass(frozen, module = "grey._native")]
pub(crate) struct Call {
    end: Py<LoopEnd>,
    number: u64,
    task: AbortHandle,
}

#[pymethods]
impl Call {
    /// Gives the call up: what waits in a queue leaves it, the result of what runs is dropped.
    fn cancel(&self) {
        self.task.abort();
        self.end.get().waiting.lock().promises.remove(&self.number);
    }
}

type Finish = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// What has ended and was not fetched yet.
struct Ended {
    wake: OwnedFd,
    results: Mutex<Vec<(u64, Finish)>>,
}

impl Ended {
    fn push(&self, number: u64, finish: Finish) {
        let mut results = self.results.lock();
        results.push((number, finish));
        if results.len() == 1 {
            // Fails only where so much was written already that it is readable anyway (eventfd(2)).
            let _readable = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

#[derive(Default)]
struct Waiting {
    next: u64,
    promises: HashMap<u64, Py<PyAny>>,
}

/// The end of the bridge in one event loop's thread.
#[pyclass(frozen, module = "grey._native")]
pub(crate) struct LoopEnd {
    event_loop: Py<PyAny>,
    create_future: Py<PyAny>,
    waiting: Mutex<Waiting>,
    ended: Arc<Ended>,
}

impl LoopEnd {
    fn new(py: Python<'_>, event_loop: &Py<PyAny>) -> PyResult<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        Ok(LoopEnd {
            event_loop: event_loop.clone_ref(py),
            create_future: event_loop.getattr(py, "create_future")?,
            waiting: Mutex::default(),
            ended: Arc::new(Ended { wake, results: Mutex::default() }),
        })
    }
}

#[pymethods]
impl LoopEnd {
    /// Called by the event loop when something has ended.
    fn fetch(&self, py: Python<'_>) -> PyResult<()> {
        static NAMES: PyOnceLock<[Py<pyo3::types::PyString>; 3]> = PyOnceLock::new();
        let [done, set_result, set_exception] = NAMES.get_or_init(py, || {
            ["done", "set_result", "set_exception"].map(|n| pyo3::types::PyString::intern(py, n).unbind())
        });
        // Before the list is taken: what comes behind is a new list, and says so again.
        let _count = rustix::io::read(&self.ended.wake, &mut [0; 8]);
        let results = std::mem::take(&mut *self.ended.results.lock());
        for (number, finish) in results {
            let promise = self.waiting.lock().promises.remove(&number);
            // Whoever gave it up wants no result.
            let Some(promise) = promise else { continue };
            let promise = promise.bind(py);
            if promise.call_method0(done)?.is_truthy()? {
                continue;
            }
            // Those behind it wait for theirs, whatever happens to this one.
            let told = match catch_unwind(AssertUnwindSafe(|| finish(py))) {
                Ok(Ok(value)) => promise.call_method1(set_result, (value,)),
                Ok(Err(e)) => promise.call_method1(set_exception, (e.into_value(py),)),
                Err(_panic) => promise.call_method1(set_exception, (internal(py, "a result could not be made"),)),
            };
            if let Err(e) = told {
                e.write_unraisable(py, Some(promise));
            }
        }
        Ok(())
    }
}
