//! File, variables and flags put together: flags over variables over file over defaults, each value checked
//! where it came from.

use std::collections::BTreeMap;

use grey_core::nearest;
use serde_json::{Map, Value};

use super::{
    NodeConfig,
    file::read,
    keys::{Key, Keys, Reload, VARIABLE_PREFIX, keys},
    problems::{Problem, Problems, Source},
};

/// Longest value that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// The text of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Its name, for messages.
    pub name: String,
    /// Its text: YAML.
    pub text: String,
}

/// Everything that configures a node.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file.
    pub file: Option<File>,
    /// Environment variables; others than the keys' do not matter.
    pub variables: Vec<(String, String)>,
    /// Flags without their dashes, with their values.
    pub flags: Vec<(String, String)>,
}

/// A value that somebody gave for a key.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    pub(super) source: Source,
}

/// A configuration, and where it came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The configuration.
    pub config: NodeConfig,
    sources: BTreeMap<Vec<String>, Source>,
}

/// A value in use.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// Its key.
    pub key: &'static Key,
    /// The path, with the name of its model.
    pub path: Vec<String>,
    /// The value; null if the node finds one.
    pub value: Value,
    /// Where it came from.
    pub source: &'a Source,
}

impl Setting<'_> {
    /// The path with dots.
    pub fn name(&self) -> String {
        self.path.join(".")
    }
}

/// A value that is another one than before.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The path, with the name of its model.
    pub path: Vec<String>,
    /// When it takes effect.
    pub reload: Reload,
    /// Before; null if the node found one.
    pub before: Value,
    /// From now on; null if the node finds one.
    pub after: Value,
}

impl Change {
    /// The path with dots.
    pub fn name(&self) -> String {
        self.path.join(".")
    }
}

/// Puts everything together.
///
/// # Errors
/// All that is wrong, each with its place: unknown keys of the file, values that are not of their key's
/// type or range.
pub fn resolve(layers: &Layers) -> Result<Resolved, Problems> {
    let (keys, mut problems) = (keys(), Vec::new());
    let mut given = match &layers.file {
        Some(file) => read(file, keys, &mut problems),
        None => Vec::new(),
    };
    given.extend(of_variables(keys, &layers.variables));
    given.extend(of_flags(keys, &layers.flags));

    let mut whole = serde_json::to_value(NodeConfig::default()).unwrap_or_default();
    let mut sources = BTreeMap::new();
    for Given { path, value, source } in given {
        match checked(keys, &path, &value) {
            Ok(()) => {
                put(&mut whole, &path, value);
                sources.insert(path, source);
            }
            Err(message) => {
                let key = Some(path.join("."));
                problems.push(Problem { source, key, message, hint: None });
            }
        }
    }
    // In the file's order, whatever was found when.
    problems.sort_by_key(|p| match p.source {
        Source::File { line, column, .. } => (0, line, column),
        Source::Default | Source::Variable { .. } | Source::Flag { .. } => (1, 0, 0),
    });
    if let Some(problems) = Problems::of(problems) {
        return Err(problems);
    }
    match serde_json::from_value(whole) {
        Ok(config) => Ok(Resolved { config, sources }),
        // Each value was taken by itself, so together they are, too; said all the same.
        Err(e) => {
            let problem = Problem { source: Source::Default, key: None, message: e.to_string(), hint: None };
            Err(Problems::one(problem))
        }
    }
}

/// Variables that look like a setting and are none, each with the one that it is nearest to. Other programs'
/// variables may begin so, too (a cluster makes some of the name of a service), and are nobody's mistake.
pub fn stray_variables(variables: &[(String, String)]) -> Vec<(String, String)> {
    let rest = |name: &'static str| name.strip_prefix(VARIABLE_PREFIX);
    let known: Vec<&str> = keys().iter().flat_map(|k| &k.variables).filter_map(|v| rest(v)).collect();
    let near = |(name, _): &(String, String)| {
        let asked = name.strip_prefix(VARIABLE_PREFIX).filter(|n| !known.contains(n))?;
        Some((name.clone(), format!("{VARIABLE_PREFIX}{}", nearest(asked, known.iter().copied())?)))
    };
    variables.iter().filter_map(near).collect()
}

fn of_variables(keys: &Keys, variables: &[(String, String)]) -> Vec<Given> {
    let value_of = |name: &String| {
        let (name, text) = variables.iter().find(|(n, _)| n == name)?;
        // An empty variable is what a script has that was given none.
        (!text.is_empty()).then_some((name, text))
    };
    let one = |key: &Key| {
        let (name, text) = key.variables.iter().find_map(value_of)?;
        let source = Source::Variable { variable: name.clone() };
        Some(Given { path: key.path.clone(), value: key.value_of_text(text), source })
    };
    keys.iter().filter_map(one).collect()
}

fn of_flags(keys: &Keys, flags: &[(String, String)]) -> Vec<Given> {
    let one = |(flag, text): &(String, String)| {
        let key = keys.of_flag(flag)?;
        let source = Source::Flag { flag: format!("--{flag}") };
        Some(Given { path: key.path.clone(), value: key.value_of_text(text), source })
    };
    flags.iter().filter_map(one).collect()
}

/// Whether a value is one of its key's: what the types say of a configuration with this value alone.
fn checked(keys: &Keys, path: &[String], value: &Value) -> Result<(), String> {
    let mut alone = Value::Object(Map::new());
    put(&mut alone, path, value.clone());
    match serde_json::from_value::<NodeConfig>(alone) {
        Ok(_) => Ok(()),
        Err(e) => {
            let expected = keys.find(path).map_or_else(|| e.to_string(), Key::expected);
            Err(format!("{} is {}, expected {expected}", path.join("."), in_words(value)))
        }
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", shown(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a section".into(),
        other => other.to_string(),
    }
}

/// A value as one would write it into the file.
pub fn quoted(value: &Value) -> String {
    match value {
        Value::Null => "~".into(),
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text needs no quotes in YAML.
fn is_plain(text: &str) -> bool {
    let of_words = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '=' | ',');
    let word = text.chars().all(of_words) && text.starts_with(|c: char| c.is_alphanumeric() || c == '/');
    // What YAML takes for a number or a word of its own.
    word && !text.ends_with(':')
        && text.parse::<f64>().is_err()
        && !matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no")
}

/// A text as messages repeat it: printable and not longer than a line.
pub(super) fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn put(whole: &mut Value, path: &[String], value: Value) {
    let mut at = whole;
    for part in path {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        // An object since the line before.
        let Some(object) = at.as_object_mut() else { return };
        at = object.entry(part.clone()).or_insert(Value::Null);
    }
    *at = value;
}

fn get(whole: &Value, path: &[String]) -> Value {
    path.iter().try_fold(whole, |at, part| at.get(part)).cloned().unwrap_or_default()
}

impl Resolved {
    /// Every value in use, by its key; of models those that they have of their own.
    pub fn settings(&self) -> Vec<Setting<'_>> {
        let whole = serde_json::to_value(&self.config).unwrap_or_default();
        let setting = |path: Vec<String>| {
            let source = self.sources.get(&path).unwrap_or(&Source::Default);
            let inherited = path.first().is_some_and(|p| p == "models") && *source == Source::Default;
            let key = keys().find(&path).filter(|_| !inherited)?;
            Some(Setting { key, value: get(&whole, &path), source, path })
        };
        paths(&self.config).into_iter().filter_map(setting).collect()
    }

    /// Where the value at `path` came from.
    pub fn source(&self, path: &[&str]) -> &Source {
        let path: Vec<String> = path.iter().map(|p| (*p).to_owned()).collect();
        self.sources.get(&path).unwrap_or(&Source::Default)
    }

    /// Becomes `new` in everything that a running node can take, and returns all that is another value there.
    /// What needs a restart stays as it is, so that it is told again until there is one.
    pub fn take_over(&mut self, new: Resolved) -> Vec<Change> {
        let changes = changes(&self.config, &new.config);
        let mut whole = serde_json::to_value(&new.config).unwrap_or_default();
        let mut sources = new.sources;
        for Change { path, before, .. } in changes.iter().filter(|c| c.reload == Reload::Restart) {
            put(&mut whole, path, before.clone());
            match self.sources.remove(path) {
                Some(source) => sources.insert(path.clone(), source),
                None => sources.remove(path),
            };
        }
        // Each value is one of two configurations that were taken.
        if let Ok(config) = serde_json::from_value(whole) {
            *self = Resolved { config, sources };
        }
        changes
    }
}

fn paths(config: &NodeConfig) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for key in keys().iter() {
        match key.path.split_first() {
            Some((models, [_, rest @ ..])) if models == "models" => {
                let of = |id: &grey_core::ModelId| {
                    [models.clone(), id.to_string()].into_iter().chain(rest.iter().cloned()).collect()
                };
                all.extend(config.models.keys().map(of));
            }
            _ => all.push(key.path.clone()),
        }
    }
    all
}

/// What is another value in `after` than in `before`.
fn changes(before: &NodeConfig, after: &NodeConfig) -> Vec<Change> {
    let (old, new) =
        (serde_json::to_value(before).unwrap_or_default(), serde_json::to_value(after).unwrap_or_default());
    let mut all = paths(before);
    let others: Vec<_> = paths(after).into_iter().filter(|p| !all.contains(p)).collect();
    all.extend(others);
    let change = |path: Vec<String>| {
        let (before, after) = (get(&old, &path), get(&new, &path));
        let reload = keys().find(&path)?.reload;
        (before != after).then_some(Change { path, reload, before, after })
    };
    all.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Layers {
        Layers { file: Some(File { name: "grey.yaml".into(), text: text.into() }), ..Layers::default() }
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    fn wrong(layers: &Layers) -> String {
        resolve(layers).unwrap_err().to_string()
    }

    #[test]
    fn flags_win_over_variables_over_the_file_over_defaults() {
        let mut layers = file("http: 127.0.0.1:1\nname: from-file\ndrain_seconds: 1\n");
        layers.variables = pairs(&[
            ("GREY_HTTP", "127.0.0.1:2"),
            ("GREY_NAME", "from-variable"),
            ("GREY_URL", "http://else"),
            ("GREY_DATA", ""),
            ("RUST_LOG", "warn"),
            ("GREY_HTTP_NAMES", "a.example, b.example"),
        ]);
        layers.flags = pairs(&[("http", "127.0.0.1:3"), ("insecure", "true")]);
        let r = resolve(&layers).unwrap();
        let c = &r.config;
        assert_eq!((c.http.as_str(), c.name.as_str(), c.drain_seconds.get()), ("127.0.0.1:3", "from-variable", 1));
        assert!(c.insecure && c.data.is_none() && c.log.as_str() == "warn");
        assert_eq!(c.http_names, ["a.example", "b.example"]);
        let from = |path: &[&str]| r.source(path).to_string();
        assert_eq!(from(&["http"]), "--http");
        assert_eq!(from(&["name"]), "GREY_NAME");
        assert_eq!(from(&["drain_seconds"]), "grey.yaml:3:16");
        assert_eq!(from(&["data"]), "default");
        layers.variables.extend(pairs(&[("GREY_LOG", "debug")]));
        assert_eq!(resolve(&layers).unwrap().config.log.as_str(), "debug", "Grey's own variable wins over RUST_LOG");
    }

    #[test]
    fn every_mistake_is_told_with_its_place_and_what_was_meant() {
        let mut layers = file(
            "http: localhost\nlimitz:\n  a: 1\nlimits:\n  connections_max: many\n  queue_rows: 5\nbatching: 7\n\
             models:\n  ../x: {}\n  digits:\n    threads: some\n    thread: 2\n    instances: 0\n",
        );
        layers.variables = pairs(&[("GREY_LIMITS_BODY_BYTES_MAX", "0"), ("GREY_INSECURE", "perhaps")]);
        layers.flags = pairs(&[("batching-hold", "sometimes"), ("drain-seconds", "86401")]);
        assert_eq!(
            wrong(&layers),
            "grey.yaml:1:7: http is 'localhost', expected HOST:PORT, such as 127.0.0.1:8000\n\
             grey.yaml:2:1: there is no key 'limitz'; did you mean 'limits'?\n\
             grey.yaml:5:20: limits.connections_max is 'many', expected a whole number from 1 to 4294967295\n\
             grey.yaml:6:3: there is no key 'queue_rows' in limits; did you mean 'limits.queue_rows_max'?\n\
             grey.yaml:7:11: batching is a single value, expected keys with values: hold, max_batch_size, \
             max_wait_ms, pad_to_multiple\n\
             grey.yaml:9:3: invalid model name '../x': expected 1 to 128 of the characters A-Z a-z 0-9 . _ - that start \
             with a letter, a digit or _\n\
             grey.yaml:11:14: models.digits.threads is 'some', expected a whole number from 1 to 4096, or auto\n\
             grey.yaml:12:5: there is no key 'thread' in models.digits; did you mean 'models.digits.threads'?\n\
             grey.yaml:13:16: models.digits.instances is 0, expected a whole number from 1 to 4096\n\
             GREY_INSECURE: insecure is 'perhaps', expected true or false\n\
             GREY_LIMITS_BODY_BYTES_MAX: limits.body_bytes_max is '0', expected a whole number, at least 1\n\
             --batching-hold: batching.hold is 'sometimes', expected none or fill\n\
             --drain-seconds: drain_seconds is 86401, expected a whole number from 0 to 86400"
                .replace("is '0',", "is 0,")
        );
    }

    #[test]
    fn what_is_no_yaml_has_a_place_too() {
        for (text, place, says) in [
            ("http: [\n", "grey.yaml:1:7: ", "not readable as YAML: unclosed bracket"),
            ("http: a:1\nhttp: b:2\n", "grey.yaml:2:1: ", "duplicate"),
            ("- http\n", "grey.yaml:1:1: ", "the file is a list, expected keys with values: allow_replay"),
            ("just words\n", "grey.yaml:1:1: ", "the file is a single value"),
            ("a: 1\n---\nb: 2\n", "grey.yaml:", "YAML"),
            ("http: *nothing\n", "grey.yaml:1:7: ", "YAML"),
            ("drain_seconds: -1\n", "grey.yaml:1:16: ", "drain_seconds is -1, expected"),
            ("drain_seconds: 1.5\n", "grey.yaml:1:16: ", "drain_seconds is 1.5, expected"),
            ("drain_seconds: '5'\n", "grey.yaml:1:16: ", "drain_seconds is '5', expected a whole number"),
            ("drain_seconds: [5]\n", "grey.yaml:1:16: ", "drain_seconds is a list, expected"),
            ("insecure: {a: b}\n", "grey.yaml:1:11: ", "insecure is a section, expected true or false"),
            ("limits: {inflight_bytes_max: 99999999999999999999999}\n", "grey.yaml:1:30: ", "expected a whole number"),
            ("http_names: [a, [b]]\n", "grey.yaml:1:13: ", "http_names is a list, expected a list of texts"),
        ] {
            let e = wrong(&file(text));
            assert!(e.starts_with(place) && e.contains(says), "{text}: {e}");
            assert!(!e.contains('\n'), "{text}: {e}");
        }
    }

    #[test]
    fn empty_keys_and_files_are_the_default() {
        for text in ["", "# nothing\n\n", "limits:\n  # body_bytes_max: 1\nhttp:\nmodels: ~\n", "---\n", "{}\n"] {
            assert_eq!(resolve(&file(text)).unwrap().config, NodeConfig::default(), "{text}");
        }
        // Texts that YAML would take for something else.
        let c = resolve(&file("name: 123\ndata: 2024-01-01\nhttp_names: [1, true]\n")).unwrap().config;
        assert_eq!((c.name.as_str(), c.data.unwrap().to_str()), ("123", Some("2024-01-01")));
        assert_eq!(c.http_names, ["1", "true"]);
    }

    #[test]
    fn settings_are_what_a_node_runs_with() {
        let r = resolve(&file("batching: {hold: fill}\nmodels:\n  a.b:\n    batching: {max_batch_size: 4}\n")).unwrap();
        let all = r.settings();
        let told = |name: &str| {
            let s = all.iter().find(|s| s.name() == name).unwrap();
            (s.value.clone(), s.source.to_string())
        };
        assert_eq!(told("batching.hold"), ("fill".into(), "grey.yaml:1:18".into()));
        assert_eq!(told("batching.max_batch_size"), (32.into(), "default".into()));
        assert_eq!(told("data"), (Value::Null, "default".into()));
        assert_eq!(told("models.a.b.batching.max_batch_size"), (4.into(), "grey.yaml:4:32".into()));
        assert_eq!(all.iter().filter(|s| s.path[0] == "models").count(), 1, "what it inherits is told once");
    }

    #[test]
    fn variables_that_are_nearly_settings() {
        let near = |names: &[&str]| {
            let given: Vec<_> = names.iter().map(|n| ((*n).to_owned(), "1".to_owned())).collect();
            stray_variables(&given).into_iter().map(|(_, near)| near).collect::<Vec<_>>()
        };
        let wrong = ["GREY_LIMITS_BODY_BYTE_MAX", "GREY_DATTA", "GREY_BATCHING_MAX_BATCHSIZE"];
        assert_eq!(near(&wrong), ["GREY_LIMITS_BODY_BYTES_MAX", "GREY_DATA", "GREY_BATCHING_MAX_BATCH_SIZE"]);
        let others = [
            "GREY_HTTP",
            "GREY_URL",
            "GREY_CONFIG",
            "GREY_PORT",
            "GREY_PORT_8000_TCP",
            "GREY_PORT_8000_TCP_ADDR",
            "GREY_PORT_8000_TCP_PORT",
            "GREY_PORT_8000_TCP_PROTO",
            "GREY_SERVICE_HOST",
            "GREY_SERVICE_PORT",
            "GREY_SERVICE_PORT_HTTP",
            "HOME",
        ];
        assert_eq!(near(&others), [""; 0]);
    }

    #[test]
    fn a_running_node_takes_what_it_can() {
        let mut running = resolve(&file("http: a:1\nlog: info\nmodels: {a: {threads: 2}}\n")).unwrap();
        let new = "http: b:2\nlog: debug\nmodels: {b: {batching: {hold: fill}}}\n";
        let changes = running.take_over(resolve(&file(new)).unwrap());
        let told: Vec<_> = changes.iter().map(|c| (c.name(), c.reload)).collect();
        let want = [
            ("http", Reload::Restart),
            ("log", Reload::Now),
            ("models.a.threads", Reload::Load),
            ("models.b.batching.hold", Reload::Now),
        ];
        assert_eq!(told, want.map(|(n, r)| (n.to_owned(), r)));
        let c = &running.config;
        assert_eq!((c.http.as_str(), c.log.as_str(), c.models.len()), ("a:1", "debug", 1));
        assert_eq!(running.source(&["http"]).to_string(), "grey.yaml:1:7");
        // The same again: only what still waits for a restart.
        let again = running.take_over(resolve(&file(new)).unwrap());
        assert_eq!(again.iter().map(Change::name).collect::<Vec<_>>(), ["http"]);
    }
}
