//! `grey model add`.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::PathBuf};

use bytes::Bytes;
use futures_util::stream;
use grey_core::{Error, ErrorKind};
use grey_serving::NewVersion;
use serde_json::Value;

use super::{args::AddArgs, form::Form, progress::Progress, sources, to_json};
use crate::{
    client::Client,
    failure::Failure,
    files,
    local::{Folder, Place},
    request::Document,
    verbs::{print, print_json, text},
};

/// Bytes that are read from a file at once.
const PIECE_BYTES: usize = 1 << 20;
/// What is said while the model is opened.
const OPENING: &str = "opening the model";

pub(super) fn run(place: Place, args: AddArgs, json: bool) -> Result<(), Failure> {
    let found = sources::collect(&args.paths)?;
    // Before anything is sent.
    let example = match &args.example {
        None => None,
        Some(path) => {
            let text = files::read_text(path)?;
            Some((Document::new(path, text.clone()).inputs()?, text))
        }
    };
    let mut notes = Vec::new();
    let metadata: BTreeMap<String, String> = args.metadata.iter().cloned().collect();
    let has_example = example.is_some();
    let added = match place {
        Place::Node(client) => {
            let form = Form::new(found, example.map(|(_, text)| text.into_bytes()))?;
            send(&client.about(&args.id), &args, form, json)?
        }
        Place::Folder(path, context) => {
            let folder = Folder::open(&path, true, context)?;
            let what = NewVersion {
                id: args.id.clone(),
                version: args.version.clone(),
                labels: args.label.iter().cloned().collect(),
                metadata: metadata.clone(),
                load: false,
            };
            if !args.no_load {
                notes.push(
                    "nothing is loaded without a running node: one that starts on this folder loads it on demand"
                        .to_owned(),
                );
            }
            let added = folder.run(async {
                let mut adding = folder.offline.begin_add(what).await?;
                for file in &found {
                    adding.file(file.name.as_str(), pieces(&file.path), file.size).await?;
                }
                if let Some((inputs, _)) = example {
                    adding.example(inputs)?;
                }
                folder.offline.finish_add(adding).await
            })?;
            to_json(&added)?
        }
    };
    if json {
        return print_json(&added);
    }
    let existed = added.get("existed") == Some(&Value::Bool(true));
    let has = |(k, v): (&String, &String)| added.pointer("/metadata").and_then(|m| m.get(k)?.as_str()) == Some(v);
    if existed && !metadata.iter().all(has) {
        notes.push("the metadata of a registered version stays as it is".to_owned());
    }
    if existed && has_example && text(&added, "state") == "ready" {
        notes.push(format!("the example is used from the next load on: grey model unload {0}, then load {0}", args.id));
    }
    let what = if existed { "is registered already" } else { "registered" };
    let labels: Vec<String> = args.label.iter().map(ToString::to_string).collect();
    let labels = if labels.is_empty() { String::new() } else { format!(" as {}", labels.join(", ")) };
    let line = format!(
        "{} version {} {what}{labels} ({}:{}), {}\n",
        args.id,
        text(&added, "version"),
        text(&added, "model_hash_scheme"),
        text(&added, "model_hash"),
        text(&added, "state"),
    );
    print(&line)?;
    for note in notes {
        crate::say(&format!("note: {note}\n"));
    }
    Ok(())
}

fn send(client: &Client, args: &AddArgs, form: Form, json: bool) -> Result<Value, Failure> {
    let pair = |k: &str, v: String| (k.to_owned(), v);
    let mut query = vec![pair("load", (!args.no_load).to_string())];
    query.extend(args.version.iter().map(|v| pair("version", v.to_string())));
    query.extend(args.label.iter().map(|l| pair("label", l.to_string())));
    query.extend(args.metadata.iter().map(|(k, v)| (format!("meta.{k}"), v.clone())));
    let (kind, length) = (form.content_type(), form.length());
    let progress = Progress::bytes(&format!("sending {}", args.id), length, json);
    let path = format!("/grey/v1/models/{}", args.id);
    client.upload(&path, &query, &kind, length, progress.reading(form, OPENING))
}

/// A file's bytes, piece by piece. Read where they are asked for: nothing else goes on meanwhile.
fn pieces(path: &std::path::Path) -> impl futures_util::Stream<Item = grey_core::Result<Bytes>> + Send + Unpin + use<> {
    enum Reading {
        Closed(PathBuf),
        Open(PathBuf, File),
        Over,
    }
    Box::pin(stream::unfold(Reading::Closed(path.to_owned()), |state| async move {
        let failed = |path: &PathBuf, e: std::io::Error| {
            Error::new(ErrorKind::NotFound, format!("cannot read {}: {e}", path.display()))
        };
        let (path, mut file) = match state {
            Reading::Closed(path) => match File::open(&path) {
                Ok(file) => (path, file),
                Err(e) => return Some((Err(failed(&path, e)), Reading::Over)),
            },
            Reading::Open(path, file) => (path, file),
            Reading::Over => return None,
        };
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some((Ok(piece.into()), Reading::Open(path, file))),
            Err(e) => Some((Err(failed(&path, e)), Reading::Over)),
        }
    }))
}
