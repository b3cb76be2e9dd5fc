//! The HTTP client of the verbs.

use std::{
    io::{ErrorKind, Read},
    time::Duration,
};

use grey_core::{ModelId, nearest};
use grey_server::oip::{self, HEADER_LENGTH_HEADER};
use serde_json::Value;
use ureq::{
    Agent, SendBody,
    http::{Response, Uri},
};

use crate::{encoding::escaped, failure::Failure, request::Body};

/// Longest wait for a connection: nodes are near.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the answer to a question.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest wait for an answer to what takes work: opening a large model takes minutes.
const WORK_WAIT_MAX: Duration = Duration::from_secs(900);
/// Longest wait for the answer of somebody who may be no node.
const BRIEF_WAIT_MAX: Duration = Duration::from_secs(2);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// An answer's body.
pub(crate) struct Answer {
    /// All of it, or its JSON if tensors follow.
    pub(crate) bytes: Vec<u8>,
    /// The binary tensors behind the JSON.
    pub(crate) tail: Vec<u8>,
}

/// A node's address, as a flag's value.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let expected = "expected an address such as http://127.0.0.1:8000";
    // An empty variable is what a script has that was given none.
    if text.is_empty() {
        return Ok(String::new());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("{expected}; did you mean http://{}?", escaped(text)));
    };
    if scheme != "http" {
        return Err(format!("{expected}, found '{}': this command speaks HTTP without TLS", escaped(scheme)));
    }
    let uri: Uri = text.parse().map_err(|e| format!("{expected}: {e}"))?;
    let authority = uri.authority().filter(|a| !a.host().is_empty()).ok_or_else(|| format!("{expected}: no host"))?;
    // A port that is no number of 16 bits would be taken for none.
    if authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, port)| port).contains(':')
        && authority.port_u16().is_none()
    {
        return Err(format!("{expected}: '{}' has no port from 0 to 65535", escaped(rest)));
    }
    Ok(text.to_owned())
}

/// Talks to one node.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    url: String,
    timeout: Option<Duration>,
    /// The model that a verb is about, for hints.
    model: Option<String>,
}

impl Client {
    /// `timeout` is the longest wait for any answer, where the user says one.
    pub(crate) fn new(url: &str, timeout: Option<Duration>) -> Self {
        Client::with_timeouts(url, timeout, None)
    }

    /// A client that gives up on any answer after `patience`.
    pub(crate) fn with_patience(url: &str, patience: Duration) -> Self {
        Client::with_timeouts(url, Some(patience), Some(patience))
    }

    /// A client that asks whoever listens there, and soon gives up.
    pub(crate) fn brief(url: &str) -> Self {
        Client::with_patience(url, BRIEF_WAIT_MAX)
    }

    fn with_timeouts(url: &str, timeout: Option<Duration>, whole: Option<Duration>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(timeout.map_or(CONNECT_WAIT_MAX, |t| t.min(CONNECT_WAIT_MAX))))
            .timeout_recv_response(Some(timeout.unwrap_or(WORK_WAIT_MAX)))
            .timeout_recv_body(Some(timeout.unwrap_or(WORK_WAIT_MAX)))
            .timeout_global(whole)
            .user_agent(concat!("grey/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.into(), url: url.trim_end_matches('/').to_owned(), timeout, model: None }
    }

    /// The node's address, without a slash at its end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The longest wait that was asked for.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// A question, which is answered from memory.
    fn ask(&self, path: &str) -> Result<Response<ureq::Body>, ureq::Error> {
        let wait = self.timeout.unwrap_or(ANSWER_WAIT_MAX);
        let request = self.agent.get(self.at(path)).config();
        request.timeout_recv_response(Some(wait)).timeout_recv_body(Some(wait)).build().call()
    }

    /// The same client, for a verb about `model`.
    pub(crate) fn about(&self, model: &ModelId) -> Self {
        Client { model: Some(model.to_string()), ..self.clone() }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.answer(self.ask(path))
    }

    /// An answer that is no JSON, as it came.
    pub(crate) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        Ok(self.body(self.ask(path))?.bytes)
    }

    /// The list that an answer holds under `key`.
    pub(crate) fn list(&self, path: &str, key: &str) -> Result<Value, Failure> {
        let mut answer = self.get(path)?;
        answer.get_mut(key).filter(|v| v.is_array()).map(Value::take).ok_or_else(|| self.stranger(key))
    }

    /// What it means that an answer has no `key`.
    pub(crate) fn stranger(&self, key: &str) -> Failure {
        Failure::unexpected(format!("{} answered without '{key}'; is it a Grey node?", self.url))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.answer(self.agent.delete(self.at(path)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<Value, Failure> {
        self.answer(self.agent.post(self.at(path)).content_type("application/json").send(body))
    }

    /// An inference's answer as it came, with its numbers as the node wrote them.
    pub(crate) fn infer(&self, path: &str, body: &Body) -> Result<Answer, Failure> {
        self.body(self.send(path, body))
    }

    /// The same for what is answered in JSON.
    pub(crate) fn post_body(&self, path: &str, body: &Body) -> Result<Value, Failure> {
        self.answer(self.send(path, body))
    }

    fn send(&self, path: &str, body: &Body) -> Result<Response<ureq::Body>, ureq::Error> {
        let request = self.agent.post(self.at(path));
        match body.header_length {
            None => request.content_type("application/json").send(&body.bytes),
            Some(n) => request
                .content_type("application/octet-stream")
                .header(HEADER_LENGTH_HEADER, n.to_string())
                .send(&body.bytes),
        }
    }

    /// A change without a body.
    pub(crate) fn put(&self, path: &str, query: &[(String, String)]) -> Result<Value, Failure> {
        let pairs = query.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        self.answer(self.agent.put(self.at(path)).query_pairs(pairs).send_empty())
    }

    /// Streams a body of `length` bytes.
    pub(crate) fn upload(
        &self,
        path: &str,
        query: &[(String, String)],
        kind: &str,
        length: u64,
        body: impl Read + 'static,
    ) -> Result<Value, Failure> {
        let request = self
            .agent
            .post(self.at(path))
            .query_pairs(query.iter().map(|(k, v)| (k.as_str(), v.as_str())))
            .content_type(kind)
            .header("Content-Length", length.to_string());
        self.answer(request.send(SendBody::from_owned_reader(body)))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn answer(&self, result: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
        let bytes = self.body(result)?.bytes;
        if bytes.is_empty() { Ok(Value::Null) } else { self.json(&bytes) }
    }

    /// Reads an answer as JSON.
    pub(crate) fn json(&self, bytes: &[u8]) -> Result<Value, Failure> {
        serde_json::from_slice(bytes).map_err(|_| {
            Failure::unexpected(format!("{} answered with something that is not JSON; is it a Grey node?", self.url))
        })
    }

    /// The body of an answer that is a success; of any other, what it says.
    fn body(&self, result: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, Failure> {
        let mut response = result.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        let header_length = response.headers().get(HEADER_LENGTH_HEADER).map(|v| oip::header_length(v.as_bytes()));
        let mut bytes = Vec::new();
        let mut reader = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).reader();
        reader
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::unexpected(format!("the answer of {} broke off: {e}", self.url)))?;
        if status.is_success() {
            let Some(length) = header_length else { return Ok(Answer { bytes, tail: Vec::new() }) };
            let length = length.ok().filter(|n| *n <= bytes.len());
            let length = length.ok_or_else(|| self.stranger("a header length that fits"))?;
            let tail = bytes.split_off(length);
            return Ok(Answer { bytes, tail });
        }
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        let message = value.as_ref().and_then(|v| v.get("error")).and_then(Value::as_str).map(str::to_owned);
        let message = message.unwrap_or_else(|| format!("{} answered {status}", self.url));
        let mut failure = Failure::refused(message);
        if status.as_u16() == 404
            && let Some(hint) = self.did_you_mean()
        {
            failure = failure.hint(hint);
        }
        Err(failure)
    }

    fn unreachable(&self, e: &ureq::Error) -> Failure {
        let at = &self.url;
        match e {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Failure::usage(format!("'{at}' is no address of a node: {e}"))
                    .hint("an address looks like http://127.0.0.1:8000")
            }
            ureq::Error::Timeout(ureq::Timeout::RecvResponse) => {
                Failure::unexpected(format!("{at} took the request, and did not answer in time"))
                    .hint("is it a Grey node? one that is busy may need longer: --timeout 5m")
            }
            ureq::Error::Protocol(e) => Failure::unexpected(format!("{at} does not answer in HTTP: {e}"))
                .hint("is it the address of a Grey node?"),
            ureq::Error::Io(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Failure::unexpected(format!("{at} hung up without an answer")).hint("is it a Grey node?")
            }
            other => {
                let why = match other {
                    ureq::Error::Io(e) => e.to_string(),
                    ureq::Error::Timeout(_) => "no connection in time".to_owned(),
                    other => other.to_string(),
                };
                Failure::unexpected(format!("cannot reach a node at {at}: {why}"))
                    .hint("is a node running? start one with: grey serve")
                    .hint("or name another one with --url or GREY_URL")
            }
        }
    }

    /// The registered model whose name is nearest to the one that is not there.
    fn did_you_mean(&self) -> Option<String> {
        let asked = self.model.as_deref()?;
        let models = self.list("/grey/v1/models", "models").ok()?;
        let names = models.as_array()?.iter().filter_map(|m| m.get("id")?.as_str());
        Some(format!("did you mean '{}'?", nearest(asked, names)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        for good in ["", "http://127.0.0.1:8000", "http://a.example/x/", "http://[::1]:1", "http://[::1]"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for (bad, says) in [
            ("127.0.0.1:8000", "did you mean http://127.0.0.1:8000?"),
            ("https://a", "without TLS"),
            ("http://", "http://127.0.0.1:8000: "),
            ("http://a:99999", "port from 0 to 65535"),
            ("http://[::1]:x", "http://127.0.0.1:8000: "),
            ("http://a b", "http://127.0.0.1:8000: "),
        ] {
            let e = address(bad).unwrap_err();
            assert!(e.contains(says), "{e} should say {says}");
        }
    }

    #[test]
    fn no_node_is_said_with_a_way_out() {
        // A port that was free a moment ago and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let f = Client::new(&format!("http://127.0.0.1:{port}/"), None).get("/x").unwrap_err();
        assert_eq!(f.exit, crate::EXIT_UNEXPECTED);
        assert!(f.hints[0].contains("grey serve"), "{f:?}");
    }
}
