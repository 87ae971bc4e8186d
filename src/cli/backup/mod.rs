//! `trunkline backup` and `trunkline restore`.

mod make;
mod put_back;
mod secret;
mod target;

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) use self::make::BackupCommand;
pub(crate) use self::put_back::RestoreCommand;
use super::Context;
use super::exit::{Exit, Failure};
use crate::daemon::{OfflineError, RestoreError, Trouble};

/// A running account of bytes on standard error, if a person watches. `total`: bytes in all, if known.
fn progress(context: &Context, what: &'static str, total: Option<u64>) -> ProgressBar {
    if context.output.is_json() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {msg} {bytes} {bytes_per_sec}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl From<OfflineError> for Failure {
    fn from(error: OfflineError) -> Self {
        let exit = match (&error, error.trouble()) {
            (OfflineError::Restore(RestoreError::Store(_) | RestoreError::Open(_)), _)
            | (_, Some(Trouble::Files)) => Exit::Io,
            (_, None) => Exit::Refused,
            (_, Some(Trouble::Configuration)) => Exit::Config,
            (_, Some(Trouble::Passing)) => Exit::Temporary,
            (_, Some(Trouble::Denied)) => Exit::Denied,
            (_, Some(Trouble::Internal)) => Exit::Internal,
        };
        Self::new(exit, error.to_string())
    }
}
