//! Task ids as text (RFC 9562 §4).

use std::fmt;
use std::str::FromStr;

use crate::TaskId;
use crate::error::{hex, shown};
use crate::input::{InputError, unhex};

/// Where the hyphens of the text stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// The UUID text of a task id, in lower case.
pub fn task_id_text(id: &TaskId) -> String {
    uuid_text(&id.bytes())
}

/// A task id from its UUID text or from 32 hex digits, in either case.
///
/// # Errors
/// Another text, or another version or variant of UUID.
pub fn parse_task_id(text: &str) -> Result<TaskId, InputError> {
    let id = parse_uuid(text).and_then(|bytes| TaskId::new(bytes).ok());
    id.ok_or_else(|| InputError::new("a UUIDv7, as text or in hex", shown(text)))
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&task_id_text(self))
    }
}

impl FromStr for TaskId {
    type Err = InputError;

    fn from_str(text: &str) -> Result<TaskId, InputError> {
        parse_task_id(text)
    }
}

pub(crate) fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = hex(bytes);
    // Each position counts the hyphens before it.
    HYPHENS.iter().for_each(|at| text.insert(*at, '-'));
    text
}

/// 16 bytes from UUID text or hex, of any version and in either case.
pub(crate) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits = match text.len() {
        36 => {
            let hyphen = |(at, _): &(usize, char)| HYPHENS.contains(at);
            if !text.char_indices().filter(hyphen).all(|(_, c)| c == '-') {
                return None;
            }
            text.char_indices().filter(|c| !hyphen(c)).map(|(_, c)| c).collect()
        }
        _ => text.to_owned(),
    };
    unhex(&digits)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let id = TaskId::new([1, 0x9a, 0, 0xff, 4, 5, 0x76, 7, 0x88, 9, 10, 11, 12, 13, 14, 15]).unwrap();
        let text = "019a00ff-0405-7607-8809-0a0b0c0d0e0f";
        assert_eq!((task_id_text(&id), id.to_string()), (text.to_owned(), text.to_owned()));
        for form in [text.to_owned(), text.to_uppercase(), text.replace('-', ""), text.replace('-', "").to_uppercase()]
        {
            assert_eq!(form.parse(), Ok(id), "{form}");
        }
        for form in [
            "",
            "019a00ff-0405-7607-8809-0a0b0c0d0e0",
            "019a00ff-0405-7607-88090-a0b0c0d0e0f",
            "019a00ff-0405-4607-8809-0a0b0c0d0e0f",
            "{019a00ff-0405-7607-8809-0a0b0c0d0e0f}",
            "019a00ff-0405-7607-8809-0a0b0c0d0eé",
            "019a00f-f0405-7607-8809-0a0b0c0d0e0f",
            "-019a00ff0405-7607-8809-0a0b0c0d0e0f",
        ] {
            assert!(form.parse::<TaskId>().is_err(), "{form}");
        }
    }
}
