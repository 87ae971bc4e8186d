//! How a command ends: exit codes for scripts, one plain line for people.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the answer is no: not found, refused, failed, lost |
//! | 2 | the command line is wrong |
//! | 69 | the daemon cannot be reached |
//! | 70 | a fault of the daemon or of this program |
//! | 74 | files or the store cannot be read or written |
//! | 75 | temporary: the store is locked, the daemon is busy or draining; try again |
//! | 77 | not allowed: token missing, unknown or too weak; file permissions |
//! | 78 | the configuration is wrong (systemd does not restart after it) |
//! | 130 | interrupted |

use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigError;

/// The exit codes that are not success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The answer is no.
    Refused = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 69,
    /// A fault of the daemon or of this program.
    Internal = 70,
    /// Files or the store cannot be read or written.
    Io = 74,
    /// Temporary; try again.
    Temporary = 75,
    /// Not allowed.
    Denied = 77,
    /// The configuration is wrong.
    Config = 78,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For scripts.
    pub exit: Exit,
    /// For people: what is wrong and, where there is one, the fix. Empty when all was said before.
    pub message: String,
}

impl Failure {
    /// A failure with its line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// A failure whose story is already on the screen.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Config, error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Io, error.to_string())
    }
}
