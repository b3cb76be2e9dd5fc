//! What every host does, in a process of its own or in a thread: one suite for both transports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{future::Future as _, path::Path, task::Poll, time::Duration};

use grey_core::DType;
use grey_engine::{EngineKind, HostError, Isolation, Launcher, LoadOptions, RunError};
use support::{echoes, floats, input, launcher, run, sealed, start, strings, test_engine, x};

/// Awaits that are ready which tokio lets a task have in one turn.
const POLLS_PER_TURN: usize = 128;

#[test]
fn host_entry() {
    support::become_host(test_engine::open);
}

macro_rules! suite {
    ($($case:ident)*) => {
        mod process {
            $(#[tokio::test] async fn $case() {
                super::$case(super::launcher(super::Isolation::Process, super::test_engine::open)).await;
            })*
        }
        mod inline {
            $(#[tokio::test] async fn $case() {
                super::$case(super::launcher(super::Isolation::Inline, super::test_engine::open)).await;
            })*
        }
    };
}

suite! {
    loads_runs_and_unloads
    missing_rows_are_zeros
    missing_strings_are_empty
    rows_in_several_parts_join
    memory_grows_and_shapes_change
    earlier_outputs_survive_growth
    a_failed_run_is_followed_by_good_ones
    a_run_that_failed_after_growing_is_followed_by_good_ones
    a_run_that_was_given_up_does_not_answer_for_the_next
    runs_given_up_at_any_moment_leave_a_usable_host
    runs_given_up_before_anything_was_sent_leave_a_usable_host
    patience_ends_a_wait_and_not_the_host
    outputs_beyond_the_limit_fail_their_run_alone
    concurrent_runs_get_their_own_answers
    a_bad_model_is_refused_and_a_good_one_still_loads
    an_engine_that_cannot_be_opened_says_why
    a_load_that_was_given_up_leaves_a_usable_host
    several_models_share_a_host
    faulty_outputs_are_errors_that_name_them
    inputs_larger_than_their_shape_are_refused
    a_model_that_is_not_open_is_an_error
}

async fn loads_runs_and_unloads(l: Launcher) {
    let (host, model) = start(&l, "identity").await;
    assert_eq!(host.hello().engine.engine, "test");
    assert_eq!(host.pid().is_some(), l.isolation == Isolation::Process);
    assert_eq!(model.signature.inputs[0].name, "x");
    echoes(&host, &model, &[1.0, -0.0, f32::NAN, f32::INFINITY]).await;
    host.unload().await;
    let after = run(&host, &model, x(&[1, 1], &[1.0])).await.unwrap_err();
    assert!(matches!(after, RunError::HostDied(_)), "{after}");
}

async fn missing_rows_are_zeros(l: Launcher) {
    let (host, model) = start(&l, "identity").await;
    // Fill the segment first, so that zeros are not there by chance.
    echoes(&host, &model, &[7.0; 64]).await;
    let out = run(&host, &model, vec![input(0, DType::Fp32, &[4, 2], &[floats(&[1.0, 2.0])])]).await.unwrap();
    assert_eq!(out.outputs[0].shape, [4, 2]);
    assert_eq!(out.outputs[0].data[..], floats(&[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])[..]);
    let out = run(&host, &model, vec![input(0, DType::Fp32, &[0, 2], &[])]).await.unwrap();
    assert!(out.outputs[0].data.is_empty(), "an empty batch has an empty answer");
}

async fn missing_strings_are_empty(l: Launcher) {
    let (host, model) = start(&l, "strings").await;
    let given = strings(&[b"ab", b"", "größe".as_bytes()]);
    let out = run(&host, &model, vec![input(0, DType::Bytes, &[5, 1], std::slice::from_ref(&given))]).await.unwrap();
    assert_eq!(out.outputs[0].data[..], [given, strings(&[b"", b""])].concat()[..]);
}

async fn rows_in_several_parts_join(l: Launcher) {
    let (host, model) = start(&l, "identity").await;
    let parts = [floats(&[1.0, 2.0]), floats(&[3.0, 4.0])];
    let out = run(&host, &model, vec![input(0, DType::Fp32, &[3, 2], &parts)]).await.unwrap();
    assert_eq!(out.outputs[0].data[..], floats(&[1.0, 2.0, 3.0, 4.0, 0.0, 0.0])[..]);
}

async fn memory_grows_and_shapes_change(l: Launcher) {
    let (host, model) = start(&l, "widen").await;
    for columns in [1usize, 300, 5, 5000, 70_000, 2, 20_000] {
        let values: Vec<f32> = (0..columns).map(|n| n as f32).collect();
        let out = run(&host, &model, x(&[1, columns as u64], &values)).await.unwrap();
        assert_eq!(out.outputs[0].shape, [1, columns as u64 * test_engine::WIDER]);
        assert!(out.outputs[0].data[..] == floats(&values).repeat(64)[..], "{columns} columns came back changed");
    }
}

async fn earlier_outputs_survive_growth(l: Launcher) {
    let (host, model) = start(&l, "pair").await;
    for columns in [10usize, 1000, 16_384, 40_000] {
        let values: Vec<f32> = (0..columns).map(|n| n as f32 + 0.5).collect();
        let out = run(&host, &model, x(&[1, columns as u64], &values)).await.unwrap();
        assert!(out.outputs[0].data[..] == floats(&values)[..]);
        assert!(out.outputs[1].data[..] == floats(&values).repeat(64)[..]);
    }
}

async fn a_failed_run_is_followed_by_good_ones(l: Launcher) {
    let (host, model) = start(&l, "picky").await;
    for _ in 0..3 {
        let e = run(&host, &model, x(&[1, 2], &[-1.0, 0.0])).await.unwrap_err();
        assert!(matches!(&e, RunError::Model(m) if m == "the first number is negative"), "{e}");
        echoes(&host, &model, &[1.0, 2.0]).await;
    }
}

async fn a_run_that_failed_after_growing_is_followed_by_good_ones(l: Launcher) {
    let (host, model) = start(&l, "grow_then_picky").await;
    for columns in [1000usize, 10, 20_000] {
        let e = run(&host, &model, x(&[1, columns as u64], &vec![-1.0; columns])).await.unwrap_err();
        assert!(matches!(e, RunError::Model(_)), "{e}");
        let out = run(&host, &model, x(&[1, columns as u64], &vec![1.0; columns])).await.unwrap();
        assert!(out.outputs[0].data[..] == floats(&vec![1.0; columns * 64])[..]);
    }
}

async fn a_run_that_was_given_up_does_not_answer_for_the_next(l: Launcher) {
    let (host, model) = start(&l, "sleep").await;
    let slow = run(&host, &model, x(&[1, 2], &[300.0, 1.0]));
    assert!(tokio::time::timeout(Duration::from_millis(50), slow).await.is_err());
    echoes(&host, &model, &[0.0, 2.0]).await;
}

async fn runs_given_up_at_any_moment_leave_a_usable_host(l: Launcher) {
    let (host, model) = start(&l, "widen").await;
    for step in 1..60usize {
        // The inputs grow, so that some are given up while memory is being handed over.
        let columns = step * 300;
        let lost = run(&host, &model, x(&[1, columns as u64], &vec![9.0; columns]));
        let wait = Duration::from_micros(step as u64 * 40 % 1000);
        let gave_up = tokio::time::timeout(wait, lost).await;
        if let Ok(answer) = gave_up {
            assert!(answer.is_ok());
        }
        let values = [step as f32, 2.0];
        let out = run(&host, &model, x(&[1, 2], &values)).await.unwrap();
        assert!(out.outputs[0].data[..] == floats(&values).repeat(64)[..], "step {step}");
    }
}

async fn runs_given_up_before_anything_was_sent_leave_a_usable_host(l: Launcher) {
    let (host, model) = start(&l, "widen").await;
    for spent in 100..=POLLS_PER_TURN {
        let columns = spent * 20;
        let mut lost = std::pin::pin!(run(&host, &model, x(&[1, columns as u64], &vec![9.0; columns])));
        // A task that has used up its turn finds everything it awaits pending: with less and less of
        // the turn left, the run is dropped at each of its first steps.
        std::future::poll_fn(|cx| {
            for _ in 0..spent {
                if std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_pending() {
                    break;
                }
            }
            Poll::Ready(lost.as_mut().poll(cx).is_ready())
        })
        .await;
        lost.set(run(&host, &model, x(&[1, 1], &[spent as f32])));
        let out = lost.await.unwrap();
        assert!(out.outputs[0].data[..] == floats(&[spent as f32]).repeat(64)[..], "{spent} polls spent");
    }
}

async fn patience_ends_a_wait_and_not_the_host(l: Launcher) {
    let (host, model) = start(&l, "sleep").await;
    let patience = Some(Duration::from_millis(20));
    let hasty = |ms: f32| host.run_within(model.handle, x(&[1, 1], &[ms]), vec![0], Some(support::RUN_LIMIT), patience);
    let e = hasty(200.0).await.unwrap_err();
    assert!(matches!(e, RunError::GivenUp), "{e}");
    // Waiting for the run that was given up is not this one's: its patience begins afterwards.
    assert!(hasty(0.0).await.is_ok());
    echoes(&host, &model, &[0.0, 2.0]).await;
}

async fn outputs_beyond_the_limit_fail_their_run_alone(l: Launcher) {
    let l = Launcher { outputs_bytes_max: 1_100_000, ..l };
    let (host, model) = start(&l, "widen").await;
    // The last would fit into the segment that was made for the one before.
    for columns in [10usize, 5000, 10, 4200, 5000] {
        let result = run(&host, &model, x(&[1, columns as u64], &vec![1.0; columns])).await;
        if columns == 5000 {
            let e = result.unwrap_err();
            assert!(matches!(&e, RunError::Model(m) if m.contains("take more than the 1100000 bytes")), "{e}");
        } else {
            assert_eq!(result.unwrap().outputs[0].data.len(), columns * 256);
        }
    }
}

async fn concurrent_runs_get_their_own_answers(l: Launcher) {
    let (host, model) = start(&l, "sleep").await;
    let tasks: Vec<_> = (0..12u8)
        .map(|n| {
            let (host, model) = (host.clone(), model.clone());
            tokio::spawn(async move { echoes(&host, &model, &[f32::from(n % 3), f32::from(n), 1.0]).await })
        })
        .collect();
    for t in tasks {
        t.await.unwrap();
    }
}

async fn a_bad_model_is_refused_and_a_good_one_still_loads(l: Launcher) {
    let host = l.launch(EngineKind::OnnxRuntime, Path::new("/nowhere/libtest.so")).await.unwrap();
    let e = host.load(sealed("m.txt", b"nonsense"), LoadOptions::default()).await.unwrap_err();
    assert!(matches!(&e, HostError::BadModel(m) if m == "m.txt: no model is called 'nonsense'"), "{e}");
    let model = host.load(sealed("m.txt", b"identity"), LoadOptions::default()).await.unwrap();
    echoes(&host, &model, &[1.0]).await;
}

async fn an_engine_that_cannot_be_opened_says_why(l: Launcher) {
    let e = l.launch(EngineKind::OnnxRuntime, Path::new("/nowhere/refused.so")).await.unwrap_err();
    assert!(matches!(&e, HostError::Refused(m) if m == "/nowhere/refused.so: refused as the test asks"), "{e}");
}

async fn a_load_that_was_given_up_leaves_a_usable_host(l: Launcher) {
    let (host, model) = start(&l, "identity").await;
    for word in ["slow load", "slow refusal"] {
        let slow = host.load(sealed("m.txt", word.as_bytes()), LoadOptions::default());
        assert!(tokio::time::timeout(Duration::from_millis(20), slow).await.is_err());
        echoes(&host, &model, &[1.0]).await;
        let slow = host.load(sealed("m.txt", word.as_bytes()), LoadOptions::default());
        assert!(tokio::time::timeout(Duration::from_millis(20), slow).await.is_err());
        let other = host.load(sealed("m.txt", b"identity"), LoadOptions::default()).await.unwrap();
        echoes(&host, &other, &[2.0]).await;
    }
}

async fn several_models_share_a_host(l: Launcher) {
    let (host, first) = start(&l, "identity").await;
    let second = host.load(sealed("m.txt", b"widen"), LoadOptions::default()).await.unwrap();
    assert_ne!(first.handle, second.handle);
    echoes(&host, &first, &[1.0]).await;
    let out = run(&host, &second, x(&[1, 1], &[2.0])).await.unwrap();
    assert_eq!(out.outputs[0].data.len(), 256);
    echoes(&host, &first, &[3.0]).await;
}

async fn faulty_outputs_are_errors_that_name_them(l: Launcher) {
    for (word, says) in [("missing", "no output"), ("dtype", "INT32")] {
        let (host, model) = start(&l, word).await;
        let e = run(&host, &model, x(&[1, 1], &[1.0])).await.unwrap_err();
        assert!(matches!(&e, RunError::Model(m) if m.contains(says)), "{word}: {e}");
    }
}

async fn inputs_larger_than_their_shape_are_refused(l: Launcher) {
    let (host, model) = start(&l, "identity").await;
    let e = run(&host, &model, x(&[1, 1], &[1.0, 2.0])).await.unwrap_err();
    assert!(matches!(&e, RunError::Model(m) if m.contains("larger than its shape")), "{e}");
    let e = run(&host, &model, vec![input(0, DType::Fp32, &[u64::MAX, 8], &[])]).await.unwrap_err();
    assert!(matches!(&e, RunError::Model(m) if m.contains("larger than")), "{e}");
    echoes(&host, &model, &[1.0]).await;
}

async fn a_model_that_is_not_open_is_an_error(l: Launcher) {
    let (host, model) = start(&l, "identity").await;
    let unknown = grey_engine::ModelHandle(9999);
    let e = host.run(unknown, x(&[1, 1], &[1.0]), vec![0], Some(support::RUN_LIMIT)).await.unwrap_err();
    assert!(matches!(&e, RunError::Model(m) if m.contains("not open")), "{e}");
    echoes(&host, &model, &[1.0]).await;
}
