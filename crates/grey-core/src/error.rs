use std::{fmt, time::Duration};

/// `Result` with Grey's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as callers can act on it. Fronts translate a kind into their code in one
/// exhaustive match; nobody tells errors apart by their text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong and will be wrong again: 400, INVALID_ARGUMENT.
    InvalidArgument,
    /// The model, version or route does not exist: 404, NOT_FOUND.
    NotFound,
    /// Another thing has this name: 409, ALREADY_EXISTS.
    AlreadyExists,
    /// The server's state does not allow it (e.g. removing a version that serves): 409, FAILED_PRECONDITION.
    FailedPrecondition,
    /// Not allowed from here or for this caller: 403, PERMISSION_DENIED.
    PermissionDenied,
    /// The body or tensor exceeds a limit: 413, RESOURCE_EXHAUSTED.
    TooLarge,
    /// A quota of the caller is spent: 429, RESOURCE_EXHAUSTED.
    QuotaExceeded,
    /// The content type or encoding is not understood: 415, INVALID_ARGUMENT.
    UnsupportedMedia,
    /// The server is full: 503, UNAVAILABLE; try again after [`Error::retry_after`].
    Overloaded,
    /// The model is not ready, or the node is draining: 503, UNAVAILABLE.
    Unavailable,
    /// The host that ran it died, and it was not run again (replays are not); it can be sent again:
    /// 503, UNAVAILABLE.
    HostDied,
    /// The request's own deadline passed: 504, DEADLINE_EXCEEDED.
    DeadlineExceeded,
    /// The caller went away: 499, CANCELLED.
    Cancelled,
    /// The model refused these inputs while it ran: 500, INTERNAL. The model stays ready.
    ModelFailed,
    /// The model cannot be opened (corrupt file, wrong hash, missing runtime): 500, FAILED_PRECONDITION.
    LoadFailed,
    /// A feature that this server has not: 501, UNIMPLEMENTED.
    Unsupported,
    /// A bug or an I/O failure of the server: 500, INTERNAL.
    Internal,
}

impl ErrorKind {
    /// Every kind, for tests that must miss none.
    pub const ALL: [ErrorKind; 17] = [
        ErrorKind::InvalidArgument,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        ErrorKind::FailedPrecondition,
        ErrorKind::PermissionDenied,
        ErrorKind::TooLarge,
        ErrorKind::QuotaExceeded,
        ErrorKind::UnsupportedMedia,
        ErrorKind::Overloaded,
        ErrorKind::Unavailable,
        ErrorKind::HostDied,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Cancelled,
        ErrorKind::ModelFailed,
        ErrorKind::LoadFailed,
        ErrorKind::Unsupported,
        ErrorKind::Internal,
    ];

    /// HTTP status code (RFC 9110; 499 as nginx uses it for a client that closed the request).
    pub const fn http_status(self) -> u16 {
        match self {
            ErrorKind::InvalidArgument => 400,
            ErrorKind::PermissionDenied => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::AlreadyExists | ErrorKind::FailedPrecondition => 409,
            ErrorKind::TooLarge => 413,
            ErrorKind::UnsupportedMedia => 415,
            ErrorKind::QuotaExceeded => 429,
            ErrorKind::Cancelled => 499,
            ErrorKind::ModelFailed | ErrorKind::LoadFailed | ErrorKind::Internal => 500,
            ErrorKind::Unsupported => 501,
            ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::HostDied => 503,
            ErrorKind::DeadlineExceeded => 504,
        }
    }

    /// Canonical gRPC code (<https://grpc.io/docs/guides/status-codes/>).
    pub const fn grpc_code(self) -> u32 {
        match self {
            ErrorKind::Cancelled => 1,
            ErrorKind::InvalidArgument | ErrorKind::UnsupportedMedia => 3,
            ErrorKind::DeadlineExceeded => 4,
            ErrorKind::NotFound => 5,
            ErrorKind::AlreadyExists => 6,
            ErrorKind::PermissionDenied => 7,
            ErrorKind::TooLarge | ErrorKind::QuotaExceeded => 8,
            ErrorKind::FailedPrecondition | ErrorKind::LoadFailed => 9,
            ErrorKind::Unsupported => 12,
            ErrorKind::ModelFailed | ErrorKind::Internal => 13,
            ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::HostDied => 14,
        }
    }

    /// Stable word for metrics, logs and `--json`, e.g. `invalid_argument`.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "invalid_argument",
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::FailedPrecondition => "failed_precondition",
            ErrorKind::PermissionDenied => "permission_denied",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::QuotaExceeded => "quota_exceeded",
            ErrorKind::UnsupportedMedia => "unsupported_media",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::HostDied => "host_died",
            ErrorKind::DeadlineExceeded => "deadline_exceeded",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::ModelFailed => "model_failed",
            ErrorKind::LoadFailed => "load_failed",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Internal => "internal",
        }
    }

    /// The kind of a [`name`](ErrorKind::name).
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        ErrorKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind that an HTTP status stands for where nothing else tells: of several, the most general one.
    /// `None` for a status that no kind has.
    pub const fn from_http_status(status: u16) -> Option<ErrorKind> {
        Some(match status {
            400 => ErrorKind::InvalidArgument,
            403 => ErrorKind::PermissionDenied,
            404 => ErrorKind::NotFound,
            409 => ErrorKind::FailedPrecondition,
            413 => ErrorKind::TooLarge,
            415 => ErrorKind::UnsupportedMedia,
            429 => ErrorKind::QuotaExceeded,
            499 => ErrorKind::Cancelled,
            500 => ErrorKind::Internal,
            501 => ErrorKind::Unsupported,
            503 => ErrorKind::Unavailable,
            504 => ErrorKind::DeadlineExceeded,
            _ => return None,
        })
    }

    /// Whether the same request, sent again later, may succeed without any change.
    pub const fn retryable(self) -> bool {
        matches!(self, ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::HostDied | ErrorKind::QuotaExceeded)
    }
}

/// An error as the caller sees it: a kind, a message that names what was wrong, what was expected
/// and where, and for retryable kinds when to come back. Private diagnostics belong in the log.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error of `kind` with a message for the caller.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, message: message.into(), retry_after: None }))
    }

    /// [`ErrorKind::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// [`ErrorKind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::NotFound, message)
    }

    /// [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    /// Says when the caller may try again.
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Puts `context: ` before the message, keeping the kind.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message for the caller.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// When the caller may try again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_codes_and_its_own_name() {
        let names: std::collections::HashSet<_> = ErrorKind::ALL.iter().map(|k| k.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        for k in ErrorKind::ALL {
            assert!((400..600).contains(&k.http_status()), "{k:?}");
            assert!((1..=16).contains(&k.grpc_code()), "{k:?}");
        }
    }

    #[test]
    fn context_keeps_kind() {
        let e = Error::invalid("expected FP32").context("input 'x'");
        assert_eq!(e.to_string(), "input 'x': expected FP32");
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    }
}
