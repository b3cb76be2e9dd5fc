//! The types of single values. What exists of them is valid: reading refuses the rest.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tracing_subscriber::EnvFilter;

/// Longest name of a node, in bytes: it stands in every proof.
const NAME_BYTES_MAX: usize = 256;
/// Longest filter of the log, in bytes: some hundred targets.
const LOG_BYTES_MAX: usize = 16_384;

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Whole<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// `n`, if it is in range.
    pub const fn new(n: u64) -> Option<Self> {
        if MIN <= n && n <= MAX { Some(Whole(n)) } else { None }
    }

    /// The number in range that is nearest to `n`.
    pub const fn clamped(n: u64) -> Self {
        if n < MIN {
            Whole(MIN)
        } else if n > MAX {
            Whole(MAX)
        } else {
            Whole(n)
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number, or the largest of 32 bits.
    pub fn get_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Whole<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let n = u64::deserialize(from)?;
        Whole::new(n).ok_or_else(|| de::Error::custom(format!("{n} is not in the range {MIN} to {MAX}")))
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Whole_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// `on` or `off`, also written as a boolean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnOff(bool);

impl OnOff {
    /// On, if `on`.
    pub const fn new(on: bool) -> Self {
        OnOff(on)
    }

    /// Whether it is on.
    pub const fn is_on(self) -> bool {
        self.0
    }
}

impl Serialize for OnOff {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(if self.0 { "on" } else { "off" })
    }
}

impl<'de> Deserialize<'de> for OnOff {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected 'on' or 'off'")]
        enum Written {
            Flag(bool),
            Word(Word),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            On,
            Off,
        }
        Ok(OnOff(match Written::deserialize(from)? {
            Written::Flag(on) => on,
            Written::Word(word) => matches!(word, Word::On),
        }))
    }
}

impl JsonSchema for OnOff {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OnOff".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"enum": ["on", "off", true, false]})
    }
}

/// Most threads or instances that may be configured per model: more than any machine has cores.
pub const PER_MODEL_MAX: u64 = 4096;

/// Threads of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The node measures.
    Auto,
    /// This many.
    Count(Whole<1, PER_MODEL_MAX>),
}

impl Serialize for Threads {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Threads::Auto => to.serialize_str("auto"),
            Threads::Count(n) => n.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a number of threads or 'auto'")]
        enum Written {
            Count(Whole<1, PER_MODEL_MAX>),
            Word(Word),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            Auto,
        }
        Ok(match Written::deserialize(from)? {
            Written::Count(n) => Threads::Count(n),
            Written::Word(Word::Auto) => Threads::Auto,
        })
    }
}

impl JsonSchema for Threads {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Threads".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "integer", "minimum": 1, "maximum": PER_MODEL_MAX},
            {"const": "auto"},
        ]})
    }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $schema:tt, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the text; the error says what is expected.
            pub fn new(text: impl Into<String>) -> Result<Self, String> {
                let text = text.into();
                let check: fn(&str) -> Result<(), String> = $check;
                check(&text).map(|()| $name(text))
            }

            /// A constant that a test reads.
            pub(super) fn known(text: &'static str) -> Self {
                $name(text.to_owned())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $name::new(String::deserialize(from)?).map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

checked_text!(
    /// Where a node listens: a name or an IP address (IPv6 in brackets), a colon, a port.
    Address,
    {"type": "string", "pattern": "^.+:[0-9]{1,5}$"},
    |text| {
        let parts = text.rsplit_once(':');
        // A colon in the host is one of an IPv6 address, which stands in brackets.
        let host_ok = |host: &str| !host.is_empty() && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
        match parts {
            Some((host, port)) if host_ok(host) && port.parse::<u16>().is_ok() => Ok(()),
            _ => Err("expected HOST:PORT, such as 127.0.0.1:8000".into()),
        }
    }
);

impl Address {
    /// The part before the port.
    pub fn host(&self) -> &str {
        self.0.rsplit_once(':').map_or("", |(host, _)| host)
    }
}

checked_text!(
    /// A node's name, as its proofs state it.
    NodeName,
    {"type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX},
    |text| {
        if (1..=NAME_BYTES_MAX).contains(&text.len()) {
            return Ok(());
        }
        Err(format!("expected 1 to {NAME_BYTES_MAX} bytes, found {}", text.len()))
    }
);

checked_text!(
    /// What is logged, as `RUST_LOG` writes it.
    LogFilter,
    {"type": "string", "maxLength": LOG_BYTES_MAX},
    |text| {
        if text.len() > LOG_BYTES_MAX {
            return Err(format!("expected at most {LOG_BYTES_MAX} bytes, found {}", text.len()));
        }
        EnvFilter::try_new(text)
            .map(drop)
            .map_err(|e| format!("expected a filter such as info or grey=debug,info ({e})"))
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_range() {
        assert_eq!(Whole::<1, 5>::new(0), None);
        assert_eq!((Whole::<1, 5>::clamped(9).get(), Whole::<1, 5>::clamped(0).get()), (5, 1));
        for good in ["127.0.0.1:0", "localhost:8000", "[::1]:65535"] {
            assert_eq!(Address::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ":80", "localhost", "localhost:", "localhost:65536", "::1:80", "http://x/", "a:b"] {
            assert!(Address::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Address::new("[::1]:80").unwrap().host(), "[::1]");
        assert!(NodeName::new("").is_err() && NodeName::new("x".repeat(257)).is_err());
        assert!(LogFilter::new("grey=debug,info").is_ok() && LogFilter::new("grey=loud").is_err());
    }
}
