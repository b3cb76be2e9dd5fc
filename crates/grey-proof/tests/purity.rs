//! The crate's promise to be pure, kept by reading its sources.

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
    ];
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for word in forbidden {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 9, "{seen} source files");
}
