//! The crate's promise to be pure, kept by reading its sources.

#![expect(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::path::{Path, PathBuf};

/// No module names a clock, a file, a thread, the environment, a socket or a source of randomness.
#[test]
fn sources_reach_nothing_outside() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let forbidden = [
        "std::fs",
        "std::io",
        "std::net",
        "std::env",
        "std::thread",
        "std::process",
        "std::time",
        "Instant",
        "SystemTime",
        "OsRng",
        "getrandom",
        "rand::",
        "println!",
        "tokio",
        "HashMap", // its order is random
        "HashSet",
    ];
    let sources = sources(Path::new(folder));
    for path in &sources {
        let text = std::fs::read_to_string(path).unwrap();
        for word in forbidden {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
    assert!(sources.len() >= 24, "{} source files", sources.len());
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}
