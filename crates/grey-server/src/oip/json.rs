//! JSON from outside, read without holding more than was asked for: lists and parameters are
//! bounded while they are parsed, and nothing that a client sends is collected as a tree.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use bytes::Bytes;
use grey_core::{Payload, Result, oip::PARAMETERS_MAX};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::Budget;

/// Deepest nesting of a body: more than a tensor needs that has as many dimensions as are taken.
/// The parser keeps a byte per level, which budgets nowhere.
const DEPTH_MAX: usize = 128;

/// All bytes in one piece. A copy, where one is needed, is asked for.
pub(crate) fn contiguous(data: &Payload, budget: &mut Budget<'_>) -> Result<Bytes> {
    if data.chunks().len() > 1 {
        budget(data.len())?;
    }
    Ok(data.to_contiguous())
}

/// Looks at `text` before it is parsed: refuses what is nested too deep, and returns how many bytes
/// parsing may hold at once for texts with escapes (a copy of each, and the parser's own buffer).
pub(crate) fn survey(text: &str) -> std::result::Result<usize, String> {
    let bytes = text.as_bytes();
    // Too short to be nested deeper and closed again.
    if bytes.len() <= 2 * DEPTH_MAX && !bytes.contains(&b'\\') {
        return Ok(0);
    }
    let (mut at, mut depth, mut escaped_max, mut escaped_all) = (0usize, 0usize, 0usize, 0usize);
    while let Some(b) = bytes.get(at) {
        at += 1;
        match b {
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("it is nested deeper than {DEPTH_MAX} levels at byte {at}"));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                let (start, mut escaped) = (at, false);
                while let Some(b) = bytes.get(at) {
                    at += 1;
                    match b {
                        b'"' => break,
                        b'\\' => (at, escaped) = (at + 1, true),
                        _ => {}
                    }
                }
                if escaped {
                    escaped_max = escaped_max.max(at - start);
                    escaped_all = escaped_all.saturating_add(at - start);
                }
            }
            _ => {}
        }
    }
    Ok(escaped_all.saturating_add(escaped_max))
}

/// What is read from an object alone: serde would also take an array for a struct's fields.
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> std::result::Result<Self::Value, E> {
                Err(text_instead(&self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        d.deserialize_any(Fields(PhantomData))
    }
}

/// Parses an object.
pub(crate) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> std::result::Result<T, String> {
    is_object(text)?;
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// As [`Object`] does, in words that say what there is instead.
pub(crate) fn is_object(text: &str) -> std::result::Result<(), String> {
    match text.trim_start().bytes().next() {
        Some(b'{') => Ok(()),
        Some(b'[') => Err("it is an array, expected an object".into()),
        None => Err("it is empty, expected an object".into()),
        Some(_) => Err("expected an object".into()),
    }
}

/// What a list may hold at most.
pub(crate) trait Limit {
    /// The number.
    const MOST: usize;
    /// The elements' name, in the plural.
    const WHAT: &'static str;
}

/// A list that stops at its limit.
pub(crate) struct List<T, L>(pub Vec<T>, PhantomData<L>);

impl<'de, T: Deserialize<'de>, L: Limit> Deserialize<'de> for List<T, L> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Elements<T, L>(PhantomData<(T, L)>);
        impl<'de, T: Deserialize<'de>, L: Limit> Visitor<'de> for Elements<T, L> {
            type Value = List<T, L>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of {}", L::WHAT)
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> std::result::Result<Self::Value, E> {
                Err(text_instead(&self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
                let mut out = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if out.len() == L::MOST {
                        return Err(A::Error::custom(format_args!("more than {} {}", L::MOST, L::WHAT)));
                    }
                    out.push(element);
                }
                Ok(List(out, PhantomData))
            }
        }
        d.deserialize_any(Elements(PhantomData))
    }
}

/// serde's own error would copy the whole text into the message (and serde_json asks a visitor only if any
/// type will do).
pub(crate) fn text_instead<'de, E: serde::de::Error>(visitor: &impl Visitor<'de>) -> E {
    E::custom(format_args!("text, expected {}", visitor as &dyn serde::de::Expected))
}

/// A whole number.
pub(crate) struct Whole(pub i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer of 64 bits")
            }

            fn visit_i64<E: serde::de::Error>(self, n: i64) -> std::result::Result<Whole, E> {
                Ok(Whole(n))
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> std::result::Result<Whole, E> {
                i64::try_from(n).map(Whole).map_err(|_| E::custom(format_args!("{n}, expected an integer of 64 bits")))
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> std::result::Result<Whole, E> {
                Err(text_instead(&self))
            }
        }
        d.deserialize_any(Number)
    }
}

/// Shares the body's memory, unless it has escapes.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A parameter's value; a text shares the body's memory as [`Text`] does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Above what an `i64` holds.
    Uint(u64),
    Float(f64),
    Text(Cow<'a, str>),
    /// No parameter may be one; its content is not kept.
    Array,
    /// The same.
    Object,
}

impl Scalar<'_> {
    /// The same with its own memory.
    pub fn into_owned(self) -> Scalar<'static> {
        match self {
            Scalar::Text(s) => Scalar::Text(s.into_owned().into()),
            Scalar::Null => Scalar::Null,
            Scalar::Bool(b) => Scalar::Bool(b),
            Scalar::Int(n) => Scalar::Int(n),
            Scalar::Uint(n) => Scalar::Uint(n),
            Scalar::Float(n) => Scalar::Float(n),
            Scalar::Array => Scalar::Array,
            Scalar::Object => Scalar::Object,
        }
    }

    /// As an unsigned number.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Scalar::Int(n) => u64::try_from(*n).ok(),
            Scalar::Uint(n) => Some(*n),
            _ => None,
        }
    }

    /// Cut and escaped, for a message.
    pub fn shown(&self) -> String {
        match self {
            Scalar::Null => "null".into(),
            Scalar::Bool(b) => b.to_string(),
            Scalar::Int(n) => n.to_string(),
            Scalar::Uint(n) => n.to_string(),
            Scalar::Float(n) => format!("{n:?}"),
            Scalar::Text(s) => format!("\"{}\"", super::shown(s)),
            Scalar::Array => "an array".into(),
            Scalar::Object => "an object".into(),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> std::result::Result<Scalar<'de>, E> {
                Ok(Scalar::Null)
            }

            fn visit_bool<E>(self, b: bool) -> std::result::Result<Scalar<'de>, E> {
                Ok(Scalar::Bool(b))
            }

            fn visit_i64<E>(self, n: i64) -> std::result::Result<Scalar<'de>, E> {
                Ok(Scalar::Int(n))
            }

            fn visit_u64<E>(self, n: u64) -> std::result::Result<Scalar<'de>, E> {
                Ok(i64::try_from(n).map_or(Scalar::Uint(n), Scalar::Int))
            }

            fn visit_f64<E>(self, n: f64) -> std::result::Result<Scalar<'de>, E> {
                Ok(Scalar::Float(n))
            }

            fn visit_str<E>(self, s: &str) -> std::result::Result<Scalar<'de>, E> {
                Ok(Scalar::Text(s.to_owned().into()))
            }

            fn visit_borrowed_str<E>(self, s: &'de str) -> std::result::Result<Scalar<'de>, E> {
                Ok(Scalar::Text(s.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Scalar<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Array)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Scalar<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Object)
            }
        }
        d.deserialize_any(Any)
    }
}

/// A value with its own memory.
pub(crate) fn owned<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Option<Scalar<'static>>, D::Error> {
    Option::<Scalar<'de>>::deserialize(d).map(|value| value.map(Scalar::into_owned))
}

/// Hands parameters out one by one, as they come, up to [`PARAMETERS_MAX`].
pub(crate) fn each_parameter<'de, A: MapAccess<'de>>(
    mut map: A,
    mut each: impl FnMut(Cow<'de, str>, &mut A) -> std::result::Result<(), A::Error>,
) -> std::result::Result<(), A::Error> {
    let mut given = 0usize;
    while let Some(Text(key)) = map.next_key()? {
        if given == PARAMETERS_MAX {
            return Err(A::Error::custom(format_args!("more than {PARAMETERS_MAX} parameters")));
        }
        given += 1;
        each(key, &mut map)?;
    }
    Ok(())
}

/// For visitors of parameters: what they expect, and that a text is none without repeating it.
macro_rules! expecting_parameters {
    () => {
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of parameters")
        }

        fn visit_str<E: serde::de::Error>(self, _: &str) -> std::result::Result<Self::Value, E> {
            Err($crate::oip::json::text_instead(&self))
        }
    };
}
pub(crate) use expecting_parameters;

/// Parameters; of a name that is given twice the last counts.
#[derive(Debug, Default)]
pub(crate) struct Parameters<'a>(pub Vec<(Cow<'a, str>, Scalar<'a>)>);

impl<'de> Deserialize<'de> for Parameters<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Parameters<'de>;

            expecting_parameters!();

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut out = Vec::new();
                each_parameter(map, |key, map| {
                    out.push((key, map.next_value()?));
                    Ok(())
                })?;
                if out.len() > 1 {
                    out.reverse();
                    // Stable: of equal keys the last that was given stands first, and stays.
                    out.sort_by(|(a, _), (b, _)| a.cmp(b));
                    out.dedup_by(|(a, _), (b, _)| a == b);
                }
                Ok(Parameters(out))
            }
        }
        d.deserialize_any(Entries)
    }
}

/// [`Parameters`] by name, with their own memory.
#[derive(Debug, Default)]
pub(crate) struct Given(pub BTreeMap<String, Scalar<'static>>);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let Parameters(entries) = Parameters::deserialize(d)?;
        Ok(Given(entries.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_escapes_are_seen_before_parsing() {
        let nested = |n: usize| survey(&format!("{}{}", "[".repeat(n), "]".repeat(n)));
        assert_eq!(nested(DEPTH_MAX), Ok(0));
        assert_eq!(nested(DEPTH_MAX + 1), Err("it is nested deeper than 128 levels at byte 129".into()));
        assert_eq!(survey(&"[]".repeat(1000)), Ok(0));
        assert_eq!(survey(&format!("\"{}\"", "[".repeat(1000))), Ok(0), "not in a text");
        assert_eq!(survey(r#"["a\"[", "long but plain", 1]"#), Ok(10));
        assert_eq!(survey(r#"["\n","\n\n"]"#), Ok(3 + 5 + 5));
        for cut in [r#""\"#, r#""\u"#, "\""] {
            assert!(survey(cut).is_ok(), "{cut}");
        }
    }

    #[test]
    fn wrong_texts_are_not_repeated_in_errors() {
        enum Few {}
        impl Limit for Few {
            const MOST: usize = 2;
            const WHAT: &'static str = "things";
        }
        let long = format!("\"{}\"", "x".repeat(10_000));
        let says = |e: serde_json::Error| e.to_string();
        let e = serde_json::from_str::<List<Whole, Few>>(&long).map(|_| ()).map_err(says).unwrap_err();
        assert!(e.starts_with("text, expected a list of things at line 1"), "{e}");
        let e = serde_json::from_str::<List<Whole, Few>>(&format!("[1,{long}]")).map(|_| ()).map_err(says).unwrap_err();
        assert!(e.starts_with("text, expected an integer of 64 bits"), "{e}");
        let e = serde_json::from_str::<Object<Given>>(&long).map(|_| ()).map_err(says).unwrap_err();
        assert!(e.starts_with("text, expected an object at line 1"), "{e}");
        let e = serde_json::from_str::<Given>(&long).map(|_| ()).map_err(says).unwrap_err();
        assert!(e.starts_with("text, expected an object of parameters"), "{e}");
        let e = serde_json::from_str::<List<Whole, Few>>("[1,2,3]").map(|_| ()).map_err(says).unwrap_err();
        assert!(e.starts_with("more than 2 things at line 1"), "{e}");
    }
}
