use std::time::Duration;

use grey_core::Tenant;

/// How a [`Client`](crate::Client) behaves. The defaults are for a node near by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who asks; `None` leaves it to the node.
    pub tenant: Option<Tenant>,
    /// Longest time of a call, all of it, unless the call says otherwise; `None`: calls wait for as long as it takes.
    pub timeout: Option<Duration>,
    /// The same of calls that open or carry models, which takes minutes for large ones.
    pub model_timeout: Option<Duration>,
    /// Longest wait for a new connection.
    pub connect_timeout: Duration,
    /// How often a call is sent again that the node refuses with 503 and `Retry-After`.
    pub retries_max: u32,
    /// Most connections at once; further calls wait for one, until their deadline.
    pub connections_max: usize,
    /// Largest answer that is read, in bytes.
    pub answer_bytes_max: u64,
}

/// Usual longest time of a call.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// Usual longest time of a call that opens or carries a model.
const MODEL_TIMEOUT: Duration = Duration::from_secs(900);
/// Longest wait for a new connection: nodes are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A node that is full says so for about a second.
const RETRIES_MAX: u32 = 5;
/// Far below what a node takes (4096), and enough to fill its batches.
const CONNECTIONS_MAX: usize = 100;
/// More than models answer; a list of all models takes far less.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

impl Default for Config {
    fn default() -> Self {
        Config {
            tenant: None,
            timeout: Some(TIMEOUT),
            model_timeout: Some(MODEL_TIMEOUT),
            connect_timeout: CONNECT_TIMEOUT,
            retries_max: RETRIES_MAX,
            connections_max: CONNECTIONS_MAX,
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }
}

/// How long one call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// What the configuration says for calls of this sort.
    #[default]
    Usual,
    /// As long as it takes.
    Never,
    /// So long.
    After(Duration),
}

impl Limit {
    /// The time, where there is one.
    pub(crate) fn or(self, usual: Option<Duration>) -> Option<Duration> {
        match self {
            Limit::Usual => usual,
            Limit::Never => None,
            Limit::After(time) => Some(time),
        }
    }
}
