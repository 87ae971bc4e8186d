//! Child processes that cannot outlive the demo: each holds the reading end of a pipe as its standard
//! input and stops when the demo, however it ends, lets go of the other end.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cli::exit::{Exit, Failure};

/// How long a child may take to stop by itself.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running child.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    log: PathBuf,
    child: Child,
    leash: Option<ChildStdin>,
}

impl Process {
    /// Starts `program`, with its standard error appended to `log`. It gets a process group of its own,
    /// so that Ctrl-C reaches the demo alone.
    pub(super) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<(Self, Option<ChildStdout>), Failure> {
        let errors = File::options().create(true).append(true).open(log)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => Failure::new(
                    Exit::Io,
                    format!(
                        "{} is missing; `make demo` builds it, or: cargo build --workspace --bins --features simulator",
                        program.display()
                    ),
                ),
                _ => Failure::new(Exit::Io, format!("{}: {error}", program.display())),
            })?;
        let leash = child.stdin.take();
        let stdout = child.stdout.take();
        let process = Self {
            name,
            log: log.to_owned(),
            child,
            leash,
        };
        Ok((process, stdout))
    }

    /// Whether it has ended by itself, as a failure that quotes its last words.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.obituary(status)),
        }
    }

    fn obituary(&self, status: ExitStatus) -> Failure {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Failure::new(
            Exit::Internal,
            format!(
                "the {} ended ({status}); its last words in {}:\n{}",
                self.name,
                self.log.display(),
                last.join("\n")
            ),
        )
    }

    /// SIGKILL: no chance to write, flush or say goodbye.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }

    /// Lets it stop by itself; SIGKILL if it does not.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        drop(self.leash.take());
        if tokio::time::timeout(STOP_PATIENCE, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
        }
        Ok(())
    }
}
