//! Versions, as people read them.

use serde_json::Value;

use crate::{style::printable, verbs};

/// A member as a text that steers no terminal: names and reasons may be a model's own words.
fn text(v: &Value, key: &str) -> String {
    printable(&verbs::text(v, key))
}

/// A version, as `model show` prints it.
pub(super) fn details(m: &Value) -> String {
    let mut out = format!(
        "model      {} version {}{}\nstate      {}",
        text(m, "id"),
        text(m, "version"),
        labels(m),
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
    let threads = text(m, "threads");
    if !threads.is_empty() {
        out.push_str(&format!("threads    {threads}\n"));
    }
    for host in m.get("hosts").and_then(Value::as_array).into_iter().flatten() {
        out.push_str(&format!("host       pid {}, {}\n", text(host, "pid"), text(host, "runtime")));
    }
    out.push_str(&how_served(m));
    for (k, v) in m.get("files").and_then(Value::as_object).into_iter().flatten() {
        out.push_str(&format!("file       {} ({v} bytes)\n", printable(k)));
    }
    if m.get("example") == Some(&Value::Bool(true)) {
        out.push_str("example    kept\n");
    }
    for (k, v) in m.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        out.push_str(&format!("metadata   {} = {}\n", printable(k), printable(v.as_str().unwrap_or_default())));
    }
    out
}

/// The labels of a version, in brackets.
fn labels(m: &Value) -> String {
    let labels = m.get("labels").and_then(Value::as_array).into_iter().flatten();
    let labels: Vec<&str> = labels.filter_map(Value::as_str).collect();
    if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) }
}

/// How requests are batched, as what answers are proven, and the signature.
pub(super) fn how_served(m: &Value) -> String {
    let mut out = String::new();
    if let Some(b) = m.get("batching").filter(|b| !b.is_null()) {
        let on = if b.get("enabled") == Some(&Value::Bool(true)) { "on" } else { "off" };
        out.push_str(&format!("batching   {on}: {}", text(b, "reason")));
        if on == "on" {
            out.push_str(&format!("; up to {} rows, buckets {}", text(b, "max_batch_size"), text(b, "buckets")));
        }
        out.push('\n');
    }
    if let Some(p) = m.get("proofs").filter(|p| !p.is_null()) {
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
    for (title, key) in [("input", "inputs"), ("output", "outputs")] {
        for t in m.pointer(&format!("/signature/{key}")).and_then(Value::as_array).into_iter().flatten() {
            out.push_str(&format!("{title:<10} {} {} {}\n", text(t, "name"), text(t, "datatype"), text(t, "shape")));
        }
    }
    out
}
