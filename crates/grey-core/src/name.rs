use std::{borrow::Borrow, fmt, str::FromStr};

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest model id, version or tenant, in bytes: fits every object store's key next to our prefixes.
const NAME_BYTES_MAX: usize = 128;

/// Accepts `A-Z a-z 0-9 . _ -`, starting with a letter, digit or `_`: such a name is one path
/// segment, one URL segment and one metric label on every system, so no `..`, no hidden file.
fn check_name(what: &str, s: &str) -> Result<()> {
    let ok = (1..=NAME_BYTES_MAX).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !s.starts_with(['.', '-']);
    if ok {
        return Ok(());
    }
    let shown: String = s.chars().take(80).flat_map(char::escape_default).collect();
    Err(Error::invalid(format!(
        "invalid {what} '{shown}': expected 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ - that start with a \
         letter, a digit or _"
    )))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $refusal:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        // Copied some times for each request: most are short enough to need no memory of their own.
        pub struct $name(CompactString);

        impl $name {
            /// Checks the characters; the error says what is allowed.
            pub fn new(s: impl AsRef<str>) -> Result<Self> {
                let s = s.as_ref();
                check_name($what, s)?;
                let refusal: fn(&str) -> Option<&'static str> = $refusal;
                if let Some(why) = refusal(s) {
                    return Err(Error::invalid(format!(concat!("invalid ", $what, " '{}': {}"), s, why)));
                }
                Ok(Self(s.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0.into_string()
            }
        }
    };
}

name_type!(
    /// Name of a model in the registry: one safe path segment.
    ModelId, "model name", |_| None
);
name_type!(
    /// Name of a version of a model, e.g. `3` or `v2`. `latest` is a [`Label`], not a version.
    Version, "version", |s| (s == Label::LATEST).then_some("the word is reserved")
);
name_type!(
    /// Who pays for a request.
    Tenant, "tenant", |_| None
);
name_type!(
    /// A name that means a version and can be moved to another, e.g. `stable`. No number, since numbers are
    /// given to versions; a model's labels and versions never share a name.
    Label, "label", |s| s.bytes().all(|b| b.is_ascii_digit()).then_some("numbers are names of versions, not labels")
);

impl Label {
    /// The label that requests without a version follow.
    pub const LATEST: &'static str = "latest";

    /// [`Label::LATEST`].
    pub fn latest() -> Label {
        Label(CompactString::const_new(Self::LATEST))
    }
}

/// As text, so that maps are searched by it. Equality and order are the text's.
impl Borrow<str> for Label {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Version {
    /// The version as a number, if it is one in canonical form.
    pub fn number(&self) -> Option<u64> {
        let n: u64 = self.0.parse().ok()?;
        (n.to_string() == *self.0).then_some(n)
    }
}

impl Default for Tenant {
    /// The tenant of requests that name none.
    fn default() -> Self {
        Tenant("default".into())
    }
}

/// Which version a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum VersionChoice {
    /// What the registry's newest index entry calls latest.
    #[default]
    Latest,
    /// The version of this name, else the one that the label of this name means.
    Exact(Version),
}

impl FromStr for VersionChoice {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s {
            "" | "latest" => Ok(VersionChoice::Latest),
            s => Version::new(s).map(VersionChoice::Exact),
        }
    }
}

/// A model as a request names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelRef {
    /// The model.
    pub id: ModelId,
    /// The version asked for.
    pub version: VersionChoice,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            VersionChoice::Latest => write!(f, "'{}'", self.id),
            VersionChoice::Exact(v) => write!(f, "'{}' version '{v}'", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_tricks_are_no_names() {
        for bad in
            ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "a b", "é", "a\0", "%2e%2e", &"x".repeat(129)]
        {
            assert!(ModelId::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["1", "007", "", "a b"] {
            assert!(Label::new(bad).is_err(), "{bad:?}");
        }
        assert!(Version::new("latest").is_err() && Label::new("latest").unwrap() == Label::latest());
        assert!(Label::new("v2").is_ok() && Label::new("2-stable").is_ok());
        for good in ["digits", "a.b-c_d", "0", "text-classifier-v1", "_x"] {
            assert_eq!(ModelId::new(good).unwrap().as_str(), good);
        }
        assert!(Version::new("latest").is_err());
        assert_eq!(Version::new("12").unwrap().number(), Some(12));
        assert_eq!(Version::new("012").unwrap().number(), None);
        assert!(serde_json::from_str::<ModelId>("\"../x\"").is_err());
    }
}
