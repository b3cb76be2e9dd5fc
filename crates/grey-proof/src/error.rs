use std::fmt;

/// Bytes that are not what the format says, or a value that it has no encoding for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError(
    // One word, since every item that is read comes in a `Result` with it.
    Box<Parts>,
);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    place: String,
    expected: String,
    found: String,
}

impl FormatError {
    pub(crate) fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        FormatError(Box::new(Parts { place: String::new(), expected: expected.into(), found: found.into() }))
    }

    /// The same error, seen from the structure around: `segment` goes in front of the place.
    pub(crate) fn within(mut self, segment: impl fmt::Display) -> Self {
        let place = &mut self.0.place;
        *place = if place.is_empty() { segment.to_string() } else { format!("{segment}/{place}") };
        self
    }

    /// Where, from the outermost structure inwards, e.g. `claims/-70009/5`.
    pub fn place(&self) -> &str {
        &self.0.place
    }

    /// What the format asks for at that place.
    pub fn expected(&self) -> &str {
        &self.0.expected
    }

    /// What stood there.
    pub fn found(&self) -> &str {
        &self.0.found
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { place, expected, found } = &*self.0;
        write!(f, "{place}: expected {expected}, found {found}")
    }
}

impl std::error::Error for FormatError {}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

/// Untrusted text for a message: escaped, and cut after 80 characters.
pub(crate) fn shown(text: &str) -> String {
    format!("'{}'", text.chars().take(80).flat_map(char::escape_default).collect::<String>())
}
