//! The daemon as a child process, started like an operator would, and a client of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::process::Process;
use crate::cli::exit::{Exit, Failure};
use crate::cli::target::Daemon;

/// How long the daemon may take until it answers.
const READY_PATIENCE: Duration = Duration::from_mins(1);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// How to start the daemon, again and again.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    program: PathBuf,
    config: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
}

impl Recipe {
    /// Writes a configuration that points at the simulator.
    pub(super) fn write(program: &Path, folder: &Path, endpoint: &str) -> Result<Self, Failure> {
        let config = folder.join("trunkline.toml");
        // The demo shows reliability, not pacing: it may send as fast as it can.
        let text = format!(
            "[listen]\ngrpc = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n\n\
             [keys]\nsource = \"development\"\n\n\
             [multidevice]\nendpoint = \"{endpoint}\"\n\n\
             [pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000\n\n\
             [log]\nformat = \"text\"\n"
        );
        std::fs::write(&config, text)?;
        Ok(Self {
            program: program.to_owned(),
            config,
            state_dir: folder.to_owned(),
            log: folder.join("daemon.log"),
        })
    }

    /// Where the daemon's socket is.
    pub(super) fn socket(&self) -> PathBuf {
        self.state_dir.join("trunkline.sock")
    }

    /// Where the daemon logs.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Starts the daemon and waits until it answers.
    pub(super) async fn start(&self) -> Result<Process, Failure> {
        let config = self.config.display().to_string();
        let state_dir = self.state_dir.display().to_string();
        let arguments = [
            "serve",
            "--config",
            config.as_str(),
            "--state-dir",
            state_dir.as_str(),
            "--stop-on-stdin-eof",
        ];
        let (mut process, _) = Process::start("daemon", &self.program, &arguments, &self.log)?;
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            process.check()?;
            if self.connect().await.is_ok() {
                return Ok(process);
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    Exit::Temporary,
                    format!("the daemon did not answer; see {}", self.log.display()),
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A client of the daemon, if it runs.
    pub(super) async fn connect(&self) -> Result<Daemon, Failure> {
        Daemon::at_socket(&self.socket(), "default").await
    }
}
