//! The HTTP client of the verbs.

use std::{io::Read, time::Duration};

use grey_core::{ModelId, nearest};
use grey_server::oip::HEADER_LENGTH_HEADER;
use serde_json::Value;
use ureq::{Agent, Body, SendBody, http::Response};

use crate::failure::Failure;

/// Longest wait for a connection: nodes are near.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for an answer once the request is sent: opening a large model takes minutes.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(900);
/// Longest wait for the answer of somebody who may be no node.
const BRIEF_WAIT_MAX: Duration = Duration::from_secs(2);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// An answer's body.
struct Answer {
    bytes: Vec<u8>,
    /// Whether tensors follow the JSON.
    is_binary: bool,
}

/// Talks to one node.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    url: String,
    /// The model that a verb is about, for hints.
    model: Option<String>,
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        Client::with_timeouts(url, ANSWER_WAIT_MAX, None)
    }

    /// A client that gives up on any answer after `patience`.
    pub(crate) fn with_patience(url: &str, patience: Duration) -> Self {
        Client::with_timeouts(url, patience, Some(patience))
    }

    fn with_timeouts(url: &str, answer: Duration, whole: Option<Duration>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WAIT_MAX))
            .timeout_recv_response(Some(answer))
            .timeout_global(whole)
            .user_agent(concat!("grey/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.into(), url: url.trim_end_matches('/').to_owned(), model: None }
    }

    /// A client that asks whoever listens there, and soon gives up.
    pub(crate) fn brief(url: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(BRIEF_WAIT_MAX))
            .user_agent(concat!("grey/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.into(), url: url.trim_end_matches('/').to_owned(), model: None }
    }

    /// The same client, for a verb about `model`.
    pub(crate) fn about(&self, model: &ModelId) -> Self {
        Client { model: Some(model.to_string()), ..self.clone() }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.answer(self.agent.get(self.at(path)).call())
    }

    /// An answer that is no JSON, as it came.
    pub(crate) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        Ok(self.body(self.agent.get(self.at(path)).call())?.bytes)
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

    /// The JSON of an inference's answer as it came, with its numbers as the node wrote them.
    pub(crate) fn infer(&self, path: &str, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let answer = self.body(self.agent.post(self.at(path)).content_type("application/json").send(body))?;
        if answer.is_binary {
            return Err(Failure::refused("the request asks for binary outputs, which this command does not read")
                .hint("leave binary_data and binary_data_output out of the request"));
        }
        Ok(answer.bytes)
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

    fn answer(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
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
    fn body(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Answer, Failure> {
        let mut response = result.map_err(|e| self.unreachable(&e))?;
        let (status, is_binary) = (response.status(), response.headers().contains_key(HEADER_LENGTH_HEADER));
        let mut bytes = Vec::new();
        let mut reader = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).reader();
        reader
            .read_to_end(&mut bytes)
            .map_err(|e| Failure::unexpected(format!("the answer of {} broke off: {e}", self.url)))?;
        if status.is_success() {
            return Ok(Answer { bytes, is_binary });
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
        if matches!(e, ureq::Error::BadUri(_) | ureq::Error::Http(_)) {
            return Failure::usage(format!("'{}' is no address of a node: {e}", self.url))
                .hint("an address looks like http://127.0.0.1:8000");
        }
        Failure::unexpected(format!("cannot reach a node at {}: {e}", self.url))
            .hint("is a node running? start one with: grey serve")
            .hint("or name another one with --url or GREY_URL")
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
    fn no_node_is_said_with_a_way_out() {
        // A port that was free a moment ago and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let f = Client::new(&format!("http://127.0.0.1:{port}/")).get("/x").unwrap_err();
        assert_eq!(f.exit, crate::EXIT_UNEXPECTED);
        assert!(f.hints[0].contains("grey serve"), "{f:?}");
    }
}
