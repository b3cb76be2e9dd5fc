//! Inputs that harmed others, refused for a while before they reach a batch.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use grey_core::{Error, Tenant};

/// How long inputs stay in quarantine.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(60);
/// Most entries of one model; the oldest make room.
const ENTRIES_MAX: usize = 1024;

/// By tenant, so that nobody can have another's inputs refused.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    errors: HashMap<Tenant, HashMap<[u8; 32], Error>>,
    /// In the order in which they end.
    ends: VecDeque<(Instant, Tenant, [u8; 32])>,
}

impl Quarantine {
    /// Whether nothing of this tenant is in quarantine, so that its inputs need no hash.
    pub(crate) fn spares(&mut self, now: Instant, tenant: &Tenant) -> bool {
        self.expire(now);
        !self.errors.contains_key(tenant)
    }

    /// Puts inputs with this hash into quarantine, with what their sender is told.
    pub(crate) fn put(&mut self, now: Instant, tenant: Tenant, hash: [u8; 32], error: Error) {
        self.expire(now);
        self.ends.retain(|(_, t, h)| *t != tenant || *h != hash);
        self.ends.push_back((now + QUARANTINE, tenant.clone(), hash));
        self.errors.entry(tenant).or_default().insert(hash, error);
        if self.ends.len() > ENTRIES_MAX {
            self.drop_oldest();
        }
    }

    /// What the sender of these inputs is told, if they are in quarantine.
    pub(crate) fn refusal(&mut self, now: Instant, tenant: &Tenant, hash: [u8; 32]) -> Option<Error> {
        self.expire(now);
        self.errors.get(tenant)?.get(&hash).cloned()
    }

    fn expire(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(end, _, _)| *end <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((_, tenant, hash)) = self.ends.pop_front() else { return };
        if let Some(of_tenant) = self.errors.get_mut(&tenant) {
            of_tenant.remove(&hash);
            if of_tenant.is_empty() {
                self.errors.remove(&tenant);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of a test's time")]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).unwrap()
    }

    #[test]
    fn one_tenant_s_inputs_for_a_minute() {
        let (mut q, t) = (Quarantine::default(), Instant::now());
        q.put(t, tenant("a"), [1; 32], Error::internal("why"));
        assert_eq!(q.refusal(t, &tenant("a"), [1; 32]).unwrap().message(), "why");
        assert!(q.refusal(t, &tenant("a"), [2; 32]).is_none());
        assert!(q.refusal(t, &tenant("b"), [1; 32]).is_none());
        assert!(q.spares(t, &tenant("b")) && !q.spares(t, &tenant("a")));
        q.put(t + QUARANTINE / 2, tenant("a"), [1; 32], Error::internal("again"));
        assert_eq!(q.refusal(t + QUARANTINE, &tenant("a"), [1; 32]).unwrap().message(), "again");
        assert!(q.refusal(t + QUARANTINE * 3 / 2, &tenant("a"), [1; 32]).is_none());
        assert!(q.errors.is_empty() && q.ends.is_empty());
    }

    #[test]
    fn the_oldest_make_room() {
        let (mut q, t) = (Quarantine::default(), Instant::now());
        for i in 0..=ENTRIES_MAX as u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&i.to_le_bytes());
            q.put(t, tenant("a"), hash, Error::internal("why"));
        }
        assert_eq!((q.errors[&tenant("a")].len(), q.ends.len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert!(q.refusal(t, &tenant("a"), [0; 32]).is_none());
    }
}
