//! The one place of this crate that reads a clock.

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "the crate's one reader of the monotonic clock")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
