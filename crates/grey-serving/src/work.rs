//! The requests of a run, and what is done for it without the queue's lock: its rows are put together
//! before it, and the answers are cut out of its outputs behind it.

use std::{sync::Arc, time::Instant};

use grey_core::{Error, Result, Signature, Tenant, Tensor};
use grey_engine::{BatchInput, EngineInfo, RunOutputs};
use tokio::sync::oneshot;

use crate::{
    assemble::{RunRows, assemble},
    batcher::{End, Finished, Part, RunResult, Segment},
    order::{Answer, Order, Unproven},
    stats::RunTimes,
};

/// A request that was accepted.
pub(crate) struct Pending {
    /// In the signature's order.
    pub(crate) inputs: Arc<[Tensor]>,
    /// The queue's numbers of what it shares runs by, and of its tenant.
    pub(crate) key: u64,
    pub(crate) tenant: Tenant,
    pub(crate) tenant_id: u64,
    /// Positions of the outputs to return, in the order asked for.
    pub(crate) returned: Vec<usize>,
    pub(crate) reply: oneshot::Sender<Result<Answer>>,
    pub(crate) accepted: Instant,
    pub(crate) started: Option<Instant>,
    /// The runs that held parts of it, but for the last.
    pub(crate) runs: Vec<Arc<Ran>>,
    pub(crate) proof: Option<Order>,
}

/// A batch that is to run now.
pub(crate) struct Work {
    pub(crate) run: u64,
    /// Rows after padding.
    pub(crate) bucket: u32,
    /// In the order of their rows, with the inputs of the request that each is of.
    pub(crate) parts: Vec<(Part, Arc<[Tensor]>)>,
    pub(crate) wanted: Vec<usize>,
    /// Whether first dimensions count rows.
    pub(crate) rowwise: bool,
    /// Whether the first axis of all tensors counts rows.
    pub(crate) batched: bool,
}

impl Work {
    /// Rows before padding.
    pub(crate) fn rows(&self) -> u32 {
        self.parts.iter().map(|(p, _)| p.rows).sum()
    }

    /// The rows of all parts in their places, padded up to the bucket.
    pub(crate) fn inputs(&self) -> Vec<BatchInput> {
        let Some((first, tensors)) = self.parts.first() else { return Vec::new() };
        let mut inputs: Vec<BatchInput> = tensors
            .iter()
            .enumerate()
            .map(|(index, t)| {
                let mut shape = t.shape().to_vec();
                if let (true, Some(first)) = (self.rowwise, shape.first_mut()) {
                    *first = u64::from(self.bucket);
                }
                BatchInput { index, dtype: t.dtype(), shape, parts: Vec::with_capacity(self.bucket as usize) }
            })
            .collect();
        for (part, tensors) in &self.parts {
            let (from, to) = (u64::from(part.first_row), u64::from(part.first_row) + u64::from(part.rows));
            for (input, tensor) in inputs.iter_mut().zip(&**tensors) {
                let whole = !self.rowwise || (from == 0 && tensor.rows() == Some(to));
                if whole {
                    input.parts.push(tensor.data().clone());
                } else {
                    input.parts.extend(tensor.slice_rows(from, to).map(|r| r.data().clone()));
                }
            }
        }
        // Copies of the first row: unlike rows of zeros, the model takes that row.
        let padding = self.bucket.saturating_sub(self.rows()) as usize;
        if self.rowwise && padding > 0 {
            let at = u64::from(first.first_row);
            for (input, tensor) in inputs.iter_mut().zip(&**tensors) {
                let row = tensor.slice_rows(at, at + 1);
                input.parts.extend(row.iter().flat_map(|r| std::iter::repeat_n(r.data().clone(), padding)));
            }
        }
        inputs
    }
}

/// A run that went well, as the requests in it see it.
pub(crate) struct Ran {
    run: u64,
    rows: RunRows,
    times: RunTimes,
    engine: Arc<EngineInfo>,
}

impl Ran {
    /// What a run gave to the requests of `work`.
    pub(crate) fn new(
        work: &Work,
        out: RunOutputs,
        signature: &Signature,
        engine: &Arc<EngineInfo>,
    ) -> std::result::Result<Arc<Ran>, RunFailed> {
        let times = RunTimes { copy_in: out.copy_in, execute: out.execute, copy_out: out.copy_out };
        let rows = RunRows::new(out.outputs, work.batched.then_some(work.bucket), signature)
            .map_err(|error| RunFailed { how: RunResult::Failed, error })?;
        Ok(Arc::new(Ran { run: work.run, rows, times, engine: engine.clone() }))
    }
}

/// A run that gave nothing.
pub(crate) struct RunFailed {
    /// How: not [`RunResult::Ok`].
    pub(crate) how: RunResult,
    /// What the requests are told that it fails.
    pub(crate) error: Error,
}

/// A request that is complete and not yet answered.
pub(crate) struct Done {
    pub(crate) request: Pending,
    pub(crate) of: Finished,
    /// Why its queue is closed, if it is.
    pub(crate) closed: Option<Error>,
}

/// A request that failed by itself and harmed others, or its host.
pub(crate) struct Culprit {
    pub(crate) reply: oneshot::Sender<Result<Answer>>,
    pub(crate) tenant: Tenant,
    pub(crate) inputs: Arc<[Tensor]>,
    pub(crate) error: Error,
    /// Whether its host ended.
    pub(crate) ended_host: bool,
}

/// What is left to do for the requests of a run.
#[derive(Default)]
pub(crate) struct Unsettled {
    /// Their answers are to be proven before.
    pub(crate) unproven: Vec<Unproven>,
    /// Their inputs are to be put in quarantine before.
    pub(crate) culprits: Vec<Culprit>,
}

/// Answers the requests that a run completed, and returns those that are not to be answered yet.
pub(crate) fn answer(
    now: Instant,
    done: Vec<Done>,
    result: &std::result::Result<Arc<Ran>, RunFailed>,
    signature: &Signature,
) -> Unsettled {
    let mut left = Unsettled::default();
    for Done { request: mut p, of: Finished { segments, end, .. }, closed } in done {
        let answer = match result {
            Ok(ran) => {
                p.runs.push(ran.clone());
                let piece = |s: &Segment| p.runs.iter().find(|r| r.run == s.run).map(|r| (&r.rows, s.position, s.rows));
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
                Err(closed.unwrap_or_else(|| error.clone()))
            }
            Err(failed) => Err(failed.error.clone()),
        };
        match (answer, p.proof) {
            (Ok(answer), Some(order)) => {
                let engines = p.runs.iter().map(|r| r.engine.clone()).collect();
                left.unproven.push(Unproven { reply: p.reply, answer, order, segments, engines });
            }
            (Err(error), _) if end == (End::Failed { harmful: true }) => {
                let ended_host =
                    result.as_ref().err().is_some_and(|f| matches!(f.how, RunResult::TimedOut | RunResult::Died));
                left.culprits.push(Culprit { reply: p.reply, tenant: p.tenant, inputs: p.inputs, error, ended_host });
            }
            // The receiver is gone when the caller went away in this moment; then nobody waits.
            (answer, _) => drop(p.reply.send(answer)),
        }
    }
    left
}
