//! `grey model validate`.

use std::path::{Path, PathBuf};

use grey_core::{ModelId, Tensor, VersionChoice};
use serde_json::Value;

use super::{args::ValidateArgs, reference, show, shown, sources, to_json};
use crate::{
    EXIT_NO, EXIT_OK, HostContext,
    failure::Failure,
    files,
    local::{Folder, Place},
    request::Document,
    verbs::{print, print_json, text},
};

/// What is looked at.
enum Subject {
    Registered(ModelId),
    Files,
}

/// `place_named`: whether the user said where models are.
pub(super) fn run(
    place: Place,
    place_named: bool,
    context: HostContext,
    args: &ValidateArgs,
    json: bool,
) -> Result<u8, Failure> {
    let example = match &args.example {
        None => None,
        Some(path) => {
            let text = files::read_text(path)?;
            Some((Document::new(path, text.clone()).inputs()?, text))
        }
    };
    let found = match subject(place_named || args.version.is_some(), &args.what)? {
        Subject::Registered(id) => registered(&place, &id, args.version.as_ref(), example)?,
        Subject::Files => {
            let found = sources::collect(&args.what)?;
            let found: Vec<_> = found.into_iter().map(|s| (s.name, s.path)).collect();
            let folder = Folder::temporary(context)?;
            to_json(&folder.run(folder.offline.validate_files(&found, example.map(|(inputs, _)| inputs)))?)?
        }
    };
    let valid = found.get("valid") == Some(&Value::Bool(true));
    let exit = if valid { EXIT_OK } else { EXIT_NO };
    let printed = if json { print_json(&found) } else { print(&told(&found)) };
    printed.map(|()| exit)
}

/// Files, if they are there and nothing says that a registered model is meant.
fn subject(registered: bool, what: &[PathBuf]) -> Result<Subject, Failure> {
    let [one] = what else { return Ok(Subject::Files) };
    let there = one.exists();
    if there && !registered {
        return Ok(Subject::Files);
    }
    one.to_str().and_then(|text| ModelId::new(text).ok()).map(Subject::Registered).ok_or_else(|| {
        let shown = one.display();
        if there {
            return Failure::usage(format!("{shown} is a file: --version, --data and --url name registered models"))
                .hint("leave them out to validate a file");
        }
        let e = Path::new(one).metadata().err().map_or_else(String::new, |e| format!(": {e}"));
        Failure::refused(format!("{shown} is neither a model's name nor a file{e}"))
    })
}

fn registered(
    place: &Place,
    id: &ModelId,
    version: Option<&VersionChoice>,
    example: Option<(Vec<Tensor>, String)>,
) -> Result<Value, Failure> {
    match place {
        Place::Node(client) => {
            let version = version.map_or_else(String::new, |v| format!("/versions/{}", shown(v)));
            let body = example.map_or_else(String::new, |(_, text)| text);
            client.about(id).post(&format!("/grey/v1/models/{id}{version}/validate"), body.as_bytes())
        }
        Place::Folder(path, context) => {
            let folder = Folder::open(path, false, context.clone())?;
            let (model, example) = (reference(id, version), example.map(|(inputs, _)| inputs));
            to_json(&folder.run(folder.offline.validate(&model, example))?)
        }
    }
}

/// What was found, for people.
fn told(found: &Value) -> String {
    let mut out = String::new();
    let runtime = text(found, "runtime");
    let engine = if runtime.is_empty() { text(found, "engine") } else { runtime };
    out.push_str(&format!("engine     {engine}\n"));
    out.push_str(&show::how_served(found));
    if let Some(run) = found.get("run").filter(|r| !r.is_null()) {
        let of = |key: &str| {
            let tensors = run.get(key).and_then(Value::as_array).into_iter().flatten();
            let shown = tensors.map(|t| format!("{} {} {}", text(t, "name"), text(t, "datatype"), text(t, "shape")));
            shown.collect::<Vec<_>>().join(", ")
        };
        let on = if text(run, "inputs") == "example" { "the example" } else { "made-up inputs" };
        let given = of("given");
        out.push_str(&match text(run, "error") {
            why if why.is_empty() => {
                let us = run.get("execute_us").and_then(Value::as_u64).unwrap_or(0);
                format!("run        on {on} ({given}): {} in {}\n", of("outputs"), duration(us))
            }
            why => format!("run        on {on} ({given}) failed: {why}\n"),
        });
    }
    match text(found, "reason") {
        reason if reason.is_empty() => out.push_str("valid\n"),
        reason => out.push_str(&format!("not valid: {reason}\n")),
    }
    out
}

fn duration(us: u64) -> String {
    if us < 1000 { format!("{us} µs") } else { format!("{:.1} ms", us as f64 / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_a_file_unless_a_registered_model_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m.onnx");
        std::fs::write(&file, "x").unwrap();
        let of = |registered, what: &str| subject(registered, &[what.into()]);
        let file = file.to_str().unwrap();
        assert!(matches!(of(false, file), Ok(Subject::Files)));
        assert!(of(true, file).err().unwrap().message.ends_with("name registered models"));
        assert!(matches!(of(false, "digits-7f3a"), Ok(Subject::Registered(id)) if id.as_str() == "digits-7f3a"));
        assert!(matches!(of(true, "src"), Ok(Subject::Registered(_))));
        let f = of(false, "./none.onnx").err().unwrap();
        assert!(f.message.starts_with("./none.onnx is neither a model's name nor a file: "), "{f:?}");
        assert_eq!((duration(12), duration(1234)), ("12 µs".into(), "1.2 ms".into()));
    }
}
