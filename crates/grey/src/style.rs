//! Colour, where a person looks: on a terminal, unless `--color`, `NO_COLOR` or `TERM=dumb` says otherwise.

use std::{
    ffi::{OsStr, OsString},
    io::IsTerminal,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use clap::ValueEnum;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorArg {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

impl ColorArg {
    /// The value of `--color` in arguments that may not parse, so that their errors are coloured as asked.
    pub(crate) fn of(args: &[OsString]) -> ColorArg {
        let args = args.iter().take_while(|a| *a != "--");
        let mut found = ColorArg::Auto;
        let mut is_value = false;
        for arg in args.filter_map(|a| a.to_str()) {
            let value = if is_value { Some(arg) } else { arg.strip_prefix("--color=") };
            is_value = arg == "--color";
            if let Some(parsed) = value.and_then(|v| ColorArg::from_str(v, false).ok()) {
                found = parsed;
            }
        }
        found
    }

    /// The same, for clap's own texts.
    pub(crate) fn of_clap(self) -> clap::ColorChoice {
        match self {
            ColorArg::Auto => clap::ColorChoice::Auto,
            ColorArg::Always => clap::ColorChoice::Always,
            ColorArg::Never => clap::ColorChoice::Never,
        }
    }
}

/// What `--color` says; one for the process, as its streams are.
static CHOSEN: AtomicU8 = AtomicU8::new(ColorArg::Auto as u8);

/// Keeps the choice for whatever prints from now on.
pub(crate) fn choose(color: ColorArg) {
    CHOSEN.store(color as u8, Relaxed);
}

/// Whether text for this stream is coloured.
pub(crate) fn is_on(stream: &impl IsTerminal) -> bool {
    let chosen = CHOSEN.load(Relaxed);
    if chosen == ColorArg::Always as u8 {
        return true;
    }
    let says_no = |name: &str, what: fn(&OsStr) -> bool| std::env::var_os(name).is_some_and(|v| what(&v));
    chosen == ColorArg::Auto as u8
        && stream.is_terminal()
        // https://no-color.org: set, and not empty.
        && !says_no("NO_COLOR", |v| !v.is_empty())
        && !says_no("TERM", |v| v == "dumb")
}

/// Colours text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    /// For what is no terminal.
    #[cfg(test)]
    pub(crate) const PLAIN: Paint = Paint(false);

    /// For standard output.
    pub(crate) fn stdout() -> Paint {
        Paint(is_on(&std::io::stdout()))
    }

    /// For standard error.
    pub(crate) fn stderr() -> Paint {
        Paint(is_on(&std::io::stderr()))
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What went wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// What to do.
    pub(crate) fn advice(self, text: &str) -> String {
        self.with("1;36", text)
    }

    /// A heading.
    pub(crate) fn heading(self, text: &str) -> String {
        self.with("1", text)
    }
}

/// Lines of text in which nothing steers a terminal, whoever wrote parts of them.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(printable("a\nb\u{1b}[31m\u{9b}é\0\r"), "a\nb\\u{1b}[31m\\u{9b}é\\u{0}\\r");
    }

    #[test]
    fn the_flag_counts_where_nothing_parses() {
        let of = |text: &str| ColorArg::of(&text.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of("grey --color always nonsense"), ColorArg::Always);
        assert_eq!(of("grey nonsense --color=never"), ColorArg::Never);
        assert_eq!(of("grey --color sometimes"), ColorArg::Auto);
        assert_eq!(of("grey x -- --color=never"), ColorArg::Auto);
        assert_eq!(Paint(true).bad("error:"), "\x1b[1;31merror:\x1b[0m");
        assert_eq!(Paint(false).bad("error:"), "error:");
    }
}
