//! `grey._native.Client`: a client of a node far away. `grey.Client` and `grey.AsyncClient` are its front; what
//! the arguments mean is documented there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use grey_client::{AddRequest, Address, Answer, Config, Error, InferCall, Limit, ProveRequest, Proven, Replay, Result};
use grey_core::{Label, ModelId, Tenant, Version};
use grey_proof::{Known, KnownModelHash, Policy};
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBytes, PyDict, PyString},
};
use serde_json::json;

use crate::{
    arrays,
    bridge::{Call, Ours, Process, process},
    errors::raised_by_client,
    proofs::ProofInputError,
    values::{Made, infer_result, parameters, salt, seconds},
};

type Metadata = std::collections::BTreeMap<String, String>;
type Answered = Result<(Answer, Option<Proven>)>;

/// A client.
#[pyclass(frozen, module = "grey._native")]
pub(crate) struct Client {
    process: &'static Process,
    client: Ours<grey_client::Client>,
}

#[pymethods]
impl Client {
    /// A client of the node at `url`. Times are in seconds, infinite ones for none.
    #[new]
    #[pyo3(signature = (url, tenant, timeout, load_timeout, connect_timeout, retries, connections, answer_bytes))]
    #[expect(clippy::too_many_arguments, reason = "as many as there are settings")]
    fn new(
        py: Python<'_>,
        url: &str,
        tenant: Option<&str>,
        timeout: f64,
        load_timeout: f64,
        connect_timeout: f64,
        retries: u32,
        connections: usize,
        answer_bytes: u64,
    ) -> PyResult<Client> {
        let longest = |name: &str, given: f64| match limit(py, name, Some(given))? {
            Limit::After(time) => Ok::<_, PyErr>(Some(time)),
            Limit::Usual | Limit::Never => Ok(None),
        };
        if connections == 0 {
            return Err(argument(py, "connections: expected at least 1, found 0".to_owned()));
        }
        let config = Config {
            tenant: tenant.map(Tenant::new).transpose().map_err(|e| core(py, e))?,
            timeout: longest("timeout", timeout)?,
            model_timeout: longest("load_timeout", load_timeout)?,
            connect_timeout: longest("connect_timeout", connect_timeout)?.unwrap_or(Duration::MAX),
            retries_max: retries,
            connections_max: connections,
            answer_bytes_max: answer_bytes,
        };
        let address = Address::parse(url).map_err(|e| raised_by_client(py, &e))?;
        let process = process(py)?;
        Ok(Client { process, client: Ours::new(process, grey_client::Client::new(address, config)) })
    }

    /// Runs a model. `None` where an input is not plain: see `grey._arrays`.
    #[pyo3(signature = (model, version, inputs, outputs, timeout, options))]
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
    ) -> PyResult<Option<Py<PyAny>>> {
        let process = self.process.here(py)?;
        let Some(call) = call(py, model, version, inputs, outputs, timeout, options)? else { return Ok(None) };
        let answered = process.wait(py, self.client.infer(&call))?;
        result(py, answered).map(Some)
    }

    /// [`Client::infer`] as an asyncio future, and its call.
    #[pyo3(signature = (model, version, inputs, outputs, timeout, options))]
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
    ) -> PyResult<Option<(Py<PyAny>, Call)>> {
        let process = self.process.here(py)?;
        let Some(call) = call(py, model, version, inputs, outputs, timeout, options)? else { return Ok(None) };
        let client = grey_client::Client::clone(&self.client);
        process.start(py, async move { client.infer(&call).await }, result).map(Some)
    }

    /// Runs a proof's request again. The answer is JSON and the outputs by name. `None` where an input is not plain.
    #[pyo3(signature = (proof, inputs, salt, timeout))]
    fn replay(
        &self,
        py: Python<'_>,
        proof: &[u8],
        inputs: &Bound<'_, PyDict>,
        salt: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let process = self.process.here(py)?;
        let (salt, limit) = (salt.map(self::salt).transpose()?, limit(py, "timeout", timeout)?);
        let Some(inputs) = arrays::tensors(inputs)? else { return Ok(None) };
        let ended = process.wait(py, self.client.replay(proof, &inputs, salt.as_ref(), limit))?;
        replayed(py, ended).map(Some)
    }

    /// [`Client::replay`] as an asyncio future, and its call.
    #[pyo3(signature = (proof, inputs, salt, timeout))]
    fn replay_async(
        &self,
        py: Python<'_>,
        proof: Vec<u8>,
        inputs: &Bound<'_, PyDict>,
        salt: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Option<(Py<PyAny>, Call)>> {
        let process = self.process.here(py)?;
        let (salt, limit) = (salt.map(self::salt).transpose()?, limit(py, "timeout", timeout)?);
        let Some(inputs) = arrays::tensors(inputs)? else { return Ok(None) };
        let client = grey_client::Client::clone(&self.client);
        let replay = async move { client.replay(&proof, &inputs, salt.as_ref(), limit).await };
        process.start(py, replay, replayed).map(Some)
    }

    /// Asks or tells the node about its models and itself; the answer is JSON.
    #[pyo3(signature = (verb, model=None, version=None, timeout=None))]
    fn manage(
        &self,
        py: Python<'_>,
        verb: &str,
        model: Option<&str>,
        version: Option<&str>,
        timeout: Option<f64>,
    ) -> PyResult<String> {
        let process = self.process.here(py)?;
        let (verb, limit) = (Verb::new(py, verb, model, version)?, limit(py, "timeout", timeout)?);
        process.wait(py, manage(&self.client, verb, limit))?.map_err(|e| raised_by_client(py, &e))
    }

    /// [`Client::manage`] as an asyncio future, and its call.
    #[pyo3(signature = (verb, model=None, version=None, timeout=None))]
    fn manage_async(
        &self,
        py: Python<'_>,
        verb: &str,
        model: Option<&str>,
        version: Option<&str>,
        timeout: Option<f64>,
    ) -> PyResult<(Py<PyAny>, Call)> {
        let process = self.process.here(py)?;
        let (verb, limit) = (Verb::new(py, verb, model, version)?, limit(py, "timeout", timeout)?);
        let client = grey_client::Client::clone(&self.client);
        process.start(py, async move { manage(&client, verb, limit).await }, text)
    }

    /// Registers files as a version of a model, and loads it if `load`; the answer is JSON.
    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    #[pyo3(signature = (model, files, version, labels, metadata, example, load, timeout))]
    fn add(
        &self,
        py: Python<'_>,
        model: &str,
        files: Vec<PathBuf>,
        version: Option<&str>,
        labels: Vec<String>,
        metadata: Metadata,
        example: Option<String>,
        load: bool,
        timeout: Option<f64>,
    ) -> PyResult<String> {
        let process = self.process.here(py)?;
        let request = add_request(py, model, &files, version, &labels, metadata, example, load, timeout)?;
        process.wait(py, add(&self.client, request))?.map_err(|e| raised_by_client(py, &e))
    }

    /// [`Client::add`] as an asyncio future, and its call.
    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    #[pyo3(signature = (model, files, version, labels, metadata, example, load, timeout))]
    fn add_async(
        &self,
        py: Python<'_>,
        model: &str,
        files: Vec<PathBuf>,
        version: Option<&str>,
        labels: Vec<String>,
        metadata: Metadata,
        example: Option<String>,
        load: bool,
        timeout: Option<f64>,
    ) -> PyResult<(Py<PyAny>, Call)> {
        let process = self.process.here(py)?;
        let request = add_request(py, model, &files, version, &labels, metadata, example, load, timeout)?;
        let client = grey_client::Client::clone(&self.client);
        process.start(py, async move { add(&client, request).await }, text)
    }

    /// Closes all connections; calls that are under way fail. In a forked child nothing is done: they are the parent's.
    fn close(&self) {
        if self.process.is_here() {
            self.client.close();
        }
    }
}

fn argument(py: Python<'_>, why: String) -> PyErr {
    raised_by_client(py, &Error::Argument(why))
}

fn core(py: Python<'_>, e: grey_core::Error) -> PyErr {
    raised_by_client(py, &e.into())
}

/// A call's time in seconds, an infinite one for none.
fn limit(py: Python<'_>, name: &str, given: Option<f64>) -> PyResult<Limit> {
    match given {
        None => Ok(Limit::Usual),
        Some(f64::INFINITY) => Ok(Limit::Never),
        Some(time) if time >= 0.0 => seconds(py, time).map(Limit::After),
        Some(other) => Err(argument(py, format!("{name}: expected seconds, 0 or more, found {other}"))),
    }
}

/// `None` where an input is not plain.
fn call(
    py: Python<'_>,
    model: &str,
    version: Option<&str>,
    inputs: &Bound<'_, PyDict>,
    outputs: Option<Vec<String>>,
    timeout: Option<f64>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Option<Arc<InferCall>>> {
    let (model, version) = (model_id(py, model)?, self::version(py, version)?);
    let limit = limit(py, "timeout", timeout)?;
    let Some(inputs) = arrays::tensors(inputs)? else { return Ok(None) };
    let mut call = InferCall { version, timeout: limit, ..InferCall::new(model, inputs) };
    call.outputs = outputs.unwrap_or_default();
    for (name, value) in options.into_iter().flat_map(|o| o.iter()) {
        let prove = |call: &mut InferCall| call.prove.take().unwrap_or_default();
        match name.extract::<&str>()? {
            "id" => call.id = value.extract()?,
            "tenant" => call.tenant = Some(Tenant::new(value.extract::<&str>()?).map_err(|e| core(py, e))?),
            "parameters" => call.parameters = parameters(&value)?,
            "prove" => call.prove = Some(prove(&mut call)),
            "nonce" => {
                let nonce = value.extract::<Bound<'_, PyBytes>>()?.as_bytes().to_vec();
                call.prove = Some(ProveRequest { nonce: Some(nonce), ..prove(&mut call) });
            }
            "salt" => call.prove = Some(ProveRequest { salt: Some(salt(&value)?), ..prove(&mut call) }),
            "verify" => {
                let policy = Policy::from_json(value.extract::<&str>()?);
                call.verify = Some(policy.map_err(|e| ProofInputError::new_err(e.to_string()))?);
            }
            "model_hash" => call.model_hash = model_hash(value.extract::<&str>()?)?,
            other => return Err(PyTypeError::new_err(format!("unknown option '{other}'"))),
        }
    }
    Ok(Some(Arc::new(call)))
}

/// The hash in known values in JSON.
fn model_hash(known: &str) -> PyResult<Option<KnownModelHash>> {
    Known::from_json(known).map(|k| k.model_hash).map_err(|e| ProofInputError::new_err(e.to_string()))
}

fn model_id(py: Python<'_>, model: &str) -> PyResult<ModelId> {
    ModelId::new(model).map_err(|e| core(py, e))
}

/// `latest`, and nothing, are no version.
fn version(py: Python<'_>, version: Option<&str>) -> PyResult<Option<Version>> {
    let named = version.filter(|v| !v.is_empty() && *v != "latest");
    named.map(Version::new).transpose().map_err(|e| core(py, e))
}

fn result(py: Python<'_>, answered: Answered) -> PyResult<Py<PyAny>> {
    let (answer, proven) = answered.map_err(|e| raised_by_client(py, &e))?;
    let outputs = arrays::arrays(py, &answer.outputs)?;
    let verdict = proven.as_ref().and_then(|p| p.verdict.as_ref()).map(serde_json::to_string).transpose();
    let verdict = verdict.map_err(|e| argument(py, e.to_string()))?;
    let made = Made {
        model: answer.model.as_str(),
        version: answer.version.as_ref().map_or("", Version::as_str),
        id: answer.id.as_deref().unwrap_or_default(),
        parameters: &answer.parameters,
        bundle: proven.as_ref().map(|p| p.bundle.as_slice()),
        verdict: verdict.as_deref(),
        queue_seconds: None,
        execute_seconds: None,
    };
    infer_result(py, &outputs, made)
}

fn replayed(py: Python<'_>, ended: Result<Replay>) -> PyResult<Py<PyAny>> {
    let replay = ended.map_err(|e| raised_by_client(py, &e))?;
    let outputs = arrays::arrays(py, &replay.outputs)?;
    let told = json!({
        "result": replay.result,
        "model": replay.model.id,
        "version": replay.model.version,
        "determinism": replay.class,
        "recorded_output_hash": replay.output_hash.recorded,
        "replayed_output_hash": replay.output_hash.replayed,
        "differences": replay.profile_differences,
    });
    Ok((told.to_string(), outputs).into_pyobject(py)?.into_any().unbind())
}

fn text(py: Python<'_>, answer: Result<String>) -> PyResult<Py<PyAny>> {
    let answer = answer.map_err(|e| raised_by_client(py, &e))?;
    Ok(PyString::new(py, &answer).into_any().unbind())
}

enum Verb {
    Models,
    Node,
    Ready(Option<(ModelId, Option<Version>)>),
    Model(ModelId, Option<Version>),
    Signature(ModelId, Option<Version>),
    Load(ModelId, Option<Version>),
    Unload(ModelId, Option<Version>),
    Remove(ModelId, Option<Version>),
}

impl Verb {
    fn new(py: Python<'_>, verb: &str, model: Option<&str>, version: Option<&str>) -> PyResult<Verb> {
        let version = self::version(py, version)?;
        let id = || model_id(py, model.unwrap_or_default());
        Ok(match verb {
            "models" => Verb::Models,
            "node" => Verb::Node,
            "ready" => Verb::Ready(model.map(|_| id()).transpose()?.map(|id| (id, version))),
            "model" => Verb::Model(id()?, version),
            "signature" => Verb::Signature(id()?, version),
            "load" => Verb::Load(id()?, version),
            "unload" => Verb::Unload(id()?, version),
            "remove" => Verb::Remove(id()?, version),
            other => return Err(PyTypeError::new_err(format!("unknown verb '{other}'"))),
        })
    }
}

async fn manage(client: &grey_client::Client, verb: Verb, limit: Limit) -> Result<String> {
    match verb {
        Verb::Models => json(&client.models(limit).await?.models),
        Verb::Node => json(&client.node(limit).await?),
        Verb::Ready(None) => json(&client.ready(None, limit).await?),
        Verb::Ready(Some((id, version))) => json(&client.ready(Some((&id, version.as_ref())), limit).await?),
        Verb::Model(id, version) => json(&client.model(&id, version.as_ref(), limit).await?),
        Verb::Signature(id, version) => json(&client.metadata(&id, version.as_ref(), limit).await?),
        Verb::Load(id, version) => json(&client.load(&id, version.as_ref(), limit).await?),
        Verb::Unload(id, version) => json(&client.unload(&id, version.as_ref(), limit).await?),
        Verb::Remove(id, version) => json(&client.remove(&id, version.as_ref(), limit).await?),
    }
}

async fn add(client: &grey_client::Client, request: AddRequest) -> Result<String> {
    json(&client.add(&request).await?)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Answer(format!("it is no JSON: {e}")))
}

#[expect(clippy::too_many_arguments, reason = "as many as the call has")]
fn add_request(
    py: Python<'_>,
    model: &str,
    files: &[PathBuf],
    version: Option<&str>,
    labels: &[String],
    metadata: Metadata,
    example: Option<String>,
    load: bool,
    timeout: Option<f64>,
) -> PyResult<AddRequest> {
    let found = grey::model_files(files).map_err(|e| core(py, e))?;
    Ok(AddRequest {
        id: model_id(py, model)?,
        version: self::version(py, version)?,
        labels: labels.iter().map(Label::new).collect::<Result<_, _>>().map_err(|e| core(py, e))?,
        files: found.into_iter().map(|(name, path)| (name.to_string(), path)).collect(),
        example: example.map(Into::into),
        load,
        metadata,
        timeout: limit(py, "timeout", timeout)?,
    })
}
