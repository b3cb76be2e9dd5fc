//! `grey model …`: on a running node, or on a data folder that no node uses.

mod add;
mod args;
mod form;
mod progress;
mod show;
mod sources;
mod validate;

use grey_core::{Label, ModelId, ModelRef, Version, VersionChoice};
use serde::Serialize;
use serde_json::{Value, json};

use self::args::{LabelArgs, ModelArgs};
pub(crate) use self::args::{ModelCommand, ModelVerb};
pub use self::sources::model_files;
use crate::{
    HostContext,
    failure::Failure,
    local::{Folder, Place},
    table::table,
    verbs::{print, print_json, text},
};

fn path_of(m: &ModelArgs) -> String {
    match &m.version {
        None => format!("/grey/v1/models/{}", m.id),
        Some(v) => format!("/grey/v1/models/{}/versions/{v}", m.id),
    }
}

fn named(m: &ModelArgs) -> String {
    match &m.version {
        None => m.id.to_string(),
        Some(v) => format!("{} version {v}", m.id),
    }
}

fn reference(id: &ModelId, version: Option<&VersionChoice>) -> ModelRef {
    ModelRef { id: id.clone(), version: version.cloned().unwrap_or_default() }
}

fn to_json(v: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(v).map_err(|e| Failure::unexpected(format!("cannot write JSON: {e}")))
}

/// A version's or a label's name in a path.
fn shown(v: &VersionChoice) -> &str {
    match v {
        VersionChoice::Latest => Label::LATEST,
        VersionChoice::Exact(v) => v.as_str(),
    }
}

/// Runs a verb; returns the exit code. `place_named`: whether the user said where models are.
pub(crate) fn run(
    place: Place,
    place_named: bool,
    context: HostContext,
    verb: ModelVerb,
    json: bool,
) -> Result<u8, Failure> {
    let done = |()| crate::EXIT_OK;
    match verb {
        ModelVerb::Add(args) => add::run(place, args, json).map(done),
        ModelVerb::List => list(place, json).map(done),
        ModelVerb::Show(m) => show(place, &m, json).map(done),
        ModelVerb::Validate(args) => validate::run(place, place_named, context, &args, json),
        ModelVerb::Label(args) => label(place, &args, json).map(done),
        ModelVerb::Load(m) => load(place, &m, json).map(done),
        ModelVerb::Unload(m) => unload(place, &m, json).map(done),
        ModelVerb::Remove(m) => remove(place, &m, json).map(done),
    }
}

fn list(place: Place, json: bool) -> Result<(), Failure> {
    let answer = match &place {
        Place::Node(client) => {
            let answer = client.get("/grey/v1/models")?;
            if !answer.get("models").is_some_and(Value::is_array) {
                return Err(client.stranger("models"));
            }
            answer
        }
        Place::Folder(path, context) => {
            let folder = Folder::open(path, false, context.clone())?;
            let models = folder.run(folder.offline.list())?;
            let unreadable = folder.offline.unreadable().iter();
            let unreadable: Value = unreadable.map(|(id, e)| (id.to_string(), Value::from(e.message()))).collect();
            json!({"models": to_json(&models)?, "unreadable": unreadable})
        }
    };
    let models = answer.get("models").and_then(Value::as_array).into_iter().flatten();
    if json {
        return print_json(&models.cloned().collect());
    }
    let listed = models.map(|m| {
        let labels = m.get("labels").and_then(Value::as_array).into_iter().flatten();
        let labels: Vec<&str> = labels.filter_map(Value::as_str).collect();
        vec![text(m, "id"), text(m, "version"), labels.join(","), text(m, "state"), text(m, "reason")]
    });
    let unreadable = answer.get("unreadable").and_then(Value::as_object).into_iter().flatten();
    let unreadable = unreadable.map(|(id, why)| {
        let why = why.as_str().unwrap_or_default().to_owned();
        vec![id.clone(), "?".to_owned(), String::new(), "unreadable".to_owned(), why]
    });
    let rows: Vec<Vec<String>> = listed.chain(unreadable).collect();
    if rows.is_empty() {
        return print("no models; register one with: grey model add NAME FILE\n");
    }
    print(&table(&["MODEL", "VERSION", "LABELS", "STATE", "REASON"], &rows))
}

fn show(place: Place, m: &ModelArgs, json: bool) -> Result<(), Failure> {
    let shown = match &place {
        Place::Node(client) => client.about(&m.id).get(&path_of(m))?,
        Place::Folder(path, context) => {
            let folder = Folder::open(path, false, context.clone())?;
            to_json(&folder.run(folder.offline.show(&exact(m)))?)?
        }
    };
    if json { print_json(&shown) } else { print(&show::details(&shown)) }
}

fn exact(m: &ModelArgs) -> ModelRef {
    reference(&m.id, m.version.clone().map(VersionChoice::Exact).as_ref())
}

fn label(place: Place, args: &LabelArgs, json: bool) -> Result<(), Failure> {
    let LabelArgs { id, label, version, .. } = args;
    let shown = match &place {
        Place::Node(client) => {
            let (client, path) = (client.about(id), format!("/grey/v1/models/{id}/labels/{label}"));
            match version {
                Some(v) => client.put(&path, &[("version".to_owned(), shown(v).to_owned())])?,
                None => client.delete(&path)?,
            }
        }
        Place::Folder(path, context) => {
            let folder = Folder::open(path, false, context.clone())?;
            let model = version.as_ref().map(|v| reference(id, Some(v)));
            folder.run(folder.offline.label(id, label, model.as_ref()))?;
            match &model {
                Some(model) => to_json(&folder.run(folder.offline.show(model))?)?,
                None => json!({"removed": [label]}),
            }
        }
    };
    if json {
        return print_json(&shown);
    }
    match version {
        Some(_) => print(&format!("{id}: {label} is version {}\n", text(&shown, "version"))),
        None => print(&format!("{id}: {label} is no label any more\n")),
    }
}

/// The node of a verb that makes no sense without one.
fn running(place: Place, what: &str) -> Result<crate::client::Client, Failure> {
    match place {
        Place::Node(client) => Ok(client),
        Place::Folder(path, _) => {
            Err(Failure::usage(format!("{what} needs a running node: --data works on a folder that no node uses"))
                .hint(format!("start one with: grey serve --data {}", path.display())))
        }
    }
}

fn load(place: Place, m: &ModelArgs, json: bool) -> Result<(), Failure> {
    let client = running(place, "load")?;
    let shown = client.about(&m.id).post(&format!("{}/load", path_of(m)), b"{}")?;
    if json {
        return print_json(&shown);
    }
    print(&format!("{} version {} is {}\n", m.id, text(&shown, "version"), text(&shown, "state")))
}

fn unload(place: Place, m: &ModelArgs, json: bool) -> Result<(), Failure> {
    let client = running(place, "unload")?;
    let answer = client.about(&m.id).post(&format!("{}/unload", path_of(m)), b"{}")?;
    if json { print_json(&answer) } else { print(&format!("{} is unloaded\n", named(m))) }
}

fn remove(place: Place, m: &ModelArgs, json: bool) -> Result<(), Failure> {
    let answer = match &place {
        Place::Node(client) => client.about(&m.id).delete(&path_of(m))?,
        Place::Folder(path, context) => {
            let folder = Folder::open(path, false, context.clone())?;
            // A label means the version that it stands for now.
            let version = match &m.version {
                None => None,
                Some(_) => Some(folder.run(folder.offline.show(&exact(m)))?.status.version),
            };
            let removed: Vec<Version> = folder.run(folder.offline.remove(&m.id, version.as_ref()))?;
            json!({"removed": removed})
        }
    };
    if json { print_json(&answer) } else { print(&format!("{} is removed\n", named(m))) }
}
