//! `grey._native.Node`: a node inside the user's process, without a port. `grey.Node` and `grey.AsyncNode` are
//! its front; what the arguments mean is documented there.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use grey::{HostCommand, HostContext};
use grey_core::{
    Error, ErrorKind, InferRequest, InferResponse, Label, ModelId, ModelRef, NONCE_BYTES, Parameters, ProofRequest,
    Result, Tenant, Tensor, Version, VersionChoice,
};
use grey_proof::{Bundle, SessionBundle};
use grey_server::NodeConfig;
use grey_serving::{MetricsFormat, NewVersion};
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBytes, PyDict, PyString},
};
use tokio::io::AsyncReadExt as _;

use crate::{
    arrays,
    bridge::{Call, Ours, Process, process},
    clock,
    errors::{closed, raised},
    line::{Held, Lines},
    values::{Made, infer_result, parameters, salt, seconds},
};

/// Bytes that are read from a model's file at once.
const READ_BYTES: usize = 1 << 20;
/// How often the end of a node looks whether calls still stand in line.
const LINES_EVERY: Duration = Duration::from_millis(5);

/// A running node.
#[pyclass(frozen, module = "grey._native")]
pub(crate) struct Node {
    process: &'static Process,
    node: Ours<grey_serving::Node>,
    lines: Arc<Lines>,
    drain: Duration,
    closed: AtomicBool,
}

/// Room in a node's budget, for one call.
#[pyclass(frozen, module = "grey._native")]
pub(crate) struct Room(parking_lot::Mutex<Option<Held>>);

type Asked = (InferRequest, Held);
type Answered = Result<(InferResponse, Option<Vec<u8>>, Held)>;

#[pymethods]
impl Node {
    /// Starts a node on the registry in `data`, else in the folder that the configuration (YAML) names, else in
    /// `temporary`.
    #[new]
    fn new(
        py: Python<'_>,
        config: &str,
        data: Option<PathBuf>,
        temporary: PathBuf,
        executable: PathBuf,
        prefix: PathBuf,
    ) -> PyResult<Node> {
        let process = process(py)?;
        let config = NodeConfig::from_yaml(config).map_err(|e| raised(py, &e))?;
        let host_command = HostCommand { program: executable, args: crate::HOST_ARGS.map(Into::into).into() };
        let context = HostContext { host_command, python_prefix: Some(prefix) };
        let data = data.or_else(|| config.data.clone()).unwrap_or(temporary);
        let opening = async { grey::open_node(&config, &data, context).await };
        let node = process.wait(py, opening)?.map_err(|e| raised(py, &e))?;
        Ok(Node {
            process,
            node: Ours::new(process, node),
            lines: Arc::default(),
            drain: config.drain(),
            closed: AtomicBool::new(false),
        })
    }

    /// The folder of the registry.
    #[getter]
    fn data(&self) -> PathBuf {
        self.node.data_dir().to_owned()
    }

    /// Waits until there is room for `bytes` in the node's budget.
    #[pyo3(signature = (size, timeout))]
    fn room(&self, py: Python<'_>, size: usize, timeout: Option<f64>) -> PyResult<Room> {
        let waiting = self.wait_for_room(size, deadline(py, timeout)?);
        self.open(py)?.wait(py, waiting)?.map_err(|e| raised(py, &e))
    }

    /// [`Node::room`] as an asyncio future, and its call.
    #[pyo3(signature = (size, timeout))]
    fn room_async(&self, py: Python<'_>, size: usize, timeout: Option<f64>) -> PyResult<(Py<PyAny>, Call)> {
        let waiting = self.wait_for_room(size, deadline(py, timeout)?);
        self.open(py)?.start(py, waiting, |py, room| match room {
            Ok(room) => Ok(Py::new(py, room)?.into_any()),
            Err(e) => Err(raised(py, &e)),
        })
    }

    /// Runs a model. `None` where an input is not plain: see `grey._arrays`; the number of bytes where the node has
    /// no room for them: see [`Node::room`].
    #[pyo3(signature = (model, version, inputs, outputs, timeout, options, room))]
    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    fn infer(
        &self,
        py: Python<'_>,
        model: &str,
        version: Option<&str>,
        inputs: &Bound<'_, PyDict>,
        outputs: Option<Vec<String>>,
        timeout: Option<f64>,
        options: Option<&Bound<'_, PyDict>>,
        room: Option<&Room>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let process = self.open(py)?;
        let asked = match self.asked(py, model, version, inputs, outputs, timeout, options, room)? {
            Step::Asked(asked) => asked,
            Step::NotPlain => return Ok(None),
            Step::NoRoom(bytes) => return Ok(Some(bytes.into_pyobject(py)?.into_any().unbind())),
        };
        let answered = process.wait(py, answer(grey_serving::Node::clone(&self.node), self.lines.clone(), *asked))?;
        result(py, answered).map(Some)
    }

    /// [`Node::infer`] as an asyncio future, and its call.
    #[pyo3(signature = (model, version, inputs, outputs, timeout, options, room))]
    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    fn infer_async(
        &self,
        py: Python<'_>,
        model: &str,
        version: Option<&str>,
        inputs: &Bound<'_, PyDict>,
        outputs: Option<Vec<String>>,
        timeout: Option<f64>,
        options: Option<&Bound<'_, PyDict>>,
        room: Option<&Room>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let process = self.open(py)?;
        let asked = match self.asked(py, model, version, inputs, outputs, timeout, options, room)? {
            Step::Asked(asked) => asked,
            Step::NotPlain => return Ok(None),
            Step::NoRoom(bytes) => return Ok(Some(bytes.into_pyobject(py)?.into_any().unbind())),
        };
        let started =
            process.start(py, answer(grey_serving::Node::clone(&self.node), self.lines.clone(), *asked), result)?;
        Ok(Some(started.into_pyobject(py)?.into_any().unbind()))
    }

    /// Asks or tells the node about its models; the answer is JSON.
    #[pyo3(signature = (verb, model=None, version=None))]
    fn manage(&self, py: Python<'_>, verb: &str, model: Option<&str>, version: Option<&str>) -> PyResult<String> {
        let verb = Verb::new(py, verb, model, version)?;
        self.open(py)?.wait(py, manage(grey_serving::Node::clone(&self.node), verb))?.map_err(|e| raised(py, &e))
    }

    /// [`Node::manage`] as an asyncio future, and its call.
    #[pyo3(signature = (verb, model=None, version=None))]
    fn manage_async(
        &self,
        py: Python<'_>,
        verb: &str,
        model: Option<&str>,
        version: Option<&str>,
    ) -> PyResult<(Py<PyAny>, Call)> {
        let verb = Verb::new(py, verb, model, version)?;
        self.open(py)?.start(py, manage(grey_serving::Node::clone(&self.node), verb), text)
    }

    /// Registers the files of a model, and loads it if `load`; the answer is JSON.
    #[pyo3(signature = (model, files, version, labels, metadata, example, load))]
    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    fn add(
        &self,
        py: Python<'_>,
        model: &str,
        files: Vec<PathBuf>,
        version: Option<&str>,
        labels: Vec<String>,
        metadata: Metadata,
        example: Option<&Bound<'_, PyDict>>,
        load: bool,
    ) -> PyResult<String> {
        let (what, example) = new_version(py, model, version, &labels, metadata, example, load)?;
        self.open(py)?
            .wait(py, add(grey_serving::Node::clone(&self.node), what, example, files))?
            .map_err(|e| raised(py, &e))
    }

    /// [`Node::add`] as an asyncio future, and its call.
    #[pyo3(signature = (model, files, version, labels, metadata, example, load))]
    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    fn add_async(
        &self,
        py: Python<'_>,
        model: &str,
        files: Vec<PathBuf>,
        version: Option<&str>,
        labels: Vec<String>,
        metadata: Metadata,
        example: Option<&Bound<'_, PyDict>>,
        load: bool,
    ) -> PyResult<(Py<PyAny>, Call)> {
        let (what, example) = new_version(py, model, version, &labels, metadata, example, load)?;
        self.open(py)?.start(py, add(grey_serving::Node::clone(&self.node), what, example, files), text)
    }

    /// The metrics in OpenMetrics text form.
    fn metrics(&self, py: Python<'_>) -> PyResult<String> {
        self.open(py)?;
        let text = self.node.metrics(MetricsFormat::OpenMetrics).map_err(|e| raised(py, &e))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Lets accepted calls finish, for at most `timeout` seconds (by default the configuration's `drain_seconds`),
    /// fails the rest, and ends all hosts. In a forked child nothing is done: the node is the parent's.
    #[pyo3(signature = (timeout=None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let longest = self.longest(py, timeout)?;
        match self.process.here(py) {
            Ok(process) => process.wait(py, self.end(longest)),
            Err(_parents) => Ok(()),
        }
    }

    /// [`Node::close`] as an asyncio future, and its call.
    #[pyo3(signature = (timeout=None))]
    fn close_async(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<(Py<PyAny>, Call)> {
        let longest = self.longest(py, timeout)?;
        self.process.here(py)?.start(py, self.end(longest), |py, ()| Ok(py.None()))
    }
}

type Metadata = std::collections::BTreeMap<String, String>;

enum Step {
    Asked(Box<Asked>),
    NotPlain,
    NoRoom(usize),
}

impl Node {
    /// Refuses calls of another process, and after the end.
    fn open(&self, py: Python<'_>) -> PyResult<&'static Process> {
        let process = self.process.here(py)?;
        if self.closed.load(Ordering::SeqCst) { Err(closed(py)) } else { Ok(process) }
    }

    fn longest(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Duration> {
        match timeout {
            None => Ok(self.drain),
            Some(f64::INFINITY) => Ok(Duration::MAX),
            Some(t) => seconds(py, t),
        }
    }

    /// Takes no more calls; those that stand in line go on first.
    fn end(&self, longest: Duration) -> impl Future<Output = ()> + Send + 'static {
        self.closed.store(true, Ordering::SeqCst);
        let (node, lines) = (grey_serving::Node::clone(&self.node), self.lines.clone());
        let begin = clock::now();
        let left = move || longest.saturating_sub(clock::now().saturating_duration_since(begin));
        async move {
            let nobody_waits = || lines.bytes.is_empty() && lines.rows.is_empty();
            while !left().is_zero() && !nobody_waits() {
                tokio::time::sleep(LINES_EVERY).await;
            }
            node.drain(left()).await;
        }
    }

    fn wait_for_room(
        &self,
        size: usize,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<Room>> + Send + 'static {
        let (node, lines) = (grey_serving::Node::clone(&self.node), self.lines.clone());
        async move {
            let permit = lines.bytes.wait(deadline, || std::future::ready(node.take_bytes(size))).await?;
            Ok(Room(parking_lot::Mutex::new(Some(Held::new(permit, lines.clone())))))
        }
    }

    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    fn asked(
        &self,
        py: Python<'_>,
        model: &str,
        version: Option<&str>,
        inputs: &Bound<'_, PyDict>,
        outputs: Option<Vec<String>>,
        timeout: Option<f64>,
        options: Option<&Bound<'_, PyDict>>,
        room: Option<&Room>,
    ) -> PyResult<Step> {
        let held = match room.and_then(|r| r.0.lock().take()) {
            Some(held) => held,
            None => {
                let Some(size) = arrays::size(inputs)? else { return Ok(Step::NotPlain) };
                let taken = if self.lines.bytes.is_empty() {
                    self.node.take_bytes(size)
                } else {
                    Err(Error::new(ErrorKind::Overloaded, "others wait"))
                };
                match taken {
                    Ok(permit) => Held::new(permit, self.lines.clone()),
                    Err(e) if e.kind() == ErrorKind::Overloaded => return Ok(Step::NoRoom(size)),
                    Err(e) => return Err(raised(py, &e)),
                }
            }
        };
        let Some(inputs) = arrays::tensors(inputs)? else { return Ok(Step::NotPlain) };
        let options = options.map(|o| Options::new(py, o)).transpose()?.unwrap_or_default();
        let request = InferRequest {
            id: options.id,
            model: reference(model, version).map_err(|e| raised(py, &e))?,
            inputs,
            outputs: outputs.unwrap_or_default(),
            parameters: options.parameters,
            tenant: options.tenant,
            deadline: deadline(py, timeout)?,
            proof: options.proof,
        };
        Ok(Step::Asked(Box::new((request, held))))
    }
}

/// What few calls give.
#[derive(Default)]
struct Options {
    id: String,
    tenant: Tenant,
    parameters: Parameters,
    proof: Option<ProofRequest>,
}

impl Options {
    fn new(py: Python<'_>, given: &Bound<'_, PyDict>) -> PyResult<Options> {
        let mut out = Options::default();
        for (name, value) in given.iter() {
            match name.extract::<&str>()? {
                "id" => out.id = value.extract()?,
                "tenant" => out.tenant = Tenant::new(value.extract::<&str>()?).map_err(|e| raised(py, &e))?,
                "parameters" => out.parameters = parameters(&value)?,
                "prove" => out.proof = Some(out.proof.take().unwrap_or_default()),
                "nonce" => {
                    let nonce: Vec<u8> = value.extract::<Bound<'_, PyBytes>>()?.as_bytes().to_vec();
                    if !NONCE_BYTES.contains(&nonce.len()) {
                        let found = nonce.len();
                        return Err(raised(
                            py,
                            &Error::invalid(format!("nonce: expected 8 to 64 bytes, found {found}")),
                        ));
                    }
                    out.proof.get_or_insert_default().nonce = Some(nonce);
                }
                "salt" => {
                    let salt = salt(&value)?;
                    out.proof.get_or_insert_default().salt = Some(salt);
                }
                other => return Err(PyTypeError::new_err(format!("unknown option '{other}'"))),
            }
        }
        Ok(out)
    }
}

fn reference(model: &str, version: Option<&str>) -> Result<ModelRef> {
    let version = version.map_or(Ok(VersionChoice::Latest), str::parse)?;
    Ok(ModelRef { id: ModelId::new(model)?, version })
}

fn deadline(py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Instant>> {
    // One that never comes is none.
    let finite = timeout.filter(|t| *t != f64::INFINITY);
    finite.map_or(Ok(None), |t| seconds(py, t).map(|d| clock::now().checked_add(d)))
}

async fn answer(node: grey_serving::Node, lines: Arc<Lines>, (request, mut held): Asked) -> Answered {
    let (deadline, nonce) = (request.deadline, request.proof.as_ref().map(|p| p.nonce.clone()));
    let response = lines.rows.wait(deadline, || node.infer(request.clone())).await?;
    held.account(response.outputs.iter().map(|t| t.data().len()).sum());
    let bundle = match (&response.proof, nonce) {
        (Some(proof), Some(nonce)) => {
            let session = node.session(proof.session, nonce).await?;
            let unread = |e: grey_proof::FormatError| Error::internal(format!("the node's own proof: {e}"));
            let (session, _) = SessionBundle::parse(&session).map_err(unread)?;
            Some(Bundle::new(proof.proof.to_vec(), session).encode().map_err(unread)?)
        }
        _ => None,
    };
    Ok((response, bundle, held))
}

/// A `grey.InferResult`.
fn result(py: Python<'_>, answered: Answered) -> PyResult<Py<PyAny>> {
    let (response, bundle, held) = answered.map_err(|e| raised(py, &e))?;
    let outputs = arrays::arrays(py, &response.outputs)?;
    drop(held);
    let made = Made {
        model: response.model.as_str(),
        version: response.version.as_str(),
        id: &response.id,
        parameters: &response.parameters,
        bundle: bundle.as_deref(),
        verdict: None,
        queue_seconds: Some(response.queue_time.as_secs_f64()),
        execute_seconds: Some(response.execute_time.as_secs_f64()),
    };
    infer_result(py, &outputs, made)
}

fn text(py: Python<'_>, answer: Result<String>) -> PyResult<Py<PyAny>> {
    let answer = answer.map_err(|e| raised(py, &e))?;
    Ok(PyString::new(py, &answer).into_any().unbind())
}

enum Verb {
    Models,
    Engines,
    Identity,
    Model(ModelRef),
    Signature(ModelRef),
    Ready(Option<ModelRef>),
    Load(ModelRef),
    Unload(ModelRef),
    Remove(ModelId, Option<Version>),
}

impl Verb {
    fn new(py: Python<'_>, verb: &str, model: Option<&str>, version: Option<&str>) -> PyResult<Verb> {
        let of = || reference(model.unwrap_or_default(), version).map_err(|e| raised(py, &e));
        Ok(match verb {
            "models" => Verb::Models,
            "engines" => Verb::Engines,
            "identity" => Verb::Identity,
            "model" => Verb::Model(of()?),
            "signature" => Verb::Signature(of()?),
            "ready" => Verb::Ready(model.map(|_| of()).transpose()?),
            "load" => Verb::Load(of()?),
            "unload" => Verb::Unload(of()?),
            "remove" => {
                let version = version.map(Version::new).transpose().map_err(|e| raised(py, &e))?;
                Verb::Remove(of()?.id, version)
            }
            other => return Err(PyTypeError::new_err(format!("unknown verb '{other}'"))),
        })
    }
}

async fn manage(node: grey_serving::Node, verb: Verb) -> Result<String> {
    match verb {
        Verb::Models => json(&node.list().await?),
        Verb::Engines => json(&node.engines().await),
        Verb::Identity => json(node.identity()),
        Verb::Model(m) => json(&node.show(&m).await?),
        Verb::Signature(m) => json(&node.signature(&m).await?),
        Verb::Ready(None) => json(&node.ready().is_ok()),
        Verb::Ready(Some(m)) => match node.model_ready(&m).await {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(e),
            ready => json(&ready.is_ok()),
        },
        Verb::Load(m) => json(&node.load(&m).await?),
        Verb::Unload(m) => json(&node.unload(&m).await?),
        Verb::Remove(id, version) => json(&node.remove(&id, version.as_ref()).await?),
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::internal(format!("an answer that is no JSON: {e}")))
}

fn new_version(
    py: Python<'_>,
    model: &str,
    version: Option<&str>,
    labels: &[String],
    metadata: Metadata,
    example: Option<&Bound<'_, PyDict>>,
    load: bool,
) -> PyResult<(NewVersion, Option<Vec<Tensor>>)> {
    let made = || {
        Ok(NewVersion {
            id: ModelId::new(model)?,
            version: version.map(Version::new).transpose()?,
            labels: labels.iter().map(Label::new).collect::<Result<_>>()?,
            metadata,
            load,
        })
    };
    let example = match example {
        None => None,
        Some(example) => {
            let tensors = arrays::tensors(example)?;
            Some(tensors.ok_or_else(|| PyTypeError::new_err("example: expected plain arrays by name"))?)
        }
    };
    made().map(|what| (what, example)).map_err(|e: Error| raised(py, &e))
}

async fn add(
    node: grey_serving::Node,
    what: NewVersion,
    example: Option<Vec<Tensor>>,
    files: Vec<PathBuf>,
) -> Result<String> {
    let found = tokio::task::spawn_blocking(move || grey::model_files(&files))
        .await
        .map_err(|e| Error::internal(format!("the search for the model's files ended: {e}")))??;
    let mut adding = node.begin_add(what).await?;
    for (name, path) in found {
        let open = tokio::fs::File::open(&path)
            .await
            .map_err(|e| Error::invalid(format!("cannot read {}: {e}", path.display())))?;
        adding.file(name.as_str(), pieces(open, path).boxed(), u64::MAX).await?;
    }
    if let Some(example) = example {
        adding.example(example)?;
    }
    json(&node.finish_add(adding).await?)
}

/// What a file holds, piece by piece.
fn pieces(open: tokio::fs::File, path: PathBuf) -> impl Stream<Item = Result<Bytes>> + Send {
    stream::unfold(Some((open, path)), |state| async move {
        let (mut open, path) = state?;
        let mut piece = Vec::with_capacity(READ_BYTES);
        match (&mut open).take(READ_BYTES as u64).read_to_end(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(piece)), Some((open, path)))),
            Err(e) => Some((Err(Error::invalid(format!("cannot read {}: {e}", path.display()))), None)),
        }
    })
}
