//! The host's side: one synchronous loop that obeys the node, and in a process of its own one
//! native thread that ends it when the node ends.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::Path,
    sync::Arc,
};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    contain,
    engine::{ArtifactView, Engine, EngineError, EngineKind, InputView, Model, OutputArea, OutputSink},
    memory::{Segment, align_up},
    protocol::{ArtifactPlace, FailKind, FromHost, ModelHandle, TensorPlace, ToHost},
    wire::{Attachment, HostEnd},
};

/// Opens a runtime in this host.
pub type OpenEngine = fn(EngineKind, &Path) -> Result<Box<dyn Engine>, EngineError>;

/// Exit code when the node ended or closed the socket.
const EXIT_NODE_GONE: i32 = 3;
/// Exit code when the node and the host do not understand each other.
const EXIT_PROTOCOL: u8 = 4;

/// Runs an engine host whose control socket is file descriptor 0, until its node tells it to end,
/// and returns the exit code.
/// The body of the hidden `grey engine-host` verb and of `python -m grey.host`.
pub fn host_main(open: OpenEngine) -> u8 {
    contain::outlive_signals_for_the_node();
    if let Err(e) = contain::close_foreign_descriptors() {
        eprintln!("an engine host cannot close the descriptors it inherited: {e}");
        return EXIT_PROTOCOL;
    }
    let stdin = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => UnixStream::from(fd),
        Err(e) => {
            eprintln!("an engine host is started by a node, with its control socket as standard input: {e}");
            return EXIT_PROTOCOL;
        }
    };
    let mut end = HostEnd::Process(stdin);
    match host_loop(&mut end, open, true) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("engine host: {e}");
            EXIT_PROTOCOL
        }
    }
}

/// Obeys the node until it closes its end or unloads the last model.
pub(crate) fn host_loop(end: &mut HostEnd, open: OpenEngine, own_process: bool) -> io::Result<()> {
    let Some((first, mut attached)) = end.receive()? else { return Ok(()) };
    let ToHost::Init { engine, library, limits } = first else {
        return Err(io::Error::other("the first message was not Init"));
    };
    let mut containment = BTreeMap::new();
    if own_process {
        // Containment first: it then holds for the thread below and for whatever the runtime starts.
        containment = contain::apply(&limits, &library);
        if let Some(Attachment::Descriptor(node)) = attached.pop() {
            end_with_node(node)?;
        }
    }
    let mut engine = match open(engine, &library) {
        Ok(e) => e,
        Err(e) => {
            return end.send(FromHost::Refused { message: e.to_string() });
        }
    };
    end.send(FromHost::Hello { engine: engine.info(), containment })?;

    let mut models: HashMap<ModelHandle, Box<dyn Model>> = HashMap::new();
    let mut segments: HashMap<u64, Arc<Segment>> = HashMap::new();
    while let Some((message, mut attached)) = end.receive()? {
        match message {
            ToHost::Init { .. } => return Err(io::Error::other("Init came twice")),
            ToHost::Load { model, artifact, options } => {
                let opened = view(&artifact, &attached).and_then(|v| engine.load(&v, &options));
                end.send(match opened {
                    Ok(m) => {
                        let signature = serde_json::to_string(m.signature()).map_err(io::Error::other)?;
                        let determinism = m.determinism().clone();
                        models.insert(model, m);
                        FromHost::Ready { model, signature, determinism, memory_bytes: private_memory() }
                    }
                    Err(e) => FromHost::LoadFailed { model, message: e.to_string() },
                })?;
            }
            ToHost::Segment { id, len } => {
                segments.insert(id, segment(attached.pop(), len)?);
            }
            ToHost::Run { model, run, inputs, wanted, output_segment } => {
                // Segments that this run does not name have been replaced by larger ones.
                segments.retain(|id, _| *id == output_segment || inputs.iter().any(|i| i.segment == *id));
                let started = crate::clock::now();
                let outcome = run_one(&mut models, end, &mut segments, model, run, &inputs, &wanted, output_segment);
                let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                end.send(match outcome {
                    Ok(outputs) => FromHost::Done { run, outputs, nanos },
                    Err(e) => {
                        let kind =
                            if matches!(e, EngineError::Protocol(_)) { FailKind::Protocol } else { FailKind::Model };
                        FromHost::Failed { run, kind, message: e.to_string() }
                    }
                })?;
            }
            // Runs are synchronous: by the time this is read, the run has answered.
            ToHost::Cancel { .. } => {}
            ToHost::Unload { model } => {
                models.remove(&model);
                end.send(FromHost::Unloaded { model })?;
                if models.is_empty() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn view<'a>(place: &'a ArtifactPlace, attached: &'a [Attachment]) -> Result<ArtifactView<'a>, EngineError> {
    match (place, attached) {
        (ArtifactPlace::Attached { len, name }, [Attachment::Descriptor(fd)]) => {
            Ok(ArtifactView::File { fd: fd.as_fd(), len: *len, name })
        }
        (ArtifactPlace::Folder { path, main }, []) => Ok(ArtifactView::Folder { path, main }),
        _ => Err(EngineError::Protocol("Load came without its file".into())),
    }
}

fn segment(attached: Option<Attachment>, len: u64) -> io::Result<Arc<Segment>> {
    match attached {
        Some(Attachment::Memory(s)) => Ok(s),
        Some(Attachment::Descriptor(fd)) => {
            Ok(Arc::new(Segment::map(fd.as_fd(), usize::try_from(len).map_err(io::Error::other)?)?))
        }
        None => Err(io::Error::other("Segment came without its memory")),
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one message and the state it works on")]
fn run_one(
    models: &mut HashMap<ModelHandle, Box<dyn Model>>,
    end: &mut HostEnd,
    segments: &mut HashMap<u64, Arc<Segment>>,
    model: ModelHandle,
    run: u64,
    inputs: &[TensorPlace],
    wanted: &[u32],
    output_segment: u64,
) -> Result<Vec<TensorPlace>, EngineError> {
    let model = models.get_mut(&model).ok_or_else(|| EngineError::Protocol("no such model is open".into()))?;
    let held: Vec<Arc<Segment>> = inputs.iter().map(|i| known(segments, i.segment)).collect::<Result<_, _>>()?;
    let mut views = Vec::with_capacity(inputs.len());
    for (place, segment) in inputs.iter().zip(&held) {
        let (offset, len) = (as_usize(place.offset)?, as_usize(place.len)?);
        let at =
            segment.at(offset, len).ok_or_else(|| EngineError::Protocol("an input lies outside its segment".into()))?;
        // SAFETY: the range is inside the segment, which `held` keeps mapped; the node does not
        // write to the inputs of a run before it has answered, and this side never does.
        let data = unsafe { std::slice::from_raw_parts(at.as_ptr().cast_const(), len) };
        views.push(InputView {
            index: as_usize(u64::from(place.index))?,
            dtype: place.dtype,
            shape: &place.shape,
            data,
        });
    }
    let mut sink = SegmentSink {
        end,
        run,
        wanted: wanted.iter().map(|w| *w as usize).collect(),
        current: (output_segment, known(segments, output_segment)?),
        used: 0,
        filled: Vec::new(),
        places: Vec::new(),
    };
    let ran = model.run(&views, &mut sink);
    let SegmentSink { current, places, wanted, .. } = sink;
    // Kept also after a failure: the node will name it in the next run.
    segments.insert(current.0, current.1);
    ran?;
    for w in wanted {
        let Some(spec) = model.signature().outputs.get(w) else {
            return Err(EngineError::Protocol(format!("the model has no output at position {w}")));
        };
        match places.iter().find(|p| p.index as usize == w) {
            None => return Err(EngineError::RunFailed(format!("the runtime gave no output '{}'", spec.name))),
            Some(p) if p.dtype != spec.datatype => {
                return Err(EngineError::RunFailed(format!(
                    "output '{}' came as {}, but the model declares {}",
                    spec.name, p.dtype, spec.datatype
                )));
            }
            Some(_) => {}
        }
    }
    Ok(places)
}

fn known(segments: &HashMap<u64, Arc<Segment>>, id: u64) -> Result<Arc<Segment>, EngineError> {
    segments.get(&id).cloned().ok_or_else(|| EngineError::Protocol(format!("segment {id} was never sent")))
}

fn as_usize(n: u64) -> Result<usize, EngineError> {
    usize::try_from(n).map_err(|_| EngineError::Protocol(format!("{n} is too large here")))
}

/// Puts outputs one after the other into the output segment, and asks for a larger one when it is full.
struct SegmentSink<'a> {
    end: &'a mut HostEnd,
    run: u64,
    wanted: Vec<usize>,
    current: (u64, Arc<Segment>),
    used: usize,
    /// Segments that this run outgrew; they hold outputs and stay mapped until the run has answered.
    filled: Vec<Arc<Segment>>,
    places: Vec<TensorPlace>,
}

impl OutputSink for SegmentSink<'_> {
    fn wanted(&self) -> &[usize] {
        &self.wanted
    }

    fn reserve(
        &mut self,
        index: usize,
        dtype: grey_core::DType,
        shape: &[u64],
        len: usize,
    ) -> Result<OutputArea, EngineError> {
        let too_large = || EngineError::RunFailed(format!("an output of {len} bytes does not fit into memory"));
        if self.current.1.at(self.used, len).is_none() {
            let bytes = align_up(len).ok_or_else(too_large)? as u64;
            let io_failed = |e: io::Error| EngineError::Protocol(format!("asking for output memory: {e}"));
            self.end.send(FromHost::NeedSegment { run: self.run, bytes }).map_err(io_failed)?;
            let answer = self.end.receive().map_err(io_failed)?;
            let Some((ToHost::Segment { id, len: size }, mut attached)) = answer else {
                return Err(too_large());
            };
            let larger = segment(attached.pop(), size).map_err(io_failed)?;
            self.filled.push(std::mem::replace(&mut self.current, (id, larger)).1);
            self.used = 0;
        }
        let start = self.current.1.at(self.used, len).ok_or_else(too_large)?;
        self.places.push(TensorPlace {
            index: u32::try_from(index).map_err(|_| too_large())?,
            dtype,
            shape: shape.to_vec(),
            segment: self.current.0,
            offset: self.used as u64,
            len: len as u64,
        });
        self.used = self.used.checked_add(len).and_then(align_up).ok_or_else(too_large)?;
        Ok(OutputArea { start, len })
    }

    fn restart(&mut self) {
        self.places.clear();
        self.used = 0;
    }
}

/// Memory that this process alone has written, in bytes; 0 where the kernel does not tell. (Clean
/// pages of libraries are not counted: the same host has them or not, depending on its siblings.)
fn private_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    text.lines()
        .filter(|l| l.starts_with("Private_Dirty:"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum::<u64>()
        .saturating_mul(1024)
}

/// Starts the thread that ends this process with its node, even while a model hangs.
fn end_with_node(node: std::os::fd::OwnedFd) -> io::Result<()> {
    std::thread::Builder::new().name("node-watch".into()).stack_size(64 << 10).spawn(move || {
        loop {
            let mut wait = [PollFd::new(&node, PollFlags::IN)];
            match poll(&mut wait, None) {
                Err(rustix::io::Errno::INTR) => {}
                // SAFETY: `_exit` takes no lock and runs no destructor, so it works in whatever
                // state the other threads are.
                _ => unsafe { libc::_exit(EXIT_NODE_GONE) },
            }
        }
    })?;
    Ok(())
}
