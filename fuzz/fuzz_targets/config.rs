//! A node's configuration file: what is taken is within its bounds all the way to the serving layer.
//!
//! Input: the file; or behind a byte 255, which no text has, two numbers near an edge for every key with bounds.
#![no_main]

use std::time::Duration;

use grey_fuzz::{Bytes, bounded};
use grey_server::NodeConfig;
use grey_serving::{HoldPolicy, ModelConfig};
use libfuzzer_sys::fuzz_target;

const DAY: Duration = Duration::from_secs(86_400);

fn check(m: &ModelConfig) {
    assert!((1..=65_536).contains(&m.batching.max_batch_size));
    assert!(m.batching.pad_to_multiple.is_none_or(|n| (1..=65_536).contains(&n)));
    assert!(matches!(m.batching.hold, HoldPolicy::None) || matches!(m.batching.hold, HoldPolicy::Fill(d) if d <= DAY));
    assert!(m.threads.is_none_or(|n| (1..=4096).contains(&n)));
    assert!((1..=4096).contains(&m.instances));
    assert!(m.run_timeout.is_none_or(|d| d > Duration::ZERO && d <= DAY));
}

const KEYS: [&str; 11] = [
    "drain_seconds: N",
    "run_timeout_ms: N",
    "limits: {body_bytes_max: N}",
    "limits: {inflight_bytes_max: N}",
    "limits: {connections_max: N}",
    "limits: {queue_rows_max: N}",
    "limits: {host_memory_bytes_max: N}",
    "batching: {max_batch_size: N, pad_to_multiple: M, hold: fill, max_wait_ms: M}",
    "models: {a: {instances: N, threads: M}}",
    "models: {a: {run_timeout_ms: N}}",
    "models: {a: {batching: {max_batch_size: N, pad_to_multiple: M, hold: fill, max_wait_ms: M}}}",
];

/// A number at most four from an edge.
fn near_an_edge(input: &mut Bytes<'_>) -> String {
    let edge = [0, 4096, 65_536, 86_400, 86_400_000, 1 << 26, 1 << 32, 1 << 63, 1 << 64][input.below(9)];
    (edge - 4 + input.below(9) as i128).to_string()
}

fn read(text: &str) {
    match bounded(text.len(), 1024, || NodeConfig::from_yaml(text)) {
        Err(e) => {
            assert_eq!(e.kind(), grey_core::ErrorKind::InvalidArgument);
            let place = e.message().strip_prefix("configuration:").expect("the message begins with the place");
            let numbers: Vec<_> = place.splitn(3, ':').take(2).map(str::parse::<u64>).collect();
            assert!(matches!(numbers.as_slice(), [Ok(1..), Ok(1..)]), "{e}");
            assert!(e.message().len() <= 4096, "a message of {} bytes", e.message().len());
        }
        Ok(config) => {
            // What a node runs with is written as one would write it.
            let again = serde_json::to_value(&config).expect("a configuration can be written");
            assert_eq!(serde_json::from_value::<NodeConfig>(again).expect("what was taken is taken again"), config);
            let serving = config.to_serving();
            check(&serving.defaults);
            serving.models.values().for_each(check);
            assert!(serving.models.keys().eq(config.models.keys()));
            assert!(serving.queue_rows_max >= 1 && serving.inflight_bytes_max >= 1);
            assert!((1..=256).contains(&serving.issuer.len()));
            assert!(config.limits.body_bytes_max.get() >= 1 && config.limits.connections_max.get() >= 1);
            assert!(config.drain() <= DAY);
        }
    }
}

fuzz_target!(|input: &[u8]| match input.split_first() {
    Some((255, rest)) => {
        let mut rest = Bytes(rest);
        let (n, m) = (near_an_edge(&mut rest), near_an_edge(&mut rest));
        KEYS.iter().for_each(|key| read(&key.replace('N', &n).replace('M', &m)));
    }
    _ => read(&String::from_utf8_lossy(input)),
});
