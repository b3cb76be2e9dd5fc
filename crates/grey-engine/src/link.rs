//! The conversation with a host, one run at a time: rows in, one message each way, outputs out.
//! Everything that the host says is checked here; nothing behind trusts it.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use grey_core::{DType, Payload};
use tokio::sync::mpsc;

use crate::{
    clock,
    memory::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Segment, align_up, segment_size},
    protocol::{FailKind, FromHost, ModelHandle, TensorPlace, ToHost},
    spare::Spare,
    wire::{Attachment, NodeEnd},
};

/// Answers to runs that nobody waits for any more, read before the next run at most.
const STALE_ANSWERS_MAX: usize = 64;
/// How often one run may ask for more memory: an honest host asks at most once for each output, and
/// only in the run after which the node knows how much its outputs need.
const SEGMENTS_PER_RUN_MAX: usize = 32;
/// Segments up to this size are kept whatever they are used for: making one costs more than they hold.
const SEGMENT_KEPT_BYTES: usize = 16 << 20;
/// A larger segment is given up when a run needs less than this part of it.
const SEGMENT_WASTE_MAX: usize = 8;

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

/// The conversation with a host; one run at a time.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) wire: NodeEnd,
    shared: bool,
    next_id: u64,
    /// Declared types of the outputs of the models that are open.
    pub(crate) models: HashMap<ModelHandle, Vec<DType>>,
    /// A load whose answer nobody read.
    pub(crate) loading: Option<ModelHandle>,
    /// A run whose answer nobody read.
    unread: Option<u64>,
    input: Option<(u64, Arc<Segment>)>,
    output: Option<(u64, Arc<Segment>)>,
    /// Bytes that the outputs of the last run took: the next one gets as much at once.
    output_need: usize,
    /// Most bytes of the outputs of one run.
    outputs_bytes_max: usize,
    /// Memory that outputs are copied to.
    spare: Arc<Spare>,
}

/// What went wrong in a conversation.
pub(crate) enum Broken {
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

impl Link {
    /// A link to nobody.
    pub(crate) fn closed() -> Link {
        let (to, _) = std::sync::mpsc::channel();
        let (_, from) = mpsc::unbounded_channel();
        Link::new(NodeEnd::Inline { to, from }, false, 0)
    }

    /// Closes this side; the host's memory is given up. What is known of models stays, so that a
    /// late run learns that the host is gone.
    pub(crate) fn close(&mut self) {
        self.wire = Link::closed().wire;
        self.input = None;
        self.output = None;
    }

    /// A conversation that has just begun; `shared` says whether the host is another process.
    pub(crate) fn new(wire: NodeEnd, shared: bool, outputs_bytes_max: usize) -> Link {
        Link {
            wire,
            shared,
            next_id: 1,
            models: HashMap::new(),
            loading: None,
            unread: None,
            input: None,
            output: None,
            output_need: 1,
            outputs_bytes_max: outputs_bytes_max.min(SEGMENT_BYTES_MAX),
            spare: Arc::default(),
        }
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Reads the answer of a load or run that was given up.
    pub(crate) async fn settle(&mut self) -> Result<(), Broken> {
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

    pub(crate) async fn run(
        &mut self,
        model: ModelHandle,
        inputs: &[BatchInput],
        wanted: &[usize],
    ) -> Result<RunOutputs, Broken> {
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
        let (mut asked, mut granted, mut refused) = (0, 0usize, false);
        self.wire
            .send(ToHost::Run { model, run, inputs: places, wanted: wanted32, output_segment }, Vec::new())
            .await?;
        loop {
            match self.wire.receive().await? {
                FromHost::Done { run: r, outputs, nanos: _ } if r == run => {
                    self.unread = None;
                    let answered = clock::now();
                    let found = find_outputs(&outputs, &wanted, &outputs_at).map_err(Broken::Lie)?;
                    // Segments are made larger than was asked for, and places may overlap: what is copied counts.
                    let bytes = found.iter().fold(0usize, |n, f| n.saturating_add(f.len));
                    if bytes > self.outputs_bytes_max.max(SEGMENT_BYTES_MIN) {
                        return Err(self.outputs_too_large());
                    }
                    let outputs = found.iter().map(|f| f.copy_out(&self.spare)).collect::<Result<Vec<_>, _>>()?;
                    self.output_need = outputs.iter().filter_map(|o| align_up(o.data.len())).sum::<usize>().max(1);
                    self.give_back_large_segments(used);
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
                        FailKind::Model if refused => self.outputs_too_large(),
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
                    // The limit is for all that a run asks for together.
                    granted = grown.saturating_add(granted);
                    if granted > self.outputs_bytes_max || segment_size(grown).is_none() {
                        refused = true;
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

    fn outputs_too_large(&self) -> Broken {
        let most = self.outputs_bytes_max;
        Broken::Model(format!("its outputs take more than the {most} bytes that one run may give"))
    }

    /// A segment that one rare batch made large does not stay for good: what is much larger than the
    /// last run needed is given up, and made anew by the next run.
    fn give_back_large_segments(&mut self, input_need: usize) {
        let wasteful = |slot: &Option<(u64, Arc<Segment>)>, need: usize| {
            slot.as_ref().is_some_and(|(_, s)| s.len() > SEGMENT_KEPT_BYTES && s.len() / SEGMENT_WASTE_MAX > need)
        };
        if wasteful(&self.input, input_need) {
            self.input = None;
        }
        if wasteful(&self.output, self.output_need) {
            self.output = None;
        }
        let need = self.output_need;
        self.spare.retain(|kept| kept <= SEGMENT_KEPT_BYTES || kept / SEGMENT_WASTE_MAX <= need);
    }

    /// The input or output segment, made anew if it is too small.
    pub(crate) async fn segment(&mut self, input: bool, need: usize) -> Result<(u64, Arc<Segment>), Broken> {
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

/// Where an output stands, after every word that the host says about it was checked.
struct Found<'a> {
    index: usize,
    place: &'a TensorPlace,
    segment: &'a Segment,
    offset: usize,
    len: usize,
}

impl Found<'_> {
    fn copy_out(&self, spare: &Arc<Spare>) -> Result<RunOutput, Broken> {
        // Found within its segment, whose size is sealed.
        let data = spare.copy_out(self.segment, self.offset, self.len).ok_or_else(|| Broken::Lie(lie(self.index)))?;
        Ok(RunOutput { index: self.index, dtype: self.place.dtype, shape: self.place.shape.clone(), data })
    }
}

fn lie(output: usize) -> String {
    format!("output {output}: its place or size is not possible")
}

/// The outputs wanted.
fn find_outputs<'a>(
    places: &'a [TensorPlace],
    wanted: &[(usize, DType)],
    segments: &'a [(u64, Arc<Segment>)],
) -> Result<Vec<Found<'a>>, String> {
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
            let lies = || lie(*w);
            let (offset, len) =
                (usize::try_from(place.offset).map_err(|_| lies())?, usize::try_from(place.len).map_err(|_| lies())?);
            if place.dtype != DType::Bytes && grey_core::payload_len(place.dtype, &place.shape) != Some(len) {
                return Err(lies());
            }
            let (_, segment) = segments.iter().find(|(id, _)| *id == place.segment).ok_or_else(lies)?;
            segment.at(offset, len).ok_or_else(lies)?;
            Ok(Found { index: *w, place, segment, offset, len })
        })
        .collect()
}
