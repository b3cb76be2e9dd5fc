//! What a caller asks for, as JSON or YAML, read strictly: every member is taken by name, and what
//! nobody took is an error.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::FormatError;
use crate::error::shown;

/// A policy, known values or a parameter that is not what it should be. The place names the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputError(FormatError);

impl InputError {
    pub(crate) fn new(expected: impl Into<String>, found: impl Into<String>) -> InputError {
        InputError(FormatError::new(expected, found))
    }

    pub(crate) fn within(self, segment: impl fmt::Display) -> InputError {
        InputError(self.0.within(segment))
    }

    /// Which member, from the outermost inwards, e.g. `policy/roots/tsa/0`.
    pub fn place(&self) -> &str {
        self.0.place()
    }

    /// What may stand there.
    pub fn expected(&self) -> &str {
        self.0.expected()
    }

    /// What stood there.
    pub fn found(&self) -> &str {
        self.0.found()
    }
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for InputError {}

type Result<T> = std::result::Result<T, InputError>;

/// Deepest nesting that is read; nothing a caller may say comes near it.
const DEPTH_MAX: usize = 32;

/// A JSON value that keeps the digits of its numbers and has no member twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    pub(crate) fn from_json(text: &str) -> Result<Tree> {
        Tree::of_raw(parsed(text)?, DEPTH_MAX)
    }

    fn of_raw(raw: &RawValue, depth_left: usize) -> Result<Tree> {
        let text = raw.get();
        let below = || {
            depth_left.checked_sub(1).ok_or_else(|| InputError::new(format!("a depth of at most {DEPTH_MAX}"), "more"))
        };
        Ok(match text.bytes().next() {
            Some(b'{') => {
                let below = below()?;
                let Entries(entries) = parsed(text)?;
                let read = |(name, raw): (String, &RawValue)| match Tree::of_raw(raw, below) {
                    Ok(tree) => Ok((name, tree)),
                    Err(e) => Err(e.within(plain(&name))),
                };
                unique(entries.into_iter().map(read).collect::<Result<_>>()?)?
            }
            Some(b'[') => {
                let below = below()?;
                let items: Vec<&RawValue> = parsed(text)?;
                let read = |(i, raw)| Tree::of_raw(raw, below).map_err(|e| e.within(i));
                Tree::List(items.into_iter().enumerate().map(read).collect::<Result<_>>()?)
            }
            Some(b'"') => Tree::Text(serde_json::from_str(text).map_err(|e| {
                InputError::new("text without control characters and unpaired surrogates", plain(&e.to_string()))
            })?),
            Some(b't') => Tree::Bool(true),
            Some(b'f') => Tree::Bool(false),
            Some(b'n') => Tree::Null,
            _ => Tree::Number(text.to_owned()),
        })
    }

    /// What this is, for a message.
    pub(crate) fn describe(&self) -> String {
        match self {
            Tree::Null => "null".to_owned(),
            Tree::Bool(b) => format!("{b}"),
            Tree::Number(n) => format!("the number {}", plain(n)),
            Tree::Text(t) => format!("the text {}", shown(t)),
            Tree::List(items) => format!("a list of {}", items.len()),
            Tree::Object(_) => "an object".to_owned(),
        }
    }

    fn refused<T>(&self, expected: impl Into<String>) -> Result<T> {
        Err(InputError::new(expected, self.describe()))
    }

    pub(crate) fn bool(self) -> Result<bool> {
        match self {
            Tree::Bool(b) => Ok(b),
            other => other.refused("true or false"),
        }
    }

    pub(crate) fn text(self) -> Result<String> {
        match self {
            Tree::Text(t) => Ok(t),
            other => other.refused("text"),
        }
    }

    /// An integer, written without fraction or exponent. One beyond 128 bits becomes the nearest.
    pub(crate) fn integer(self) -> Result<i128> {
        let digits = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        match &self {
            Tree::Number(n) => match n.strip_prefix('-') {
                Some(rest) if digits(rest) => Ok(n.parse().unwrap_or(i128::MIN)),
                None if digits(n) => Ok(n.parse().unwrap_or(i128::MAX)),
                _ => self.refused("an integer"),
            },
            other => other.refused("an integer"),
        }
    }

    /// An integer as the format knows them: from 0 to 2^63−1.
    pub(crate) fn uint(self) -> Result<u64> {
        let found = self.describe();
        let n = self.integer().ok().and_then(|n| i64::try_from(n).ok()).and_then(|n| u64::try_from(n).ok());
        n.ok_or_else(|| InputError::new("an integer from 0 to 2^63-1", found))
    }

    pub(crate) fn list<T>(self, mut read: impl FnMut(Tree) -> Result<T>) -> Result<Vec<T>> {
        match self {
            Tree::List(items) => {
                items.into_iter().enumerate().map(|(i, item)| read(item).map_err(|e| e.within(i))).collect()
            }
            other => other.refused("a list"),
        }
    }

    /// `read` takes the members it knows; any other is an error.
    pub(crate) fn object<T>(self, read: impl FnOnce(&mut Members) -> Result<T>) -> Result<T> {
        let mut members = Members { entries: self.entries()?, names: Vec::new() };
        let value = read(&mut members)?;
        match members.entries.first() {
            None => Ok(value),
            Some((name, _)) => {
                Err(InputError::new(format!("one of {}", members.names.join(", ")), "a member that is unknown")
                    .within(plain(name)))
            }
        }
    }

    /// Members of an object whose names are the caller's.
    pub(crate) fn entries(self) -> Result<Vec<(String, Tree)>> {
        match self {
            Tree::Object(entries) => Ok(entries),
            other => other.refused("an object"),
        }
    }

    /// Exactly `N` bytes in hex of either case.
    pub(crate) fn hex<const N: usize>(self) -> Result<[u8; N]> {
        let refused = |found| InputError::new(format!("{N} bytes in hex"), found);
        let text = self.text()?;
        unhex(&text).and_then(|b| b.try_into().ok()).ok_or_else(|| refused(shown(&text)))
    }

    /// Bytes in standard, padded base64.
    pub(crate) fn base64(self) -> Result<Vec<u8>> {
        let text = self.text()?;
        STANDARD.decode(&text).map_err(|_| InputError::new("standard, padded base64", shown(&text)))
    }

    /// One of a few names.
    pub(crate) fn name<T: Copy>(self, choices: &[T], name: impl Fn(T) -> &'static str) -> Result<T> {
        let names = || choices.iter().map(|c| name(*c)).collect::<Vec<_>>().join(", ");
        let text = match self {
            Tree::Text(text) => text,
            other => return other.refused(format!("one of {}", names())),
        };
        let found = choices.iter().copied().find(|c| name(*c) == text);
        found.ok_or_else(|| InputError::new(format!("one of {}", names()), shown(&text)))
    }

    /// The same value for `serde_json`.
    pub(crate) fn into_value(self) -> Result<serde_json::Value> {
        use serde_json::Value;
        Ok(match self {
            Tree::Null => Value::Null,
            Tree::Bool(b) => Value::Bool(b),
            Tree::Number(n) => Value::Number(
                serde_json::from_str(&n).map_err(|_| InputError::new("a number within a 64-bit float", plain(&n)))?,
            ),
            Tree::Text(t) => Value::String(t),
            Tree::List(items) => Value::Array(items.into_iter().map(Tree::into_value).collect::<Result<_>>()?),
            Tree::Object(entries) => {
                let convert = |(name, tree): (String, Tree)| Ok((name, tree.into_value()?));
                Value::Object(entries.into_iter().map(convert).collect::<Result<_>>()?)
            }
        })
    }
}

/// The members of one object, of which each is taken once.
pub(crate) struct Members {
    entries: Vec<(String, Tree)>,
    names: Vec<&'static str>,
}

impl Members {
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Tree) -> Result<T>,
    ) -> Result<Option<T>> {
        self.names.push(name);
        let Some(at) = self.entries.iter().position(|(n, _)| n == name) else { return Ok(None) };
        let (_, tree) = self.entries.swap_remove(at);
        read(tree).map(Some).map_err(|e| e.within(name))
    }

    pub(crate) fn required<T>(&mut self, name: &'static str, read: impl FnOnce(Tree) -> Result<T>) -> Result<T> {
        self.optional(name, read)?.ok_or_else(|| missing(name))
    }
}

/// The error for a member that must be there.
pub(crate) fn missing(name: &str) -> InputError {
    InputError::new("the member", "none").within(name)
}

/// Bytes of an even number of hex digits of either case.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    base16ct::mixed::decode_vec(text).ok()
}

/// Untrusted text for a place: escaped, cut, without quotes.
fn plain(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| InputError::new("JSON", plain(&e.to_string())))
}

fn unique(entries: Vec<(String, Tree)>) -> Result<Tree> {
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
        None => Ok(Tree::Object(entries)),
        Some((name, _)) => Err(InputError::new("each member once", "it twice").within(plain(name))),
    }
}

/// An object's members as they stand, in their order.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        d.deserialize_map(Collect)
    }
}

/// For other formats than JSON, whose readers hand over numbers instead of digits.
impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value as JSON has them")
    }

    fn visit_unit<E>(self) -> std::result::Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Tree, D::Error> {
        Tree::deserialize(d)
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Tree, E> {
        Ok(Tree::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Tree, E> {
        Ok(Tree::Number(v.to_string()))
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Tree, E> {
        Ok(Tree::Number(v.to_string()))
    }

    fn visit_i128<E>(self, v: i128) -> std::result::Result<Tree, E> {
        Ok(Tree::Number(v.to_string()))
    }

    fn visit_u128<E>(self, v: u128) -> std::result::Result<Tree, E> {
        Ok(Tree::Number(v.to_string()))
    }

    fn visit_f64<E>(self, v: f64) -> std::result::Result<Tree, E> {
        Ok(Tree::Number(format!("{v:?}")))
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Tree, E> {
        Ok(Tree::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> std::result::Result<Tree, E> {
        Ok(Tree::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry::<String, Tree>()? {
            entries.push(entry);
        }
        unique(entries).map_err(serde::de::Error::custom)
    }
}
