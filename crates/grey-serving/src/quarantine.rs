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

/// Inputs that ended hosts within [`QUARANTINE`] from which on a tenant's requests run alone: each new one
/// costs all that wait two restarts then, instead of the six that it takes to find it in a batch of 32.
const HOSTS_ENDED_MAX: usize = 3;

/// What a tenant's requests may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// All; nothing of it is in quarantine, so that its inputs need no hash.
    Good,
    /// Run, but for those in quarantine.
    Watched,
    /// Run beside nobody, but for those in quarantine.
    Alone,
}

/// What of a tenant is in quarantine.
#[derive(Debug, Default)]
struct OfTenant {
    /// What is said of each, and whether it ended hosts.
    errors: HashMap<[u8; 32], (Error, bool)>,
    ended_hosts: usize,
}

/// By tenant, so that nobody can have another's inputs refused.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    tenants: HashMap<Tenant, OfTenant>,
    /// In the order in which they end.
    ends: VecDeque<(Instant, Tenant, [u8; 32])>,
}

impl Quarantine {
    /// How a tenant's requests are to be taken.
    pub(crate) fn standing(&mut self, now: Instant, tenant: &Tenant) -> Standing {
        self.expire(now);
        match self.tenants.get(tenant) {
            None => Standing::Good,
            Some(of) if of.ended_hosts < HOSTS_ENDED_MAX => Standing::Watched,
            Some(_) => Standing::Alone,
        }
    }

    /// Puts inputs with this hash into quarantine, with what their sender is told.
    pub(crate) fn put(&mut self, now: Instant, tenant: Tenant, hash: [u8; 32], error: Error, ended_hosts: bool) {
        self.expire(now);
        if let Some(at) = self.ends.iter().position(|(_, t, h)| *t == tenant && *h == hash) {
            self.drop_entry(at);
        }
        self.ends.push_back((now + QUARANTINE, tenant.clone(), hash));
        let of = self.tenants.entry(tenant).or_default();
        of.errors.insert(hash, (error, ended_hosts));
        of.ended_hosts += usize::from(ended_hosts);
        if self.ends.len() > ENTRIES_MAX {
            self.drop_entry(0);
        }
    }

    /// What the sender of these inputs is told, if they are in quarantine.
    pub(crate) fn refusal(&mut self, now: Instant, tenant: &Tenant, hash: [u8; 32]) -> Option<Error> {
        self.expire(now);
        self.tenants.get(tenant)?.errors.get(&hash).map(|(error, _)| error.clone())
    }

    fn expire(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(end, _, _)| *end <= now) {
            self.drop_entry(0);
        }
    }

    fn drop_entry(&mut self, at: usize) {
        let Some((_, tenant, hash)) = self.ends.remove(at) else { return };
        if let Some(of) = self.tenants.get_mut(&tenant) {
            let ended_hosts = of.errors.remove(&hash).is_some_and(|(_, ended)| ended);
            of.ended_hosts -= usize::from(ended_hosts);
            if of.errors.is_empty() {
                self.tenants.remove(&tenant);
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

    fn hash(i: u64) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&i.to_le_bytes());
        hash
    }

    #[test]
    fn one_tenant_s_inputs_for_a_minute() {
        let (mut q, t) = (Quarantine::default(), Instant::now());
        q.put(t, tenant("a"), hash(1), Error::internal("why"), false);
        assert_eq!(q.refusal(t, &tenant("a"), hash(1)).unwrap().message(), "why");
        assert!(q.refusal(t, &tenant("a"), hash(2)).is_none());
        assert!(q.refusal(t, &tenant("b"), hash(1)).is_none());
        assert_eq!((q.standing(t, &tenant("b")), q.standing(t, &tenant("a"))), (Standing::Good, Standing::Watched));
        q.put(t + QUARANTINE / 2, tenant("a"), hash(1), Error::internal("again"), false);
        assert_eq!(q.refusal(t + QUARANTINE, &tenant("a"), hash(1)).unwrap().message(), "again");
        assert!(q.refusal(t + QUARANTINE * 3 / 2, &tenant("a"), hash(1)).is_none());
        assert!(q.tenants.is_empty() && q.ends.is_empty());
    }

    #[test]
    fn who_ends_hosts_with_ever_new_inputs_runs_alone() {
        let (mut q, t) = (Quarantine::default(), Instant::now());
        for i in 0..100 {
            q.put(t, tenant("clumsy"), hash(i), Error::internal("an index out of range"), false);
        }
        assert_eq!(q.standing(t, &tenant("clumsy")), Standing::Watched, "that costs others no host");
        let step = QUARANTINE / 10;
        for i in 0..HOSTS_ENDED_MAX {
            assert_eq!(q.standing(t, &tenant("a")), if i == 0 { Standing::Good } else { Standing::Watched });
            // The same inputs again count once.
            q.put(t, tenant("a"), hash(i as u64), Error::internal("why"), true);
            q.put(t + step * i as u32, tenant("a"), hash(i as u64), Error::internal("why"), true);
        }
        assert_eq!((q.standing(t, &tenant("a")), q.standing(t, &tenant("b"))), (Standing::Alone, Standing::Good));
        assert_eq!(q.standing(t + QUARANTINE, &tenant("a")), Standing::Watched, "the first is over");
        assert_eq!(q.standing(t + 2 * QUARANTINE, &tenant("a")), Standing::Good);
    }

    #[test]
    fn the_oldest_make_room() {
        let (mut q, t) = (Quarantine::default(), Instant::now());
        for i in 0..=ENTRIES_MAX as u64 {
            q.put(t, tenant("a"), hash(i), Error::internal("why"), true);
        }
        let of = &q.tenants[&tenant("a")];
        assert_eq!((of.errors.len(), of.ended_hosts, q.ends.len()), (ENTRIES_MAX, ENTRIES_MAX, ENTRIES_MAX));
        assert!(q.refusal(t, &tenant("a"), hash(0)).is_none());
    }
}
