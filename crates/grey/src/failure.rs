//! Errors of the command line: a message, hints as data, and the exit code.

use crate::{EXIT_REFUSED, EXIT_UNEXPECTED, EXIT_USAGE};

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
}
