use std::fmt;

/// Bytes that are not what the format says, or a value that it has no encoding for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    place: String,
    expected: String,
    found: String,
}

impl FormatError {
    pub(crate) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        FormatError { place: String::new(), expected: expected.into(), found: found.into() }
    }

    /// The same error, seen from the structure around: `segment` goes in front of the place.
    pub(crate) fn within(mut self, segment: impl fmt::Display) -> Self {
        self.place = if self.place.is_empty() { segment.to_string() } else { format!("{segment}/{}", self.place) };
        self
    }

    /// Where, from the outermost structure inwards, e.g. `claims/-70009/5`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What the format asks for at that place.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What stood there.
    pub fn found(&self) -> &str {
        &self.found
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.place, self.expected, self.found)
    }
}

impl std::error::Error for FormatError {}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(u32::from(d), 16)).collect()
}

/// Untrusted text for a message: escaped, and cut after 80 characters.
pub(crate) fn shown(text: &str) -> String {
    format!("'{}'", text.chars().take(80).flat_map(char::escape_default).collect::<String>())
}
