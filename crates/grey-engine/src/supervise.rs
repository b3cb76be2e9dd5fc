//! When a host that died is started again: pure decisions, the time passed in.

use std::time::{Duration, Instant};

/// Wait before the first restart; doubles with each death in a row.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait between restarts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Deaths in a row that open the breaker: about a second of trying.
const DEATHS_MAX: u32 = 5;
/// How long the breaker stays open before one host is tried.
const OPEN_FOR: Duration = Duration::from_secs(15);
/// A host that lived so long did not die of its start: the count begins anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// What a host did before it died, or failed to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It was never ready.
    NeverReady,
    /// It was ready for so long and answered no run.
    Idle(Duration),
    /// It answered a run.
    Served,
}

/// What to do about the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start after this wait.
    StartAfter(Duration),
    /// Too many deaths: requests are refused until then, and one start is tried afterwards.
    Open {
        /// Wait until the next try.
        retry_after: Duration,
        /// Deaths in a row.
        deaths: u32,
    },
}

/// Counts deaths in a row and spaces restarts.
#[derive(Clone, Debug, Default)]
pub struct RestartPolicy {
    deaths: u32,
    last: Option<Instant>,
}

impl RestartPolicy {
    /// A host died, or did not start. One that served, or lived long, begins a new row of deaths.
    pub fn died(&mut self, now: Instant, life: Life) {
        if life == Life::Served || matches!(life, Life::Idle(time) if time >= HEALTHY_AFTER) {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        self.last = Some(now);
    }

    /// What to do next.
    pub fn next(&self, now: Instant) -> Decision {
        let since = self.last.map_or(Duration::MAX, |t| now.saturating_duration_since(t));
        match self.deaths {
            0 => Decision::StartAfter(Duration::ZERO),
            // The first death is most often one bad request: the next host may start at once.
            1 => Decision::StartAfter(Duration::ZERO),
            n if n < DEATHS_MAX => {
                let wait = BACKOFF_MIN.saturating_mul(1 << (n - 1).min(16)).min(BACKOFF_MAX);
                Decision::StartAfter(wait.saturating_sub(since))
            }
            n => Decision::Open { retry_after: OPEN_FOR, deaths: n },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin")]
    fn waits_grow_and_the_breaker_opens() {
        let t = Instant::now();
        let mut p = RestartPolicy::default();
        assert_eq!(p.next(t), Decision::StartAfter(Duration::ZERO));
        p.died(t, Life::Idle(Duration::ZERO));
        assert_eq!(p.next(t), Decision::StartAfter(Duration::ZERO));
        p.died(t, Life::NeverReady);
        assert_eq!(p.next(t), Decision::StartAfter(Duration::from_millis(100)));
        assert_eq!(p.next(t + Duration::from_millis(70)), Decision::StartAfter(Duration::from_millis(30)));
        for _ in 2..DEATHS_MAX {
            p.died(t, Life::NeverReady);
        }
        assert_eq!(p.next(t), Decision::Open { retry_after: OPEN_FOR, deaths: DEATHS_MAX });
        p.died(t + HEALTHY_AFTER, Life::NeverReady);
        assert!(matches!(p.next(t), Decision::Open { .. }), "failing slowly is failing all the same");
        for life in [Life::Idle(HEALTHY_AFTER), Life::Served] {
            let mut p = p.clone();
            p.died(t, life);
            assert_eq!(p.next(t), Decision::StartAfter(Duration::ZERO), "{life:?} forgives");
        }
    }
}
