//! What is going on in a session: each phase carries what only makes sense in it.

use std::time::Duration;

use super::Facts;
use crate::domain::session::{Connection, Desired, Halt, Login};

/// How a device is linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairMode {
    /// By a QR code scanned with the phone.
    Qr,
    /// By a code typed on the phone.
    Code {
        /// The account's number, E.164.
        phone: String,
    },
}

/// What an attempt is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Link a new device.
    Pair(PairMode),
    /// Log in with the stored credentials.
    Login,
}

/// Nothing runs and nothing is scheduled, because …
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// … there are no credentials.
    Unpaired,
    /// … another connection owns the device.
    Replaced,
    /// … the provider ended the link.
    LoggedOut,
    /// … the number is banned with no known end.
    Banned {
        /// The provider's code.
        code: u32,
    },
    /// … our own code failed repeatedly.
    Failed {
        /// What happened.
        reason: String,
    },
    /// … the operator wants it so.
    Stopped,
}

impl Rest {
    /// Where the facts alone keep a session from doing anything; `None` when it is to connect.
    pub(super) fn of(facts: &Facts) -> Option<Self> {
        match (&facts.desired, &facts.login, &facts.halt) {
            (Desired::Stopped, _, _) => Some(Self::Stopped),
            (_, Login::LoggedOut, _) => Some(Self::LoggedOut),
            (_, Login::Unpaired, _) if !facts.pairing_unconfirmed => Some(Self::Unpaired),
            (_, _, Some(Halt::Replaced)) => Some(Self::Replaced),
            (_, _, Some(Halt::Banned { code, until: None })) => Some(Self::Banned { code: *code }),
            _ => None,
        }
    }
}

/// An attempt in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What it is for.
    pub goal: Goal,
    /// Since when it is logged in, in monotonic time.
    pub online_since: Option<Duration>,
    /// Whether the phone accepted the link during this attempt.
    pub accepted: bool,
}

/// What is going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Nothing, until somebody asks.
    Resting(Rest),
    /// Waiting for a time.
    Waiting {
        /// When to ask for admission, in monotonic time.
        due: Duration,
        /// What the wait looks like from outside: BACKOFF, BANNED or OUTDATED.
        shown: Connection,
    },
    /// Waiting for admission.
    Asking(Goal),
    /// An attempt is in progress.
    Running(Run),
    /// The attempt was told to end.
    Closing {
        /// The attempt.
        run: Run,
        /// Delete the credentials when it has ended.
        discard: bool,
        /// Whether the provider is being told to forget the device.
        logout: bool,
    },
}

impl Phase {
    /// What it looks like from outside.
    pub fn connection(&self) -> Connection {
        match self {
            Self::Resting(rest) => match rest {
                Rest::Unpaired => Connection::Unpaired,
                Rest::Replaced => Connection::Replaced,
                Rest::LoggedOut => Connection::LoggedOut,
                Rest::Banned { code } => Connection::Banned {
                    until: None,
                    code: *code,
                },
                Rest::Failed { reason } => Connection::Failed {
                    reason: reason.clone(),
                },
                Rest::Stopped => Connection::Stopped,
            },
            Self::Waiting { shown, .. } => shown.clone(),
            Self::Asking(goal) => goal.connection(),
            Self::Running(run) | Self::Closing { run, .. } => run.connection(),
        }
    }
}

impl Goal {
    fn connection(&self) -> Connection {
        match self {
            Self::Pair(_) => Connection::Pairing,
            Self::Login => Connection::Connecting,
        }
    }
}

impl Run {
    /// A fresh attempt.
    pub(super) fn new(goal: Goal) -> Self {
        Self {
            goal,
            online_since: None,
            accepted: false,
        }
    }

    fn connection(&self) -> Connection {
        if self.online_since.is_some() {
            Connection::Online
        } else {
            self.goal.connection()
        }
    }
}
