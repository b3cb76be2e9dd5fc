//! `grey completions`: scripts that complete verbs and flags in a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{args::Cli, failure::Failure, verbs::print};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  grey completions bash > ~/.local/share/bash-completion/completions/grey\n  \
                  grey completions zsh > ~/.zfunc/_grey    # a folder of $fpath\n  \
                  grey completions fish > ~/.config/fish/completions/grey.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "grey", &mut script);
    print(&String::from_utf8_lossy(&script))
}
