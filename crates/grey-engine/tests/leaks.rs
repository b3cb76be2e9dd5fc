//! Hosts leave nothing behind. Alone in its binary: it counts what the whole process holds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use grey_engine::Isolation;
use support::{launcher, run, start, test_engine, x};

/// Launches and unloads: enough that one leak each would show.
const CYCLES: usize = 100;

#[test]
fn host_entry() {
    support::become_host(test_engine::open);
}

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Mappings of segments that were not unmapped.
fn segments() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().matches("grey-segment").count()
}

/// Bytes of the segments that are mapped.
fn segment_bytes() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let size = |line: &str| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some(usize::from_str_radix(end, 16).ok()? - usize::from_str_radix(start, 16).ok()?)
    };
    maps.lines().filter(|l| l.contains("grey-segment")).filter_map(size).sum()
}

/// Memory of this process that is no file's, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let anonymous = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    anonymous.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Processes whose parent this one is, ended ones included.
fn children() -> usize {
    let me = std::process::id().to_string();
    let parent = |stat: String| stat.rsplit_once(") ")?.1.split(' ').nth(1).map(str::to_owned);
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|p| std::fs::read_to_string(p.path().join("stat")).ok());
    stats.filter_map(parent).filter(|p| *p == me).count()
}

#[tokio::test]
async fn descriptors_memory_and_processes_are_given_back() {
    for isolation in [Isolation::Process, Isolation::Inline] {
        let l = launcher(isolation, test_engine::open);
        let mut before = None;
        for cycle in 0..=CYCLES {
            let (host, model) = start(&l, "widen").await;
            run(&host, &model, x(&[1, 2000], &[1.0; 2000])).await.unwrap();
            host.unload().await;
            drop(host);
            // The first cycle opens what the runtime keeps.
            if cycle == 0 {
                before = Some(count("/proc/self/fd"));
            }
        }
        assert_eq!(Some(count("/proc/self/fd")), before, "{isolation:?}: open descriptors");
        assert_eq!((segments(), children()), (0, 0), "{isolation:?}: mapped segments, processes");
    }
    // What one rare run made large does not stay as long as the host lives.
    let (host, model) = start(&launcher(Isolation::Process, test_engine::open), "widen").await;
    let before = resident_bytes();
    for _ in 0..2 {
        run(&host, &model, x(&[1, 100_000], &[1.0; 100_000])).await.unwrap();
    }
    let large = segment_bytes();
    assert!(large > 100_000 * 4 * 64, "{large}");
    for _ in 0..2 {
        let out = run(&host, &model, x(&[1, 1], &[2.0])).await.unwrap();
        assert_eq!(out.outputs[0].data.len(), 256);
    }
    assert!(resident_bytes() < before + 16 * 1024 * 1024, "{} after {before} bytes", resident_bytes());
    assert!(segment_bytes() < large / 8, "{} of {large} bytes", segment_bytes());
}
