//! What clap says of wrong arguments, as one of our failures: a message, and hints as data.

use clap::{
    Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::failure::Failure;

/// The failure of arguments that did not parse. `root` is the whole grammar.
pub(crate) fn failure(e: &clap::Error, root: &Command) -> Failure {
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage("a verb is missing").hint("all verbs: grey --help");
    }
    let text = e.render().to_string();
    let mut parts = text.split("\n\n").map(str::trim_end);
    let message = parts.next().unwrap_or_default();
    let mut failure = Failure::usage(flowing(message.strip_prefix("error: ").unwrap_or(message)));
    if let Some(verbs) = elsewhere(e, root) {
        failure = failure.hint(format!("did you mean {verbs}?"));
    }
    let mut is_said = false;
    for part in parts {
        for tip in part.lines().filter_map(|l| l.trim_start().strip_prefix("tip: ")) {
            // "a similar argument exists: '--json'"
            let similar = tip.contains("similar").then(|| tip.split_once(": ")).flatten();
            failure = match similar {
                Some((_, names)) => failure.hint(format!("did you mean {names}?")),
                None => failure.hint(tip),
            };
            is_said = true;
        }
        if let Some(usage) = part.strip_prefix("Usage: ") {
            failure = failure.hint(format!("usage: {}", flowing(usage)));
            is_said = true;
        }
    }
    if is_said { failure } else { failure.hint("more: add --help") }
}

/// Several lines as one.
fn flowing(text: &str) -> String {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The verbs of that name below others, e.g. `grey model list` for `grey list`.
fn elsewhere(e: &clap::Error, root: &Command) -> Option<String> {
    let Some(ContextValue::String(asked)) = e.get(ContextKind::InvalidSubcommand) else { return None };
    let mut found = Vec::new();
    collect(root, "grey", asked, &mut found);
    (!found.is_empty()).then(|| found.join(" or "))
}

fn collect(command: &Command, path: &str, asked: &str, found: &mut Vec<String>) {
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        if sub.get_name() == asked {
            found.push(format!("'{path}'"));
        }
        collect(sub, &path, asked, found);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    fn said(args: &str) -> Failure {
        let mut root = Cli::command();
        let e = root.try_get_matches_from_mut(args.split(' ')).unwrap_err();
        failure(&e, &root)
    }

    #[test]
    fn wrong_words_are_set_right() {
        let f = said("grey lisst");
        assert_eq!((f.message.as_str(), f.exit), ("unrecognized subcommand 'lisst'", crate::EXIT_USAGE));
        let f = said("grey list");
        assert!(f.hints[0].starts_with("did you mean 'grey model list' or "), "{f:?}");
        let f = said("grey modle list");
        assert_eq!(f.hints[0], "did you mean 'model'?");
        let f = said("grey model list --jsn");
        assert_eq!(f.message, "unexpected argument '--jsn' found");
        assert_eq!(f.hints[0], "did you mean '--json'?");
        let f = said("grey infer");
        assert!(f.message.starts_with("the following required arguments were not provided: "), "{f:?}");
        assert!(f.hints[0].starts_with("usage: grey infer "), "{f:?}");
    }
}
