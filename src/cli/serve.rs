//! `trunkline serve`: runs the daemon until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::Notify;

use super::Context;
use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::daemon::{BindError, Daemon, Reloader, Surroundings, Trouble};
use crate::lifecycle::{Shutdown, Signals, Supervisor};
use crate::telemetry::{self, LogControl};

/// How long draining may take; systemd's `TimeoutStopSec` is a little longer.
const GRACE: Duration = Duration::from_secs(40);
/// How often `systemctl status` gets a new line.
const STATUS_PERIOD: Duration = Duration::from_secs(10);

/// Run the daemon
#[derive(Debug, Args)]
pub(crate) struct ServeCommand {
    /// Stop when standard input closes: ties the daemon to the process that started it
    #[arg(long, hide = true)]
    stop_on_stdin_eof: bool,
}

impl ServeCommand {
    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// 78 for a configuration that cannot work, 75 for what passes (a locked store, an address in use),
    /// 74 for a store that cannot be read, 77 for what the daemon may not do.
    pub(crate) fn run(&self, context: &Context) -> Result<(), Failure> {
        let loaded = context.load_config()?;
        let logs = telemetry::init_logs(&loaded.config.log)
            .map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("trunkline")
            .build()?;
        let outcome = runtime.block_on(self.serve(context, loaded.config, logs));
        // Blocking reads of standard input or of the store must not hold the process up.
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    }

    async fn serve(
        &self,
        context: &Context,
        config: Config,
        logs: LogControl,
    ) -> Result<(), Failure> {
        let shutdown = Shutdown::new();
        let reload = Arc::new(Notify::new());
        tokio::spawn(Signals::listen()?.drive(shutdown.clone(), reload.clone()));
        if self.stop_on_stdin_eof {
            drain_with_stdin(shutdown.clone());
        }
        let daemon = Daemon::bind(&config, Surroundings::of_process(), shutdown.clone()).await?;
        report(&daemon);

        let supervisor = Supervisor;
        supervisor.ready();
        let vitals = daemon.vitals();
        if let Some(period) = supervisor.watchdog_period() {
            let heart = daemon.heart();
            let watch = supervisor.watch(period, shutdown.hard().clone(), move || {
                let heart = heart.clone();
                async move { heart.beats().await }
            });
            shutdown.spawn(watch);
        }
        let mut reloader = daemon.reloader(context.sources.clone(), logs);
        let soft = shutdown.soft().clone();
        shutdown.spawn(async move {
            let mut ticks = tokio::time::interval(STATUS_PERIOD);
            loop {
                tokio::select! {
                    () = soft.cancelled() => return,
                    _ = ticks.tick() => supervisor.status(&vitals.summary()),
                    () = reload.notified() => {
                        supervisor.reloading();
                        apply(&mut reloader);
                        supervisor.ready();
                    }
                }
            }
        });

        let ended = daemon.join().await;
        supervisor.stopping(GRACE);
        let orderly = daemon.shutdown(GRACE).await;
        match (ended, orderly) {
            (Err(error), _) => Err(Failure::new(Exit::Internal, error.to_string())),
            (Ok(()), true) => {
                tracing::info!("stopped");
                Ok(())
            }
            (Ok(()), false) => {
                tracing::warn!(
                    "stopped before everything had ended; what was acknowledged is safe"
                );
                Ok(())
            }
        }
    }
}

/// Reloads and says in the log what that changed. A configuration that is wrong changes nothing.
fn apply(reloader: &mut Reloader) {
    match reloader.reload() {
        Ok(done) => {
            for warning in &done.warnings {
                tracing::warn!("{warning}");
            }
            if !done.pending.is_empty() {
                tracing::warn!(
                    keys = done.pending.join(", "),
                    "these need a restart to take effect"
                );
            }
            tracing::info!(applied = done.applied.join(", "), "reloaded");
        }
        Err(error) => {
            tracing::error!(%error, "the configuration is not reloaded: everything stays as it was");
        }
    }
}

fn report(daemon: &Daemon) {
    let addresses = daemon.addresses();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        grpc = addresses.grpc.map(tracing::field::display),
        socket = addresses
            .socket
            .as_deref()
            .map(|path| tracing::field::display(path.display())),
        ops = addresses.ops.map(tracing::field::display),
        "serving"
    );
}

/// Drains when standard input ends: the pipe closes when the process that holds the other end dies,
/// however it dies.
fn drain_with_stdin(shutdown: Shutdown) {
    std::thread::spawn(move || {
        // Whether it ended or broke, nobody is there any more.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.drain();
    });
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        let exit = match error.trouble() {
            Trouble::Configuration => Exit::Config,
            Trouble::Passing => Exit::Temporary,
            Trouble::Denied => Exit::Denied,
            Trouble::Files => Exit::Io,
            Trouble::Internal => Exit::Internal,
        };
        Self::new(exit, error.to_string())
    }
}
