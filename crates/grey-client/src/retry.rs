//! What is sent again, and when: decided without a clock and without chance.

use std::time::Duration;

/// A longer `Retry-After` is not waited for: the node means somebody with more time.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// 503, with its `Retry-After`.
    Unavailable(Option<Duration>),
    /// A connection that was used before was closed before a byte of the answer came: most likely while it was idle.
    ClosedWhileIdle,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send it again at once, on a new connection.
    OnNewConnection,
    /// Send it again after so long.
    After(Duration),
    /// Fail.
    Fail,
}

/// The attempts that a call has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    retries: u32,
    /// Whether sending it twice is the same as sending it once.
    is_repeatable: bool,
}

impl Attempts {
    /// Of a call that may be sent `retries` times again. What was refused with 503 has not been done, so
    /// `is_repeatable` is about broken connections alone.
    pub fn new(retries: u32, is_repeatable: bool) -> Attempts {
        Attempts { retries, is_repeatable }
    }

    /// What follows a failure, when the call's deadline is `left` away. `draw` is random: those who are refused
    /// together come back spread over a quarter of the wait.
    pub fn after(&mut self, failed: Failed, left: Option<Duration>, draw: u8) -> Next {
        match failed {
            Failed::ClosedWhileIdle if self.is_repeatable => Next::OnNewConnection,
            Failed::Unavailable(Some(after)) if self.retries > 0 && after <= RETRY_AFTER_MAX => {
                let wait = after + after / 4 * u32::from(draw) / 255;
                if left.is_some_and(|left| after >= left) {
                    return Next::Fail;
                }
                self.retries -= 1;
                // The spread alone may not cost the last chance.
                Next::After(left.map_or(wait, |left| if wait < left { wait } else { after }))
            }
            Failed::ClosedWhileIdle | Failed::Unavailable(_) => Next::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn refusals_are_retried_as_the_node_says_within_the_deadline() {
        let mut a = Attempts::new(2, false);
        assert_eq!(a.after(Failed::Unavailable(Some(S(4))), Some(S(10)), 0), Next::After(S(4)));
        assert_eq!(a.after(Failed::Unavailable(Some(S(4))), Some(S(10)), 255), Next::After(S(5)));
        assert_eq!(a.after(Failed::Unavailable(Some(S(1))), Some(S(10)), 0), Next::Fail, "no retries left");

        let mut a = Attempts::new(9, true);
        assert_eq!(a.after(Failed::Unavailable(None), None, 0), Next::Fail, "the node says nothing");
        assert_eq!(a.after(Failed::Unavailable(Some(S(10))), Some(S(10)), 0), Next::Fail, "too late");
        assert_eq!(a.after(Failed::Unavailable(Some(S(4))), Some(S(5)), 255), Next::After(S(4)), "without the spread");
        assert_eq!(a.after(Failed::Unavailable(Some(S(61))), None, 0), Next::Fail, "too long");
        assert_eq!(a.after(Failed::Unavailable(Some(S(60))), None, 0), Next::After(S(60)));
        assert_eq!(Attempts::new(0, true).after(Failed::Unavailable(Some(S(1))), None, 0), Next::Fail);
    }

    #[test]
    fn only_what_may_be_repeated_is_sent_again_after_a_break() {
        assert_eq!(Attempts::new(0, true).after(Failed::ClosedWhileIdle, None, 0), Next::OnNewConnection);
        assert_eq!(Attempts::new(9, false).after(Failed::ClosedWhileIdle, None, 0), Next::Fail);
    }
}
