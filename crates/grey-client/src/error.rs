use std::{fmt, time::Duration};

use grey_core::ErrorKind;
use grey_proof::Verdict;

/// `Result` with the client's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with a call, as callers can act on it. Messages name the node's address where it matters.
#[derive(Clone, Debug)]
pub enum Error {
    /// An argument is not what it should be; nothing was sent.
    Argument(String),
    /// There is no connection to the node: nobody listens, no such host, no answer to the connection.
    Connect(String),
    /// The connection ended, or broke, in the middle of the request or of the answer.
    Broken(String),
    /// The call's deadline passed: while it waited here, or by the node's own word.
    Deadline(String),
    /// The node refused, or failed.
    Refused(Box<Refusal>),
    /// What answered is no Grey node, nor another server of the Open Inference Protocol.
    NotANode(String),
    /// The answer is not one to this request, lies about sizes, cannot be read, or is too large.
    Answer(String),
    /// The proof came and is not valid; the verdict says why.
    ProofRejected(Box<Rejected>),
    /// The client was closed.
    Closed,
}

/// A node's refusal.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The kind of error: as the node says, else by the status.
    pub kind: ErrorKind,
    /// The node's message.
    pub message: String,
    /// When the node says that it may be tried again.
    pub retry_after: Option<Duration>,
}

/// A proof that was not accepted.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// What the policy came to.
    pub verdict: Verdict,
    /// The proof with its session, to be looked at.
    pub bundle: Vec<u8>,
}

impl Error {
    /// The kind of the core that this error is one of. `None` for those that only a client knows: no connection,
    /// no node, answers that cannot be read, proofs that are not accepted.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Error::Argument(_) => Some(ErrorKind::InvalidArgument),
            Error::Deadline(_) => Some(ErrorKind::DeadlineExceeded),
            Error::Refused(r) => Some(r.kind),
            Error::Connect(_)
            | Error::Broken(_)
            | Error::NotANode(_)
            | Error::Answer(_)
            | Error::ProofRejected(_)
            | Error::Closed => None,
        }
    }

    /// The node's refusal, if that is what it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Error::Refused(r) => Some(r),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Argument(m)
            | Error::Connect(m)
            | Error::Broken(m)
            | Error::Deadline(m)
            | Error::NotANode(m)
            | Error::Answer(m) => f.write_str(m),
            Error::Refused(r) => f.write_str(&r.message),
            Error::ProofRejected(r) => {
                let v = &r.verdict;
                write!(f, "the answer's proof is {}", v.overall)?;
                v.failed().try_for_each(|c| write!(f, "; {}: expected {}, found {}", c.name, c.expected, c.found))
            }
            Error::Closed => f.write_str("the client is closed"),
        }
    }
}

impl std::error::Error for Error {}

/// Arguments are checked by the core's types.
impl From<grey_core::Error> for Error {
    fn from(e: grey_core::Error) -> Self {
        Error::Argument(e.message().to_owned())
    }
}
