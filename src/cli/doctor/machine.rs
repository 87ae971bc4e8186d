//! What can be seen on this machine without a daemon: files, keys, limits, disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;

use super::Finding;
use crate::config::{Config, KeySource, Keys};

/// Below this the daemon soon cannot write.
const LEAST_FREE: u64 = 1 << 30;
/// Below this it is time to plan.
const WORTH_PLANNING: u64 = 5 << 30;
/// A session takes one, a call takes one, and the store a few.
const ENOUGH_FILES: u64 = 4_096;
/// Where systemd looks for credentials.
const CREDENTIAL_STORES: [&str; 4] = [
    "/etc/credstore.encrypted",
    "/run/credstore.encrypted",
    "/etc/credstore",
    "/run/credstore",
];

/// Everything of this module.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    vec![
        state_directory(&config.state_dir),
        disk(&config.state_dir),
        key(config),
        open_files(),
    ]
}

fn state_directory(path: &Path) -> Finding {
    const CHECK: &str = "state";
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Finding::ok(
                CHECK,
                format!("{shown} is not there yet: the first start makes it"),
            );
        }
        Err(error) => {
            return Finding::warning(
                CHECK,
                format!("{shown}: {error}"),
                "run doctor as root to see the daemon's files",
            );
        }
    };
    if !metadata.is_dir() {
        return Finding::problem(
            CHECK,
            format!("{shown} is not a directory"),
            "move it away, or name another with state_dir",
        );
    }
    if metadata.mode() & 0o077 != 0 {
        return Finding::problem(
            CHECK,
            format!(
                "{shown} has mode {:o}: others can read the credentials of linked devices",
                metadata.mode() & 0o777
            ),
            format!("chmod 700 {shown}"),
        );
    }
    match std::fs::metadata(path.join("store")) {
        Ok(store) if store.uid() != metadata.uid() => Finding::problem(
            CHECK,
            format!("{shown}/store belongs to another user than {shown}"),
            format!(
                "chown -R {}:{} {shown}/store",
                metadata.uid(),
                metadata.gid()
            ),
        ),
        Ok(_) => Finding::ok(
            CHECK,
            format!("{shown} has a store and is closed to others"),
        ),
        Err(_) => Finding::ok(CHECK, format!("{shown} is closed to others; no store yet")),
    }
}

/// The file system that holds, or will hold, the store.
fn disk(path: &Path) -> Finding {
    const CHECK: &str = "disk";
    const FIX: &str =
        "make room or grow the volume; a shorter store.journal_max_age lets go of events sooner";
    let Some((place, space)) = path
        .ancestors()
        .find_map(|place| Some((place, rustix::fs::statvfs(place).ok()?)))
    else {
        return Finding::warning(
            CHECK,
            "the file system does not say",
            "name a state_dir on a local disk that exists",
        );
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let found = format!("{} MiB free for {}", free >> 20, place.display());
    if free < LEAST_FREE {
        Finding::problem(CHECK, found, FIX)
    } else if free < WORTH_PLANNING {
        Finding::warning(CHECK, found, FIX)
    } else {
        Finding::ok(CHECK, found)
    }
}

fn key(config: &Config) -> Finding {
    const CHECK: &str = "key";
    const MAKE: &str = "make one before the first start: head -c 32 /dev/urandom | base64 | systemd-creds encrypt --name=trunkline-kek - /etc/credstore.encrypted/trunkline-kek";
    let keys = &config.keys;
    let credential = credential(keys);
    let development = config.state_dir.join("development.kek");
    match (keys.source, &keys.file, credential) {
        (KeySource::File, Some(file), _) => key_file(file),
        (KeySource::Auto | KeySource::Credential, _, Some(path)) if !development.exists() => {
            Finding::ok(CHECK, format!("the credential {}", path.display()))
        }
        (KeySource::Auto | KeySource::Credential, _, Some(path)) => Finding::warning(
            CHECK,
            format!(
                "{} is there, and so is {}: one of them opens the store",
                path.display(),
                development.display()
            ),
            "if the daemon runs, the development key is a leftover: remove it; if it says that the store has another key, remove the credential",
        ),
        (KeySource::Credential, _, None) => Finding::problem(
            CHECK,
            format!("there is no credential {}", keys.credential),
            MAKE,
        ),
        (KeySource::Development | KeySource::Auto, _, _) | (KeySource::File, None, _) => {
            Finding::warning(
                CHECK,
                "a development key beside the data: whoever copies the directory has both",
                format!("for production {MAKE}"),
            )
        }
    }
}

/// Where the key is kept for systemd to hand over, if it is.
pub(super) fn credential(keys: &Keys) -> Option<PathBuf> {
    let mut kept = CREDENTIAL_STORES
        .iter()
        .map(|store| Path::new(store).join(&keys.credential));
    kept.find(|path| path.exists())
}

fn key_file(file: &Path) -> Finding {
    const CHECK: &str = "key";
    let shown = file.display();
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) => {
            return Finding::problem(
                CHECK,
                format!("{shown}: {error}"),
                format!("(umask 077; head -c 32 /dev/urandom | base64 > {shown})"),
            );
        }
    };
    if metadata.mode() & 0o077 != 0 {
        return Finding::problem(
            CHECK,
            format!(
                "{shown} has mode {:o}: others can read it",
                metadata.mode() & 0o777
            ),
            format!("chmod 600 {shown}"),
        );
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) => {
            return Finding::warning(
                CHECK,
                format!("{shown}: {error}"),
                "run doctor as the daemon's user or as root",
            );
        }
    };
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map(zeroize::Zeroizing::new);
    match decoded {
        Ok(bytes) if bytes.len() == 32 => Finding::ok(CHECK, format!("the file {shown}")),
        _ => Finding::problem(
            CHECK,
            format!("{shown} does not hold 32 bytes in base64"),
            "restore the key the store was made with; only a new installation may get a new one",
        ),
    }
}

/// The limit of this shell: what a daemon started from it would get.
fn open_files() -> Finding {
    const CHECK: &str = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < ENOUGH_FILES => Finding::warning(
            CHECK,
            format!(
                "a daemon started from here may open {limit} files; each number and each call takes one"
            ),
            "ulimit -n 65536 before `trunkline serve` (the systemd unit sets its own limit)",
        ),
        Some(limit) => Finding::ok(CHECK, format!("up to {limit}")),
        None => Finding::ok(CHECK, "without limit"),
    }
}
