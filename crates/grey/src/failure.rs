//! Errors of the command line: a message, hints as data, and the exit code.

use serde_json::json;

use crate::{
    EXIT_REFUSED, EXIT_UNEXPECTED, EXIT_USAGE,
    style::{Paint, printable},
};

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hints: Vec<String>,
    pub(crate) exit: u8,
}

impl Failure {
    fn new(exit: u8, message: impl Into<String>) -> Self {
        Failure { message: message.into(), hints: Vec::new(), exit }
    }

    /// The node said no.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Failure::new(EXIT_REFUSED, message)
    }

    /// The arguments make no sense together.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(EXIT_USAGE, message)
    }

    /// No node, or a surprise.
    pub(crate) fn unexpected(message: impl Into<String>) -> Self {
        Failure::new(EXIT_UNEXPECTED, message)
    }

    /// What the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// For people: the message, and a line for each hint.
    pub(crate) fn told(&self, paint: Paint) -> String {
        let hint = |h: &String| format!("{} {}\n", paint.advice("hint:"), printable(h));
        let hints: String = self.hints.iter().map(hint).collect();
        format!("{} {}\n{hints}", paint.bad("error:"), printable(&self.message))
    }

    /// For programs: one line of JSON, `{"error", "hints", "exit"}`.
    pub(crate) fn json(&self) -> String {
        format!("{}\n", json!({"error": self.message, "hints": self.hints, "exit": self.exit}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_one_shape() {
        let f = Failure::refused("no \"x\"").hint("try y");
        assert_eq!(f.json(), "{\"error\":\"no \\\"x\\\"\",\"exit\":1,\"hints\":[\"try y\"]}\n");
    }
}
