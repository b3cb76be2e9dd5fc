//! Run permits: as many as the node has cores. A run takes as many as it has threads, so that many
//! models on few cores do not slow each other down by fighting for them; a freed permit goes to
//! the waiting model that has used the least processor time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::clock;

/// How far a model that asks may lie behind those that run, in processor time. More would be credit for
/// time in which it had nothing to do; none at all would put a model that needs little behind all others
/// that wait.
const LAG_MAX: Duration = Duration::from_millis(20);

/// Who gets permits: pure, the pool below is its shell.
#[derive(Debug)]
pub struct Permits {
    total: u32,
    free: u32,
    /// Processor time used, per model that is known.
    used: FxHashMap<u64, Duration>,
    /// The most that a model had used when it was given its permits: never falls.
    level: Duration,
    /// In order of arrival.
    waiting: Vec<Waiting>,
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    id: u64,
    model: u64,
    permits: u32,
}

impl Permits {
    /// `total` permits, at least one.
    pub fn new(total: u32) -> Self {
        let total = total.max(1);
        Permits { total, free: total, used: FxHashMap::default(), level: Duration::ZERO, waiting: Vec::new(), next: 0 }
    }

    /// Queues a run of `model` on `threads` threads (at most all permits) and names it.
    pub fn ask(&mut self, model: u64, threads: u32) -> u64 {
        // Whoever had nothing to do meanwhile, new ones among them, starts close to those that run: it
        // neither overtakes for as long as others have run before, nor do they pay for time that
        // nobody else wanted.
        let least = self.level.saturating_sub(LAG_MAX);
        let used = self.used.entry(model).or_insert(least);
        *used = (*used).max(least);
        let id = self.next;
        self.next += 1;
        self.waiting.push(Waiting { id, model, permits: threads.clamp(1, self.total) });
        id
    }

    /// The next run that may start, with its permits. The model with the least time goes first even
    /// if it must wait for more permits: a wide run is never overtaken for ever by narrow ones.
    pub fn grant(&mut self) -> Option<(u64, u32)> {
        let least = |w: &&Waiting| (self.used.get(&w.model).copied().unwrap_or_default(), w.id);
        let next = *self.waiting.iter().min_by_key(least)?;
        if next.permits > self.free {
            return None;
        }
        self.free -= next.permits;
        self.level = self.level.max(self.used.get(&next.model).copied().unwrap_or_default());
        self.waiting.retain(|w| w.id != next.id);
        Some((next.id, next.permits))
    }

    /// A waiting run is not wanted any more.
    pub fn withdraw(&mut self, id: u64) {
        self.waiting.retain(|w| w.id != id);
    }

    /// A run has ended after `wall` time on its permits.
    pub fn release(&mut self, model: u64, permits: u32, wall: Duration) {
        self.free = (self.free + permits).min(self.total);
        if let Some(used) = self.used.get_mut(&model) {
            *used = used.saturating_add(wall.saturating_mul(permits));
        }
    }

    /// The model is gone.
    pub fn forget(&mut self, model: u64) {
        self.used.remove(&model);
    }

    /// Permits that nobody has.
    pub fn free(&self) -> u32 {
        self.free
    }
}

/// Permits to wait for. Cheap to clone.
#[derive(Clone)]
pub struct PermitPool(Arc<Mutex<Shared>>);

struct Shared {
    permits: Permits,
    /// Who waits, by name of the run.
    waiters: FxHashMap<u64, oneshot::Sender<u32>>,
}

impl PermitPool {
    /// A pool of `total` permits.
    pub fn new(total: u32) -> Self {
        PermitPool(Arc::new(Mutex::new(Shared { permits: Permits::new(total), waiters: FxHashMap::default() })))
    }

    /// Waits for a run's permits. Dropping the future withdraws; dropping the permit gives back.
    pub async fn acquire(&self, model: u64, threads: u32) -> RunPermit {
        let (tx, rx) = oneshot::channel();
        let id = {
            let mut s = self.0.lock();
            let id = s.permits.ask(model, threads);
            s.waiters.insert(id, tx);
            s.hand_out();
            id
        };
        let mut waiting = WaitingRun { pool: self, id, model, rx };
        // The sender stays in the pool until it has sent.
        let permits = (&mut waiting.rx).await.unwrap_or(0);
        std::mem::forget(waiting);
        RunPermit { pool: self.clone(), model, permits, since: clock::now() }
    }

    /// The model is gone.
    pub fn forget(&self, model: u64) {
        self.0.lock().permits.forget(model);
    }

    /// Permits that nobody has.
    pub fn free(&self) -> u32 {
        self.0.lock().permits.free()
    }
}

impl Shared {
    fn hand_out(&mut self) {
        while let Some((id, permits)) = self.permits.grant() {
            let Some(waiter) = self.waiters.remove(&id) else { continue };
            if waiter.send(permits).is_err() {
                // Its future was dropped in this moment: `WaitingRun` could not see the grant.
                self.permits.release(u64::MAX, permits, Duration::ZERO);
            }
        }
    }
}

struct WaitingRun<'a> {
    pool: &'a PermitPool,
    id: u64,
    model: u64,
    rx: oneshot::Receiver<u32>,
}

impl Drop for WaitingRun<'_> {
    fn drop(&mut self) {
        let mut s = self.pool.0.lock();
        s.permits.withdraw(self.id);
        s.waiters.remove(&self.id);
        // Granted and not yet seen: give it back.
        if let Ok(permits) = self.rx.try_recv() {
            s.permits.release(self.model, permits, Duration::ZERO);
            s.hand_out();
        }
    }
}

/// The right to run; given back on drop, with the time it was held.
pub struct RunPermit {
    pool: PermitPool,
    model: u64,
    permits: u32,
    since: Instant,
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        let held = clock::now().saturating_duration_since(self.since);
        let mut s = self.pool.0.lock();
        s.permits.release(self.model, self.permits, held);
        s.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_model_with_the_least_time_goes_first() {
        let mut p = Permits::new(1);
        let (a, _) = (p.ask(1, 1), ());
        assert_eq!(p.grant(), Some((a, 1)));
        let (again, other) = (p.ask(1, 1), p.ask(2, 1));
        assert_eq!(p.grant(), None);
        p.release(1, 1, MS * 5);
        assert_eq!(p.grant(), Some((other, 1)));
        p.release(2, 1, MS);
        assert_eq!(p.grant(), Some((again, 1)));
    }

    #[test]
    fn a_wide_run_is_not_starved_by_narrow_ones() {
        let mut p = Permits::new(2);
        let narrow = p.ask(1, 1);
        assert_eq!(p.grant(), Some((narrow, 1)));
        let wide = p.ask(2, 9);
        let _late = p.ask(1, 1);
        p.release(1, 0, MS);
        assert_eq!(p.grant(), None, "one permit is free, and kept for the wide run");
        p.release(1, 1, MS);
        assert_eq!(p.grant(), Some((wide, 2)), "more threads than permits means all permits");
    }

    /// A model that was busy while the others were idle is not made to wait for it.
    #[test]
    fn time_that_nobody_else_wanted_is_not_held_against_a_model() {
        let mut p = Permits::new(1);
        let idle = p.ask(2, 1);
        assert_eq!(p.grant(), Some((idle, 1)));
        p.release(2, 1, MS);
        for _ in 0..10_000 {
            let id = p.ask(1, 1);
            assert_eq!(p.grant(), Some((id, 1)));
            p.release(1, 1, MS);
        }
        // Both want to run all the time from now on.
        let (mut busy, mut back, mut runs) = (p.ask(1, 1), p.ask(2, 1), [0, 0]);
        for _ in 0..1000 {
            let (id, _) = p.grant().unwrap();
            if id == busy {
                p.release(1, 1, MS);
                (busy, runs[0]) = (p.ask(1, 1), runs[0] + 1);
            } else {
                p.release(2, 1, MS);
                (back, runs[1]) = (p.ask(2, 1), runs[1] + 1);
            }
        }
        assert!(busy != back && runs[0] >= 480, "{runs:?}");
    }

    proptest! {
        /// No more permits are out than there are, and when all come back all are free.
        #[test]
        fn permits_are_conserved(total in 1u32..6, ops in prop::collection::vec((0u8..3, 0u64..4, 1u32..8), 1..200)) {
            let mut p = Permits::new(total);
            let mut out: Vec<(u64, u32)> = Vec::new();
            let mut models = FxHashMap::default();
            for (op, model, n) in ops {
                match op {
                    0 => { let id = p.ask(model, n); models.insert(id, model); }
                    1 => if let Some((id, permits)) = p.grant() { out.push((models[&id], permits)) },
                    _ => if let Some((m, permits)) = out.pop() { p.release(m, permits, MS) },
                }
                prop_assert_eq!(out.iter().map(|o| o.1).sum::<u32>() + p.free(), total);
            }
            while let Some((m, permits)) = out.pop() { p.release(m, permits, MS) }
            prop_assert_eq!(p.free(), total);
        }
    }

    #[tokio::test]
    async fn dropped_waits_and_permits_give_back() {
        let pool = PermitPool::new(2);
        let held = pool.acquire(1, 2).await;
        let mut waiting = Box::pin(pool.acquire(2, 1));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        drop(waiting); // granted in the meantime, never seen
        assert_eq!(pool.free(), 2);
        let both = (pool.acquire(1, 1).await, pool.acquire(2, 1).await);
        assert_eq!(pool.free(), 0);
        drop(both);
        assert_eq!(pool.free(), 2);
    }
}
