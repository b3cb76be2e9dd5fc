//! What is generated from the configuration's types is what lies in `docs/`.

use std::{fs, io, path::PathBuf};

use grey_server::{
    NodeConfig,
    config::{reference, schema},
};

/// Renews the files if `WRITE` is set.
fn is_up_to_date(name: &str, wanted: &str) -> io::Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("WRITE").is_some() {
        fs::write(&path, wanted)?;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/{name} is stale; renew it with: WRITE=1 cargo test --profile checked -p grey-server --test reference"
    );
    Ok(())
}

#[test]
fn the_reference_is_up_to_date() -> io::Result<()> {
    is_up_to_date("configuration.md", &reference())
}

#[test]
fn the_schema_is_up_to_date() -> io::Result<()> {
    is_up_to_date("grey.schema.json", &format!("{:#}\n", schema()))
}

/// The file in the reference is one that a node takes, and changes nothing.
#[test]
fn the_example_is_the_default() {
    let text = reference();
    let yaml = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(NodeConfig::from_yaml(yaml).unwrap(), NodeConfig::default());
    // The keys that are commented out there exist: without a value they change nothing.
    let given = |l: &str| if l.trim_start().starts_with("# ") { l.replacen("# ", "", 1) } else { l.to_owned() };
    let all = yaml.lines().map(given).collect::<Vec<_>>().join("\n");
    assert_eq!(NodeConfig::from_yaml(&all).unwrap(), NodeConfig::default());
}
