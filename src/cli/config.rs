//! `trunkline config`: check a configuration, print its schema.

use clap::Subcommand;

use super::Context;
use super::exit::Failure;
use super::output::complain;
use crate::daemon::{self, Surroundings};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read the configuration like the daemon would, the files it names included, and report what is wrong.
    Check,
    /// Print the JSON schema of the configuration file.
    Schema,
}

impl ConfigCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// A configuration that cannot be used (exit code 78).
    pub(crate) fn run(&self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Check => check(context),
            Self::Schema => schema(context),
        }
    }
}

fn check(context: &Context) -> Result<(), Failure> {
    let loaded = context.load_config()?;
    daemon::check(&loaded.config, &Surroundings::of_process())?;
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    if context.output.is_json() {
        return context.output.json(&loaded.config);
    }
    let source = loaded.file.map_or_else(
        || "defaults only, no file".to_owned(),
        |file| file.display().to_string(),
    );
    context
        .output
        .line(&format!("configuration is fine ({source})"))
}

fn schema(context: &Context) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&crate::config::schema())
        .map_err(|error| Failure::new(super::exit::Exit::Internal, error.to_string()))?;
    context.output.line(&text)
}
