//! Why a daemon did not start.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::api::server;
use crate::provider::multidevice;
use crate::session::ConfigProblem;
use crate::store::keyring::KekError;
use crate::store::{self, StoreError};
use crate::telemetry::TelemetryError;

/// Why a daemon did not start. Every text says what to do.
#[derive(Debug, Error)]
pub enum BindError {
    /// A value of the configuration that only the part it is for could judge.
    #[error("configuration: multidevice.{0}")]
    Multidevice(#[from] multidevice::ConfigError),
    /// The root certificates cannot be read.
    #[error("configuration: multidevice.tls_root: {path}: {detail}; give a PEM file with certificates", path = path.display())]
    TlsRoot {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// Values that do not fit together.
    #[error("configuration: {0}")]
    Sessions(#[from] ConfigProblem),
    /// The key encryption key cannot be used.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The state directory cannot be made.
    #[error("state_dir {path}: {source}; make the directory for the daemon's user, or name another with --state-dir", path = path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A restore did not come to its end.
    #[error("a restore into {path} was interrupted: run `trunkline restore` again; to begin with an empty store instead, remove store.restoring there", path = .0.display())]
    HalfRestored(PathBuf),
    /// The store's files cannot be opened.
    #[error(transparent)]
    Engine(#[from] store::sled::OpenError),
    /// The store's contents cannot be used.
    #[error(transparent)]
    Open(#[from] store::OpenError),
    /// The store failed while sessions were restored.
    #[error(transparent)]
    Restore(#[from] StoreError),
    /// The API cannot listen.
    #[error("listen: {0}")]
    Api(#[from] server::BindError),
    /// An address cannot be listened on.
    #[error("{key} = {address}: {source}; choose another, or stop what uses it")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Metrics or logs could not be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Entropy(io::Error),
    /// Opening the store panicked.
    #[error("the store could not be opened: {0}")]
    Panicked(String),
}

/// What kind of trouble it is: what a supervisor of processes needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A person must change the configuration.
    Configuration,
    /// It passes: another process has what we need.
    Passing,
    /// Not allowed.
    Denied,
    /// Files cannot be read or written.
    Files,
    /// A fault of ours or of the machine.
    Internal,
}

impl BindError {
    /// An address that cannot be listened on.
    pub(super) fn listen(key: &'static str, address: &str, source: io::Error) -> Self {
        Self::Listen {
            key,
            address: address.to_owned(),
            source,
        }
    }

    /// What kind of trouble it is.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Multidevice(_)
            | Self::TlsRoot { .. }
            | Self::Sessions(_)
            | Self::Api(server::BindError::Tls(_))
            | Self::Kek(_)
            | Self::HalfRestored(_)
            | Self::Open(store::OpenError::Kek(_) | store::OpenError::HandedOver { .. }) => {
                Trouble::Configuration
            }
            Self::Engine(store::sled::OpenError::Locked { .. })
            | Self::Api(server::BindError::SocketInUse { .. }) => Trouble::Passing,
            Self::StateDir { source, .. }
            | Self::Listen { source, .. }
            | Self::Api(
                server::BindError::Tcp { source, .. } | server::BindError::Socket { source, .. },
            ) => of_io(source),
            Self::Engine(_) | Self::Open(_) | Self::Restore(_) => Trouble::Files,
            Self::Telemetry(_)
            | Self::Entropy(_)
            | Self::Panicked(_)
            | Self::Api(server::BindError::Descriptors(_)) => Trouble::Internal,
        }
    }
}

fn of_io(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::AddrInUse => Trouble::Passing,
        io::ErrorKind::PermissionDenied => Trouble::Denied,
        _ => Trouble::Files,
    }
}
