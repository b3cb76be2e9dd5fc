//! The requests of one version that wait or run: the batcher's decisions joined with the tensors
//! and the places where answers go. Everything happens under one short lock; nothing waits here.

use std::{collections::HashMap, sync::Arc, time::Instant};

use grey_core::{Error, ErrorKind, Result, Signature, Tenant, Tensor};
use grey_engine::{BatchInput, EngineInfo, RunOutputs};
use tokio::sync::oneshot;

use crate::{
    assemble::{RunRows, assemble},
    batcher::{
        Batch, Batcher, BatcherConfig, Cancelled, End, Finished, Readiness, Rejected, RunResult, Segment, Submit,
    },
    order::{Answer, Company, Order, Unproven},
    stats::RunTimes,
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

/// Numbers for values in use: equal values get equal numbers as long as one of them is in use, so
/// nothing outlives the requests that brought it.
struct Interner<K> {
    ids: HashMap<K, u64>,
    users: HashMap<u64, (K, usize)>,
    next: u64,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Interner { ids: HashMap::new(), users: HashMap::new(), next: 0 }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Interner<K> {
    fn intern(&mut self, key: &K) -> u64 {
        if let Some(id) = self.ids.get(key) {
            if let Some((_, n)) = self.users.get_mut(id) {
                *n += 1;
            }
            return *id;
        }
        let id = self.next;
        self.next += 1;
        self.ids.insert(key.clone(), id);
        self.users.insert(id, (key.clone(), 1));
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

/// A request that was accepted.
struct Pending {
    /// In the signature's order.
    inputs: Vec<Tensor>,
    key: u64,
    tenant: Tenant,
    tenant_id: u64,
    /// Positions of the outputs to return, in the order asked for.
    returned: Vec<usize>,
    reply: oneshot::Sender<Result<Answer>>,
    accepted: Instant,
    started: Option<Instant>,
    /// The runs that held parts of it.
    runs: Vec<Ran>,
    proof: Option<Order>,
}

/// A run that went well, as the requests in it see it.
#[derive(Clone)]
struct Ran {
    run: u64,
    rows: Arc<RunRows>,
    times: RunTimes,
    engine: Arc<EngineInfo>,
}

/// A request as the queue takes it.
pub(crate) struct Admission {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) returned: Vec<usize>,
    pub(crate) tenant: Tenant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) company: Company,
    pub(crate) proof: Option<Order>,
}

/// A batch that is to run now.
pub(crate) struct Work {
    pub(crate) batch: Batch,
    pub(crate) inputs: Vec<BatchInput>,
    pub(crate) wanted: Vec<usize>,
    /// Whether the first axis of all tensors counts rows.
    pub(crate) batched: bool,
}

/// A run that gave nothing.
pub(crate) struct RunFailed {
    /// How: not [`RunResult::Ok`].
    pub(crate) how: RunResult,
    /// What the requests are told that it fails.
    pub(crate) error: Error,
}

/// A request that failed by itself and harmed others, or its host.
pub(crate) struct Culprit {
    pub(crate) reply: oneshot::Sender<Result<Answer>>,
    pub(crate) tenant: Tenant,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) error: Error,
}

/// What is left to do for the requests of a run.
#[derive(Default)]
pub(crate) struct Unsettled {
    /// Their answers are to be proven before.
    pub(crate) unproven: Vec<Unproven>,
    /// Their inputs are to be put in quarantine before.
    pub(crate) culprits: Vec<Culprit>,
}

/// See the module.
pub(crate) struct Queue {
    batcher: Batcher,
    pending: HashMap<u64, Pending>,
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
            pending: HashMap::new(),
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
        let tenant_id = self.tenants.intern(&admission.tenant);
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

    /// The next batch, with its rows in place.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Work> {
        for ticket in self.batcher.expire(now) {
            self.end(ticket, Err(expired()));
        }
        let batch = self.batcher.take(now)?;
        let mut wanted = Vec::new();
        let mut inputs: Vec<BatchInput> = Vec::new();
        for part in &batch.parts {
            // The batcher names tickets that were submitted and not yet ended.
            let Some(p) = self.pending.get_mut(&part.ticket) else { continue };
            p.started.get_or_insert(now);
            if inputs.is_empty() {
                wanted = p.returned.clone();
                wanted.sort_unstable();
                inputs = p
                    .inputs
                    .iter()
                    .enumerate()
                    .map(|(index, t)| {
                        let mut shape = t.shape().to_vec();
                        if let (true, Some(first)) = (self.rowwise, shape.first_mut()) {
                            *first = u64::from(batch.bucket);
                        }
                        BatchInput { index, dtype: t.dtype(), shape, parts: Vec::new() }
                    })
                    .collect();
            }
            let (from, to) = (u64::from(part.first_row), u64::from(part.first_row) + u64::from(part.rows));
            for (input, tensor) in inputs.iter_mut().zip(&p.inputs) {
                let whole = !self.rowwise || (from == 0 && tensor.rows() == Some(to));
                let rows = if whole { Some(tensor.clone()) } else { tensor.slice_rows(from, to) };
                input.parts.extend(rows.map(|r| r.data().clone()));
            }
        }
        self.pad(&batch, &mut inputs);
        Some(Work { batch, inputs, wanted, batched: self.enabled })
    }

    /// Fills a batch up to its bucket with copies of its first row: unlike rows of zeros, the model
    /// takes that row.
    fn pad(&self, batch: &Batch, inputs: &mut [BatchInput]) {
        let rows: u32 = batch.parts.iter().map(|p| p.rows).sum();
        let padding = batch.bucket.saturating_sub(rows) as usize;
        let Some(first) = batch.parts.first().filter(|_| self.rowwise && padding > 0) else { return };
        let Some(p) = self.pending.get(&first.ticket) else { return };
        let at = u64::from(first.first_row);
        for (input, tensor) in inputs.iter_mut().zip(&p.inputs) {
            let row = tensor.slice_rows(at, at + 1);
            input.parts.extend(row.iter().flat_map(|r| std::iter::repeat_n(r.data().clone(), padding)));
        }
    }

    /// A run ended: answers every request that is complete, and returns those that are not to be
    /// answered yet. What shared a failed run with others waits to run again.
    pub(crate) fn finish(
        &mut self,
        now: Instant,
        work: &Work,
        result: std::result::Result<RunOutputs, RunFailed>,
        signature: &Signature,
        engine: &Arc<EngineInfo>,
    ) -> Unsettled {
        let run = work.batch.run;
        let result = result.and_then(|out| {
            let times = RunTimes { copy_in: out.copy_in, execute: out.execute, copy_out: out.copy_out };
            let bucket = work.batched.then_some(work.batch.bucket);
            let rows = RunRows::new(out.outputs, bucket, signature)
                .map_err(|error| RunFailed { how: RunResult::Failed, error })?;
            Ok(Ran { run, rows: Arc::new(rows), times, engine: engine.clone() })
        });
        let outcome = match &result {
            Ok(_) => RunResult::Ok,
            // Nobody would run it again.
            Err(_) if self.closed.is_some() => RunResult::Abandoned,
            Err(failed) => failed.how,
        };
        if let Ok(ran) = &result {
            for part in &work.batch.parts {
                if let Some(p) = self.pending.get_mut(&part.ticket) {
                    p.runs.push(ran.clone());
                }
            }
        }
        let mut left = Unsettled::default();
        for Finished { ticket, segments, end } in self.batcher.complete(run, outcome) {
            let Some(p) = self.forget_returning(ticket) else { continue };
            let answer = match &result {
                Ok(ran) => {
                    let piece =
                        |s: &Segment| p.runs.iter().find(|r| r.run == s.run).map(|r| (&*r.rows, s.position, s.rows));
                    let pieces: Vec<_> = segments.iter().filter_map(piece).collect();
                    assemble(&pieces, &p.returned, signature).map(|outputs| Answer {
                        outputs,
                        queue_time: p.started.unwrap_or(now).saturating_duration_since(p.accepted),
                        times: ran.times,
                        proof: None,
                    })
                }
                // A host that was ended with its queue is nobody's fault.
                Err(RunFailed { how: RunResult::Died, error }) if end == End::Abandoned => {
                    Err(self.closed.clone().unwrap_or_else(|| error.clone()))
                }
                Err(failed) => Err(failed.error.clone()),
            };
            match (answer, p.proof) {
                (Ok(answer), Some(order)) => {
                    let engines = p.runs.into_iter().map(|r| r.engine).collect();
                    left.unproven.push(Unproven { reply: p.reply, answer, order, segments, engines });
                }
                (Err(error), _) if end == (End::Failed { harmful: true }) => {
                    left.culprits.push(Culprit { reply: p.reply, tenant: p.tenant, inputs: p.inputs, error });
                }
                // The receiver is gone when the caller went away in this moment; then nobody waits.
                (answer, _) => drop(p.reply.send(answer)),
            }
        }
        left
    }

    /// The caller went away.
    pub(crate) fn cancel(&mut self, ticket: u64) {
        match self.batcher.cancel(ticket) {
            Cancelled::Queued | Cancelled::Running => self.forget(ticket),
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

    fn end(&mut self, ticket: u64, answer: Result<Answer>) {
        if let Some(p) = self.forget_returning(ticket) {
            // The receiver is gone when the caller went away in this moment; then nobody waits.
            let _nobody_waits = p.reply.send(answer);
        }
    }

    fn forget(&mut self, ticket: u64) {
        self.forget_returning(ticket);
    }

    fn forget_returning(&mut self, ticket: u64) -> Option<Pending> {
        let p = self.pending.remove(&ticket)?;
        self.keys.release(p.key);
        self.tenants.release(p.tenant_id);
        Some(p)
    }

    fn key_of(&mut self, a: &Admission, ticket: u64) -> u64 {
        let skip = usize::from(self.rowwise);
        let shapes = a.inputs.iter().map(|t| t.shape().get(skip..).unwrap_or_default().to_vec()).collect();
        let mut wanted = a.returned.clone();
        wanted.sort_unstable();
        let only = (a.company != Company::Any).then_some(ticket);
        self.keys.intern(&RunKey { shapes, wanted, only })
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
