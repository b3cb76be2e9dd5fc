//! How many requests were taken and are not answered, for a drain to wait for.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// See the module.
#[derive(Default)]
pub(crate) struct Unanswered {
    count: AtomicUsize,
    none: Notify,
}

/// A request that was taken, for as long as it is not answered.
pub(crate) struct One<'a>(&'a Unanswered);

impl Unanswered {
    /// Counts one until it is dropped.
    pub(crate) fn one(&self) -> One<'_> {
        // Before whoever takes the request looks whether the node drains, which is said before the
        // drain looks here: one of the two sees the other.
        self.count.fetch_add(1, Ordering::SeqCst);
        One(self)
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        loop {
            let notified = self.none.notified();
            tokio::pin!(notified);
            // From here on it misses no word.
            notified.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[tokio::test]
    async fn waits_for_the_last() {
        let unanswered = Arc::new(Unanswered::default());
        unanswered.none().await;
        let (a, b) = (unanswered.one(), unanswered.one());
        let waiting = unanswered.clone();
        let waiting = tokio::spawn(async move { waiting.none().await });
        drop(a);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        assert_eq!(unanswered.count(), 1);
        drop(b);
        waiting.await.unwrap();
    }
}
