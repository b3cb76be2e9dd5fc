//! Which requests run together, and when: a pure state machine for one version of a model.
//!
//! Events come in as method calls with the time, decisions go out as return values. It is pulled:
//! whoever holds an idle instance and a run permit calls [`Batcher::take`], so that a batch grows
//! as long as all instances are busy. No thread, no channel, no clock.
//!
//! Requests share a run only if they have the same key (shape of a row, outputs wanted). The lead
//! of a batch is the next tenant in turn, with its oldest request; the batch is then filled by
//! deficit round robin over all tenants that wait under that key, oldest first within a tenant.
//! Nothing is kept for a key or tenant that has no waiting request.
//!
//! Inference is pure, so a run that failed is run again in halves ([`again`]) until the requests
//! that fail by themselves are found; the others never see the error.

mod again;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use again::{Again, Group};
use rustc_hash::FxHashMap;

/// Whether a batch is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// What waits runs as soon as somebody can run it.
    None,
    /// A batch waits until it is full or its oldest request has waited this long.
    Fill {
        /// The longest wait.
        max_wait: Duration,
    },
}

/// The batch sizes that runs are padded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// 1, 2, 4, 8, …, and `max_batch_size` itself.
    PowersOfTwo,
    /// Multiples of this; the largest one may exceed `max_batch_size` by less than one multiple.
    MultipleOf(u32),
}

/// How a version's requests are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatcherConfig {
    /// Whether rows of different requests may share a run. If not, each request runs whole and
    /// unpadded.
    pub enabled: bool,
    /// Most rows of one run; at least 1.
    pub max_batch_size: u32,
    /// Whether a batch is held back; ignored where requests run alone.
    pub hold: Hold,
    /// What runs are padded to.
    pub buckets: Buckets,
    /// Most rows that may wait.
    pub queue_rows_max: u32,
}

impl BatcherConfig {
    /// The size to which a run of `rows` rows is padded.
    pub fn bucket(&self, rows: u32) -> u32 {
        if !self.enabled {
            return rows;
        }
        match self.buckets {
            Buckets::PowersOfTwo => rows.checked_next_power_of_two().unwrap_or(rows).min(self.max_batch_size.max(rows)),
            Buckets::MultipleOf(m) => rows.checked_next_multiple_of(m.max(1)).unwrap_or(rows),
        }
    }

    /// All sizes that runs can have, ascending.
    pub fn bucket_sizes(&self) -> Vec<u32> {
        let mut sizes = Vec::new();
        let mut rows = 1;
        while rows <= self.max_batch_size {
            let b = self.bucket(rows);
            sizes.push(b);
            match b.checked_add(1) {
                Some(next) => rows = next,
                None => break,
            }
        }
        sizes
    }
}

/// A request, as the batcher sees it.
#[derive(Clone, Copy, Debug)]
pub struct Submit {
    /// Names the request; never used twice.
    pub ticket: u64,
    /// Requests of equal key may share a run.
    pub key: u64,
    /// Its rows; at least 1.
    pub rows: u32,
    /// Who asks.
    pub tenant: u64,
    /// When it stops caring.
    pub deadline: Option<Instant>,
    /// Runs in one piece, unpadded and beside nobody, however requests are batched. The key must be
    /// this request's alone.
    pub whole: bool,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It may fit later.
    QueueFull {
        /// Rows that wait.
        waiting: u32,
        /// The bound.
        max: u32,
    },
    /// It can never fit.
    TooManyRows {
        /// Its rows.
        rows: u32,
        /// The bound.
        max: u32,
    },
    /// Its deadline has passed.
    Expired,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::QueueFull { waiting, max } => {
                write!(f, "the model's queue is full: {waiting} rows wait, at most {max} may (queue_rows_max)")
            }
            Rejected::TooManyRows { rows, max } => {
                write!(f, "the request has {rows} rows, more than the {max} that may wait at all (queue_rows_max)")
            }
            Rejected::Expired => f.write_str("the deadline has passed"),
        }
    }
}

/// Whether [`Batcher::take`] would give a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Now,
    /// At this time, if nothing else comes.
    At(Instant),
    /// Nothing waits.
    Idle,
}

/// Rows of one request in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The request.
    pub ticket: u64,
    /// First of its rows that is here.
    pub first_row: u32,
    /// How many.
    pub rows: u32,
    /// Where they stand in the batch.
    pub position: u32,
}

/// What runs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Names the run.
    pub run: u64,
    /// The key that all parts share.
    pub key: u64,
    /// Rows after padding.
    pub bucket: u32,
    /// In the order of their positions, without gaps.
    pub parts: Vec<Part>,
}

/// Times that the host must die of a request that runs by itself before that is called its fault:
/// hosts also die of what no request can help, and seldom twice in a row.
const DEATHS_ALONE_MAX: u32 = 2;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunResult {
    /// With outputs.
    Ok,
    /// Without, by the model's own word.
    Failed,
    /// It took too long, and its host was ended.
    TimedOut,
    /// Its host died.
    Died,
    /// Without outputs, and nothing may run again.
    Abandoned,
}

/// Rows of a request that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The run.
    pub run: u64,
    /// Its size after padding.
    pub bucket: u32,
    /// Where the rows stood.
    pub position: u32,
    /// How many.
    pub rows: u32,
}

/// A request that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The request.
    pub ticket: u64,
    /// Where its rows ran, in its own order.
    pub segments: Vec<Segment>,
    /// Whether all of them ran well.
    pub end: End,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All its rows ran well.
    Ok,
    /// It failed by itself.
    Failed {
        /// Whether that cost others something: runs beside it that failed before, or a host.
        harmful: bool,
    },
    /// A run that it was in was abandoned.
    Abandoned,
}

/// What became of a cancelled request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited and is gone.
    Queued,
    /// Rows of it run; it will not be reported as finished.
    Running,
    /// It was finished or never there.
    Unknown,
}

#[derive(Debug)]
struct Request {
    key: u64,
    tenant: u64,
    rows: u32,
    whole: bool,
    /// First row that has not been taken.
    next_row: u32,
    order: u64,
    accepted: Instant,
    deadline: Option<Instant>,
    /// Its parts in runs, and in groups that are to run again.
    running: u32,
    /// Whether a run failed that it shared with others.
    failed_beside_others: bool,
    /// Hosts that died of it while it ran by itself.
    deaths_alone: u32,
    /// By first row.
    segments: BTreeMap<u32, Segment>,
}

#[derive(Debug, Default)]
struct TenantQueue {
    /// By order of arrival.
    waiting: BTreeMap<u64, u64>,
    deficit: u32,
}

#[derive(Debug, Default)]
struct KeyQueue {
    tenants: FxHashMap<u64, TenantQueue>,
    turn: VecDeque<u64>,
    rows: u64,
    /// Set where the one request under this key runs whole: nothing could fill its run.
    whole: bool,
}

impl KeyQueue {
    fn is_full(&self, max_batch_size: u32) -> bool {
        self.whole || self.rows >= u64::from(max_batch_size)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Batcher {
    config: BatcherConfig,
    requests: FxHashMap<u64, Request>,
    keys: BTreeMap<u64, KeyQueue>,
    /// All waiting requests by order of arrival.
    waiting: BTreeMap<u64, u64>,
    /// The same per tenant, and whose turn it is to lead.
    tenants: FxHashMap<u64, BTreeMap<u64, u64>>,
    turn: VecDeque<u64>,
    /// Who led the last batch.
    led: Option<u64>,
    /// Keys under which a full batch waits.
    full: BTreeSet<u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    runs: FxHashMap<u64, Batch>,
    again: Again,
    queued_rows: u64,
    next_run: u64,
    next_order: u64,
}

impl Batcher {
    /// An empty batcher.
    pub fn new(config: BatcherConfig) -> Self {
        Batcher {
            config,
            requests: FxHashMap::default(),
            keys: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tenants: FxHashMap::default(),
            turn: VecDeque::new(),
            led: None,
            full: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            runs: FxHashMap::default(),
            again: Again::default(),
            queued_rows: 0,
            next_run: 1,
            next_order: 0,
        }
    }

    /// The configuration in force.
    pub fn config(&self) -> &BatcherConfig {
        &self.config
    }

    /// Rows that wait.
    pub fn queued_rows(&self) -> u32 {
        u32::try_from(self.queued_rows).unwrap_or(u32::MAX)
    }

    /// When the request was accepted that has waited longest.
    pub fn oldest(&self) -> Option<Instant> {
        let (_, ticket) = self.waiting.first_key_value()?;
        self.requests.get(ticket).map(|r| r.accepted)
    }

    /// The earliest deadline of a waiting request.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Accepts a request, which is then reported exactly once: by [`Batcher::complete`],
    /// [`Batcher::expire`], [`Batcher::fail_all`], or taken back by [`Batcher::cancel`].
    pub fn submit(&mut self, now: Instant, s: Submit) -> Result<(), Rejected> {
        let max = self.config.queue_rows_max;
        if s.deadline.is_some_and(|d| d <= now) {
            return Err(Rejected::Expired);
        }
        if s.rows > max {
            return Err(Rejected::TooManyRows { rows: s.rows, max });
        }
        if self.queued_rows + u64::from(s.rows) > u64::from(max) {
            return Err(Rejected::QueueFull { waiting: self.queued_rows(), max });
        }
        let order = self.next_order;
        self.next_order += 1;
        let request = Request {
            key: s.key,
            tenant: s.tenant,
            rows: s.rows.max(1),
            whole: s.whole,
            next_row: 0,
            order,
            accepted: now,
            deadline: s.deadline,
            running: 0,
            failed_beside_others: false,
            deaths_alone: 0,
            segments: BTreeMap::new(),
        };
        if let Some(d) = s.deadline {
            self.deadlines.insert((d, s.ticket));
        }
        self.queued_rows += u64::from(request.rows);
        self.waiting.insert(order, s.ticket);
        let of_tenant = self.tenants.entry(s.tenant).or_default();
        if of_tenant.is_empty() {
            join(&mut self.turn, s.tenant, self.led);
        }
        of_tenant.insert(order, s.ticket);
        let key = self.keys.entry(s.key).or_default();
        key.rows += u64::from(request.rows);
        key.whole |= request.whole;
        let queue = key.tenants.entry(s.tenant).or_default();
        if queue.waiting.is_empty() {
            join(&mut key.turn, s.tenant, self.led);
        }
        queue.waiting.insert(order, s.ticket);
        if key.is_full(self.config.max_batch_size) {
            self.full.insert(s.key);
        }
        self.requests.insert(s.ticket, request);
        Ok(())
    }

    /// Whether a batch is due.
    pub fn ready(&self, now: Instant) -> Readiness {
        if !self.again.is_empty() {
            return Readiness::Now;
        }
        let Some(oldest) = self.waiting.first_key_value().and_then(|(_, t)| self.requests.get(t)) else {
            return Readiness::Idle;
        };
        match self.config.hold {
            Hold::Fill { max_wait } if self.config.enabled && self.full.is_empty() => {
                match oldest.accepted.checked_add(max_wait) {
                    Some(due) if due > now => Readiness::At(due),
                    _ => Readiness::Now,
                }
            }
            _ => Readiness::Now,
        }
    }

    /// The next batch, if one is due.
    pub fn take(&mut self, now: Instant) -> Option<Batch> {
        if let Some(batch) = self.take_again() {
            return Some(batch);
        }
        let key = self.next_key(now)?;
        let mut parts = Vec::new();
        let lead = self.lead_of(key);
        self.led = lead.and_then(|t| self.requests.get(&t)).map(|r| r.tenant);
        let whole = !self.config.enabled || lead.and_then(|t| self.requests.get(&t)).is_some_and(|r| r.whole);
        if !whole {
            self.fill(key, &mut parts);
            // Also where the batch was full before others had their turn.
            if let Some(q) = self.keys.get_mut(&key) {
                rotate(&mut q.turn, self.led);
            }
        } else if let Some(ticket) = lead {
            // Less than the whole where a split request meets a configuration without batching.
            let r = self.requests.get(&ticket)?;
            let rows = r.rows - r.next_row;
            self.place(ticket, rows, 0, &mut parts);
            if let Some(q) = self.keys.get_mut(&key) {
                rotate(&mut q.turn, self.led);
            }
        }
        rotate(&mut self.turn, self.led);
        let rows: u32 = parts.iter().map(|p| p.rows).sum();
        if rows == 0 {
            return None;
        }
        Some(self.start(key, whole, parts))
    }

    fn take_again(&mut self) -> Option<Batch> {
        let (Group { key, whole, parts }, cut) = self.again.take(&self.config)?;
        if let (true, Some(r)) = (cut, parts.last().and_then(|p| self.requests.get_mut(&p.ticket))) {
            r.running += 1;
        }
        Some(self.start(key, whole || !self.config.enabled, parts))
    }

    fn start(&mut self, key: u64, whole: bool, parts: Vec<Part>) -> Batch {
        let rows: u32 = parts.iter().map(|p| p.rows).sum();
        let run = self.next_run;
        self.next_run += 1;
        let bucket = if whole { rows } else { self.config.bucket(rows) };
        let batch = Batch { run, key, bucket, parts };
        self.runs.insert(run, batch.clone());
        batch
    }

    /// A run has ended. What failed beside others runs again in halves; a request that failed by
    /// itself is finished at once, and what of it still waits is dropped.
    pub fn complete(&mut self, run: u64, result: RunResult) -> Vec<Finished> {
        let Some(batch) = self.runs.remove(&run) else { return Vec::new() };
        match result {
            RunResult::Ok => self.went_well(&batch),
            RunResult::Failed | RunResult::TimedOut | RunResult::Died => self.went_wrong(batch, result),
            RunResult::Abandoned => self.abandoned(&batch),
        }
    }

    fn abandoned(&mut self, batch: &Batch) -> Vec<Finished> {
        let mut finished = Vec::new();
        for part in batch.parts.iter().filter(|p| self.requests.contains_key(&p.ticket)).collect::<Vec<_>>() {
            self.forget(part.ticket);
            finished.push(Finished { ticket: part.ticket, segments: Vec::new(), end: End::Abandoned });
        }
        finished
    }

    fn went_wrong(&mut self, batch: Batch, result: RunResult) -> Vec<Finished> {
        let died = result == RunResult::Died;
        let alone = batch.parts.len() == 1;
        let mut parts = batch.parts;
        parts.retain(|p| self.requests.contains_key(&p.ticket));
        if let (true, [part]) = (alone, &parts[..]) {
            let ticket = part.ticket;
            let Some(r) = self.requests.get_mut(&ticket) else { return Vec::new() };
            r.deaths_alone += u32::from(died);
            if !died || r.deaths_alone >= DEATHS_ALONE_MAX {
                let harmful = result != RunResult::Failed || r.failed_beside_others;
                self.forget(ticket);
                return vec![Finished { ticket, segments: Vec::new(), end: End::Failed { harmful } }];
            }
        } else {
            for part in &parts {
                if let Some(r) = self.requests.get_mut(&part.ticket) {
                    r.failed_beside_others = true;
                }
            }
        }
        let whole = parts.iter().any(|p| self.requests.get(&p.ticket).is_some_and(|r| r.whole));
        self.again.halve(batch.key, whole, parts);
        Vec::new()
    }

    fn went_well(&mut self, batch: &Batch) -> Vec<Finished> {
        let mut finished = Vec::new();
        for part in &batch.parts {
            let Some(r) = self.requests.get_mut(&part.ticket) else { continue };
            r.running -= 1;
            let segment = Segment { run: batch.run, bucket: batch.bucket, position: part.position, rows: part.rows };
            r.segments.insert(part.first_row, segment);
            if r.running == 0 && r.next_row == r.rows {
                let segments = r.segments.values().copied().collect();
                self.forget(part.ticket);
                finished.push(Finished { ticket: part.ticket, segments, end: End::Ok });
            }
        }
        finished
    }

    /// Takes a request back.
    pub fn cancel(&mut self, ticket: u64) -> Cancelled {
        match self.requests.get(&ticket) {
            None => Cancelled::Unknown,
            Some(r) => {
                let running = r.running > 0;
                self.forget(ticket);
                if running { Cancelled::Running } else { Cancelled::Queued }
            }
        }
    }

    /// Drops the requests that wait (wholly or in part) beyond their deadline.
    pub fn expire(&mut self, now: Instant) -> Vec<u64> {
        let mut expired = Vec::new();
        while let Some((at, ticket)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.forget(ticket);
            expired.push(ticket);
        }
        expired
    }

    /// Drops everything that waits or is to run again, wholly or in part; what only runs is finished
    /// by its run.
    pub fn fail_all(&mut self) -> Vec<u64> {
        let waiting: BTreeSet<u64> = self.again.tickets().chain(self.waiting.values().copied()).collect();
        for ticket in &waiting {
            self.forget(*ticket);
        }
        waiting.into_iter().collect()
    }

    /// Other rules from now on; what waits stays.
    pub fn set_config(&mut self, config: BatcherConfig) {
        self.config = config;
        self.full = self.keys.iter().filter(|(_, q)| q.is_full(config.max_batch_size)).map(|(k, _)| *k).collect();
    }

    /// The key to run next: with `Fill` what is overdue, else what is full; without, that of the
    /// next tenant's oldest request.
    fn next_key(&self, now: Instant) -> Option<u64> {
        if self.ready(now) != Readiness::Now {
            return None;
        }
        if let (Hold::Fill { max_wait }, true) = (self.config.hold, self.config.enabled) {
            let oldest = self.waiting.values().next().and_then(|t| self.requests.get(t))?;
            let overdue = oldest.accepted.checked_add(max_wait).is_none_or(|due| due <= now);
            return if overdue { Some(oldest.key) } else { self.full.first().copied() };
        }
        let tenant = self.turn.front()?;
        let ticket = self.tenants.get(tenant)?.values().next()?;
        Some(self.requests.get(ticket)?.key)
    }

    /// The oldest request of the tenant whose turn it is under `key`; the node's turn goes first.
    fn lead_of(&self, key: u64) -> Option<u64> {
        let queue = self.keys.get(&key)?;
        let tenant = self.turn.front().filter(|t| queue.tenants.contains_key(t)).or(queue.turn.front())?;
        queue.tenants.get(tenant)?.waiting.values().next().copied()
    }

    /// Deficit round robin over the tenants of one key, until the batch is full or nothing fits.
    fn fill(&mut self, key: u64, parts: &mut Vec<Part>) {
        let max = self.config.max_batch_size;
        let mut room = max;
        // The tenant whose turn it is in the whole model begins.
        if let (Some(lead), Some(q)) = (self.turn.front().copied(), self.keys.get_mut(&key))
            && let Some(at) = q.turn.iter().position(|t| *t == lead)
        {
            q.turn.rotate_left(at);
        }
        // Its request goes first, whatever its deficit: it would else lead batches that it is not in.
        if let Some(tenant) = self.keys.get(&key).and_then(|q| q.turn.front().copied())
            && let Some((ticket, cost, deficit)) = self.head(key, tenant, room)
        {
            if let Some(t) = self.keys.get_mut(&key).and_then(|q| q.tenants.get_mut(&tenant)) {
                t.deficit = deficit.saturating_sub(cost);
            }
            self.place(ticket, cost, 0, parts);
            room -= cost;
        }
        // Each pass adds a quantum of at least one row to every deficit and no cost exceeds `max`,
        // so at most `max` passes go by without a placement.
        let mut idle_passes = 0;
        while room > 0 && idle_passes <= max {
            let Some(tenants) = self.keys.get(&key).map(|q| q.turn.len()) else { return };
            let quantum = (max / u32::try_from(tenants).unwrap_or(u32::MAX).max(1)).max(1);
            let mut placed = false;
            let mut fits_later = false;
            for _ in 0..tenants {
                if room == 0 {
                    break;
                }
                let Some(q) = self.keys.get_mut(&key) else { return };
                let Some(tenant) = q.turn.pop_front() else { break };
                q.turn.push_back(tenant);
                if let Some(t) = q.tenants.get_mut(&tenant) {
                    t.deficit = t.deficit.saturating_add(quantum).min(max);
                }
                while let Some((ticket, cost, deficit)) = self.head(key, tenant, room) {
                    if cost > room {
                        break;
                    }
                    if cost > deficit {
                        fits_later = true;
                        break;
                    }
                    if let Some(t) = self.keys.get_mut(&key).and_then(|q| q.tenants.get_mut(&tenant)) {
                        t.deficit -= cost;
                    }
                    self.place(ticket, cost, max - room, parts);
                    room -= cost;
                    placed = true;
                    if room == 0 {
                        break;
                    }
                }
            }
            if placed {
                idle_passes = 0;
            } else if fits_later {
                idle_passes += 1;
            } else {
                return;
            }
        }
    }

    /// A tenant's oldest request under a key, the rows of it that would go into a batch with
    /// `room`, and the tenant's deficit. Only requests larger than any batch are cut.
    fn head(&self, key: u64, tenant: u64, room: u32) -> Option<(u64, u32, u32)> {
        let queue = self.keys.get(&key)?.tenants.get(&tenant)?;
        let ticket = *queue.waiting.values().next()?;
        let r = self.requests.get(&ticket)?;
        let left = r.rows - r.next_row;
        let cost = if r.rows > self.config.max_batch_size { left.min(room) } else { left };
        Some((ticket, cost, queue.deficit))
    }

    /// Moves rows of a waiting request into a batch.
    fn place(&mut self, ticket: u64, rows: u32, position: u32, parts: &mut Vec<Part>) {
        let Some(r) = self.requests.get_mut(&ticket) else { return };
        parts.push(Part { ticket, first_row: r.next_row, rows, position });
        r.next_row += rows;
        r.running += 1;
        let (key, tenant, order, done) = (r.key, r.tenant, r.order, r.next_row == r.rows);
        let deadline = r.deadline;
        self.queued_rows -= u64::from(rows);
        self.unqueue_rows(key, rows);
        if done {
            self.unqueue(key, tenant, order);
            if let Some(d) = deadline {
                self.deadlines.remove(&(d, ticket));
            }
        }
    }

    fn unqueue_rows(&mut self, key: u64, rows: u32) {
        if let Some(q) = self.keys.get_mut(&key) {
            q.rows -= u64::from(rows);
            if !q.is_full(self.config.max_batch_size) {
                self.full.remove(&key);
            }
        }
    }

    /// Takes a request out of all queues.
    fn unqueue(&mut self, key: u64, tenant: u64, order: u64) {
        self.waiting.remove(&order);
        if let Some(of_tenant) = self.tenants.get_mut(&tenant) {
            of_tenant.remove(&order);
            if of_tenant.is_empty() {
                self.tenants.remove(&tenant);
                self.turn.retain(|t| *t != tenant);
            }
        }
        if let Some(q) = self.keys.get_mut(&key) {
            if let Some(t) = q.tenants.get_mut(&tenant) {
                t.waiting.remove(&order);
                if t.waiting.is_empty() {
                    q.tenants.remove(&tenant);
                    q.turn.retain(|t| *t != tenant);
                }
            }
            if q.tenants.is_empty() {
                self.keys.remove(&key);
                self.full.remove(&key);
            }
        }
    }

    /// Forgets a request, wherever it is.
    fn forget(&mut self, ticket: u64) {
        let Some(r) = self.requests.remove(&ticket) else { return };
        if let Some(d) = r.deadline {
            self.deadlines.remove(&(d, ticket));
        }
        if r.running > 0 {
            self.again.forget(ticket);
        }
        let left = r.rows - r.next_row;
        if left > 0 {
            self.queued_rows -= u64::from(left);
            self.unqueue_rows(r.key, left);
            self.unqueue(r.key, r.tenant, r.order);
        }
    }

    /// Checks what must always hold; for tests and the simulation. The error names what does not.
    pub fn check_invariants(&self) -> Result<(), String> {
        let ensure = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        let waiting: Vec<&Request> = self.requests.values().filter(|r| r.next_row < r.rows).collect();
        let rows: u64 = waiting.iter().map(|r| u64::from(r.rows - r.next_row)).sum();
        ensure(rows == self.queued_rows, "queued_rows is the sum of the rows that wait")?;
        ensure(rows <= u64::from(self.config.queue_rows_max), "the queue keeps its bound")?;
        ensure(waiting.len() == self.waiting.len(), "every waiting request is in the order of arrival")?;
        ensure(waiting.len() == self.tenants.values().map(BTreeMap::len).sum::<usize>(), "and with its tenant")?;
        let in_keys = self.keys.values().flat_map(|q| q.tenants.values()).map(|t| t.waiting.len()).sum::<usize>();
        ensure(waiting.len() == in_keys, "and under its key")?;
        ensure(self.keys.values().map(|q| q.rows).sum::<u64>() == rows, "rows per key add up")?;
        let turns = self.turn.len() == self.tenants.len()
            && self.keys.values().all(|q| q.turn.len() == q.tenants.len() && !q.tenants.is_empty());
        ensure(turns, "every tenant that waits has one turn, and no other has")?;
        let full = self.keys.iter().filter(|(_, q)| q.is_full(self.config.max_batch_size));
        ensure(full.map(|(k, _)| *k).eq(self.full.iter().copied()), "full keys are known")?;
        let with_deadline = waiting.iter().filter(|r| r.deadline.is_some()).count();
        ensure(with_deadline == self.deadlines.len(), "deadlines are those of waiting requests")?;
        let running: u32 = self.requests.values().map(|r| r.running).sum();
        let parts = self.runs.values().flat_map(|b| &b.parts).filter(|p| self.requests.contains_key(&p.ticket)).count();
        ensure(
            running as usize == parts + self.again.tickets().count(),
            "running parts are those of the runs, and those that run again",
        )?;
        ensure(self.again.tickets().all(|t| self.requests.contains_key(&t)), "what runs again has been asked for")
    }
}

/// Gives a tenant that begins to wait its turn: behind all others but the one that has just had it.
fn join(turn: &mut VecDeque<u64>, tenant: u64, led: Option<u64>) {
    let served = turn.back().is_some_and(|last| Some(*last) == led);
    turn.insert(turn.len() - usize::from(served), tenant);
}

/// Whoever led goes behind all others, unless it waits no more: then nobody loses a turn.
fn rotate(turn: &mut VecDeque<u64>, led: Option<u64>) {
    if turn.front().copied() == led {
        turn.rotate_left(usize::from(!turn.is_empty()));
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of a test's time")]
mod tests;
