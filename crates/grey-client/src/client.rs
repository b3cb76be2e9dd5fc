//! The calls, and how each of them is carried out.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use grey_core::{ErrorKind, Label, ModelId, Payload, Tensor, Version, oip};
use grey_proof::BUNDLE_BYTES_MAX;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    Added, Address, Answer, Config, Error, InferCall, Limit, ModelDetails, ModelList, ModelMetadata, NodeInfo, Proven,
    Replay, Result, answer,
    body::Body,
    clock,
    connection::{Lost, chain},
    error::Refusal,
    form::Form,
    pool::{Lease, Pool},
    proof::{self, Asked},
    request::{self, Encoded, encode, insert_timeout},
    retry::{Attempts, Failed, Next},
    text::{message, shown},
    views::{Removed, ReplayReport},
};

/// Largest answer that is a refusal, in bytes: a sentence.
const REFUSAL_BYTES_MAX: u64 = 1 << 20;
/// Largest answer in JSON that is no inference's: a list of very many models.
const JSON_BYTES_MAX: u64 = 256 << 20;
/// Proofs of answers up to this size are checked where they arrive; larger ones would hold up a thread that
/// serves other calls.
const HASHED_INLINE_BYTES_MAX: usize = 256 << 10;

/// A client of one node. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Address,
    config: Config,
    pool: Pool,
    is_closed: watch::Sender<bool>,
}

/// A file to be registered as a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddRequest {
    /// The model.
    pub id: ModelId,
    /// The version; `None`: the next number.
    pub version: Option<Version>,
    /// Labels that mean it from then on.
    pub labels: Vec<Label>,
    /// Its files, which are streamed: the name of each in the version, and where it is.
    pub files: Vec<(String, PathBuf)>,
    /// A request that it answers, in the protocol's JSON.
    pub example: Option<Bytes>,
    /// Whether it is loaded at once.
    pub load: bool,
    /// Free metadata.
    pub metadata: BTreeMap<String, String>,
    /// How long it may take.
    pub timeout: Limit,
}

/// What a call waits for, for the message when its time is up.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Phase {
    Slot,
    Connection,
    Answer,
    Rest,
    Retry,
    Proof,
}

/// One call's clock.
#[derive(Debug)]
struct Call {
    limit: Option<Duration>,
    deadline: Option<Instant>,
    phase: AtomicU8,
}

impl Call {
    fn new(limit: Option<Duration>) -> Call {
        // A time too far away to be counted is none.
        let deadline = limit.and_then(|limit| clock::now().checked_add(limit));
        Call { limit, deadline, phase: AtomicU8::new(Phase::Slot as u8) }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    fn left(&self) -> Option<Duration> {
        self.deadline.map(|at| at.saturating_duration_since(clock::now()))
    }

    fn expired(&self, address: &Address) -> Error {
        let doing = match self.phase.load(Relaxed) {
            p if p == Phase::Slot as u8 => "it waited for one of the client's connections",
            p if p == Phase::Connection as u8 => "it waited for a connection",
            p if p == Phase::Answer as u8 => "it waited for the answer",
            p if p == Phase::Rest as u8 => "it was reading the answer",
            p if p == Phase::Retry as u8 => "it waited to ask a full node again",
            _ => "it was checking the proof",
        };
        let limit = self.limit.unwrap_or_default();
        let seconds = (limit.as_secs_f64() * 1e3).round() / 1e3;
        Error::Deadline(format!("{address} did not answer within {seconds} s: {doing}"))
    }
}

/// A request that can be built again for every attempt.
struct Order<'a> {
    method: Method,
    path: String,
    headers: HeaderMap,
    /// The body of an attempt that has so much time left.
    body: Box<dyn Fn(Option<Duration>) -> Result<Content> + Send + Sync + 'a>,
    /// Whether sending it twice is the same as sending it once.
    is_repeatable: bool,
    answer_bytes_max: u64,
}

/// A body, and where its JSON ends if binary data follows.
enum Content {
    Nothing,
    Chunks(Encoded),
    /// Files by name, and an example.
    Form(Vec<(String, PathBuf)>, Option<Bytes>),
}

/// A success.
struct Success {
    headers: HeaderMap,
    body: Payload,
}

impl Client {
    /// A client of the node at `address`. Connects when it is first needed.
    pub fn new(address: Address, config: Config) -> Client {
        let pool = Pool::new(address.clone(), config.connect_timeout, config.connections_max);
        Client(Arc::new(Inner { address, config, pool, is_closed: watch::Sender::new(false) }))
    }

    /// Where the node is.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// How the client behaves.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Closes all connections. Calls that are under way, and all later ones, fail with [`Error::Closed`].
    pub fn close(&self) {
        self.0.is_closed.send_replace(true);
        self.0.pool.close();
    }

    /// Runs a model.
    ///
    /// # Errors
    /// Every kind of [`Error`].
    pub async fn infer(&self, call: &InferCall) -> Result<(Answer, Option<Proven>)> {
        call.check()?;
        let asked = Asked::of(call)?;
        let mut headers = HeaderMap::new();
        if let Some(tenant) = call.tenant.as_ref().or(self.0.config.tenant.as_ref()) {
            let value = tenant.as_str().parse().map_err(|_| Error::Argument("the tenant is no name".into()))?;
            headers.insert(oip::TENANT_HEADER, value);
        }
        let version = call.version.as_ref().map_or_else(String::new, |v| format!("/versions/{v}"));
        let order = Order {
            method: Method::POST,
            path: format!("/v2/models/{}{version}/infer", call.model),
            headers,
            body: Box::new(|left| {
                let proof = asked.as_ref().map(|a| (a.nonce.as_slice(), a.salt.as_ref()));
                let parameters = request::parameters(call, left, proof);
                encode(&call.id, &call.inputs, &call.outputs, &parameters).map(Content::Chunks)
            }),
            is_repeatable: true,
            answer_bytes_max: self.0.config.answer_bytes_max,
        };
        let timing = Call::new(call.timeout.or(self.0.config.timeout));
        let work = async {
            let success = self.exchange(&order, &timing).await?;
            let length = header_length(&success.headers)?;
            let answer = answer::decode(length, &success.body)?;
            answer.check(call)?;
            let Some(asked) = &asked else { return Ok((answer, None)) };
            timing.enter(Phase::Proof);
            let session = answer.proof.as_ref().ok_or_else(proof::missing)?.session;
            let session = self.session_within(&session, Some(&asked.nonce), &timing).await?;
            timing.enter(Phase::Proof);
            let proven = checked(call, &answer, asked, session).await?;
            Ok((answer, Some(proven)))
        };
        self.within(&timing, work).await.map_err(|e| self.about(e))
    }

    /// Runs a proof's request again on the node, which its operator must allow, and compares the bytes.
    ///
    /// # Arguments
    /// - `proof`: the proof, or its bundle.
    /// - `inputs`: those of the proof's request.
    /// - `salt`: of the proof's request, if it had one.
    ///
    /// # Errors
    /// [`Error::Refused`] if the node replays nothing, has not got the model, or the inputs are not the proof's.
    pub async fn replay(
        &self,
        proof: &[u8],
        inputs: &[Tensor],
        salt: Option<&[u8; 32]>,
        timeout: Limit,
    ) -> Result<Replay> {
        let order = Order {
            body: Box::new(|left| {
                let mut parameters = Map::new();
                parameters.insert("grey_proof".into(), STANDARD.encode(proof).into());
                if let Some(salt) = salt {
                    parameters.insert("grey_salt".into(), STANDARD.encode(salt).into());
                }
                insert_timeout(&mut parameters, left);
                encode("", inputs, &[], &parameters).map(Content::Chunks)
            }),
            answer_bytes_max: self.0.config.answer_bytes_max,
            is_repeatable: true,
            ..Order::bare(Method::POST, "/grey/v1/replay".into())
        };
        self.json::<ReplayReport>(order, timeout.or(self.0.config.model_timeout))
            .await?
            .open()
            .map_err(|e| self.about(e))
    }

    /// All models.
    ///
    /// # Errors
    /// Those of any call but refusals of arguments.
    pub async fn models(&self, timeout: Limit) -> Result<ModelList> {
        self.json(Order::get("/grey/v1/models".into()), timeout.or(self.0.config.timeout)).await
    }

    /// One version, in full; without a version the latest.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorKind::NotFound`] if there is none.
    pub async fn model(&self, id: &ModelId, version: Option<&Version>, timeout: Limit) -> Result<ModelDetails> {
        self.json(Order::get(model_path(id, version)), timeout.or(self.0.config.timeout)).await
    }

    /// A model by the protocol's metadata.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorKind::NotFound`] if there is none.
    pub async fn metadata(&self, id: &ModelId, version: Option<&Version>, timeout: Limit) -> Result<ModelMetadata> {
        let version = version.map_or_else(String::new, |v| format!("/versions/{v}"));
        self.json(Order::get(format!("/v2/models/{id}{version}")), timeout.or(self.0.config.timeout)).await
    }

    /// Whether the node takes requests; with a model, whether it would answer without loading first.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorKind::NotFound`] if there is no such model.
    pub async fn ready(&self, model: Option<(&ModelId, Option<&Version>)>, timeout: Limit) -> Result<bool> {
        let path = match model {
            None => "/v2/health/ready".into(),
            Some((id, None)) => format!("/v2/models/{id}/ready"),
            Some((id, Some(version))) => format!("/v2/models/{id}/versions/{version}/ready"),
        };
        match self.once(Order::get(path), timeout.or(self.0.config.timeout)).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(r)) if r.status == StatusCode::SERVICE_UNAVAILABLE.as_u16() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Loads a version, by default the latest, and returns once it answers.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorKind::LoadFailed`] if it cannot be opened.
    pub async fn load(&self, id: &ModelId, version: Option<&Version>, timeout: Limit) -> Result<ModelDetails> {
        let order = Order { is_repeatable: true, ..Order::bare(Method::POST, model_path(id, version) + "/load") };
        self.json(order, timeout.or(self.0.config.model_timeout)).await
    }

    /// Unloads a version, by default all of them; they stay registered.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorKind::NotFound`] if there is none.
    pub async fn unload(&self, id: &ModelId, version: Option<&Version>, timeout: Limit) -> Result<()> {
        let order = Order { is_repeatable: true, ..Order::bare(Method::POST, model_path(id, version) + "/unload") };
        self.json::<Value>(order, timeout.or(self.0.config.model_timeout)).await.map(drop)
    }

    /// Removes a version from the registry, by default all of them, and says which.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorKind::NotFound`] if there is none.
    pub async fn remove(&self, id: &ModelId, version: Option<&Version>, timeout: Limit) -> Result<Vec<Version>> {
        let order = Order::bare(Method::DELETE, model_path(id, version));
        self.json::<Removed>(order, timeout.or(self.0.config.model_timeout)).await.map(|r| r.removed)
    }

    /// Registers files as a version of a model.
    ///
    /// # Errors
    /// [`Error::Argument`] if a file cannot be read.
    pub async fn add(&self, what: &AddRequest) -> Result<Added> {
        let mut query = vec![("load".to_owned(), what.load.to_string())];
        query.extend(what.labels.iter().map(|label| ("label".to_owned(), label.to_string())));
        query.extend(what.metadata.iter().map(|(k, v)| (format!("meta.{k}"), v.clone())));
        let query: Vec<String> = query.iter().map(|(k, v)| format!("{}={}", escaped(k), escaped(v))).collect();
        let order = Order {
            body: Box::new(|_| Ok(Content::Form(what.files.clone(), what.example.clone()))),
            ..Order::bare(Method::POST, format!("{}?{}", model_path(&what.id, what.version.as_ref()), query.join("&")))
        };
        self.json(order, what.timeout.or(self.0.config.model_timeout)).await
    }

    /// The node itself.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn node(&self, timeout: Limit) -> Result<NodeInfo> {
        self.json(Order::get("/grey/v1/node".into()), timeout.or(self.0.config.timeout)).await
    }

    /// A session's bundle; with a nonce its evidence is made anew over it.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorKind::NotFound`] if the node knows no such session.
    pub async fn session(&self, digest: &[u8; 32], nonce: Option<&[u8]>, timeout: Limit) -> Result<Bytes> {
        let timing = Call::new(timeout.or(self.0.config.timeout));
        self.within(&timing, self.session_within(digest, nonce, &timing)).await.map_err(|e| self.about(e))
    }

    async fn session_within(&self, digest: &[u8; 32], nonce: Option<&[u8]>, timing: &Call) -> Result<Bytes> {
        let digest = base16ct::lower::encode_string(digest);
        let query = nonce.map_or_else(String::new, |n| format!("?nonce={}", URL_SAFE_NO_PAD.encode(n)));
        let order = Order {
            answer_bytes_max: BUNDLE_BYTES_MAX as u64,
            ..Order::get(format!("/grey/v1/sessions/{digest}{query}"))
        };
        Ok(self.exchange(&order, timing).await?.body.to_contiguous())
    }

    /// A call whose answer is JSON.
    async fn json<T: DeserializeOwned>(&self, order: Order<'_>, limit: Option<Duration>) -> Result<T> {
        let success = self.once(order, limit).await?;
        let text = success.body.to_contiguous();
        serde_json::from_slice(&text).map_err(|e| {
            let why: String = e.to_string().chars().take(200).flat_map(char::escape_debug).collect();
            Error::NotANode(format!(
                "{} answered with something that is not a Grey node's: {why}; is it a Grey node?",
                self.0.address
            ))
        })
    }

    /// A call by itself.
    async fn once(&self, order: Order<'_>, limit: Option<Duration>) -> Result<Success> {
        let timing = Call::new(limit);
        self.within(&timing, self.exchange(&order, &timing)).await.map_err(|e| self.about(e))
    }

    /// Says whose answer it is that is wrong.
    fn about(&self, e: Error) -> Error {
        match e {
            Error::Answer(why) => Error::Answer(format!("the answer of {} cannot be taken: {why}", self.0.address)),
            other => other,
        }
    }

    /// Carries `work` out until the deadline, or until the client is closed.
    async fn within<T>(&self, timing: &Call, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut closed = self.0.is_closed.subscribe();
        let work = async {
            tokio::select! {
                biased;
                _ = closed.wait_for(|c| *c) => Err(Error::Closed),
                done = work => done,
            }
        };
        match timing.deadline {
            None => work.await,
            // The node could be quicker than this client's clock.
            Some(at) if at <= clock::now() => Err(timing.expired(&self.0.address)),
            Some(at) => timeout_at(at, work).await.unwrap_or_else(|_| Err(timing.expired(&self.0.address))),
        }
    }

    /// Sends a request, again where that is right, and reads the answer of a success.
    async fn exchange(&self, order: &Order<'_>, timing: &Call) -> Result<Success> {
        let mut attempts = Attempts::new(self.0.config.retries_max, order.is_repeatable);
        let mut on_new = !order.is_repeatable;
        loop {
            let (error, failed) = match self.attempt(order, timing, on_new).await {
                Ok(success) => return Ok(success),
                Err(failure) => failure,
            };
            let draw = clock::random::<1>().map_or(0, |[b]| b);
            match failed.map_or(Next::Fail, |f| attempts.after(f, timing.left(), draw)) {
                Next::Fail => return Err(error),
                Next::OnNewConnection => on_new = true,
                Next::After(wait) => {
                    timing.enter(Phase::Retry);
                    sleep(wait).await;
                }
            }
        }
    }

    async fn attempt(
        &self,
        order: &Order<'_>,
        timing: &Call,
        on_new: bool,
    ) -> Result<Success, (Error, Option<Failed>)> {
        let fatal = |e: Error| (e, None);
        timing.enter(Phase::Slot);
        let slot = self.0.pool.slot().await.map_err(fatal)?;
        timing.enter(Phase::Connection);
        let kept = if on_new { Err(slot) } else { self.0.pool.kept(slot).await };
        let mut lease = match kept {
            Ok(lease) => lease,
            Err(slot) => self.0.pool.open(slot).await.map_err(fatal)?,
        };
        timing.enter(Phase::Answer);
        let request = self.request(order, timing.left()).await.map_err(fatal)?;
        let response = lease.connection.send(request).await.map_err(|lost| self.lost(lost, lease.is_used))?;
        timing.enter(Phase::Rest);
        self.read(response, lease, order.answer_bytes_max).await
    }

    /// What it means that no answer came.
    fn lost(&self, lost: Lost, was_used: bool) -> (Error, Option<Failed>) {
        let at = &self.0.address;
        match lost {
            Lost::Closed(why) => {
                let error = Error::Broken(format!("{at} closed the connection before it answered: {why}"));
                (error, was_used.then_some(Failed::ClosedWhileIdle))
            }
            Lost::NotHttp(why) => (
                Error::NotANode(format!("{at} answered with something that is not HTTP: {why}; is it a Grey node?")),
                None,
            ),
            Lost::Source(why) => (Error::Argument(format!("cannot read what is to be sent: {why}")), None),
            Lost::Broken(why) => (Error::Broken(format!("the connection to {at} broke: {why}")), None),
        }
    }

    async fn request(&self, order: &Order<'_>, left: Option<Duration>) -> Result<Request<Body>> {
        let at = &self.0.address;
        let mut builder = Request::builder()
            .method(order.method.clone())
            .uri(format!("{}{}", at.prefix(), order.path))
            .header(header::HOST, at.authority())
            .header(header::USER_AGENT, concat!("grey-client/", env!("CARGO_PKG_VERSION")));
        let body = match (order.body)(left)? {
            Content::Nothing => Body::empty(),
            Content::Chunks(encoded) => {
                builder = builder
                    .header(header::CONTENT_TYPE, "application/octet-stream")
                    .header(oip::HEADER_LENGTH_HEADER, encoded.header_length);
                Body::chunks(encoded.chunks)
            }
            Content::Form(files, example) => {
                let form = Form::new(&files, example.as_ref()).await?;
                builder = builder.header(header::CONTENT_TYPE, form.content_type());
                form.into_body()
            }
        };
        let mut request = builder.body(body).map_err(|e| Error::Argument(format!("cannot make the request: {e}")))?;
        request.headers_mut().extend(order.headers.clone());
        Ok(request)
    }

    /// Reads an answer to its end, and gives its connection back.
    async fn read(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        bytes_max: u64,
    ) -> Result<Success, (Error, Option<Failed>)> {
        let (parts, body) = response.into_parts();
        let is_success = parts.status == StatusCode::OK || parts.status == StatusCode::CREATED;
        let most = if is_success { bytes_max } else { bytes_max.min(REFUSAL_BYTES_MAX) };
        let body = self.collect(body, most).await.map_err(|e| (e, None))?;
        // The node may want to end the connection.
        if !says_close(&parts.headers) {
            self.0.pool.give_back(lease);
        }
        if is_success {
            if let Some(coding) = parts.headers.get(header::CONTENT_ENCODING) {
                let coding = shown(&String::from_utf8_lossy(coding.as_bytes()));
                return Err((Error::Answer(format!("it is encoded as '{coding}', which was not asked for")), None));
            }
            return Ok(Success { headers: parts.headers, body });
        }
        Err(self.refusal(parts.status, &parts.headers, &body))
    }

    async fn collect(&self, mut body: Incoming, most: u64) -> Result<Payload> {
        let too_large = || Error::Answer(format!("it is larger than the {most} bytes that this client reads"));
        if body.size_hint().lower() > most {
            return Err(too_large());
        }
        let mut read = Payload::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| {
                Error::Broken(format!(
                    "the answer of {} broke off after {} bytes: {}",
                    self.0.address,
                    read.len(),
                    chain(&e)
                ))
            })?;
            if let Ok(data) = frame.into_data() {
                read.push(data);
                if read.len() as u64 > most {
                    return Err(too_large());
                }
            }
        }
        Ok(read)
    }

    /// What an answer that is no success says.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &Payload) -> (Error, Option<Failed>) {
        #[derive(Deserialize)]
        struct Said {
            error: String,
        }
        let at = &self.0.address;
        let said = serde_json::from_slice::<Said>(&body.to_contiguous()).ok();
        let kind = headers.get(oip::ERROR_KIND_HEADER).and_then(|v| v.to_str().ok()).and_then(ErrorKind::from_name);
        let kind = kind.or_else(|| ErrorKind::from_http_status(status.as_u16()));
        let is_of_gateway = matches!(status.as_u16(), 502..=504);
        let message = match said {
            Some(said) => message(&said.error),
            // Something between here and the node may say so in its own way.
            None if is_of_gateway || headers.contains_key(oip::ERROR_KIND_HEADER) => format!("{at} answered {status}"),
            None => {
                let place = headers.get(header::LOCATION).map(|l| shown(&String::from_utf8_lossy(l.as_bytes())));
                let place = place.map_or_else(String::new, |l| format!(" (it points to '{l}')"));
                let why = format!("{at} answered {status}{place} without a reason in JSON; is it a Grey node?");
                return (Error::NotANode(why), None);
            }
        };
        let kind =
            kind.unwrap_or(if status.is_client_error() { ErrorKind::InvalidArgument } else { ErrorKind::Internal });
        let retry_after =
            headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|s| s.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let failed = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(Failed::Unavailable(retry_after));
        let error = Error::Refused(Box::new(Refusal { status: status.as_u16(), kind, message, retry_after }));
        (error, failed)
    }
}

impl<'a> Order<'a> {
    /// A request without a body that may not be sent twice.
    fn bare(method: Method, path: String) -> Order<'a> {
        Order {
            method,
            path,
            headers: HeaderMap::new(),
            body: Box::new(|_| Ok(Content::Nothing)),
            is_repeatable: false,
            answer_bytes_max: JSON_BYTES_MAX,
        }
    }

    fn get(path: String) -> Order<'a> {
        Order { is_repeatable: true, ..Order::bare(Method::GET, path) }
    }
}

fn model_path(id: &ModelId, version: Option<&Version>) -> String {
    match version {
        None => format!("/grey/v1/models/{id}"),
        Some(version) => format!("/grey/v1/models/{id}/versions/{version}"),
    }
}

/// Percent-encoding of one key or value of a query (RFC 3986 §2.3: unreserved characters stay).
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn header_length(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get(oip::HEADER_LENGTH_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let length = if digits { text.parse().ok() } else { None };
    length.map(Some).ok_or_else(|| {
        let found = shown(&String::from_utf8_lossy(value.as_bytes()));
        Error::Answer(format!("{} is '{found}', expected a number of bytes", oip::HEADER_LENGTH_HEADER))
    })
}

fn says_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("close"))
}

/// Checks a proof, away from here if much is to be hashed.
async fn checked(call: &InferCall, answer: &Answer, asked: &Asked, session: Bytes) -> Result<Proven> {
    let bytes: usize = call.inputs.iter().chain(&answer.outputs).map(|t| t.data().len()).sum();
    let now = clock::unix_seconds();
    if bytes <= HASHED_INLINE_BYTES_MAX {
        return proof::check(call, answer, asked, &session, now);
    }
    let (call, answer, asked) = (call.clone(), answer.clone(), asked.clone());
    let work = move || proof::check(&call, &answer, &asked, &session, now);
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Answer(format!("its proof cannot be checked: {e}")))?
}
