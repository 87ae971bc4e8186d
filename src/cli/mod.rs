//! The command line: one file per subcommand. Only `serve`, `config check`, `restore` and
//! `backup --offline` reach into the daemon; the others are clients of its API, like everybody else.

mod backup;
mod completions;
mod config;
#[cfg(feature = "simulator")]
mod demo;
mod doctor;
mod events;
pub mod exit;
mod group;
mod json;
mod media;
mod output;
mod pair;
mod progress;
mod refusal;
mod send;
mod serve;
mod session;
mod subscription;
mod target;
mod tls;
mod token;
mod trace;
mod upload;
mod words;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Loaded, Sources, environment, load};
use exit::Failure;
use output::{Format, Output, complain};

/// What [`exit`] documents, for people at a terminal.
const EXIT_CODES: &str = "Exit codes:
   0  done
   1  the answer is no: not found, refused, failed, lost
   2  the command line (or a value in it) is wrong
  69  the daemon cannot be reached
  70  a fault of the daemon or of this program
  74  files or the store cannot be read or written
  75  temporary: the store is locked, the daemon is busy or draining; try again
  77  not allowed: token missing, unknown or too weak; file permissions
  78  the configuration is wrong
 130  interrupted";

/// Holds WhatsApp lines and turns them into an event log and an outbox for your messaging core.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, propagate_version = true, after_long_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
struct Common {
    /// Configuration file [default: /etc/trunkline/trunkline.toml if it exists]
    #[arg(long, global = true, env = "TRUNKLINE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory, instead of the configured one
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Tables for people or JSON for scripts
    #[arg(
        long,
        global = true,
        env = "TRUNKLINE_OUTPUT",
        value_enum,
        default_value_t
    )]
    output: Format,
    #[command(flatten)]
    target: target::TargetArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeCommand),
    Pair(pair::PairCommand),
    /// Create, list, show, watch and change sessions; start, stop, restart, log out and delete them
    #[command(subcommand)]
    Session(session::SessionCommand),
    Send(send::SendCommand),
    Events(events::EventsCommand),
    /// Fetch the files in messages
    #[command(subcommand)]
    Media(media::MediaCommand),
    /// List subscriptions and what they gave up; have that delivered again
    #[command(subcommand)]
    Subscription(subscription::SubscriptionCommand),
    /// List and show the groups that a number is in
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Create, list, show, change and delete workspaces
    #[command(subcommand)]
    Workspace(workspace::WorkspaceCommand),
    /// Create, list and revoke tokens for callers over the network
    #[command(subcommand)]
    Token(token::TokenCommand),
    Backup(backup::BackupCommand),
    Restore(backup::RestoreCommand),
    Trace(trace::TraceCommand),
    Doctor(doctor::DoctorCommand),
    /// Check the configuration or print its schema
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Completions(completions::CompletionsCommand),
    #[command(hide = true)]
    Man(completions::ManCommand),
    #[cfg(feature = "simulator")]
    Demo(demo::DemoCommand),
    /// Only in a build with the simulator
    #[cfg(not(feature = "simulator"))]
    #[command(hide = true)]
    Demo {
        /// Whatever the real command takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _words: Vec<String>,
    },
}

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    sources: Sources,
    output: Output,
    target: target::TargetArgs,
}

impl Context {
    /// The configuration this command line points at.
    fn load_config(&self) -> Result<Loaded, ConfigError> {
        load(&self.sources)
    }
}

/// Parses the process's arguments, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context {
        sources: Sources {
            file: cli.common.config,
            env: environment(),
            state_dir: cli.common.state_dir,
        },
        output: Output::new(cli.common.output),
        target: cli.common.target,
    };
    match run(&context, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                complain(&format!("trunkline: {failure}"));
            }
            failure.exit.into()
        }
    }
}

fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(command) => command.run(context),
        Command::Pair(command) => client(command.run(context)),
        Command::Session(command) => client(command.run(context)),
        Command::Send(command) => client(command.run(context)),
        Command::Events(command) => client(command.run(context)),
        Command::Media(command) => client(command.run(context)),
        Command::Subscription(command) => client(command.run(context)),
        Command::Group(command) => client(command.run(context)),
        Command::Workspace(command) => client(command.run(context)),
        Command::Token(command) => client(command.run(context)),
        Command::Backup(command) => client(command.run(context)),
        Command::Restore(command) => client(command.run(context)),
        Command::Trace(command) => client(command.run(context)),
        Command::Doctor(command) => client(command.run(context)),
        Command::Config(command) => command.run(context),
        Command::Completions(command) => command.run(context),
        Command::Man(command) => command.run(),
        #[cfg(feature = "simulator")]
        Command::Demo(command) => client(command.run(context)),
        #[cfg(not(feature = "simulator"))]
        Command::Demo { .. } => Err(Failure::new(
            exit::Exit::Usage,
            "this build has no simulator to show anything with; run `make demo`, or build with `--features simulator`",
        )),
    }
}

/// Runs a command that only talks to a daemon: one thread is plenty.
fn client(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(command)
}
