//! Putting a backup back.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use zeroize::Zeroizing;

use super::secret::{PassphraseArgs, read};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Context, progress, words};
use crate::daemon::{self, Archive, OfflineError, Resting, Restored, Surroundings, Unlock};

/// Put a backup back, on this machine or another; no daemon may run on the state directory
#[derive(Debug, Args)]
pub(crate) struct RestoreCommand {
    /// The backup; `-` is standard input
    #[arg(required_unless_present = "take_back")]
    file: Option<PathBuf>,
    /// A file with the age identity that belongs to one of the recipients; may be given several times
    #[arg(long, short, value_name = "FILE", required_unless_present_any = ["passphrase_file", "passphrase", "take_back"])]
    identity: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Only read it to its end and say whether it is whole; nothing is written
    #[arg(long)]
    check: bool,
    /// Undo `trunkline backup --hand-over`, if its backup was never restored anywhere
    #[arg(long, conflicts_with_all = ["file", "identity", "check", "passphrase", "passphrase_file"])]
    take_back: bool,
}

impl RestoreCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What is wrong with the backup or the place, in one line; nothing is changed then.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(file) = self.file.as_deref().filter(|_| !self.take_back) else {
            return take_back(context).await;
        };
        let unlock = self.unlock()?;
        let (input, bar) = open(context, file, self.check)?;
        let archive = tokio::task::spawn_blocking(move || Archive::open(input, &unlock));
        let archive = archive.await.map_err(|error| internal(&error))?;
        let archive = archive.map_err(OfflineError::from)?;
        let restored = if self.check {
            let checking = tokio::task::spawn_blocking(move || archive.check());
            checking
                .await
                .map_err(|error| internal(&error))?
                .map_err(OfflineError::from)?
        } else {
            let config = context.load_config()?.config;
            daemon::restore(&config, &Surroundings::of_process(), archive).await?
        };
        bar.finish_and_clear();
        report(context, file, &restored, self.check)
    }

    fn unlock(&self) -> Result<Unlock, Failure> {
        if let Some(passphrase) = self.passphrase.read(false)? {
            if !self.identity.is_empty() {
                return Err(Failure::new(
                    Exit::Usage,
                    "a backup opens either with an identity or with a passphrase; give one of them",
                ));
            }
            return Ok(Unlock::passphrase(passphrase.as_str().to_owned()));
        }
        let mut text = Zeroizing::new(String::new());
        for file in &self.identity {
            text.push_str(&Zeroizing::new(read(file)?));
            text.push('\n');
        }
        Unlock::identities(&text).map_err(|error| {
            let files: Vec<_> = self
                .identity
                .iter()
                .map(|f| f.display().to_string())
                .collect();
            Failure::new(Exit::Usage, format!("{}: {error}", files.join(", ")))
        })
    }
}

async fn take_back(context: &Context) -> Result<(), Failure> {
    let config = context.load_config()?.config;
    let resting = Resting::open(&config, &Surroundings::of_process()).await?;
    let taken = resting.take_back().await;
    resting.close().await?;
    if !taken? {
        return Err(Failure::new(
            Exit::Refused,
            "this store was not handed over: there is nothing to take back",
        ));
    }
    if context.output.is_json() {
        return context.output.json(&serde_json::json!({}));
    }
    context
        .output
        .line("this store is taken back: start the daemon")
}

type Input = BufReader<Box<dyn Read + Send>>;

fn open(context: &Context, file: &Path, check: bool) -> Result<(Input, ProgressBar), Failure> {
    let what = if check { "reading" } else { "restoring" };
    let (input, total): (Box<dyn Read + Send>, _) = if file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let failed = |error| Failure::new(Exit::Io, format!("{}: {error}", file.display()));
        let input = File::open(file).map_err(failed)?;
        let total = input.metadata().map_err(failed)?.len();
        (Box::new(input), Some(total))
    };
    let bar = progress::bytes(context, what, total);
    let counted: Box<dyn Read + Send> = Box::new(bar.wrap_read(input));
    Ok((BufReader::with_capacity(256 << 10, counted), bar))
}

fn internal(error: &tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Internal, error.to_string())
}

fn report(context: &Context, file: &Path, restored: &Restored, check: bool) -> Result<(), Failure> {
    let header = &restored.header;
    let made = Duration::from_millis(header.created_at.0);
    let made = words::moment(Some(&prost_types::Timestamp {
        seconds: i64::try_from(made.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(made.subsec_nanos()).unwrap_or(0),
    }));
    if context.output.is_json() {
        return context.output.json(&serde_json::json!({
            "file": file,
            "restored": !check,
            "madeAt": made,
            "release": header.release,
            "handedOver": header.hand_over,
            "entries": restored.entries,
            "generation": restored.generation,
        }));
    }
    let (file, release) = (file.display(), &header.release);
    if check {
        return context.output.line(&format!(
            "{file} is whole: made on {made} by release {release}, {} rows",
            restored.entries
        ));
    }
    context.output.line(&format!(
        "restored {file}, made on {made} by release {release}; start the daemon to resume its sessions"
    ))?;
    if header.hand_over {
        return Ok(());
    }
    context.output.line(
        "the store it was made of was not handed over: make sure that no other daemon runs these sessions any more",
    )
}
