//! Texts of others, fit for a message.

/// Most characters that a message repeats of somebody's text.
const SHOWN_CHARS_MAX: usize = 80;
/// Most characters of a node's own message: its longest ones list the inputs of a model.
const MESSAGE_CHARS_MAX: usize = 4000;

/// Cut and escaped.
pub(crate) fn shown(text: &str) -> String {
    cut(text, SHOWN_CHARS_MAX)
}

/// A whole message, without what would move a terminal's cursor.
pub(crate) fn message(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut out: String = text.chars().take(MESSAGE_CHARS_MAX).map(plain).collect();
    if text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

fn cut(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).flat_map(char::escape_debug).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}
