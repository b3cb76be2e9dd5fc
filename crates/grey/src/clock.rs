//! The one place of this crate that reads a clock; everything else is handed the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::failure::Failure;

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "the crate's one reader of the monotonic clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Now, in Unix seconds.
#[expect(clippy::disallowed_methods, reason = "the crate's one reader of the system's clock")]
pub(crate) fn unix_now() -> Result<u64, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map(|d| d.as_secs()).map_err(|_| {
        Failure::unexpected("this machine's clock stands before 1970").hint("set it, or give the time with --now UNIX")
    })
}

/// Processor time of this process so far.
pub(crate) fn own_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
