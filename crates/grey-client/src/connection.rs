//! One connection to a node: HTTP/1.1 without TLS.

use std::{error::Error as _, io};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle, time::Instant};

use crate::{address::Address, body::Body};

/// An open connection. It closes when it is dropped, whatever is under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    driver: JoinHandle<()>,
    /// When it was last put aside.
    pub idle_since: Option<Instant>,
}

/// Why there is no answer's head.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The connection was closed before a byte of an answer came.
    Closed(String),
    /// The bytes that came are no HTTP, or beyond its limits.
    NotHttp(String),
    /// What should have been sent cannot be read here.
    Source(String),
    /// Anything else that ends a connection.
    Broken(String),
}

impl Connection {
    /// Connects.
    pub async fn open(address: &Address) -> io::Result<Connection> {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        // A request is written in few large pieces; waiting for acknowledgements would only delay its last one.
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .http09_responses(false)
            .handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Its errors reach whoever sends or reads.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, driver, idle_since: None })
    }

    /// Whether another request can be sent: false once the node has closed the connection.
    pub async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and waits for the answer's head.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, Lost> {
        self.sender.send_request(request).await.map_err(|e| {
            if e.is_parse() {
                Lost::NotHttp(chain(&e))
            } else if e.is_user() {
                Lost::Source(e.source().map_or_else(|| e.to_string(), ToString::to_string))
            } else if e.is_canceled() || e.is_closed() || e.is_incomplete_message() || is_reset(&e) {
                Lost::Closed(chain(&e))
            } else {
                Lost::Broken(chain(&e))
            }
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn is_reset(e: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    let cause = e.source().and_then(|s| s.downcast_ref::<io::Error>());
    cause.is_some_and(|e| matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected))
}

/// An error with its causes, which hyper leaves out of its own text.
pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let text = c.to_string();
        if !out.ends_with(&text) {
            out.push_str(&format!(": {text}"));
        }
        cause = c.source();
    }
    out
}
