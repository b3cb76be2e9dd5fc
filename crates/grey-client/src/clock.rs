//! The one place of this crate that reads clocks and draws random numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Monotonic now; in tests the runtime's own time.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Unix seconds, for verdicts on proofs that have just arrived.
#[expect(clippy::disallowed_methods, reason = "the crate's one reader of the system's clock")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Random bytes of the system; `None` if it gives none.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // So short a buffer is filled at once, or not at all (getrandom(2)).
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    (got == Ok(N)).then_some(bytes)
}
