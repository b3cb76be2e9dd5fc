//! The node's settings on the command line: a flag for every key, the environment, the file.

use std::{
    ffi::OsString,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgMatches, Args, Command,
    builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser as _},
};
use grey_server::config::{
    File, Key, Kind, Layers, Problems, Resolved, Source, VARIABLE_PREFIX, keys, quoted, resolve, stray_variables,
};

use crate::failure::Failure;

/// Largest configuration file in bytes: some thousand models with all their settings.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a node's settings come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct SettingArgs {
    /// Configuration file (YAML); SIGHUP reads it again
    #[arg(long, value_name = "FILE", env = "GREY_CONFIG", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    flags: SettingFlags,
}

/// The flags of the keys that were given, without their dashes.
#[derive(Clone, Debug, Default)]
struct SettingFlags(Vec<(String, String)>);

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = SettingFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = keys().iter().filter_map(|k| {
            let flag = k.flag.as_ref()?;
            Some((flag.clone(), matches.get_one::<String>(flag)?.clone()))
        });
        self.0.extend(given);
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(keys().iter().filter_map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The flag of a key.
fn arg(key: &'static Key) -> Option<Arg> {
    let flag = key.flag.as_deref()?;
    let heading = match key.path.first().map(String::as_str) {
        Some("limits") => Some("Limits"),
        Some("batching") => Some("Batching"),
        _ => None,
    };
    let default = match &key.default_words {
        Some(words) => format!(" [default: {}]", words.replace('`', "")),
        // That nothing is switched on or listed says nothing.
        None if key.default == false || key.default.as_array().is_some_and(Vec::is_empty) => String::new(),
        None => format!(" [default: {}]", quoted(&key.default)),
    };
    let doc = key.doc.replace('`', "");
    let first = doc.split_once(". ").map_or(doc.trim_end_matches('.'), |(first, _)| first).to_owned();
    let variables = key.variables.join(", ");
    let arg = Arg::new(flag).long(flag).value_name(key.value_name.as_str()).help_heading(heading);
    let below = if default.is_empty() { String::new() } else { format!("{}\n", default.trim_start()) };
    let arg = arg.help(format!("{first}{default}")).long_help(format!("{doc}\n\n{below}[env: {variables}]"));
    Some(match &key.kind {
        Kind::Switch => {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true").hide_possible_values(true)
        }
        Kind::Choice(words) => {
            let word = |(word, doc): &'static (String, Option<String>)| match doc {
                Some(doc) => PossibleValue::new(word.as_str()).help(doc.trim_end_matches('.').to_owned()),
                None => PossibleValue::new(word.as_str()),
            };
            let hidden = key.also.iter().map(|w| PossibleValue::new(w.as_str()).hide(true));
            arg.ignore_case(true).value_parser(PossibleValuesParser::new(words.iter().map(word).chain(hidden)))
        }
        Kind::Whole { .. } => arg.allow_negative_numbers(true),
        Kind::Text | Kind::List | Kind::Other => arg,
    })
}

impl SettingArgs {
    /// Reads environment and file.
    pub(crate) fn read(&self) -> Result<Layers, Failure> {
        Ok(Layers { file: self.file()?, variables: variables(std::env::vars_os())?, flags: self.flags.0.clone() })
    }

    /// Reads the file.
    pub(crate) fn file(&self) -> Result<Option<File>, Failure> {
        // An empty variable is what a script has that was given none.
        self.config.as_deref().filter(|p| !p.as_os_str().is_empty()).map(read_file).transpose()
    }
}

/// Reads a configuration file.
pub(crate) fn read_file(path: &Path) -> Result<File, Failure> {
    let name = path.display().to_string();
    let unreadable = |e: std::io::Error| Failure::refused(format!("cannot read {name}: {e}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(Failure::refused(format!("cannot read {name}: it is a folder, expected a YAML file")));
    }
    // One byte more, to see that there is one. A pipe has no length that could be asked for.
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!("{name} has more than {FILE_BYTES_MAX} bytes, which no configuration needs");
        return Err(Failure::refused(message));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
        Failure::refused(format!("{name}:{line}:{column}: not UTF-8, expected YAML"))
    })?;
    Ok(File { name, text })
}

/// The environment's variables that matter to the settings, or look like it.
fn variables(all: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>, Failure> {
    let known =
        |name: &str| name.starts_with(VARIABLE_PREFIX) || keys().iter().any(|k| k.variables.iter().any(|v| v == name));
    let mut found = Vec::new();
    for (name, value) in all {
        let Some(name) = name.to_str().filter(|n| known(n)) else { continue };
        match value.into_string() {
            Ok(value) => found.push((name.to_owned(), value)),
            Err(_) if keys().iter().any(|k| k.variables.iter().any(|v| v == name)) => {
                return Err(Failure::refused(format!("{name}: its value is not UTF-8, which settings are")));
            }
            // Not one of ours.
            Err(_) => {}
        }
    }
    Ok(found)
}

/// Puts everything together. With what looks like a variable of Grey's and is none.
pub(crate) fn settle(layers: &Layers) -> Result<(Resolved, Vec<(String, String)>), Failure> {
    let resolved = resolve(layers).map_err(|p| failure(&p))?;
    Ok((resolved, stray_variables(&layers.variables)))
}

/// What is wrong, as an error of the command line.
pub(crate) fn failure(problems: &Problems) -> Failure {
    let all: Vec<_> = problems.iter().collect();
    let flags_alone = all.iter().all(|p| matches!(p.source, Source::Flag { .. }));
    let new = |message: String| if flags_alone { Failure::usage(message) } else { Failure::refused(message) };
    match all.as_slice() {
        [one] => {
            let failure = new(one.to_string());
            one.hint.iter().fold(failure, |f, hint| f.hint(hint))
        }
        several => {
            let line = |p: &&grey_server::config::Problem| match &p.hint {
                Some(hint) => format!("{p}; {hint}"),
                None => p.to_string(),
            };
            let lines: Vec<String> = several.iter().map(line).collect();
            new(format!("{} settings are wrong:\n  {}", lines.len(), lines.join("\n  ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: SettingArgs,
    }

    fn flags(args: &[&str]) -> Result<Vec<(String, String)>, String> {
        let parsed = Cli::try_parse_from([&["grey"], args].concat());
        parsed.map(|c| c.settings.flags.0).map_err(|e| e.to_string())
    }

    #[test]
    fn every_key_has_a_flag() {
        let given = flags(&["--http", "a:1", "--insecure", "--allow-upload=false", "--drain-seconds", "-1"]).unwrap();
        let want = [("allow-upload", "false"), ("drain-seconds", "-1"), ("http", "a:1"), ("insecure", "true")];
        assert_eq!(given, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(flags(&["--isolation", "none", "--batching-hold", "Fill"]).unwrap().len(), 2);
        let e = flags(&["--isolation", "inlin"]).unwrap_err();
        assert!(e.contains("'inline'") && e.contains("--isolation"), "{e}");
        let e = flags(&["--limits-body-byte-max", "1"]).unwrap_err();
        assert!(e.contains("--limits-body-bytes-max"), "{e}");
    }

    #[test]
    fn other_programs_variables_do_not_matter() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = || OsString::from_vec(vec![0xff]);
        let found =
            variables([("HOME".into(), odd()), ("GREY_URL".into(), "x".into()), ("GREY_X".into(), odd())].into_iter());
        assert_eq!(found.unwrap(), [("GREY_URL".to_owned(), "x".to_owned())]);
        let e = variables([("GREY_DATA".into(), odd())].into_iter()).unwrap_err();
        assert_eq!(e.message, "GREY_DATA: its value is not UTF-8, which settings are");
    }
}
