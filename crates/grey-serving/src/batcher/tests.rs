use super::*;

const MS: Duration = Duration::from_millis(1);

fn config(max: u32) -> BatcherConfig {
    BatcherConfig {
        enabled: true,
        max_batch_size: max,
        hold: Hold::None,
        buckets: Buckets::PowersOfTwo,
        queue_rows_max: 1000,
    }
}

fn submit(b: &mut Batcher, now: Instant, ticket: u64, key: u64, rows: u32, tenant: u64) {
    b.submit(now, Submit { ticket, key, rows, tenant, deadline: None, whole: false }).unwrap();
    b.check_invariants().unwrap();
}

fn tickets(batch: &Batch) -> Vec<u64> {
    batch.parts.iter().map(|p| p.ticket).collect()
}

#[test]
fn buckets_are_powers_of_two_or_multiples() {
    let c = config(24);
    assert_eq!(c.bucket_sizes(), [1, 2, 4, 8, 16, 24]);
    let c = BatcherConfig { buckets: Buckets::MultipleOf(8), ..config(20) };
    assert_eq!(c.bucket_sizes(), [8, 16, 24]);
    assert_eq!(c.bucket(9), 16);
    assert_eq!(BatcherConfig { enabled: false, ..c }.bucket(9), 9);
}

#[test]
fn an_odd_shape_does_not_flush_others() {
    let (mut b, t) = (Batcher::new(config(8)), Instant::now());
    for (ticket, key) in [(1, 7), (2, 9), (3, 7), (4, 7)] {
        submit(&mut b, t, ticket, key, 1, 0);
    }
    assert_eq!(tickets(&b.take(t).unwrap()), [1, 3, 4]);
    assert_eq!(tickets(&b.take(t).unwrap()), [2]);
    assert_eq!(b.ready(t), Readiness::Idle);
}

#[test]
fn rows_count_not_calls_and_large_requests_are_split() {
    let (mut b, t) = (Batcher::new(config(4)), Instant::now());
    submit(&mut b, t, 1, 0, 3, 0);
    submit(&mut b, t, 2, 0, 2, 0);
    submit(&mut b, t, 3, 0, 10, 0);
    let first = b.take(t).unwrap();
    assert_eq!((tickets(&first), first.bucket), (vec![1], 4), "a request that fits a batch is not cut");
    let second = b.take(t).unwrap();
    assert_eq!(tickets(&second), [2, 3]);
    let (third, fourth) = (b.take(t).unwrap(), b.take(t).unwrap());
    assert_eq!((third.parts[0].first_row, third.parts[0].rows), (2, 4));
    assert_eq!((fourth.parts[0].first_row, fourth.parts[0].rows), (6, 4));
    assert!(b.complete(fourth.run, RunResult::Ok).is_empty(), "pieces may end in any order");
    assert!(b.complete(third.run, RunResult::Ok).is_empty());
    let done = b.complete(second.run, RunResult::Ok);
    assert_eq!(done.iter().map(|f| f.ticket).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(
        done[1].segments.iter().map(|s| (s.run, s.rows)).collect::<Vec<_>>(),
        [(second.run, 2), (third.run, 4), (fourth.run, 4)]
    );
    b.check_invariants().unwrap();
}

/// One tenant keeps full batches of one key waiting; two others wait, one of them under another key.
#[test]
fn whoever_waits_has_its_turn() {
    for (hold, rows) in [Hold::None, Hold::Fill { max_wait: MS }].into_iter().flat_map(|h| [1, 3, 5, 8].map(|r| (h, r)))
    {
        let (mut b, t) = (Batcher::new(BatcherConfig { hold, ..config(8) }), Instant::now());
        for ticket in 0..3 {
            submit(&mut b, t, ticket, 1, rows, 0);
        }
        let (mut next, mut now, mut left) = (100, t, vec![0, 1, 2, 50]);
        let mut takes = 0;
        while !left.is_empty() {
            while b.requests.values().filter(|r| r.tenant == 1 && r.next_row < r.rows).count() < 16 {
                submit(&mut b, now, next, 1, rows, 1);
                next += 1;
            }
            if takes == 1 {
                submit(&mut b, now, 50, 2, rows, 2);
            }
            now += 2 * MS;
            let batch = b.take(now).unwrap();
            left.retain(|ticket| !tickets(&batch).contains(ticket));
            b.complete(batch.run, RunResult::Ok);
            takes += 1;
            assert!(takes < 40, "{hold:?}, {rows} rows: {left:?} wait for ever");
        }
    }
}

#[test]
fn a_failed_piece_fails_its_request_once() {
    let (mut b, t) = (Batcher::new(config(2)), Instant::now());
    submit(&mut b, t, 1, 0, 5, 0);
    let (x, y) = (b.take(t).unwrap(), b.take(t).unwrap());
    let end = End::Failed { harmful: false };
    assert_eq!(b.complete(x.run, RunResult::Failed), [Finished { ticket: 1, segments: vec![], end }]);
    assert!(b.complete(y.run, RunResult::Ok).is_empty());
    assert_eq!(b.ready(t), Readiness::Idle, "the rest does not run");
    b.check_invariants().unwrap();
}

/// Runs whatever is ready until nothing is; a run with one of the `bad` requests ends as told.
fn run_all(b: &mut Batcher, t: Instant, bad: &[u64], how: RunResult) -> (Vec<Vec<u64>>, Vec<Finished>) {
    let (mut runs, mut finished) = (Vec::new(), Vec::new());
    while let Some(batch) = b.take(t) {
        b.check_invariants().unwrap();
        let result = if tickets(&batch).iter().any(|x| bad.contains(x)) { how } else { RunResult::Ok };
        finished.extend(b.complete(batch.run, result));
        b.check_invariants().unwrap();
        runs.push(tickets(&batch));
    }
    (runs, finished)
}

#[test]
fn a_culprit_is_found_by_halving() {
    let (mut b, t) = (Batcher::new(config(8)), Instant::now());
    (0..8).for_each(|i| submit(&mut b, t, i, 0, 1, 0));
    submit(&mut b, t, 100, 0, 1, 0);
    let (runs, finished) = run_all(&mut b, t, &[2], RunResult::Failed);
    let all: Vec<u64> = (0..8).collect();
    let expected = [&all[..], &[0, 1, 2, 3], &[0, 1], &[2, 3], &[2], &[3], &[4, 5, 6, 7], &[100]];
    assert_eq!(runs, expected.map(<[u64]>::to_vec));
    for f in finished {
        let end = if f.ticket == 2 { End::Failed { harmful: true } } else { End::Ok };
        assert_eq!(f.end, end, "{}", f.ticket);
    }
}

#[test]
fn a_host_must_die_twice_of_a_request_alone() {
    let (mut b, t) = (Batcher::new(config(8)), Instant::now());
    submit(&mut b, t, 1, 0, 1, 0);
    let first = b.take(t).unwrap();
    assert!(b.complete(first.run, RunResult::Died).is_empty(), "it may have died of something else");
    let second = b.take(t).unwrap();
    let end = End::Failed { harmful: true };
    assert_eq!(b.complete(second.run, RunResult::Died), [Finished { ticket: 1, segments: vec![], end }]);
    submit(&mut b, t, 2, 0, 1, 0);
    let run = b.take(t).unwrap();
    assert_eq!(b.complete(run.run, RunResult::TimedOut)[0].end, end, "a run that hangs is not waited for again");
    submit(&mut b, t, 3, 0, 1, 0);
    let run = b.take(t).unwrap();
    assert_eq!(b.complete(run.run, RunResult::Abandoned)[0].end, End::Abandoned);
    assert_eq!(b.take(t), None);
}

#[test]
fn what_runs_again_keeps_to_the_configuration_of_the_day() {
    let (mut b, t) = (Batcher::new(config(8)), Instant::now());
    submit(&mut b, t, 1, 0, 20, 0);
    submit(&mut b, t, 2, 0, 3, 0);
    let (first, second, third) = (b.take(t).unwrap(), b.take(t).unwrap(), b.take(t).unwrap());
    assert_eq!((first.parts.len(), tickets(&third)), (1, vec![1, 2]));
    assert!(b.complete(first.run, RunResult::Died).is_empty());
    assert!(b.complete(second.run, RunResult::Ok).is_empty());
    b.set_config(config(3));
    let cut: Vec<_> = (0..3).map(|_| b.take(t).unwrap().parts[0]).map(|p| (p.first_row, p.rows)).collect();
    assert_eq!(cut, [(0, 3), (3, 3), (6, 2)]);
    b.check_invariants().unwrap();
    assert!(b.complete(third.run, RunResult::Failed).is_empty());
    b.cancel(2);
    b.check_invariants().unwrap();
    assert_eq!(b.ready(t), Readiness::Now);
    assert_eq!(b.fail_all(), [1], "what runs again is among what waits");
    assert_eq!(b.ready(t), Readiness::Idle);
    b.check_invariants().unwrap();
}

#[test]
fn a_whole_request_runs_again_whole() {
    let (mut b, t) = (Batcher::new(config(4)), Instant::now());
    b.submit(t, Submit { ticket: 1, key: 9, rows: 7, tenant: 0, deadline: None, whole: true }).unwrap();
    let run = b.take(t).unwrap();
    assert!(b.complete(run.run, RunResult::Died).is_empty());
    let again = b.take(t).unwrap();
    assert_eq!((again.bucket, again.parts.len(), again.parts[0].rows), (7, 1, 7));
}

#[test]
fn alone_means_whole_and_unpadded() {
    let (mut b, t) = (Batcher::new(BatcherConfig { enabled: false, ..config(4) }), Instant::now());
    submit(&mut b, t, 1, 0, 9, 0);
    submit(&mut b, t, 2, 0, 1, 0);
    let batch = b.take(t).unwrap();
    assert_eq!((tickets(&batch), batch.bucket), (vec![1], 9));
    b.set_config(config(4));
    assert_eq!(tickets(&b.take(t).unwrap()), [2]);
}

#[test]
fn a_whole_request_runs_beside_nobody_and_is_not_held_back() {
    let fill = Hold::Fill { max_wait: MS * 50 };
    let (mut b, t) = (Batcher::new(BatcherConfig { hold: fill, ..config(4) }), Instant::now());
    submit(&mut b, t, 1, 0, 1, 0);
    b.submit(t, Submit { ticket: 2, key: 9, rows: 7, tenant: 0, deadline: None, whole: true }).unwrap();
    b.set_config(BatcherConfig { hold: fill, ..config(8) });
    let batch = b.take(t).unwrap();
    assert_eq!((tickets(&batch), batch.bucket), (vec![2], 7));
    b.check_invariants().unwrap();
    assert_eq!(b.take(t), None, "the other is held back to fill");
}

#[test]
fn a_flood_does_not_delay_another_tenant_by_more_than_a_batch() {
    let (mut b, t) = (Batcher::new(config(8)), Instant::now());
    for i in 0..100 {
        submit(&mut b, t, i, 0, 1, 0);
    }
    submit(&mut b, t, 1000, 0, 1, 1);
    submit(&mut b, t, 1001, 5, 1, 2);
    let all: Vec<Vec<u64>> = (0..3).map(|_| tickets(&b.take(t).unwrap())).collect();
    assert!(all[0].contains(&1000), "same shape: in the very next batch, {all:?}");
    assert!(all[..3].iter().any(|x| x.contains(&1001)), "another shape: at its tenant's turn, {all:?}");
}

#[test]
fn deadlines_and_cancellation_take_requests_out() {
    let (mut b, t) = (Batcher::new(config(8)), Instant::now());
    let due =
        |ms| Submit { ticket: u64::from(ms), key: 0, rows: 1, tenant: 0, deadline: Some(t + MS * ms), whole: false };
    assert_eq!(b.submit(t, due(0)), Err(Rejected::Expired));
    b.submit(t, due(5)).unwrap();
    b.submit(t, due(9)).unwrap();
    assert_eq!(b.next_deadline(), Some(t + MS * 5));
    assert_eq!(b.expire(t + MS * 6), [5]);
    let run = b.take(t).unwrap();
    assert_eq!(b.cancel(9), Cancelled::Running);
    assert_eq!(b.cancel(9), Cancelled::Unknown);
    assert!(b.complete(run.run, RunResult::Ok).is_empty());
    b.check_invariants().unwrap();
}

#[test]
fn the_queue_is_bounded_in_rows() {
    let (mut b, t) = (Batcher::new(BatcherConfig { queue_rows_max: 10, ..config(4) }), Instant::now());
    submit(&mut b, t, 1, 0, 6, 0);
    let s = |rows| Submit { ticket: 2, key: 0, rows, tenant: 0, deadline: None, whole: false };
    assert_eq!(b.submit(t, s(5)), Err(Rejected::QueueFull { waiting: 6, max: 10 }));
    assert_eq!(b.submit(t, s(11)), Err(Rejected::TooManyRows { rows: 11, max: 10 }));
    b.submit(t, s(4)).unwrap();
    assert_eq!(b.fail_all(), [1, 2]);
    assert_eq!(b.queued_rows(), 0);
}

#[test]
fn none_holds_nothing_back_and_fill_waits_for_a_batch() {
    let t = Instant::now();
    let mut none = Batcher::new(config(8));
    submit(&mut none, t, 1, 0, 1, 0);
    assert_eq!(none.ready(t), Readiness::Now);

    let mut fill = Batcher::new(BatcherConfig { hold: Hold::Fill { max_wait: MS * 100 }, ..config(8) });
    for i in 0..8u32 {
        assert_eq!(fill.take(t + MS * 5 * i), None, "nothing runs before the batch is full");
        submit(&mut fill, t + MS * 5 * i, u64::from(i), 0, 1, 0);
    }
    assert_eq!(fill.take(t + MS * 35).unwrap().parts.len(), 8);
    submit(&mut fill, t + MS * 40, 9, 0, 1, 0);
    assert_eq!(fill.ready(t + MS * 50), Readiness::At(t + MS * 140));
    assert_eq!(fill.take(t + MS * 139), None);
    assert_eq!(fill.take(t + MS * 140).unwrap().parts.len(), 1);
}
