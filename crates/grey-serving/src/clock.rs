//! The one place of this crate that reads clocks; everything else is handed the time.

use std::time::{Duration, Instant, SystemTime};

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "the crate's one reader of the monotonic clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Time since the Unix epoch; zero on a host whose clock is before it.
#[expect(clippy::disallowed_methods, reason = "the crate's one reader of the wall clock")]
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Whole seconds since the Unix epoch.
pub(crate) fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}
