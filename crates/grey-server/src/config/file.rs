//! The file: its YAML with the place of every value.

use std::fmt;

use grey_core::ModelId;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_saphyr::{Location, Spanned, UserMessageFormatter};

use super::{
    keys::{Keys, Kind, Place},
    layers::{File, Given, shown},
    problems::{Problem, Source},
};

/// Longest message of the YAML reader that is passed on, in characters.
const YAML_MESSAGE_CHARS_MAX: usize = 400;

/// A node of the document.
#[derive(Debug)]
enum Tree {
    Null,
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AnyNode;
        impl<'de> Visitor<'de> for AnyNode {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }

            fn visit_none<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Tree, D::Error> {
                Tree::deserialize(from)
            }

            fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }

            fn visit_u128<E>(self, v: u128) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.to_string().into()))
            }

            fn visit_i128<E>(self, v: i128) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.to_string().into()))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }

            fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(node) = seq.next_element()? {
                    all.push(node);
                }
                Ok(Tree::List(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Tree::Map(all))
            }
        }
        from.deserialize_any(AnyNode)
    }
}

/// Reads the values of a file whose keys exist; all else is a problem.
pub(super) fn read(file: &File, keys: &Keys, problems: &mut Vec<Problem>) -> Vec<Given> {
    let mut reading = Reading { name: &file.name, text: &file.text, keys, given: Vec::new(), problems };
    // A document without a node, such as one of comments alone, has nothing that could be read.
    if file.text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return reading.given;
    }
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_str_with_options::<Spanned<Tree>>(&file.text, options) {
        Ok(root) => reading.section(&mut Vec::new(), &root),
        Err(e) => {
            let source = reading.at(&e.location().unwrap_or(Location::UNKNOWN));
            let message: String =
                e.render_with_formatter(&UserMessageFormatter).chars().take(YAML_MESSAGE_CHARS_MAX).collect();
            reading.problems.push(Problem { source, key: None, message: without_place(&message), hint: None });
        }
    }
    reading.given
}

/// The reader's message without the place, which stands before it.
fn without_place(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let cut = first.rfind(" at line ").or_else(|| first.rfind(" (line "));
    let told = cut.and_then(|at| first.get(..at)).unwrap_or(first);
    let told = told.strip_prefix("error: ").unwrap_or(told);
    format!("not readable as YAML: {told}")
}

struct Reading<'a> {
    name: &'a str,
    text: &'a str,
    keys: &'a Keys,
    given: Vec<Given>,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn at(&self, place: &Location) -> Source {
        // A place that is not known is the beginning.
        Source::File { file: self.name.to_owned(), line: place.line().max(1), column: place.column().max(1) }
    }

    fn problem(&mut self, place: &Location, path: &[String], message: String, hint: Option<String>) {
        let key = (!path.is_empty()).then(|| path.iter().map(|p| shown(p)).collect::<Vec<_>>().join("."));
        self.problems.push(Problem { source: self.at(place), key, message, hint });
    }

    fn section(&mut self, path: &mut Vec<String>, node: &Spanned<Tree>) {
        let entries = match &node.value {
            // All that stood in it is commented out.
            Tree::Null => return,
            Tree::Map(entries) => entries,
            Tree::Scalar(_) | Tree::List(_) => {
                let found = if matches!(node.value, Tree::List(_)) { "a list" } else { "a single value" };
                let what = if path.is_empty() { "the file".to_owned() } else { path.join(".") };
                let expected = if self.keys.is_named_by_user(path) {
                    "names of models, each with its settings".to_owned()
                } else {
                    format!("keys with values: {}", self.keys.children(path).join(", "))
                };
                let message = format!("{what} is {found}, expected {expected}");
                return self.problem(&node.defined, &path.clone(), message, None);
            }
        };
        for (name, value) in entries {
            let section = path.clone();
            path.push(name.value.clone());
            self.entry(&section, path, name, value);
            path.pop();
        }
    }

    fn entry(&mut self, section: &[String], path: &mut Vec<String>, name: &Spanned<String>, value: &Spanned<Tree>) {
        if self.keys.is_named_by_user(section)
            && let Err(e) = ModelId::new(&name.value)
        {
            return self.problem(&name.defined, section, e.message().to_owned(), None);
        }
        match self.keys.place(path) {
            Place::Section => self.section(path, value),
            Place::Nothing => {
                let hint = self.keys.meant(section, &name.value).map(|near| format!("did you mean '{near}'?"));
                let unknown = shown(&name.value);
                let message = match section {
                    [] => format!("there is no key '{unknown}'"),
                    _ => format!("there is no key '{unknown}' in {}", section.join(".")),
                };
                self.problem(&name.defined, path, message, hint);
            }
            Place::Key(key) => {
                // As if it were not there.
                if matches!(value.value, Tree::Null) {
                    return;
                }
                let value_read = match (&value.value, &key.kind) {
                    (Tree::Scalar(v), Kind::Text) => self.raw(value, v),
                    (Tree::Scalar(v), _) => v.clone(),
                    (Tree::List(items), Kind::List) => {
                        let item = |i: &Spanned<Tree>| match &i.value {
                            Tree::Scalar(v) => self.raw(i, v),
                            Tree::Null | Tree::List(_) | Tree::Map(_) => Value::Null,
                        };
                        items.iter().map(item).collect()
                    }
                    (Tree::List(_), _) => Value::Array(Vec::new()),
                    (Tree::Map(_) | Tree::Null, _) => Value::Object(serde_json::Map::new()),
                };
                let source = self.at(&value.defined);
                self.given.push(Given { path: path.clone(), value: value_read, source });
            }
        }
    }

    /// A text as it is written, though YAML would take it for a number or a word of its own.
    fn raw(&self, node: &Spanned<Tree>, value: &Value) -> Value {
        if value.is_string() {
            return value.clone();
        }
        let span = node.defined.span();
        let written = span.byte_offset().zip(span.byte_len()).and_then(|(from, len)| {
            let from = usize::try_from(from).ok()?;
            self.text.get(from..from.checked_add(usize::try_from(len).ok()?)?)
        });
        written.map_or_else(|| value.clone(), Value::from)
    }
}
