//! What the verbs do and print.

use std::io::Write as _;

use serde_json::Value;

use crate::{
    args::{ModelArgs, ModelVerb},
    client::Client,
    failure::Failure,
    table::table,
};

/// Writes to standard output; a reader that went away is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::unexpected(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn print_json(v: &Value) -> Result<(), Failure> {
    print(&format!("{v:#}\n"))
}

pub(crate) fn text(v: &Value, key: &str) -> String {
    match v.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    }
}

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

/// `grey model …`
pub(crate) fn model(client: &Client, verb: ModelVerb, json: bool) -> Result<(), Failure> {
    match verb {
        ModelVerb::Add { id, file, version, no_load, metadata } => {
            let name = file.file_name().map(|n| n.to_string_lossy().into_owned());
            let name = name.ok_or_else(|| Failure::usage(format!("{} names no file", file.display())))?;
            let mut query = vec![("file".to_owned(), name), ("load".to_owned(), (!no_load).to_string())];
            query.extend(version.map(|v| ("version".to_owned(), v.to_string())));
            query.extend(metadata.into_iter().map(|(k, v)| (format!("meta.{k}"), v)));
            let added = client.about(&id).upload(&format!("/grey/v1/models/{id}"), &query, &file)?;
            if json {
                return print_json(&added);
            }
            let existed = added.get("existed") == Some(&Value::Bool(true));
            let what = if existed { "is registered already" } else { "registered" };
            let line = format!(
                "{id} version {} {what} ({}:{}), {}\n",
                text(&added, "version"),
                text(&added, "model_hash_scheme"),
                text(&added, "model_hash"),
                text(&added, "state"),
            );
            print(&line)
        }
        ModelVerb::List => {
            let answer = client.get("/grey/v1/models")?;
            let models = answer.get("models").and_then(Value::as_array).ok_or_else(|| client.stranger("models"))?;
            if json {
                return print_json(&Value::Array(models.clone()));
            }
            let listed = models.iter().map(|m| {
                let latest = if m.get("latest") == Some(&Value::Bool(true)) { "latest" } else { "" };
                vec![text(m, "id"), text(m, "version"), latest.to_owned(), text(m, "state"), text(m, "reason")]
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
            print(&table(&["MODEL", "VERSION", "LABEL", "STATE", "REASON"], &rows))
        }
        ModelVerb::Show(m) => {
            let shown = client.about(&m.id).get(&path_of(&m))?;
            if json { print_json(&shown) } else { print(&details(&shown)) }
        }
        ModelVerb::Load(m) => {
            let shown = client.about(&m.id).post(&format!("{}/load", path_of(&m)), b"{}")?;
            if json {
                return print_json(&shown);
            }
            print(&format!("{} version {} is {}\n", m.id, text(&shown, "version"), text(&shown, "state")))
        }
        ModelVerb::Unload(m) => {
            let answer = client.about(&m.id).post(&format!("{}/unload", path_of(&m)), b"{}")?;
            if json { print_json(&answer) } else { print(&format!("{} is unloaded\n", named(&m))) }
        }
        ModelVerb::Remove(m) => {
            let answer = client.about(&m.id).delete(&path_of(&m))?;
            if json { print_json(&answer) } else { print(&format!("{} is removed\n", named(&m))) }
        }
    }
}

fn details(m: &Value) -> String {
    let mut out = format!(
        "model      {} version {}{}\nstate      {}",
        text(m, "id"),
        text(m, "version"),
        if m.get("latest") == Some(&Value::Bool(true)) { " (latest)" } else { "" },
        text(m, "state"),
    );
    let reason = text(m, "reason");
    if !reason.is_empty() {
        out.push_str(&format!(" ({reason})"));
    }
    out.push_str(&format!(
        "\nengine     {}\nhash       {}:{}\n",
        text(m, "engine"),
        text(m, "model_hash_scheme"),
        text(m, "model_hash")
    ));
    if let Some(b) = m.get("batching") {
        let on = if b.get("enabled") == Some(&Value::Bool(true)) { "on" } else { "off" };
        out.push_str(&format!("batching   {on}: {}", text(b, "reason")));
        if on == "on" {
            out.push_str(&format!("; up to {} rows, buckets {}", text(b, "max_batch_size"), text(b, "buckets")));
        }
        out.push('\n');
    }
    if let Some(p) = m.get("proofs") {
        let on = p.get("on") == Some(&Value::Bool(true));
        let (class, precision) = (text(p, "class"), text(p, "precision"));
        let state = match (on, class.as_str()) {
            (false, _) => "off".into(),
            // What is loaded has a precision.
            (true, "") if precision.is_empty() => "on".into(),
            (true, "") => "refused".into(),
            (true, class) => format!("on, {class}"),
        };
        out.push_str(&format!("proofs     {state}: {}", text(p, "reason")));
        if !class.is_empty() {
            out.push_str(&format!("; {precision}"));
        }
        if p.get("alone") == Some(&Value::Bool(true)) {
            out.push_str("; a proven request runs alone");
        }
        out.push('\n');
    }
    let threads = text(m, "threads");
    if !threads.is_empty() {
        out.push_str(&format!("threads    {threads}\n"));
    }
    for host in m.get("hosts").and_then(Value::as_array).into_iter().flatten() {
        out.push_str(&format!("host       pid {}, {}\n", text(host, "pid"), text(host, "runtime")));
    }
    for (title, key) in [("input", "inputs"), ("output", "outputs")] {
        for t in m.pointer(&format!("/signature/{key}")).and_then(Value::as_array).into_iter().flatten() {
            out.push_str(&format!("{title:<10} {} {} {}\n", text(t, "name"), text(t, "datatype"), text(t, "shape")));
        }
    }
    for (k, v) in m.get("files").and_then(Value::as_object).into_iter().flatten() {
        out.push_str(&format!("file       {k} ({v} bytes)\n"));
    }
    for (k, v) in m.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        out.push_str(&format!("metadata   {k} = {}\n", v.as_str().unwrap_or_default()));
    }
    out
}

/// `grey engine list`
pub(crate) fn engines(client: &Client, json: bool) -> Result<(), Failure> {
    let engines = client.list("/grey/v1/engines", "engines")?;
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
