//! The store: as the daemon that runs it tells, or opened as the next start would.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;

use indicatif::HumanBytes;

use super::metrics::Metrics;
use super::{Finding, machine};
use crate::config::Config;
use crate::daemon::{BindError, Contents, OfflineError, Resting, Surroundings, Trouble};

const CHECK: &str = "store";
/// With what the service has: its user, its directory, its key.
const AS_THE_SERVICE: &str = "to have it opened, run doctor as the service is run: systemd-run --pipe --wait --quiet -p DynamicUser=yes -p User=trunkline -p StateDirectory=trunkline -p LoadCredentialEncrypted=trunkline-kek trunkline doctor";

/// The store of a daemon that runs, as far as its metrics tell. Whether it writes is part of readiness.
pub(super) fn of_daemon(metrics: &Metrics) -> Option<Finding> {
    let bytes = metrics.value("trunkline_store_disk_bytes")?;
    let opened = metrics.value("trunkline_store_open_seconds")?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size, which gauges hold as a float"
    )]
    let size = HumanBytes(bytes as u64);
    Some(Finding::ok(
        CHECK,
        format!("{size}; the last start opened it in {opened:.1} s"),
    ))
}

/// The store when no daemon answers: opened by the user it belongs to, and closed again. Nobody else opens
/// it, since files made by that would not be the daemon's.
pub(super) async fn at_rest(config: &Config) -> Finding {
    let path = config.state_dir.join("store");
    let shown = path.display();
    let owner = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if config.state_dir.join("store.restoring").exists() {
                Finding::problem(
                    CHECK,
                    "a restore was interrupted: no daemon starts here",
                    "run `trunkline restore` again",
                )
            } else {
                Finding::ok(CHECK, "none yet: the first start makes it")
            };
        }
        Err(error) => {
            return Finding::warning(
                CHECK,
                format!("{shown}: {error}"),
                "run doctor as root to see the daemon's files",
            );
        }
    };
    if owner != rustix::process::geteuid().as_raw() {
        return Finding::warning(
            CHECK,
            format!("{shown} is user {owner}'s, and was not opened"),
            AS_THE_SERVICE,
        );
    }
    match look_into(config).await {
        Ok(contents) => described(&contents),
        Err(OfflineError::Open(error)) if error.trouble() == Trouble::Passing => Finding::problem(
            CHECK,
            format!("a process has {shown} open, and no daemon answers"),
            "a daemon that starts or stops, a backup or a restore: look again in a minute; if it stays so, stop that process",
        ),
        Err(error) if key_is_the_services(config, &error) => Finding::warning(
            CHECK,
            format!("{shown} was not opened: its key is a credential of the service"),
            AS_THE_SERVICE,
        ),
        Err(error) => Finding::problem(
            CHECK,
            error.to_string(),
            "what this names; the next start would say the same",
        ),
    }
}

/// Whether it failed for want of a key that systemd gives to the service alone.
fn key_is_the_services(config: &Config, error: &OfflineError) -> bool {
    let is_about_key = match error {
        OfflineError::KeyMissing(_) => true,
        OfflineError::Open(error) => matches!(error, BindError::Kek(_)),
        _ => false,
    };
    is_about_key
        && Surroundings::of_process().credentials_dir.is_none()
        && machine::credential(&config.keys).is_some()
}

async fn look_into(config: &Config) -> Result<Contents, OfflineError> {
    let resting = Resting::open(config, &Surroundings::of_process()).await?;
    let contents = resting.contents().await;
    resting.close().await?;
    contents
}

fn described(contents: &Contents) -> Finding {
    let found = format!(
        "sessions: {}; {}, opened in {:.1} s",
        contents.sessions,
        HumanBytes(contents.bytes),
        contents.opened_in.as_secs_f64()
    );
    if contents.handed_over_at.is_some() {
        return Finding::problem(
            CHECK,
            format!("{found}; it was handed over: no daemon runs its sessions"),
            "start the daemon where its backup was restored; if that never happened: trunkline restore --take-back",
        );
    }
    Finding::ok(CHECK, found)
}
