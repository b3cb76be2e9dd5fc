//! The list of all keys, read from the schema of the types.

use std::{fmt, sync::LazyLock};

use grey_core::nearest;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::NodeConfig;

/// How the variables' names begin.
pub const VARIABLE_PREFIX: &str = "GREY_";
/// Stands for a model's name in the path of a key.
pub(super) const ANY_MODEL: &str = "*";
/// How the names of what only Grey reads in the schema begin.
pub(super) const OWN_PREFIX: &str = "x-grey-";

/// What a value looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Whole {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// Any text, a path among them.
    Text,
    /// One of these words, each with what it means, if that needs saying.
    Choice(Vec<(String, Option<String>)>),
    /// A list of texts.
    List,
    /// Something else, which the key's `expected` tells.
    Other,
}

/// When another value takes effect on a running node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// At once.
    Now,
    /// For each model when it is loaded the next time.
    Load,
    /// When the node is started again.
    Restart,
}

impl Reload {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Reload::Now => "at once",
            Reload::Load => "at a model's next load",
            Reload::Restart => "after a restart",
        }
    }
}

/// One key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its path in the file; a `*` stands for a model's name.
    pub path: Vec<String>,
    /// What it does: Markdown, its first sentence stands by itself.
    pub doc: String,
    /// What its values look like.
    pub kind: Kind,
    /// The value without configuration; null if the node finds one.
    pub default: Value,
    /// What the node finds then, in words.
    pub default_words: Option<String>,
    /// When another value takes effect.
    pub reload: Reload,
    /// The flag without its dashes; none for settings of single models.
    pub flag: Option<String>,
    /// What stands for the value in the help of the flag.
    pub value_name: String,
    /// Variables that set it, the first one wins; none for settings of single models.
    pub variables: Vec<String>,
    /// Another word that counts as one of a choice.
    pub also: Option<String>,
    expected: Option<String>,
}

impl Key {
    /// The path with dots.
    pub fn name(&self) -> String {
        self.path.join(".")
    }

    /// What its values are, in words.
    pub fn expected(&self) -> String {
        if let Some(words) = &self.expected {
            return words.clone();
        }
        match &self.kind {
            Kind::Switch => "true or false".into(),
            Kind::Whole { min, max: u64::MAX } => format!("a whole number, at least {min}"),
            Kind::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Text | Kind::Other => "a text".into(),
            Kind::Choice(words) => {
                let words: Vec<&str> = words.iter().map(|(w, _)| w.as_str()).collect();
                words.join(" or ")
            }
            Kind::List => "a list of texts".into(),
        }
    }

    /// What a variable's or a flag's text means, before it is checked.
    pub(super) fn value_of_text(&self, text: &str) -> Value {
        match self.kind {
            Kind::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Value::Bool(true),
                "false" | "0" | "no" | "off" => Value::Bool(false),
                _ => Value::String(text.to_owned()),
            },
            Kind::Whole { .. } => text.trim().parse::<u64>().map_or_else(|_| text.into(), Value::from),
            Kind::List => text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(Value::from).collect(),
            Kind::Choice(_) => text.to_ascii_lowercase().into(),
            Kind::Text | Kind::Other => text.into(),
        }
    }
}

/// All keys, in order of their paths: first those of the node, then section by section.
#[derive(Debug)]
pub struct Keys(Vec<Key>);

/// What a path leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    Key(&'a Key),
    Section,
    Nothing,
}

/// All keys.
pub fn keys() -> &'static Keys {
    static KEYS: LazyLock<Keys> = LazyLock::new(Keys::of_the_types);
    &KEYS
}

impl Keys {
    fn of_the_types() -> Keys {
        let schema = raw_schema();
        let mut all = Vec::new();
        let defaults = serde_json::to_value(NodeConfig::default()).unwrap_or_default();
        collect(&schema, &defaults, &mut Vec::new(), &mut all);
        all.sort_by_key(|k| (k.path.len() > 1, k.path.first().is_some_and(|p| p == "models"), k.path.clone()));
        Keys(all)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The key that is set by this flag.
    pub fn of_flag(&self, flag: &str) -> Option<&Key> {
        self.iter().find(|k| k.flag.as_deref() == Some(flag))
    }

    /// The key with this name, its model's name in its place.
    pub fn find<S: AsRef<str>>(&self, path: &[S]) -> Option<&Key> {
        self.iter().find(|k| k.path.len() == path.len() && begins(&k.path, path))
    }

    pub(super) fn place<S: AsRef<str>>(&self, path: &[S]) -> Place<'_> {
        match self.iter().find(|k| begins(&k.path, path)) {
            Some(k) if k.path.len() == path.len() => Place::Key(k),
            Some(_) => Place::Section,
            None => Place::Nothing,
        }
    }

    /// Whether names at this path are the user's own.
    pub(super) fn is_named_by_user<S: AsRef<str>>(&self, section: &[S]) -> bool {
        self.iter().any(|k| begins(&k.path, section) && k.path.get(section.len()).is_some_and(|p| p == ANY_MODEL))
    }

    /// The keys and sections of a section.
    pub(super) fn children<S: AsRef<str>>(&self, section: &[S]) -> Vec<&str> {
        let under = self.iter().filter(|k| begins(&k.path, section));
        let mut names: Vec<&str> = under.filter_map(|k| k.path.get(section.len())).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// What an unknown `name` in `section` was meant to be: a key with nearly this name there, or one with
    /// this very name elsewhere.
    pub(super) fn meant<S: AsRef<str>>(&self, section: &[S], name: &str) -> Option<String> {
        let section: Vec<&str> = section.iter().map(AsRef::as_ref).collect();
        let with_path = |n: &str| section.iter().copied().chain([n]).collect::<Vec<_>>().join(".");
        let near = || Some(with_path(nearest(name, self.children(&section))?));
        let elsewhere = || {
            let same = |k: &&Key| k.path.last().is_some_and(|l| l == name);
            // Within a model's settings first; single models last, since which one is not known.
            let rest = || self.iter().filter(same).find(|k| !k.path.iter().any(|p| p == ANY_MODEL));
            let inside = || self.iter().filter(same).find(|k| section.len() > 1 && begins(&k.path, &section));
            inside().or_else(rest).or_else(|| self.iter().find(same)).map(|k| {
                let part = |(i, p): (usize, &String)| match section.get(i) {
                    Some(model) if p == ANY_MODEL => (*model).to_owned(),
                    _ if p == ANY_MODEL => "MODEL".to_owned(),
                    _ => p.clone(),
                };
                k.path.iter().enumerate().map(part).collect::<Vec<_>>().join(".")
            })
        };
        elsewhere().or_else(near)
    }
}

/// Whether `pattern` leads through `path`.
fn begins<S: AsRef<str>>(pattern: &[String], path: &[S]) -> bool {
    pattern.len() >= path.len() && pattern.iter().zip(path).all(|(p, name)| p == ANY_MODEL || p == name.as_ref())
}

/// The schema with what only Grey reads.
pub(super) fn raw_schema() -> Value {
    let settings = SchemaSettings::draft07().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<NodeConfig>().to_value()
}

fn collect(schema: &Value, default: &Value, path: &mut Vec<String>, out: &mut Vec<Key>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, sub) in properties.into_iter().flatten() {
        path.push(name.clone());
        let default = default.get(name).cloned().unwrap_or_default();
        if sub.get("properties").is_some() {
            collect(sub, &default, path, out);
        } else if let Some(entry) = sub.get("additionalProperties").filter(|e| e.is_object()) {
            path.push(ANY_MODEL.to_owned());
            collect(entry, &Value::Null, path, out);
            path.pop();
        } else {
            out.push(key(sub, default, path));
        }
        path.pop();
    }
}

fn key(schema: &Value, default: Value, path: &[String]) -> Key {
    let own = |name: &str| Some(schema.get(format!("{OWN_PREFIX}{name}"))?.as_str()?.to_owned());
    let for_models = path.iter().any(|p| p == ANY_MODEL);
    let kind = kind(schema);
    let last = path.last().map_or("", String::as_str);
    let value_name = match &kind {
        _ if own("value").is_some() => own("value").unwrap_or_default(),
        Kind::Switch => "BOOL".into(),
        Kind::Whole { .. } if last.contains("_bytes") => "BYTES".into(),
        Kind::Whole { .. } if last.ends_with("_ms") => "MS".into(),
        Kind::Whole { .. } if last.ends_with("_seconds") => "SECONDS".into(),
        Kind::Whole { .. } => "N".into(),
        Kind::Choice(_) => last.to_ascii_uppercase(),
        Kind::Text | Kind::List | Kind::Other => "TEXT".into(),
    };
    let scheme = || format!("{VARIABLE_PREFIX}{}", path.join("_").to_ascii_uppercase());
    Key {
        doc: schema.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " "),
        default,
        // What a model's batching lacks is the node's, whatever that is.
        default_words: own("default").filter(|_| !(for_models && path.iter().any(|p| p == "batching"))),
        reload: match own("reload").as_deref() {
            Some("now") => Reload::Now,
            Some("load") => Reload::Load,
            _ => Reload::Restart,
        },
        flag: (!for_models).then(|| own("flag").unwrap_or_else(|| path.join("-").replace('_', "-"))),
        variables: if for_models { Vec::new() } else { [scheme()].into_iter().chain(own("variable")).collect() },
        also: own("also"),
        expected: own("expected"),
        path: path.to_vec(),
        kind,
        value_name,
    }
}

fn kind(schema: &Value) -> Kind {
    let Some(s) = schema.as_object() else { return Kind::Other };
    // An optional value: the other half is null.
    if let Some(some) = alternatives(s, "anyOf").filter(|a| a.len() == 1) {
        return some.first().map_or(Kind::Other, |s| kind(s));
    }
    if let Some(words) = alternatives(s, "oneOf") {
        let word = |s: &&Value| {
            let text = |key: &str| Some(s.get(key)?.as_str()?.to_owned());
            Some((text("const")?, text("description")))
        };
        return words.iter().map(word).collect::<Option<Vec<_>>>().map_or(Kind::Other, Kind::Choice);
    }
    if let Some(words) = s.get("enum").and_then(Value::as_array) {
        return Kind::Choice(words.iter().filter_map(|w| Some((w.as_str()?.to_owned(), None))).collect());
    }
    let is = |name: &str| match s.get("type") {
        Some(Value::String(t)) => t == name,
        Some(Value::Array(any)) => any.iter().any(|t| t == name),
        _ => false,
    };
    let number = |key: &str| s.get(key).and_then(Value::as_u64);
    match () {
        () if is("boolean") => Kind::Switch,
        () if is("integer") => {
            Kind::Whole { min: number("minimum").unwrap_or(0), max: number("maximum").unwrap_or(u64::MAX) }
        }
        () if is("string") => Kind::Text,
        () if is("array") => Kind::List,
        () => Kind::Other,
    }
}

/// The alternatives of a schema but null.
fn alternatives<'a>(schema: &'a Map<String, Value>, word: &str) -> Option<Vec<&'a Value>> {
    let all = schema.get(word)?.as_array()?;
    Some(all.iter().filter(|s| s.get("type").is_none_or(|t| t != "null")).collect())
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_is_told_of_and_can_be_set() {
        let mut names = BTreeSet::new();
        for key in keys().iter() {
            assert!(key.doc.ends_with('.') && key.doc.len() > 10, "{key}: {}", key.doc);
            assert!(key.kind != Kind::Other || key.expected.is_some(), "{key} is of no kind");
            assert!(!key.default.is_null() || key.default_words.is_some() || key.path.len() > 2, "{key}: its default");
            let of_a_model = key.path[0] == "models";
            assert_eq!(key.flag.is_none(), of_a_model, "{key}");
            assert_eq!(key.variables.is_empty(), of_a_model, "{key}");
            for name in key.variables.iter().chain(&key.flag) {
                assert!(names.insert(name.clone()), "{name} stands for two keys");
            }
        }
        let of = |path: &[&str]| keys().find(path).unwrap();
        let body = of(&["limits", "body_bytes_max"]);
        assert_eq!(body.variables, ["GREY_LIMITS_BODY_BYTES_MAX"]);
        assert_eq!((body.flag.as_deref(), body.value_name.as_str()), (Some("limits-body-bytes-max"), "BYTES"));
        assert_eq!(of(&["engines", "onnxruntime", "library"]).flag.as_deref(), Some("onnxruntime-lib"));
        assert_eq!(of(&["log"]).variables, ["GREY_LOG", "RUST_LOG"]);
        assert_eq!(of(&["http"]).reload, Reload::Restart);
        assert_eq!(of(&["models", "digits", "threads"]).reload, Reload::Load);
        assert_eq!(of(&["models", "digits", "batching", "hold"]).expected(), "none or fill");
        assert_eq!(of(&["drain_seconds"]).expected(), "a whole number from 0 to 86400");
        assert_eq!(of(&["batching", "max_batch_size"]).default, 32);
    }

    #[test]
    fn what_was_meant() {
        for (section, name, meant) in [
            (&[][..], "limitz", Some("limits")),
            (&[], "max_batch_size", Some("batching.max_batch_size")),
            (&[], "body_bytes_max", Some("limits.body_bytes_max")),
            (&["limits"], "body_byte_max", Some("limits.body_bytes_max")),
            (&["models", "digits"], "thread", Some("models.digits.threads")),
            (&["models", "digits"], "max_batch_size", Some("models.digits.batching.max_batch_size")),
            (&[], "threads", Some("models.MODEL.threads")),
            (&[], "nothing_like_it", None),
        ] {
            assert_eq!(keys().meant(section, name).as_deref(), meant, "{section:?} {name}");
        }
    }
}
