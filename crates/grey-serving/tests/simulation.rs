//! The batcher under a million random steps: arrivals of all sizes, shapes and tenants,
//! cancellations, deadlines, requests that fail or kill their host, hosts that die of themselves,
//! other configurations, unloads. After every step each accepted request has been answered at most
//! once, with its own rows and no others, nobody was failed by another's fault, everybody's turn has
//! come, and no bound is exceeded; at the end every one has been answered.
//!
//! `GREY_SIM_SEED` replays one seed, `GREY_SIM_STEPS` sets how many steps are run in all,
//! `GREY_SIM_BASE` the first seed of a run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and any instant will do as its origin"
)]

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use grey_serving::{
    batcher::{Batch, Batcher, BatcherConfig, Buckets, Cancelled, End, Hold, Readiness, Rejected, RunResult, Submit},
    random::SplitMix64,
};

const STEPS: u64 = 1_000_000;
const STEPS_PER_SEED: u64 = 20_000;
const TENANTS: u64 = 4;
const MS: Duration = Duration::from_millis(1);

/// A request as its client knows it.
struct Client {
    key: u64,
    tenant: u64,
    rows: u32,
    deadline: Option<Instant>,
    harm: Harm,
    /// Rows that have been in a run.
    started: u32,
    /// Hosts that died of themselves while it ran alone.
    bad_luck: u32,
    /// What came back per row: `None` until it ran.
    answer: Vec<Option<u64>>,
}

/// What a request does to the run that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    None,
    Fails,
    Hangs,
    Kills,
}

impl Harm {
    fn result(self) -> RunResult {
        match self {
            Harm::None => RunResult::Ok,
            Harm::Fails => RunResult::Failed,
            Harm::Hangs => RunResult::TimedOut,
            Harm::Kills => RunResult::Died,
        }
    }
}

/// A model's output for a row depends on the row alone; the content of a row is its own.
fn output(ticket: u64, row: u32) -> u64 {
    SplitMix64::new(ticket << 20 | u64::from(row)).next()
}

struct Sim {
    random: SplitMix64,
    now: Instant,
    batcher: Batcher,
    clients: BTreeMap<u64, Client>,
    answered: HashSet<u64>,
    running: Vec<Batch>,
    /// Outputs per run, row by row: `None` is padding.
    outputs: HashMap<u64, Vec<Option<u64>>>,
    /// Last started (ticket) per tenant and key: arrival order must hold.
    started: HashMap<(u64, u64), u64>,
    /// Batches that each waiting tenant has seen others lead since it had rows in one.
    passed_over: HashMap<u64, u64>,
    instances: usize,
    next_ticket: u64,
    answers: u64,
}

/// Keys of requests that run whole begin here.
const WHOLE_KEYS: u64 = 1 << 32;

impl Sim {
    fn new(seed: u64) -> Sim {
        let mut random = SplitMix64::new(seed);
        let config = some_config(&mut random);
        let instances = 1 + (random.next() % 3) as usize;
        Sim {
            random,
            now: Instant::now(),
            batcher: Batcher::new(config),
            clients: BTreeMap::new(),
            answered: HashSet::new(),
            running: Vec::new(),
            outputs: HashMap::new(),
            started: HashMap::new(),
            passed_over: HashMap::new(),
            instances,
            next_ticket: 1,
            answers: 0,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.next() % n
    }

    /// A request leaves with an answer of whatever kind: exactly once.
    fn leave(&mut self, ticket: u64) -> Client {
        assert!(self.answered.insert(ticket), "request {ticket} is answered twice");
        self.answers += 1;
        let c = self.clients.remove(&ticket).unwrap_or_else(|| panic!("request {ticket} was never accepted"));
        if !self.clients.values().any(|other| other.tenant == c.tenant && other.started < other.rows) {
            self.passed_over.remove(&c.tenant);
        }
        c
    }

    fn step(&mut self) {
        match self.below(100) {
            0..40 => self.arrive(),
            40..65 => self.take(),
            65..91 => self.complete(None),
            91..95 => self.cancel(),
            95..97 => self.now += MS * u32::try_from(self.random.next() % 30).unwrap(),
            97 => {
                // A host dies of itself. All of them, sometimes.
                let deaths = if self.below(4) == 0 { self.running.len() } else { 1 };
                (0..deaths).for_each(|_| self.complete(Some(RunResult::Died)));
            }
            98 if self.below(10) == 0 => {
                let config = some_config(&mut self.random);
                // The bound on rows is fixed for a node's life.
                let config = BatcherConfig { queue_rows_max: self.batcher.config().queue_rows_max, ..config };
                self.batcher.set_config(config);
            }
            99 if self.below(20) == 0 => {
                for ticket in self.batcher.fail_all() {
                    self.leave(ticket);
                }
                if self.below(2) == 0 {
                    // An unload: what runs is not run again.
                    (0..self.running.len()).for_each(|_| self.complete(Some(RunResult::Abandoned)));
                }
            }
            _ => self.now += MS,
        }
        for ticket in self.batcher.expire(self.now) {
            let c = self.leave(ticket);
            assert!(c.deadline.unwrap() <= self.now, "{ticket} expired before its time");
        }
        self.batcher.check_invariants().unwrap();
    }

    fn arrive(&mut self) {
        let config = *self.batcher.config();
        let rows = match self.below(20) {
            0 => self.below(u64::from(config.queue_rows_max) + 10) + 1,
            1..4 => self.below(u64::from(config.max_batch_size) * 3) + 1,
            _ => self.below(3) + 1,
        };
        let rows = u32::try_from(rows).unwrap();
        let deadline = (self.below(4) == 0).then(|| self.now + MS * u32::try_from(self.random.next() % 40).unwrap());
        let (ticket, tenant, whole) = (self.next_ticket, self.below(TENANTS), self.below(10) == 0);
        // A request that runs whole has a key of its own.
        let key = if whole { WHOLE_KEYS + ticket } else { self.below(3) };
        self.next_ticket += 1;
        let waiting = self.batcher.queued_rows();
        match self.batcher.submit(self.now, Submit { ticket, key, rows, tenant, deadline, whole }) {
            Ok(()) => {
                let answer = vec![None; rows as usize];
                let harm = match self.below(60) {
                    0 => Harm::Fails,
                    1 => Harm::Hangs,
                    2 => Harm::Kills,
                    _ => Harm::None,
                };
                let client = Client { key, tenant, rows, deadline, harm, started: 0, bad_luck: 0, answer };
                self.clients.insert(ticket, client);
                assert_eq!(self.batcher.queued_rows(), waiting + rows);
            }
            Err(Rejected::QueueFull { .. }) => assert!(waiting + rows > config.queue_rows_max),
            Err(Rejected::TooManyRows { .. }) => assert!(rows > config.queue_rows_max),
            Err(Rejected::Expired) => assert!(deadline.unwrap() <= self.now),
        }
    }

    /// Everybody's turn comes, whatever the others send: a tenant that waits sees each other lead once at most.
    fn check_turns(&mut self, batch: &Batch, again: bool) {
        // What `Fill` promises is a time, not a turn.
        if self.batcher.config().hold != Hold::None {
            self.passed_over.clear();
        } else if !again {
            let served: HashSet<u64> = batch.parts.iter().map(|p| self.clients[&p.ticket].tenant).collect();
            let waits = |c: &&Client| c.started < c.rows && !served.contains(&c.tenant);
            let waiting: HashSet<u64> = self.clients.values().filter(waits).map(|c| c.tenant).collect();
            self.passed_over.retain(|tenant, _| waiting.contains(tenant));
            for tenant in waiting {
                let times = self.passed_over.entry(tenant).or_default();
                *times += 1;
                assert!(*times < TENANTS, "tenant {tenant} waits, and others led {times} batches without it");
            }
        }
    }

    fn take(&mut self) {
        if self.running.len() >= self.instances {
            return;
        }
        let config = *self.batcher.config();
        let readiness = self.batcher.ready(self.now);
        let rows_before = self.batcher.queued_rows();
        let Some(batch) = self.batcher.take(self.now) else {
            assert_ne!(readiness, Readiness::Now, "what is ready can be taken");
            match (readiness, config.hold) {
                (Readiness::Idle, _) => assert_eq!(rows_before, 0, "what waits is never called idle"),
                (Readiness::At(t), Hold::Fill { max_wait }) => assert!(t > self.now && t <= self.now + max_wait),
                other => panic!("nothing is held back without fill: {other:?}"),
            }
            return;
        };
        assert_eq!(readiness, Readiness::Now);
        let mut position = 0;
        let mut rows = Vec::new();
        let again = self.clients[&batch.parts[0].ticket].started > batch.parts[0].first_row;
        for part in &batch.parts {
            let c = self.clients.get_mut(&part.ticket).unwrap();
            assert_eq!(again, c.started > part.first_row, "what runs again stands beside nothing new");
            c.started = c.started.max(part.first_row + part.rows);
            assert_eq!(c.key, batch.key, "only equal keys share a run");
            assert_eq!(part.position, position, "parts stand without gaps");
            assert!(part.first_row + part.rows <= c.rows);
            if !again {
                let last = self.started.insert((c.tenant, c.key), part.ticket).unwrap_or(0);
                assert!(last <= part.ticket, "first come, first served within tenant and key");
            }
            rows.extend((part.first_row..part.first_row + part.rows).map(|r| Some(output(part.ticket, r))));
            position += part.rows;
        }
        if batch.key >= WHOLE_KEYS {
            assert_eq!((batch.parts.len(), batch.bucket), (1, position), "whole means alone and unpadded");
            assert_eq!(position, self.clients[&batch.parts[0].ticket].rows, "and in one piece");
        } else if config.enabled {
            assert!(position <= config.max_batch_size);
            assert!(config.bucket_sizes().contains(&batch.bucket), "{batch:?} under {config:?}");
            assert_eq!(batch.bucket, config.bucket(position));
        } else {
            assert_eq!(batch.parts.len(), 1, "alone means alone");
            assert_eq!(batch.bucket, config.bucket(position));
        }
        assert_eq!(self.batcher.queued_rows() + if again { 0 } else { position }, rows_before);
        rows.resize(batch.bucket as usize, None);
        self.outputs.insert(batch.run, rows);
        self.check_turns(&batch, again);
        self.running.push(batch);
    }

    /// A run ends as its requests make it end, or as told.
    fn complete(&mut self, told: Option<RunResult>) {
        if self.running.is_empty() {
            return;
        }
        let at = self.below(self.running.len() as u64) as usize;
        let batch = self.running.swap_remove(at);
        let harm = |c: &Client| c.harm != Harm::None;
        let own = batch.parts.iter().filter_map(|p| self.clients.get(&p.ticket)).find(|c| harm(c));
        let result = told.unwrap_or(own.map_or(RunResult::Ok, |c| c.harm.result()));
        if let (true, [part]) = (result == RunResult::Died, &batch.parts[..])
            && let Some(c) = self.clients.get_mut(&part.ticket)
        {
            c.bad_luck += 1;
        }
        for done in self.batcher.complete(batch.run, result) {
            let mut c = self.leave(done.ticket);
            match done.end {
                End::Ok => assert_eq!(result, RunResult::Ok),
                End::Abandoned => assert_eq!(result, RunResult::Abandoned),
                End::Failed { .. } => {
                    assert_eq!(batch.parts.len(), 1, "only what ran by itself is at fault");
                    assert!(c.harm != Harm::None || c.bad_luck >= 2, "{} is failed without a fault", done.ticket);
                }
            }
            if done.end != End::Ok {
                continue;
            }
            let mut row = 0;
            for s in &done.segments {
                let outputs = &self.outputs[&s.run];
                assert_eq!(outputs.len(), s.bucket as usize);
                for value in &outputs[s.position as usize..(s.position + s.rows) as usize] {
                    c.answer[row] = *value;
                    row += 1;
                }
            }
            let own: Vec<Option<u64>> = (0..c.rows).map(|r| Some(output(done.ticket, r))).collect();
            assert_eq!(c.answer, own, "request {} has its own rows, all of them, in order", done.ticket);
        }
    }

    fn cancel(&mut self) {
        let Some((ticket, _)) = self.clients.iter().nth(self.random.next() as usize % self.clients.len().max(1)) else {
            return;
        };
        let ticket = *ticket;
        let running = self.running.iter().any(|b| b.parts.iter().any(|p| p.ticket == ticket));
        match self.batcher.cancel(ticket) {
            Cancelled::Unknown => panic!("an accepted request is known"),
            // In a run, or about to run again.
            Cancelled::Running => assert!(running || self.clients[&ticket].started > 0),
            // A split request whose pieces have all run so far waits for its rest.
            Cancelled::Queued => assert!(!running),
        }
        self.leave(ticket);
        assert_eq!(self.batcher.cancel(ticket), Cancelled::Unknown);
    }

    /// No new requests: everything accepted is answered in the end.
    fn finish(&mut self) {
        for _ in 0..1_000_000 {
            if self.clients.is_empty() {
                break;
            }
            self.take();
            self.complete(None);
            self.now += MS * 50;
        }
        assert!(self.clients.is_empty(), "{} requests were never answered", self.clients.len());
        assert_eq!((self.batcher.queued_rows(), self.batcher.ready(self.now)), (0, Readiness::Idle));
        self.batcher.check_invariants().unwrap();
    }
}

fn some_config(random: &mut SplitMix64) -> BatcherConfig {
    let mut pick = |n: u64| random.next() % n;
    BatcherConfig {
        enabled: pick(5) != 0,
        max_batch_size: [1, 2, 7, 8, 32][pick(5) as usize],
        hold: if pick(3) == 0 { Hold::Fill { max_wait: MS * (1 + pick(20) as u32) } } else { Hold::None },
        buckets: if pick(3) == 0 { Buckets::MultipleOf(1 + pick(8) as u32) } else { Buckets::PowersOfTwo },
        queue_rows_max: [20, 100, 1000][pick(3) as usize],
    }
}

fn run(seed: u64, steps: u64) -> u64 {
    let mut sim = Sim::new(seed);
    for step in 0..steps {
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sim.step()));
        if let Err(e) = stepped {
            eprintln!("step {step} failed; replay with GREY_SIM_SEED={seed}");
            std::panic::resume_unwind(e);
        }
        // Outputs of ended runs are needed as long as a split request may refer to them.
        if step % 1000 == 0 && sim.outputs.len() > 2000 {
            let oldest = sim.outputs.keys().max().unwrap() - 1000;
            sim.outputs.retain(|run, _| *run >= oldest);
        }
    }
    let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sim.finish()));
    if let Err(e) = finished {
        eprintln!("the end failed; replay with GREY_SIM_SEED={seed}");
        std::panic::resume_unwind(e);
    }
    sim.answers
}

#[test]
fn a_million_steps() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    if let Some(seed) = number("GREY_SIM_SEED") {
        println!("seed {seed}");
        run(seed, STEPS_PER_SEED);
        return;
    }
    let steps = number("GREY_SIM_STEPS").unwrap_or(STEPS);
    let seeds = steps.div_ceil(STEPS_PER_SEED);
    let base = number("GREY_SIM_BASE").unwrap_or(0);
    let end = base.checked_add(seeds).unwrap();
    println!("seeds {base} to {}, {STEPS_PER_SEED} steps each", end.saturating_sub(1));
    let answers: u64 = (base..end).map(|seed| run(seed, STEPS_PER_SEED)).sum();
    println!("{answers} requests, each answered once with its own rows");
    assert!(answers > steps / 10, "the simulation does something");
}

/// A flooding tenant costs another at most one batch, also when the shapes differ.
#[test]
fn a_flood_delays_others_by_one_batch() {
    for key in [0, 1] {
        let now = Instant::now();
        let mut b = Batcher::new(BatcherConfig {
            enabled: true,
            max_batch_size: 8,
            hold: Hold::None,
            buckets: Buckets::PowersOfTwo,
            queue_rows_max: 1_000_000,
        });
        let mut ticket = 0;
        for round in 0..200 {
            for _ in 0..20 {
                ticket += 1;
                b.submit(now, Submit { ticket, key: 0, rows: 1, tenant: 0, deadline: None, whole: false }).unwrap();
            }
            ticket += 1;
            let quiet = ticket;
            b.submit(now, Submit { ticket: quiet, key, rows: 1, tenant: 1, deadline: None, whole: false }).unwrap();
            let batches: Vec<Batch> = (0..2).map(|_| b.take(now).unwrap()).collect();
            assert!(
                batches.iter().any(|x| x.parts.iter().any(|p| p.ticket == quiet)),
                "round {round}, key {key}: not within two batches: {batches:?}"
            );
        }
    }
}
