//! The one reader of clocks here: a benchmark measures time.

use std::time::Instant;

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
