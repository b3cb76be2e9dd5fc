//! The reference in `docs/cli.md`, made from the grammar, and the test that sees it is not stale.

use std::{fmt::Write as _, path::PathBuf};

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use crate::args::Cli;

/// Between these lines of the page stands what is made here.
const BEGIN: &str = "<!-- reference: made from the grammar -->\n";
const END: &str = "<!-- end of the reference -->\n";
/// Renews the page.
const RENEW: &str = "GREY_RENEW=1 cargo test --profile checked -p grey reference";

/// Every verb with its flags, in Markdown.
fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut out = String::new();
    let globals: Vec<&Arg> = root.get_arguments().filter(|a| a.is_global_set()).collect();
    out.push_str("\n## Flags of every verb\n");
    flags(&mut out, &globals);
    let globals: Vec<&str> = globals.iter().map(|a| a.get_id().as_str()).collect();
    verb(&mut out, &root, "grey", &globals);
    out
}

fn verb(out: &mut String, command: &Command, path: &str, globals: &[&str]) {
    let subs: Vec<&Command> =
        command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help").collect();
    if subs.is_empty() {
        page(out, command, path, globals);
    }
    for sub in subs {
        verb(out, sub, &format!("{path} {}", sub.get_name()), globals);
    }
}

fn page(out: &mut String, command: &Command, path: &str, globals: &[&str]) {
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let mut usage = command.clone().bin_name(path).render_usage().to_string();
    if let Some(rest) = usage.strip_prefix("Usage: ") {
        usage = rest.to_owned();
    }
    let _infallible = write!(out, "\n## `{path}`\n\n{about}.\n\n```text\n{usage}\n```\n");
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|a| !globals.contains(&a.get_id().as_str()) && !a.is_hide_set() && !shows_text(a))
        .collect();
    flags(out, &own);
    if let Some(more) = command.get_after_help() {
        let more = more.to_string();
        // What comes before the examples is prose.
        let at = more.find("Example").unwrap_or(more.len());
        let (prose, examples) = more.split_at(at);
        if !prose.trim().is_empty() {
            let _infallible = write!(out, "\n{}\n", prose.trim());
        }
        let examples: Vec<&str> = examples.lines().skip(1).map(str::trim).filter(|l| !l.is_empty()).collect();
        if !examples.is_empty() {
            let _infallible = write!(out, "\n```sh\n{}\n```\n", examples.join("\n"));
        }
    }
}

/// Whether a flag is clap's own `--help` or `--version`.
fn shows_text(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version)
}

fn flags(out: &mut String, args: &[&Arg]) {
    if args.is_empty() {
        return;
    }
    out.push_str("\n| argument | what it says |\n|---|---|\n");
    for arg in args {
        let _infallible = writeln!(out, "| {} | {} |", named(arg), cell(&told(arg)));
    }
}

fn named(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let values: Vec<String> = names.iter().map(|n| cell(n)).collect();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let value = if takes_value { values.join(" ") } else { String::new() };
    match (arg.get_long(), arg.get_short()) {
        (Some(long), short) => {
            let short = short.map_or_else(String::new, |s| format!("-{s}, "));
            let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0) && takes_value;
            let value = match (value.is_empty(), optional) {
                (true, _) => String::new(),
                (false, true) => format!("[={value}]"),
                (false, false) => format!(" {value}"),
            };
            format!("`{short}--{long}{value}`")
        }
        (None, _) => format!("`{value}`"),
    }
}

fn told(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|v| !v.is_hide_set())
        .map(|v| match v.get_help() {
            Some(help) => format!("`{}` ({})", v.get_name(), help.to_string().trim_end_matches('.')),
            None => format!("`{}`", v.get_name()),
        })
        .collect();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if takes_value && !values.is_empty() {
        let _infallible = write!(text, ": {}", values.join(", "));
    }
    let defaults: Vec<String> = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    if takes_value && !defaults.is_empty() {
        let _infallible = write!(text, " [default: {}]", defaults.join(" "));
    }
    if let Some(env) = arg.get_env() {
        let _infallible = write!(text, " [env: `{}`]", env.to_string_lossy());
    }
    if matches!(arg.get_action(), ArgAction::Append) && !text.contains("repeatable") {
        text.push_str(" (repeatable)");
    }
    text
}

/// Text as a cell of a table takes it.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn the_reference_is_what_the_grammar_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/cli.md has lost the line before its reference");
    let (_, after) = rest.split_once(END).expect("docs/cli.md has lost the line after its reference");
    let made = format!("{before}{BEGIN}{}\n{END}{after}", reference());
    if std::env::var_os("GREY_RENEW").is_some() {
        std::fs::write(&path, made).unwrap();
    } else if made != page {
        let stale = made.lines().zip(page.lines()).find(|(made, stands)| made != stands);
        panic!("docs/cli.md is stale, renew it with: {RENEW}\nthe first difference: {stale:#?}");
    }
}
