//! Configuration: sections that validate themselves.
//!
//! Values come from, weakest first: the defaults below, one TOML file, `TRUNKLINE_*` variables, and the
//! flags of the command. `config/trunkline.toml` documents every key; `config/trunkline.schema.json` is
//! generated from these types. Unknown keys are refused, and all problems are reported at once.

pub mod duration;
mod keys;
mod listen;
mod load;
mod log;
mod media;
mod multidevice;
mod pacing;
mod problem;
mod schema;
mod session;
pub mod size;
mod store;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use keys::{KeySource, Keys};
pub use listen::{Listen, Listener, SocketSetting};
pub use load::{DEFAULT_FILE, Loaded, Sources, environment, load};
pub use log::{Log, LogFormat, Metrics};
pub use media::Media;
pub use multidevice::Multidevice;
pub use pacing::Pacing;
pub use problem::{ConfigError, Origin, Problem};
pub use schema::{env_name, keys as all_keys, schema};
pub use session::{Admission, Backoff, Session, Stall};
pub use store::Store;

use problem::Problems;

/// The whole configuration of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Trunkline configuration")]
pub struct Config {
    /// Where the store, the generated keys and (outside systemd) the socket live. Holds credentials:
    /// the directory is made with mode 0700.
    pub state_dir: PathBuf,
    /// Where the daemon listens.
    pub listen: Listen,
    /// Where the key that encrypts all others comes from.
    pub keys: Keys,
    /// The embedded store.
    pub store: Store,
    /// WhatsApp's multi-device service.
    pub multidevice: Multidevice,
    /// Every session.
    pub session: Session,
    /// How many sessions connect at once.
    pub admission: Admission,
    /// Pauses between connection attempts.
    pub backoff: Backoff,
    /// Detecting connections that look alive and are not.
    pub stall: Stall,
    /// How fast a session sends.
    pub pacing: Pacing,
    /// Files that were uploaded to be sent.
    pub media: Media,
    /// Logging.
    pub log: Log,
    /// Metrics.
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/trunkline"),
            listen: Listen::default(),
            keys: Keys::default(),
            store: Store::default(),
            multidevice: Multidevice::default(),
            session: Session::default(),
            admission: Admission::default(),
            backoff: Backoff::default(),
            stall: Stall::default(),
            pacing: Pacing::default(),
            media: Media::default(),
            log: Log::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Config {
    /// Reports everything that is wrong with the values, section by section.
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            !self.state_dir.as_os_str().is_empty(),
            "state_dir",
            "is empty; give a directory, such as \"/var/lib/trunkline\"",
        );
        self.listen.validate(problems);
        self.keys.validate(problems);
        self.store.validate(problems);
        self.multidevice.validate(problems);
        self.session.validate(problems);
        self.admission.validate(problems);
        self.backoff.validate(problems);
        self.stall.validate(problems);
        self.pacing.validate(problems);
        self.media.validate(problems);
        self.log.validate(problems);
        self.metrics.validate(problems);
    }

    /// The operator's socket: as configured, else `trunkline.sock` in `runtime_dir` (systemd's
    /// `$RUNTIME_DIRECTORY`), else in the state directory. `None` when it is switched off.
    pub fn socket_path(&self, runtime_dir: Option<&Path>) -> Option<PathBuf> {
        match &self.listen.socket {
            SocketSetting::Off => None,
            SocketSetting::At(path) => Some(path.clone()),
            SocketSetting::Auto => Some(
                runtime_dir
                    .unwrap_or(&self.state_dir)
                    .join("trunkline.sock"),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
