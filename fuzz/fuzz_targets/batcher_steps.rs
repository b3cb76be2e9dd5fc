//! Any sequence of events of a batcher, chosen by the fuzzer rather than drawn: every accepted request is answered
//! once, with its own rows in their order, and nobody is failed by another's fault.
//! (`crates/grey-serving/tests/simulation.rs` draws long sequences of likely events and checks more of each.)
//!
//! Input: the configuration (four bytes), then steps of a byte and what each of them needs.
#![no_main]
#![allow(clippy::disallowed_methods, reason = "any instant will do as the origin")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
    time::{Duration, Instant},
};

use grey_fuzz::Bytes;
use grey_serving::batcher::{
    Batch, Batcher, BatcherConfig, Buckets, Cancelled, End, Hold, Readiness, Rejected, RunResult, Submit,
};
use libfuzzer_sys::fuzz_target;

const STEPS_MAX: usize = 500;
const MS: Duration = Duration::from_millis(1);
/// Keys of requests that run whole begin here.
const WHOLE_KEYS: u64 = 1 << 32;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

struct Client {
    key: u64,
    rows: u32,
    deadline: Option<Instant>,
    /// How the run ends that it is in.
    harm: RunResult,
    /// Hosts that died while it ran by itself.
    bad_luck: u32,
}

struct World {
    now: Instant,
    batcher: Batcher,
    clients: BTreeMap<u64, Client>,
    running: Vec<Batch>,
    /// What stood in each row of a run: a request and its row.
    ran: HashMap<u64, Vec<Option<(u64, u32)>>>,
    next_ticket: u64,
}

fn config(input: &mut Bytes<'_>) -> BatcherConfig {
    let (a, b) = (input.byte(), input.byte());
    BatcherConfig {
        enabled: a & 3 != 0,
        max_batch_size: [1, 2, 3, 7, 8, 32, 33, 64][usize::from(a >> 2 & 7)],
        hold: if a & 32 == 0 { Hold::None } else { Hold::Fill { max_wait: MS * (1 + u32::from(a >> 6) * 10) } },
        buckets: if b & 1 == 0 { Buckets::PowersOfTwo } else { Buckets::MultipleOf(u32::from(b >> 1 & 15)) },
        queue_rows_max: [1, 10, 100, 1000][usize::from(b >> 5 & 3)],
    }
}

impl World {
    fn leave(&mut self, ticket: u64) -> Client {
        self.clients.remove(&ticket).unwrap_or_else(|| panic!("request {ticket} is answered twice, or never was"))
    }

    fn arrive(&mut self, input: &mut Bytes<'_>) {
        let (how, size, wait) = (input.byte(), input.byte(), input.byte());
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let whole = how & 1 != 0;
        let key = if whole { WHOLE_KEYS + ticket } else { u64::from(how >> 1 & 1) };
        let rows = if size < 200 { 1 + u32::from(size % 8) } else { u32::from(size) * 5 };
        let deadline = (wait & 1 != 0).then(|| self.now + MS * u32::from(wait >> 1));
        let harm = [RunResult::Failed, RunResult::TimedOut, RunResult::Died, RunResult::Ok];
        let (waiting, most) = (self.batcher.queued_rows(), self.batcher.config().queue_rows_max);
        let submit = Submit { ticket, key, rows, tenant: u64::from(how >> 2 & 3), deadline, whole };
        match self.batcher.submit(self.now, submit) {
            Ok(()) => {
                assert!(waiting + rows <= most && self.batcher.queued_rows() == waiting + rows);
                let harm = harm[usize::from(how >> 4 & 7).min(3)];
                self.clients.insert(ticket, Client { key, rows, deadline, harm, bad_luck: 0 });
            }
            Err(Rejected::QueueFull { .. }) => assert!(waiting + rows > most && rows <= most),
            Err(Rejected::TooManyRows { .. }) => assert!(rows > most),
            Err(Rejected::Expired) => assert!(deadline.is_some_and(|d| d <= self.now)),
        }
    }

    fn take(&mut self) {
        let ready = self.batcher.ready(self.now);
        let Some(batch) = self.batcher.take(self.now) else {
            assert_ne!(ready, Readiness::Now, "what is ready can be taken");
            assert!(ready == Readiness::Idle || matches!(self.batcher.config().hold, Hold::Fill { .. }), "{ready:?}");
            return;
        };
        assert_eq!(ready, Readiness::Now);
        let config = *self.batcher.config();
        let mut rows = Vec::new();
        for part in &batch.parts {
            let client = self.clients.get(&part.ticket).expect("who left does not run");
            assert_eq!(client.key, batch.key, "only equal keys share a run");
            assert_eq!(part.position as usize, rows.len(), "no gaps");
            assert!(part.rows > 0 && part.first_row + part.rows <= client.rows);
            rows.extend((part.first_row..part.first_row + part.rows).map(|row| Some((part.ticket, row))));
        }
        assert!(!rows.is_empty() && rows.len() <= batch.bucket as usize, "{batch:?}");
        if batch.key >= WHOLE_KEYS {
            assert_eq!((batch.parts.len(), batch.bucket as usize), (1, rows.len()), "alone and unpadded");
            assert_eq!(rows.len(), self.clients[&batch.parts[0].ticket].rows as usize, "in one piece");
        } else if !config.enabled {
            assert_eq!(batch.parts.len(), 1, "alone");
        } else {
            assert!(rows.len() <= config.max_batch_size as usize && config.bucket_sizes().contains(&batch.bucket));
        }
        rows.resize(batch.bucket as usize, None);
        assert!(self.ran.insert(batch.run, rows).is_none(), "a run's name is used once");
        self.running.push(batch);
    }

    fn complete(&mut self, which: usize, told: Option<RunResult>) {
        if self.running.is_empty() {
            return;
        }
        let batch = self.running.swap_remove(which % self.running.len());
        let mut harms = batch.parts.iter().filter_map(|p| self.clients.get(&p.ticket)).map(|c| c.harm);
        let result = told.or_else(|| harms.find(|h| *h != RunResult::Ok)).unwrap_or(RunResult::Ok);
        if let (RunResult::Died, [part]) = (result, &batch.parts[..])
            && let Some(c) = self.clients.get_mut(&part.ticket)
        {
            c.bad_luck += 1;
        }
        for done in self.batcher.complete(batch.run, result) {
            let client = self.leave(done.ticket);
            assert!(batch.parts.iter().any(|p| p.ticket == done.ticket));
            match done.end {
                End::Abandoned => assert_eq!(result, RunResult::Abandoned),
                End::Failed { .. } => {
                    assert_eq!(batch.parts.len(), 1, "only what ran by itself is at fault");
                    assert!(client.harm != RunResult::Ok || client.bad_luck >= 2, "{} has no fault", done.ticket);
                }
                End::Ok => {
                    assert_eq!(result, RunResult::Ok);
                    let answer: Vec<_> = done
                        .segments
                        .iter()
                        .flat_map(|s| &self.ran[&s.run][s.position as usize..(s.position + s.rows) as usize])
                        .copied()
                        .collect();
                    let own: Vec<_> = (0..client.rows).map(|row| Some((done.ticket, row))).collect();
                    assert_eq!(answer, own, "its own rows, all of them, in order");
                }
            }
        }
    }

    fn step(&mut self, input: &mut Bytes<'_>) {
        match input.below(12) {
            0..4 => self.arrive(input),
            4 | 5 => self.take(),
            6 | 7 => self.complete(input.below(256), None),
            8 => self.complete(input.below(256), Some([RunResult::Died, RunResult::Abandoned][input.below(2)])),
            9 => {
                let at = input.below(256) % self.clients.len().max(1);
                let Some(ticket) = self.clients.keys().nth(at).copied() else { return };
                assert_ne!(self.batcher.cancel(ticket), Cancelled::Unknown, "an accepted request is known");
                self.leave(ticket);
                assert_eq!(self.batcher.cancel(ticket), Cancelled::Unknown);
            }
            10 => self.now += MS * u32::from(input.byte()),
            _ if input.byte() & 3 == 0 => self.batcher.fail_all().into_iter().for_each(|t| {
                self.leave(t);
            }),
            _ => {
                // The bound on rows is fixed for a node's life.
                let queue_rows_max = self.batcher.config().queue_rows_max;
                self.batcher.set_config(BatcherConfig { queue_rows_max, ..config(input) });
            }
        }
        for ticket in self.batcher.expire(self.now) {
            assert!(self.leave(ticket).deadline.is_some_and(|d| d <= self.now), "{ticket} before its time");
        }
        self.batcher.check_invariants().expect("its own book-keeping");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Bytes(input);
    let mut world = World {
        now: *ORIGIN,
        batcher: Batcher::new(config(&mut input)),
        clients: BTreeMap::new(),
        running: Vec::new(),
        ran: HashMap::new(),
        next_ticket: 1,
    };
    for _ in 0..STEPS_MAX {
        if input.0.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    // Nobody comes any more: everyone is answered in the end. A run is halved at most ten times for each of its parts.
    let rows: u32 = world.clients.values().map(|c| c.rows).sum();
    for _ in 0..100 + 20 * rows {
        if world.clients.is_empty() {
            break;
        }
        world.take();
        world.complete(0, None);
        world.now += MS * 50;
    }
    assert!(world.clients.is_empty(), "{} requests are never answered", world.clients.len());
    while !world.running.is_empty() {
        world.complete(0, None);
    }
    assert_eq!((world.batcher.queued_rows(), world.batcher.ready(world.now)), (0, Readiness::Idle));
    world.batcher.check_invariants().expect("its own book-keeping");
});
