//! `grey engine …`: the runtimes that a node can use, and how they come here.

mod args;
mod install;
pub(crate) mod python;

use std::path::PathBuf;

use serde_json::Value;

pub(crate) use self::args::{EngineCommand, EngineVerb};
use crate::{
    HostContext,
    failure::Failure,
    local::{Folder, Place},
    verbs::{print, print_json, text},
};

/// Runs a verb. `place`: where a verb works that was given this folder, or none.
pub(crate) fn run(
    place: impl Fn(Option<PathBuf>) -> Result<Place, Failure>,
    context: &HostContext,
    verb: EngineVerb,
    json: bool,
) -> Result<(), Failure> {
    match verb {
        EngineVerb::List { data } => list(&place(data)?, json),
        EngineVerb::Install(args) => install::run(&args, context, json),
        EngineVerb::Remove { engine } => install::remove(&engine, json),
    }
}

/// `grey engine list`
fn list(place: &Place, json: bool) -> Result<(), Failure> {
    let engines = match place {
        Place::Node(client) => client.list("/grey/v1/engines", "engines")?,
        Place::Folder(path, context) => {
            let folder = Folder::open(path, false, context.clone())?;
            let report = folder.runtime.block_on(folder.offline.engines());
            serde_json::to_value(report).map_err(|e| Failure::unexpected(format!("cannot write JSON: {e}")))?
        }
    };
    if json {
        return print_json(&engines);
    }
    let mut out = String::new();
    for e in engines.as_array().into_iter().flatten() {
        let usable = e.get("usable") == Some(&Value::Bool(true));
        out.push_str(&format!(
            "{}  {}\n",
            text(e, "engine"),
            if usable { text(e, "version") } else { "not usable".into() }
        ));
        for (title, key) in
            [("library", "library"), ("found by", "source"), ("isolation", "isolation"), ("problem", "problem")]
        {
            let value = text(e, key);
            if !value.is_empty() {
                out.push_str(&format!("  {title:<12} {value}\n"));
            }
        }
        for (layer, holds) in e.get("containment").and_then(Value::as_object).into_iter().flatten() {
            out.push_str(&format!("  {layer:<12} {}\n", holds.as_str().unwrap_or_default()));
        }
        let install = text(e, "install");
        if !install.is_empty() {
            out.push_str(&format!("  install with {install}\n"));
        }
    }
    print(&out)
}
