//! What is wrong with a configuration: every problem at once, each with its key, its place and its fix.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key at fault, dotted, such as `listen.grpc`; empty when no key is to blame.
    pub key: String,
    /// Where the value was set; `None` for a default.
    pub origin: Option<Origin>,
    /// What is wrong and how to put it right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigError {
    /// Everything that is wrong, in the order it was found; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problems[..] {
            [only] => write!(f, "configuration: {only}"),
            many => {
                write!(f, "configuration: {} problems", many.len())?;
                for problem in many {
                    write!(f, "\n  {problem}")?;
                }
                Ok(())
            }
        }
    }
}

/// Collects problems while sections validate themselves.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    origins: BTreeMap<String, Origin>,
    found: Vec<Problem>,
}

impl Problems {
    /// Remembers where `key` was set, so that a later problem can say so.
    pub(super) fn set_origin(&mut self, key: &str, origin: Origin) {
        self.origins.insert(key.to_owned(), origin);
    }

    /// Records a problem with `key`; a key is reported once.
    pub(super) fn add(&mut self, key: &str, message: impl Into<String>) {
        if key.is_empty() || self.found.iter().all(|problem| problem.key != key) {
            self.found.push(Problem {
                key: key.to_owned(),
                origin: self.origins.get(key).cloned(),
                message: message.into(),
            });
        }
    }

    /// Records a problem that belongs to a place rather than a key.
    pub(super) fn add_at(&mut self, origin: Origin, message: impl Into<String>) {
        self.found.push(Problem {
            key: String::new(),
            origin: Some(origin),
            message: message.into(),
        });
    }

    /// Records a problem unless `holds`.
    pub(super) fn require(&mut self, holds: bool, key: &str, message: &str) {
        if !holds {
            self.add(key, message);
        }
    }

    /// `Ok` when nothing was found.
    pub(super) fn into_result(self) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(ConfigError {
                problems: self.found,
            })
        }
    }
}
