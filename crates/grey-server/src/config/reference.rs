//! What is generated from the list of keys: the schema for editors, and `docs/configuration.md`.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::{
    keys::{Key, Kind, OWN_PREFIX, keys, raw_schema},
    layers::quoted,
};

/// What a schema calls itself.
const TITLE: &str = "grey.yaml";

/// The JSON schema of the file, draft 7, which all editors read.
pub fn schema() -> Value {
    let mut schema = raw_schema();
    for_editors(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".into(), TITLE.into());
    }
    schema
}

/// Drops what only Grey reads, and says that a key may be there without a value.
fn for_editors(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.retain(|name, _| !name.starts_with(OWN_PREFIX) && name != "format");
            // The schemas of the integer types have the type's name as their format and its range.
            object.retain(|name, value| !(name == "maximum" && *value == json!(u64::MAX)));
            object.retain(|name, value| !(name == "default" && value.is_null()));
            object.values_mut().for_each(for_editors);
            let properties = object.get_mut("properties").and_then(Value::as_object_mut);
            properties.into_iter().flatten().for_each(|(_, sub)| or_nothing(sub));
        }
        Value::Array(all) => all.iter_mut().for_each(for_editors),
        _ => {}
    }
}

fn or_nothing(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    let null = json!({"type": "null"});
    for word in ["anyOf", "oneOf"] {
        if let Some(all) = object.get_mut(word).and_then(Value::as_array_mut) {
            if !all.contains(&null) {
                all.push(null);
            }
            return;
        }
    }
    if let Some(all) = object.get_mut("enum").and_then(Value::as_array_mut)
        && !all.contains(&Value::Null)
    {
        all.push(Value::Null);
    }
    match object.get_mut("type") {
        Some(Value::String(one)) if one != "null" => {
            let both = json!([one.clone(), "null"]);
            object.insert("type".into(), both);
        }
        Some(Value::Array(any)) if !any.contains(&json!("null")) => any.push("null".into()),
        _ => {}
    }
}

const HEAD: &str = "\
<!-- Generated from crates/grey-server/src/config by `WRITE=1 cargo test --profile checked -p grey-server --test reference`. -->

# Configuration

`grey serve` needs none. What is configured is a YAML file, environment variables and flags: **a flag wins over a
variable, a variable over the file, the file over the default.** Every key has a variable and a flag, but for the
settings of single models, which have names that no variable could have: they stand in the file alone.

```console
$ grey serve --config grey.yaml            # or GREY_CONFIG=grey.yaml
$ grey config check grey.yaml              # all mistakes of a file, each with line, column and what was meant
$ grey config show --config grey.yaml      # what a node would run with, and where each value comes from
$ grey config schema > grey.schema.json    # for editors, see below
$ kill -HUP PID                            # a running node reads its file again
```

The variable of a key is `GREY_` and its path in upper case with `_` between: `limits.body_bytes_max` is
`GREY_LIMITS_BODY_BYTES_MAX`. An empty variable counts as none. The flag is the path with `-`:
`--limits-body-bytes-max`. Lists are written with commas there, `true` and `false` also as `1` and `0`, `yes` and `no`,
`on` and `off`; a flag alone means true.

A key that does not exist, a value of another type or out of range: the node does not start, and says where the value
was written (file, line and column; variable; flag), what was expected, and which key was probably meant. A key
without a value (`limits:` with nothing under it) is one that is not there.

## The whole file

With all defaults; what is commented out the node finds by itself.

";

const MACHINE: &str = "
## Cores and memory

\"Cores\" and \"memory\" mean what the node's container allows, not what the machine has: the least of the
machine, the processor affinity (`taskset`, `cpuset`), and the limits of the node's cgroup and all cgroups above
it, in both versions (`cpu.max`, `memory.max`; `cpu.cfs_quota_us`, `memory.limit_in_bytes`). A quota of one and a
half cores counts as two. As many runs as there are cores execute at once, and as many models load at once.
`grey config show` and the log of a node that starts tell both numbers and which limit they are from.

## A running node

On SIGHUP a node reads its file again; variables and flags are those that it was started with. What differs and
can be taken is taken: the tables below say for each key whether that is at once, at a model's next load, or after a
restart. The log has a line for each key, with its old and its new value; what needs a restart is told again by
every SIGHUP until there was one. A file with a mistake changes nothing: the log says what is wrong, with line and
column.

A loaded model whose `max_batch_size` or `pad_to_multiple` changes is tested again for the new batch sizes before
its proofs rely on them, as after a load.

## Editors

`docs/grey.schema.json` is the JSON schema, as `grey config schema` prints it. Editors with a YAML language server
complete and check the file if its first line is

```yaml
# yaml-language-server: $schema=./grey.schema.json
```
";

/// `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = String::from(HEAD);
    out.push_str("```yaml\n");
    out.push_str(&example());
    out.push_str("```\n");
    out.push_str(MACHINE);
    out.push_str("\n## All keys\n");
    let mut section: Option<String> = None;
    for key in keys().iter() {
        let of = heading(key);
        if section.as_ref() != Some(&of) {
            // Writing to a string does not fail.
            let _ = write!(out, "\n### {of}\n");
            section = Some(of);
        }
        let _ = describe(&mut out, key);
    }
    out
}

fn heading(key: &Key) -> String {
    match key.path.as_slice() {
        [_] => "The node".into(),
        [models, ..] if models == "models" => "`models`: settings of single models".into(),
        [section, ..] => format!("`{section}`"),
        [] => String::new(),
    }
}

fn describe(out: &mut String, key: &Key) -> fmt::Result {
    write!(out, "\n#### `{}`\n\n{}\n", key.name().replace('*', "MODEL"), key.doc)?;
    if let Kind::Choice(words) = &key.kind {
        writeln!(out)?;
        for (word, doc) in words {
            let doc = doc.as_deref().map(|d| format!(": {}", d.replace('\n', " "))).unwrap_or_default();
            writeln!(out, "- `{word}`{doc}")?;
        }
    }
    writeln!(out, "\n| | |\n|---|---|")?;
    writeln!(out, "| value | {} |", key.expected())?;
    let default = match &key.default_words {
        Some(words) => words.clone(),
        None if key.default.is_null() => "the node's value".into(),
        None => format!("`{}`", quoted(&key.default)),
    };
    writeln!(out, "| default | {default} |")?;
    if let Some(flag) = &key.flag {
        let value = if key.kind == Kind::Switch { String::new() } else { format!(" {}", key.value_name) };
        writeln!(out, "| flag | `--{flag}{}` |", value.replace('|', "\\|"))?;
    }
    if !key.variables.is_empty() {
        let names: Vec<String> = key.variables.iter().map(|v| format!("`{v}`")).collect();
        writeln!(out, "| variable | {} |", names.join(", else "))?;
    }
    writeln!(out, "| another value takes effect | {} |", key.reload.name())
}

/// The whole file as YAML, with its defaults.
fn example() -> String {
    let mut out = String::new();
    let mut open: Vec<String> = Vec::new();
    for key in keys().iter() {
        let Some((last, section)) = key.path.split_last() else { continue };
        for (depth, part) in section.iter().enumerate() {
            if open.get(depth) != Some(part) {
                open.truncate(depth);
                let name = if part == "*" { "digits" } else { part };
                // Writing to a string does not fail.
                let _ = writeln!(out, "{}{name}:", "  ".repeat(depth));
                open.push(part.clone());
            }
        }
        open.truncate(section.len());
        let indent = "  ".repeat(section.len());
        let short = key.doc.split_once(". ").map_or(key.doc.trim_end_matches('.'), |(first, _)| first);
        let line = match (&key.default, &key.default_words) {
            (Value::Null, Some(words)) => format!("{indent}# {last}:  # {short}; default: {}", words.replace('`', "")),
            (Value::Null, None) => format!("{indent}# {last}:  # {short}; default: the node's value"),
            (value, _) => format!("{indent}{last}: {}  # {short}", quoted(value)),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}
