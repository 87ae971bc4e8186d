//! `trunkline completions` and `trunkline man`: what shells and `man` want to know about the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::exit::{Exit, Failure};
use super::{Cli, Context};

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trunkline completions bash > /etc/bash_completion.d/trunkline\n  trunkline completions zsh > \"${fpath[1]}/_trunkline\""
)]
pub(crate) struct CompletionsCommand {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsCommand {
    /// Prints the script.
    ///
    /// # Errors
    /// When standard output is gone.
    pub(crate) fn run(&self, context: &Context) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "trunkline", &mut script);
        context.output.raw(&String::from_utf8_lossy(&script))
    }
}

/// Write the man pages into a directory
#[derive(Debug, Args)]
pub(crate) struct ManCommand {
    /// The directory; it is made if it is not there
    directory: PathBuf,
}

impl ManCommand {
    /// Writes one page for each command.
    ///
    /// # Errors
    /// When the directory cannot be written (74).
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let named = |error: std::io::Error| {
            Failure::new(Exit::Io, format!("{}: {error}", self.directory.display()))
        };
        std::fs::create_dir_all(&self.directory).map_err(named)?;
        clap_mangen::generate_to(Cli::command(), &self.directory).map_err(named)
    }
}
