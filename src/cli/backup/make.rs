//! Making a backup: of a daemon that runs, through its API, or of the store of one that is stopped.

use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;

use bytes::{Buf as _, Bytes};
use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::secret::{PassphraseArgs, recipients};
use super::target::Target;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::complain;
use crate::cli::target::Daemon;
use crate::cli::{Context, progress};
use crate::daemon::{OfflineError, Recipients, Resting, Surroundings, write_backup};
use crate::pb;

/// Chunks between the store and the file.
const BUFFER: usize = 8;

/// Make an encrypted backup of everything, while the daemon runs
#[derive(Debug, Args)]
pub(crate) struct BackupCommand {
    /// Where to write it; `-` is standard output. What exists is not overwritten
    file: PathBuf,
    /// Whom to encrypt it for (age1…); may be given several times
    #[arg(long, short, value_name = "RECIPIENT", required_unless_present_any = ["recipients_file", "passphrase_file", "passphrase"])]
    recipient: Vec<String>,
    /// A file with recipients, one a line
    #[arg(long, value_name = "FILE")]
    recipients_file: Vec<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Read the store of a daemon that is stopped
    #[arg(long)]
    offline: bool,
    /// Give the numbers up with it: afterwards no daemon runs this store's sessions, and whoever
    /// restores the backup does. Needs the daemon to be stopped
    #[arg(long)]
    hand_over: bool,
}

/// What the file is encrypted with in the end.
enum Seal {
    /// As it comes from the store.
    Recipients,
    /// What comes is for this identity alone, which exists only here: the passphrase reaches no daemon.
    Passphrase(Zeroizing<String>, age::x25519::Identity),
}

impl BackupCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon or the file system refuses, in one line; nothing is left then.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let target = Target::new(&self.file)?;
        let (seal, recipients) = self.seal()?;
        let out = target.create()?;
        let bar = progress::bytes(context, "backing up", None);
        let made = self.make(context, seal, recipients, out, &bar).await;
        bar.finish_and_clear();
        let resting = match made {
            Ok(resting) => resting,
            Err(failure) => {
                target.discard();
                return Err(failure);
            }
        };
        target.keep()?;
        if let Some(resting) = resting {
            if self.hand_over {
                // Last: a crash before this leaves a store that can be used.
                resting.hand_over().await?;
            }
            resting.close().await?;
        }
        self.report(context, bar.position())
    }

    fn report(&self, context: &Context, bytes: u64) -> Result<(), Failure> {
        let told = if self.hand_over {
            "; this store is handed over: no daemon here runs its sessions any more"
        } else {
            ""
        };
        let line = format!(
            "backup written to {} ({}){told}",
            self.file.display(),
            HumanBytes(bytes)
        );
        if self.file.as_os_str() == "-" {
            complain(&line);
            return Ok(());
        }
        if context.output.is_json() {
            return context.output.json(&serde_json::json!({
                "file": self.file,
                "bytes": bytes,
                "handedOver": self.hand_over,
            }));
        }
        context.output.line(&line)
    }

    fn seal(&self) -> Result<(Seal, Vec<String>), Failure> {
        let mut all = self.recipient.clone();
        for file in &self.recipients_file {
            all.extend(recipients(file)?);
        }
        if self.passphrase.is_given() && !all.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                "a backup is encrypted either for recipients or with a passphrase; give one of them",
            ));
        }
        match self.passphrase.read(true)? {
            Some(passphrase) => {
                let identity = age::x25519::Identity::generate();
                let recipient = identity.to_public().to_string();
                Ok((Seal::Passphrase(passphrase, identity), vec![recipient]))
            }
            None => Ok((Seal::Recipients, all)),
        }
    }

    /// Writes everything. Gives back the store, if no daemon had it open.
    async fn make(
        &self,
        context: &Context,
        seal: Seal,
        recipients: Vec<String>,
        out: Box<dyn Write + Send>,
        bar: &ProgressBar,
    ) -> Result<Option<Resting>, Failure> {
        let (chunks, received) = mpsc::channel(BUFFER);
        let counted = bar.wrap_write(out);
        let writing = tokio::task::spawn_blocking(move || {
            let input = Received {
                chunks: received,
                current: Bytes::new(),
            };
            write_out(seal, input, counted)
        });
        let taken = if self.offline || self.hand_over {
            self.offline(context, &recipients, chunks).await.map(Some)
        } else {
            online(context, recipients, chunks).await.map(|()| None)
        };
        let written = writing
            .await
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        match (taken, written) {
            (Ok(resting), Ok(())) => Ok(resting),
            // Whoever made it had a reason of its own, unless it only saw that nobody took it any more.
            (Err(failure), _) if failure.exit != Exit::Io => Err(failure),
            (_, Err(error)) => Err(Failure::new(
                Exit::Io,
                format!("{}: {error}", self.file.display()),
            )),
            (Err(failure), Ok(())) => Err(failure),
        }
    }

    async fn offline(
        &self,
        context: &Context,
        recipients: &[String],
        chunks: mpsc::Sender<Bytes>,
    ) -> Result<Resting, Failure> {
        let recipients = Recipients::parse(recipients.iter().map(String::as_str))
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let config = context.load_config()?.config;
        let resting = Resting::open(&config, &Surroundings::of_process()).await?;
        let backup = resting.backup(self.hand_over).await?;
        let done = write_backup(backup, recipients, Sent(chunks)).await;
        match done {
            Ok(()) => Ok(resting),
            Err(error) => {
                resting.close().await?;
                Err(error.into())
            }
        }
    }
}

async fn online(
    context: &Context,
    recipients: Vec<String>,
    chunks: mpsc::Sender<Bytes>,
) -> Result<(), Failure> {
    let daemon = Daemon::connect(context).await?;
    let request = pb::BackupRequest { recipients };
    let mut stream = daemon.backups().backup(request).await?.into_inner();
    while let Some(response) = stream.message().await? {
        if chunks.send(response.chunk.into()).await.is_err() {
            return Err(OfflineError::cut_off().into());
        }
    }
    Ok(())
}

fn write_out(seal: Seal, mut input: Received, mut out: impl Write) -> io::Result<()> {
    match seal {
        Seal::Recipients => {
            io::copy(&mut input, &mut out)?;
        }
        Seal::Passphrase(passphrase, identity) => {
            let decryptor = age::Decryptor::new_buffered(BufReader::new(input)).map_err(foreign)?;
            let one = std::iter::once(&identity as &dyn age::Identity);
            let mut plain = decryptor.decrypt(one).map_err(foreign)?;
            let passphrase = passphrase.as_str().to_owned().into();
            let encryptor = age::Encryptor::with_user_passphrase(passphrase);
            let mut sealed = encryptor.wrap_output(&mut out)?;
            io::copy(&mut plain, &mut sealed)?;
            sealed.finish()?;
        }
    }
    out.flush()
}

fn foreign(error: age::DecryptError) -> io::Error {
    match error {
        age::DecryptError::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Reads what arrives.
struct Received {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

/// Writes into the channel.
struct Sent(mpsc::Sender<Bytes>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
