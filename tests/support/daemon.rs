//! The daemon as a process of its own, started like an operator would, with a state directory that is
//! removed in the end. It can be killed at any moment and started again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use super::eventually;

/// How long the daemon may take until it answers, or until it has stopped.
const PATIENCE: Duration = Duration::from_mins(3);

/// See the module documentation.
pub(crate) struct Daemon {
    home: TempDir,
    child: Option<Child>,
    /// How much had been logged before the last start.
    log_before: usize,
}

impl Daemon {
    /// A state directory and a configuration that points at `endpoint`; `more` is appended to it.
    pub(crate) fn prepare(endpoint: &str, more: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let text = format!(
            "[listen]\ngrpc = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n\n\
             [keys]\nsource = \"development\"\n\n\
             [multidevice]\nendpoint = \"{endpoint}\"\n\n{more}\n"
        );
        std::fs::write(home.path().join("trunkline.toml"), text).unwrap();
        Self {
            home,
            child: None,
            log_before: 0,
        }
    }

    /// Rewrites the configuration; for a daemon that does not run yet.
    pub(crate) fn change_config(&self, change: impl FnOnce(&str) -> String) {
        let path = self.home.path().join("trunkline.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, change(&text)).unwrap();
    }

    /// The command line `trunkline` for this daemon, without a subcommand.
    pub(crate) fn trunkline(&self) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_trunkline"));
        command
            .env_clear()
            .arg("--config")
            .arg(self.home.path().join("trunkline.toml"))
            .arg("--state-dir")
            .arg(self.state_dir());
        command
    }

    /// Where the state is.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// The operator's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state_dir().join("trunkline.sock")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where it listens since its last start: `listener` is `grpc` or `ops`.
    pub(crate) fn address(&self, listener: &str) -> String {
        // The last line may be half written.
        let said = self.log();
        let lines = said[self.log_before..].lines().rev();
        let mut lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let address = lines.find_map(|line| line[listener].as_str().map(str::to_owned));
        address.expect("the log names the address")
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("daemon.log")
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(&mut self) {
        self.start_with(&[]).await;
    }

    /// The same with variables in its environment.
    pub(crate) async fn start_with(&mut self, env: &[(&str, &Path)]) {
        assert!(self.child.is_none(), "the daemon runs already");
        self.log_before = self.log().len();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = Command::from(self.trunkline());
        let child = command
            .args(["serve", "--stop-on-stdin-eof"])
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let socket = self.socket();
        let child = self.child.as_mut().unwrap();
        let log = self.home.path().join("daemon.log");
        let before = self.log_before;
        eventually("the daemon answers", PATIENCE, async || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("the daemon ended: {status}\n{log}");
            }
            // It listens a moment before it serves, and says when it does.
            let serving = std::fs::read_to_string(&log)
                .is_ok_and(|log| log[before..].contains("\"serving\""));
            serving && channel(&socket).await.is_ok()
        })
        .await;
    }

    /// A connection to it.
    pub(crate) async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        channel(&self.socket()).await
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().await.unwrap();
    }

    /// Lets it drain; its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.drain();
        self.wait().await
    }

    /// Asks it to drain, and returns at once.
    pub(crate) fn drain(&mut self) {
        let child = self.child.as_mut().expect("the daemon runs");
        drop(child.stdin.take());
    }

    /// Waits for its end, whoever asked for it; its exit code.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the daemon runs");
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.expect("the daemon stops in time").unwrap().code()
    }
}

async fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    Endpoint::from_static("http://trunkline.local")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
}
