//! `trunkline backup` and `trunkline restore`.

mod make;
mod put_back;
mod secret;
mod target;

pub(crate) use self::make::BackupCommand;
pub(crate) use self::put_back::RestoreCommand;
use super::exit::{Exit, Failure};
use crate::daemon::{OfflineError, RestoreError, Trouble};

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
