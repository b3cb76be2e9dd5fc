//! The one place of this crate that reads a clock; everything else is handed the time.

use std::time::Instant;

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "the crate's one reader of the monotonic clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
