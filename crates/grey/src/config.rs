//! `grey config`: checks a configuration, shows what a node would run with, prints the schema.

use std::path::PathBuf;

use clap::Subcommand;
use grey_engine::discover::DiscoverEnv;
use grey_server::config::{File, Layers, Source, keys, resolve, schema};
use serde_json::{Value, json};

use crate::{
    EXIT_OK, EXIT_REFUSED, HostContext,
    failure::Failure,
    running::{Running, size},
    settings::{SettingArgs, failure, read_file, settle},
    table::table,
    verbs::{print, print_json},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check a configuration file: unknown keys, wrong types, values out of range
    #[command(
        after_help = "Exit code 0 if a node would take the file, else 1.\n\nExample:\n  grey config check grey.yaml"
    )]
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show what a node would run with, and where each value comes from
    #[command(
        after_help = "Takes the flags of 'grey serve' and reads the same variables.\n\nExamples:\n  grey config show --config grey.yaml\n  GREY_LIMITS_CONNECTIONS_MAX=100 grey config show --json"
    )]
    Show(Box<ShowArgs>),
    /// Print the JSON schema of the configuration file, for editors
    #[command(after_help = "Example:\n  grey config schema > grey.schema.json")]
    Schema,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Only what is not the default
    #[arg(long)]
    changed: bool,
    #[command(flatten)]
    settings: SettingArgs,
}

/// `grey config …`
pub(crate) fn run(verb: ConfigVerb, json: bool, context: HostContext) -> Result<u8, Failure> {
    match verb {
        ConfigVerb::Check { file } => check(read_file(&file)?, json),
        ConfigVerb::Show(args) => show(&args, json, context).map(|()| EXIT_OK),
        ConfigVerb::Schema => print_json(&schema()).map(|()| EXIT_OK),
    }
}

fn check(file: File, json: bool) -> Result<u8, Failure> {
    let name = file.name.clone();
    let checked = resolve(&Layers { file: Some(file), ..Layers::default() });
    match checked {
        Ok(resolved) => {
            let given = resolved.settings().iter().filter(|s| *s.source != Source::Default).count();
            if json {
                print_json(&json!({"file": name, "ok": true, "settings": given, "problems": []}))?;
            } else {
                let settings = if given == 1 { "setting" } else { "settings" };
                print(&format!("{name}: {given} {settings}, nothing is wrong\n"))?;
            }
            Ok(EXIT_OK)
        }
        Err(problems) if json => {
            let all: Vec<_> = problems.iter().collect();
            print_json(&json!({"file": name, "ok": false, "problems": all}))?;
            Ok(EXIT_REFUSED)
        }
        Err(problems) => Err(failure(&problems)),
    }
}

fn show(args: &ShowArgs, json: bool, context: HostContext) -> Result<(), Failure> {
    let (resolved, strays) = settle(&args.settings.read()?)?;
    let serving = resolved.config.to_serving();
    let running = Running::new(&resolved, &serving, &DiscoverEnv::read(context.python_prefix));
    let machine = &serving.machine;
    let mut settings = resolved.settings();
    settings.retain(|s| !args.changed || *s.source != Source::Default);
    if json {
        let one = |s: &grey_server::config::Setting<'_>| {
            let mut told = serde_json::to_value(s.source).unwrap_or_default();
            if let Value::Object(told) = &mut told {
                told.insert("key".into(), s.name().into());
                told.insert("value".into(), running.value(s).0);
            }
            told
        };
        return print_json(&json!({
            "settings": settings.iter().map(one).collect::<Vec<_>>(),
            "machine": {
                "cores": machine.cores,
                "cores_by": machine.cores_by.to_string(),
                "memory_bytes": machine.memory_bytes,
                "memory_by": machine.memory_by.to_string(),
            },
            "not_settings": strays.iter().map(|(name, near)| json!({"variable": name, "near": near})).collect::<Vec<_>>(),
        }));
    }
    let row = |s: &grey_server::config::Setting<'_>| vec![s.name(), running.value(s).1, s.source.to_string()];
    let rows: Vec<Vec<String>> = settings.iter().map(row).collect();
    let mut out = match rows.is_empty() {
        true => format!("all {} settings have their defaults\n", keys().iter().filter(|k| k.flag.is_some()).count()),
        false => table(&["SETTING", "VALUE", "FROM"], &rows),
    };
    let memory = machine.memory_bytes.map_or("unknown".to_owned(), size);
    out.push_str(&format!(
        "\ncores {} ({}), memory {memory} ({})\n",
        machine.cores, machine.cores_by, machine.memory_by
    ));
    for (name, near) in strays {
        out.push_str(&format!("{name} is no setting; did you mean {near}?\n"));
    }
    print(&out)
}
