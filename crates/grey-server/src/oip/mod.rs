//! The Open Inference Protocol v2 over HTTP, with the binary tensor extension, as a pure codec:
//! bytes in, [`grey_core::InferRequest`] out, and back. No I/O, no clock (the time is passed in).
//! Source: <https://github.com/kserve/open-inference-protocol>, `inference_rest.md`.

mod data;
pub(crate) mod json;
mod request;
mod response;
pub mod views;

use std::fmt;

pub use request::{AnswerOptions, DecodeContext, Decoded, decode, header_length};
pub use response::{Encoded, encode};

pub use grey_core::oip::{HEADER_LENGTH_HEADER, INPUTS_MAX, OUTPUTS_MAX};

/// Asked before that many bytes are allocated; its refusal is what decoding fails with.
pub type Budget<'a> = dyn FnMut(usize) -> grey_core::Result<()> + 'a;

/// A part of a message, written only where there is one: most requests are right.
pub(crate) fn lazily<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result>(write: F) -> Lazily<F> {
    Lazily(write)
}

pub(crate) struct Lazily<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Lazily<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0(f)
    }
}

/// A client's text, cut and escaped for a message.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
