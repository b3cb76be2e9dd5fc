//! The requests of one version that wait or run: the batcher's decisions joined with the tensors
//! and the places where answers go. Everything happens under one lock, which every request takes:
//! what can be done without it (rows put together, answers cut out) stands in [`crate::work`].

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
    time::Instant,
};

use grey_core::{Error, ErrorKind, Result, Signature, Tenant, Tensor};
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::{
    batcher::{Batcher, BatcherConfig, Cancelled, Readiness, Rejected, RunResult, Submit},
    order::{Answer, Company, Order},
    work::{Done, Pending, Ran, RunFailed, Work},
};

/// When a caller who found the queue full may come back.
const RETRY_AFTER_FULL: std::time::Duration = std::time::Duration::from_secs(1);

/// What requests must share to share a run: the shape of their rows and the outputs they want.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RunKey {
    shapes: Vec<Vec<u64>>,
    wanted: Vec<usize>,
    /// The request that shares with nobody.
    only: Option<u64>,
}

impl RunKey {
    /// Whether it is the key of these inputs and outputs, asked without making one.
    fn fits(&self, a: &Admission, skip: usize) -> bool {
        let rows = |t: &Tensor, shape: &[u64]| t.shape().get(skip..).unwrap_or_default() == shape;
        a.company == Company::Any
            && self.only.is_none()
            && self.shapes.len() == a.inputs.len()
            && a.inputs.iter().zip(&self.shapes).all(|(t, shape)| rows(t, shape))
            // In another order they are found by the hash.
            && self.wanted == a.returned
    }
}

/// Numbers for values in use: equal values get equal numbers as long as one of them is in use, so
/// nothing outlives the requests that brought it.
struct Interner<K> {
    // Callers choose what is hashed here, so not by a fast hash.
    ids: HashMap<K, u64>,
    users: FxHashMap<u64, (K, usize)>,
    next: u64,
    /// The last one given out: most often the next request's, too.
    last: u64,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Interner { ids: HashMap::new(), users: FxHashMap::default(), next: 0, last: 0 }
    }
}

impl<K: Clone + Eq + Hash> Interner<K> {
    /// The number of the value that `is_it` knows, and that `make` makes if it is not at hand.
    fn intern(&mut self, is_it: impl Fn(&K) -> bool, make: impl FnOnce() -> K) -> u64 {
        if let Some((key, n)) = self.users.get_mut(&self.last)
            && is_it(key)
        {
            *n += 1;
            return self.last;
        }
        let id = match self.ids.entry(make()) {
            Entry::Occupied(known) => {
                if let Some((_, n)) = self.users.get_mut(known.get()) {
                    *n += 1;
                }
                *known.get()
            }
            Entry::Vacant(new) => {
                let id = self.next;
                self.next += 1;
                self.users.insert(id, (new.key().clone(), 1));
                *new.insert(id)
            }
        };
        self.last = id;
        id
    }

    fn release(&mut self, id: u64) {
        let Some((_, n)) = self.users.get_mut(&id) else { return };
        *n -= 1;
        if *n == 0
            && let Some((key, _)) = self.users.remove(&id)
        {
            self.ids.remove(&key);
        }
    }
}

/// A request as the queue takes it.
pub(crate) struct Admission {
    pub(crate) inputs: Arc<[Tensor]>,
    pub(crate) returned: Vec<usize>,
    pub(crate) tenant: Tenant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) company: Company,
    pub(crate) proof: Option<Order>,
}

/// See the module.
pub(crate) struct Queue {
    batcher: Batcher,
    pending: FxHashMap<u64, Pending>,
    keys: Interner<RunKey>,
    tenants: Interner<Tenant>,
    next_ticket: u64,
    /// Whether the signature allows a batch axis, so that first dimensions count as rows.
    rowwise: bool,
    enabled: bool,
    closed: Option<Error>,
}

impl Queue {
    pub(crate) fn new(signature: &Signature, config: BatcherConfig) -> Self {
        Queue {
            enabled: config.enabled,
            batcher: Batcher::new(config),
            pending: FxHashMap::default(),
            keys: Interner::default(),
            tenants: Interner::default(),
            next_ticket: 0,
            rowwise: signature.batch_candidate().is_ok(),
            closed: None,
        }
    }

    /// Accepts a request whose inputs have been checked against the signature; returns its ticket
    /// and its rows.
    pub(crate) fn submit(
        &mut self,
        now: Instant,
        admission: Admission,
        reply: oneshot::Sender<Result<Answer>>,
    ) -> Result<(u64, u32)> {
        if let Some(e) = &self.closed {
            return Err(e.clone());
        }
        let rows = self.rows_of(&admission.inputs)?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let key = self.key_of(&admission, ticket);
        let tenant_id = self.tenants.intern(|t| *t == admission.tenant, || admission.tenant.clone());
        let whole = admission.company == Company::NobodyWhole;
        let submit = Submit { ticket, key, rows, tenant: tenant_id, deadline: admission.deadline, whole };
        if let Err(rejected) = self.batcher.submit(now, submit) {
            self.keys.release(key);
            self.tenants.release(tenant_id);
            return Err(refusal(rejected));
        }
        let Admission { inputs, returned, proof, tenant, .. } = admission;
        self.pending.insert(
            ticket,
            Pending {
                inputs,
                key,
                tenant,
                tenant_id,
                returned,
                reply,
                accepted: now,
                started: None,
                runs: Vec::new(),
                proof,
            },
        );
        Ok((ticket, rows))
    }

    /// How requests are put together.
    pub(crate) fn config(&self) -> &BatcherConfig {
        self.batcher.config()
    }

    /// Rows that these inputs count as.
    pub(crate) fn rows_of(&self, inputs: &[Tensor]) -> Result<u32> {
        if self.rowwise { rows_of(inputs) } else { Ok(1) }
    }

    /// Whether a batch is due.
    pub(crate) fn ready(&self, now: Instant) -> Readiness {
        self.batcher.ready(now)
    }

    /// The next batch.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Work> {
        for ticket in self.batcher.expire(now) {
            self.end(ticket, Err(expired()));
        }
        let batch = self.batcher.take(now)?;
        let (mut wanted, mut parts) = (Vec::new(), Vec::with_capacity(batch.parts.len()));
        for part in &batch.parts {
            // The batcher names tickets that were submitted and not yet ended.
            let Some(p) = self.pending.get_mut(&part.ticket) else { continue };
            p.started.get_or_insert(now);
            if parts.is_empty() {
                wanted = p.returned.clone();
                wanted.sort_unstable();
            }
            parts.push((*part, p.inputs.clone()));
        }
        Some(Work { run: batch.run, bucket: batch.bucket, parts, wanted, rowwise: self.rowwise, batched: self.enabled })
    }

    /// A run ended: hands out the requests that are complete. What shared a failed run with others
    /// waits to run again.
    pub(crate) fn finish(&mut self, work: &Work, result: &std::result::Result<Arc<Ran>, RunFailed>) -> Vec<Done> {
        let outcome = match result {
            Ok(_) => RunResult::Ok,
            // Nobody would run it again.
            Err(_) if self.closed.is_some() => RunResult::Abandoned,
            Err(failed) => failed.how,
        };
        let finished = self.batcher.complete(work.run, outcome);
        let mut done = Vec::with_capacity(finished.len());
        for of in finished {
            done.extend(self.forget(of.ticket).map(|request| Done { request, of, closed: self.closed.clone() }));
        }
        if let (Ok(ran), true) = (result, done.len() < work.parts.len()) {
            // The rest of these requests is yet to run.
            for (part, _) in &work.parts {
                if let Some(p) = self.pending.get_mut(&part.ticket) {
                    p.runs.push(ran.clone());
                }
            }
        }
        done
    }

    /// The caller went away.
    pub(crate) fn cancel(&mut self, ticket: u64) {
        match self.batcher.cancel(ticket) {
            Cancelled::Queued | Cancelled::Running => drop(self.forget(ticket)),
            Cancelled::Unknown => {}
        }
    }

    /// Batches from now on as `config` says. Waiting requests stay.
    pub(crate) fn set_config(&mut self, config: BatcherConfig) {
        self.enabled = config.enabled;
        self.batcher.set_config(config);
    }

    /// Refuses whatever comes and fails what waits; what runs goes on.
    pub(crate) fn close(&mut self, why: &Error) {
        self.closed = Some(why.clone());
        for ticket in self.batcher.fail_all() {
            self.end(ticket, Err(why.clone()));
        }
    }

    /// Takes requests again after [`Queue::close`].
    pub(crate) fn reopen(&mut self) {
        self.closed = None;
    }

    /// Rows that wait.
    pub(crate) fn rows(&self) -> u32 {
        self.batcher.queued_rows()
    }

    /// When the request was accepted that has waited longest.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.batcher.oldest()
    }

    fn end(&mut self, ticket: u64, answer: Result<Answer>) {
        if let Some(p) = self.forget(ticket) {
            // The receiver is gone when the caller went away in this moment; then nobody waits.
            let _nobody_waits = p.reply.send(answer);
        }
    }

    fn forget(&mut self, ticket: u64) -> Option<Pending> {
        let p = self.pending.remove(&ticket)?;
        self.keys.release(p.key);
        self.tenants.release(p.tenant_id);
        Some(p)
    }

    fn key_of(&mut self, a: &Admission, ticket: u64) -> u64 {
        let skip = usize::from(self.rowwise);
        let make = || {
            let shapes = a.inputs.iter().map(|t| t.shape().get(skip..).unwrap_or_default().to_vec()).collect();
            let mut wanted = a.returned.clone();
            wanted.sort_unstable();
            RunKey { shapes, wanted, only: (a.company != Company::Any).then_some(ticket) }
        };
        self.keys.intern(|key| key.fits(a, skip), make)
    }
}

fn rows_of(inputs: &[Tensor]) -> Result<u32> {
    let rows = inputs.first().and_then(Tensor::rows).unwrap_or(1);
    if let Some(odd) = inputs.iter().find(|t| t.rows() != Some(rows)) {
        return Err(Error::invalid(format!(
            "the first dimension counts rows and must be the same in all inputs: it is {rows} in '{}', {} in '{}'",
            inputs.first().map_or("", Tensor::name),
            odd.rows().unwrap_or(0),
            odd.name()
        )));
    }
    if rows == 0 {
        return Err(Error::invalid("the first dimension counts rows; it is 0, expected at least 1"));
    }
    u32::try_from(rows).map_err(|_| {
        Error::invalid(format!("the first dimension counts rows; {rows} are more than the {} of one request", u32::MAX))
    })
}

fn refusal(rejected: Rejected) -> Error {
    match rejected {
        Rejected::QueueFull { .. } => {
            Error::new(ErrorKind::Overloaded, rejected.to_string()).with_retry_after(RETRY_AFTER_FULL)
        }
        Rejected::TooManyRows { .. } => Error::new(ErrorKind::TooLarge, rejected.to_string()),
        Rejected::Expired => expired(),
    }
}

/// The error of a request whose deadline passed.
pub(crate) fn expired() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "the request's timeout passed before it was answered")
}
