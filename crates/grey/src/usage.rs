//! What clap says of wrong arguments, as one of our failures: a message, and hints as data.

use std::path::Path;

use clap::{
    Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::failure::Failure;

/// The failure of arguments that did not parse. `root` is the whole grammar.
pub(crate) fn failure(e: &clap::Error, root: &Command) -> Failure {
    let text = e.render().to_string();
    let mut parts = text.split("\n\n").map(str::trim_end);
    let message = parts.next().unwrap_or_default();
    let message = flowing(message.strip_prefix("error: ").unwrap_or(message));
    let parts: Vec<&str> = parts.collect();
    let usage = parts.iter().find_map(|p| p.strip_prefix("Usage: ")).map(flowing).unwrap_or_default();
    let command = command_of(root, &usage);
    let mut failure = match e.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let verbs = command.get_subcommands().filter(|c| !c.is_hide_set()).map(Command::get_name);
            let verbs: Vec<&str> = verbs.filter(|name| *name != "help").collect();
            Failure::usage(format!("a verb is missing, expected one of {}", verbs.join(", ")))
        }
        _ => Failure::usage(message),
    };
    if let Some(verbs) = elsewhere(e, root) {
        failure = failure.hint(format!("did you mean {verbs}?"));
    }
    if let Some(file) = stray_file(e, command) {
        failure = failure.hint(format!("name files by their flag: --input {file}"));
    }
    for tip in parts.iter().flat_map(|p| p.lines()).filter_map(|l| l.trim_start().strip_prefix("tip: ")) {
        // "a similar argument exists: '--json'"
        failure = match tip.contains("similar").then(|| tip.split_once(": ")).flatten() {
            Some((_, names)) if is_near(e, names) => failure.hint(format!("did you mean {names}?")),
            Some(_) => failure,
            None => failure.hint(tip),
        };
    }
    if !usage.is_empty() {
        // What stands in the environment counts for clap as if it had been typed.
        return failure.hint(format!("usage: {}", usage.replace(" --url <URL>", "")));
    }
    if failure.hints.is_empty() { failure.hint("--help tells all flags") } else { failure }
}

/// The command that a usage line is of.
fn command_of<'a>(root: &'a Command, usage: &str) -> &'a Command {
    usage.split(' ').skip(1).try_fold(root, |c, word| c.find_subcommand(word).ok_or(c)).unwrap_or_else(|last| last)
}

/// A file that was named without the flag that takes it.
fn stray_file<'a>(e: &'a clap::Error, command: &Command) -> Option<&'a str> {
    let Some(ContextValue::String(word)) = e.get(ContextKind::InvalidArg) else { return None };
    let takes_input = command.get_arguments().any(|a| a.get_long() == Some("input"));
    (e.kind() == ErrorKind::UnknownArgument && takes_input && Path::new(word).is_file()).then_some(word)
}

/// Whether what clap thinks similar (`'a', 'b'`) is near what was typed.
fn is_near(e: &clap::Error, names: &str) -> bool {
    let kinds = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg, ContextKind::InvalidValue];
    let typed: Vec<&String> = kinds
        .iter()
        .filter_map(|k| match e.get(*k) {
            Some(ContextValue::String(typed)) => Some(typed),
            _ => None,
        })
        .collect();
    let mut names = names.split(", ").map(|n| n.trim_matches('\''));
    names.any(|n| typed.iter().any(|t| strsim::osa_distance(n, t) <= 1 + t.len() / 3))
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
        let f = said("grey serve --isolation container");
        assert_eq!(f.hints, ["--help tells all flags"]);
    }
}
