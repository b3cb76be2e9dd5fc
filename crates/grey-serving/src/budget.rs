//! One budget for the bytes in flight on a node: bodies, decoded tensors, results.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use grey_core::{Error, ErrorKind, Result};

/// When a caller who found the budget spent may come back: a few batches later.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The budget. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct BytesBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: u64,
    used: AtomicU64,
}

impl BytesBudget {
    pub(crate) fn new(max: u64) -> Self {
        BytesBudget(Arc::new(Inner { max, used: AtomicU64::new(0) }))
    }

    pub(crate) fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    pub(crate) fn max(&self) -> u64 {
        self.0.max
    }

    pub(crate) fn take(&self, bytes: usize) -> Result<BytesPermit> {
        let mut permit = BytesPermit { budget: self.clone(), bytes: 0 };
        permit.grow(bytes)?;
        Ok(permit)
    }
}

/// Bytes in flight, given back on drop.
#[derive(Debug)]
pub struct BytesPermit {
    budget: BytesBudget,
    bytes: u64,
}

impl BytesPermit {
    /// Takes more under the same permit; [`ErrorKind::Overloaded`] if the budget is spent,
    /// [`ErrorKind::TooLarge`] if all of it would not do.
    pub fn grow(&mut self, bytes: usize) -> Result<()> {
        let (inner, more) = (&self.budget.0, bytes as u64);
        let whole = self.bytes.saturating_add(more);
        if whole > inner.max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the request takes {whole} bytes (its body and what it becomes), more than the {} that may be in \
                     flight at all (limits.inflight_bytes_max)",
                    inner.max
                ),
            ));
        }
        let taken = inner.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= inner.max)
        });
        match taken {
            Ok(_) => {
                self.bytes += more;
                Ok(())
            }
            Err(used) => Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "the node has {used} of at most {} bytes in flight, no room for {more} more (inflight_bytes_max)",
                    inner.max
                ),
            )
            .with_retry_after(RETRY_AFTER)),
        }
    }

    /// Counts bytes that exist already (a finished result): never refused, so that nothing that
    /// was computed is lost, but new bodies find less room.
    pub fn account(&mut self, bytes: usize) {
        self.budget.0.used.fetch_add(bytes as u64, Ordering::Relaxed);
        self.bytes += bytes as u64;
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_kept_and_given_back() {
        let b = BytesBudget::new(100);
        let mut p = b.take(60).unwrap();
        assert_eq!(b.take(41).unwrap_err().kind(), ErrorKind::Overloaded);
        p.grow(40).unwrap();
        assert_eq!(p.grow(1).unwrap_err().kind(), ErrorKind::TooLarge, "no waiting helps");
        p.account(5);
        assert_eq!(b.used(), 105);
        assert_eq!(b.take(usize::MAX).unwrap_err().kind(), ErrorKind::TooLarge);
        drop(p);
        assert_eq!(b.used(), 0);
    }
}
