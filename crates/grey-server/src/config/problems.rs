//! What is wrong with a configuration, and where that was written.

use std::fmt;

use serde::Serialize;

/// Most problems that are told at once.
pub(super) const PROBLEMS_MAX: usize = 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Source {
    /// Nobody gave one.
    Default,
    /// A file.
    File {
        /// Its name, as it was given.
        file: String,
        /// Counted from 1.
        line: u64,
        /// In characters, counted from 1.
        column: u64,
    },
    /// An environment variable.
    Variable {
        /// Its name.
        variable: String,
    },
    /// A flag.
    Flag {
        /// Its name, with the dashes.
        flag: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Source::Variable { variable } => f.write_str(variable),
            Source::Flag { flag } => f.write_str(flag),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it was written.
    #[serde(flatten)]
    pub source: Source,
    /// The key, with dots between its parts; absent where the file is no YAML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is wrong and what was expected.
    pub message: String,
    /// What the user can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.message)
    }
}

/// All that is wrong, in the order in which it was written: at least one, and at most twenty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `found`, or as many as are told; `None` if nothing is wrong.
    pub(super) fn of(mut found: Vec<Problem>) -> Option<Problems> {
        found.truncate(PROBLEMS_MAX);
        (!found.is_empty()).then_some(Problems(found))
    }

    pub(super) fn one(problem: Problem) -> Problems {
        Problems(vec![problem])
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Problem> {
        self.0.iter()
    }

    /// The first, with its hint.
    pub fn first(&self) -> String {
        let told = |p: &Problem| match &p.hint {
            Some(hint) => format!("{p}; {hint}"),
            None => p.to_string(),
        };
        self.0.first().map(told).unwrap_or_default()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.0.iter().enumerate() {
            let between = if i == 0 { "" } else { "\n" };
            write!(f, "{between}{p}")?;
            if let Some(hint) = &p.hint {
                write!(f, "; {hint}")?;
            }
        }
        Ok(())
    }
}
