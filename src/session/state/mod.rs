//! What a session does next: a pure function from state, input, time and chance to the next state and
//! the effects it asks for.
//!
//! Three facts are kept apart ([`Facts`]): what the operator wants, where the connection is, whether
//! the credentials are good. Inputs that come from a line or a timer are always accepted (late ones are
//! ignored); commands can be illegal, and say so with an [`Illegal`]. The actor performs the effects in
//! the order in which they are listed.

mod backoff;
mod cause;
mod command;
mod phase;
#[cfg(test)]
mod properties;
mod step;
#[cfg(test)]
mod tests;

use std::time::Duration;

use thiserror::Error;

pub use backoff::Backoff;
pub use cause::{Class, classify, name as cause_name, spoils_line};
pub use phase::{Goal, PairMode, Phase, Rest, Run};
pub use step::NOT_PAIRED;

use crate::domain::clock::Timestamp;
use crate::domain::session::{Cause, Connection, Desired, Halt, Login};

/// Wall time for what is shown, monotonic time for what is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall time.
    pub wall: Timestamp,
    /// Monotonic time.
    pub elapsed: Duration,
}

/// What is durable about a session: persisted before anything that depends on it happens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// What the operator wants.
    pub desired: Desired,
    /// Whether credentials exist and are good.
    pub login: Login,
    /// A pairing was begun and no login has confirmed it yet.
    pub pairing_unconfirmed: bool,
    /// The initial synchronisation after pairing has not finished.
    pub initial_sync_owed: bool,
    /// Why the session must not connect by itself, if so.
    pub halt: Option<Halt>,
}

/// The numbers the machine follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Waits after transient trouble.
    pub backoff: Backoff,
    /// A connection that lived this long counts as stable: failures are forgotten.
    pub stable_after: Duration,
    /// Waits after 429 and 405; the longest is also how often a full workspace is looked at in any case.
    pub slow: Backoff,
    /// Internal faults in a row after which the session is FAILED.
    pub crash_limit: u32,
    /// Longest extra wait after a ban has expired.
    pub ban_jitter: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            backoff: Backoff {
                base: Duration::from_secs(1),
                cap: Duration::from_mins(15),
            },
            stable_after: Duration::from_mins(1),
            slow: Backoff {
                base: Duration::from_mins(1),
                cap: Duration::from_mins(15),
            },
            crash_limit: 5,
            ban_jitter: Duration::from_mins(1),
        }
    }
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The session's actor began, from the stored facts.
    Boot {
        /// How often its predecessors crashed in a row, and on what.
        crashes: u32,
        /// The last crash.
        reason: String,
        /// Whether the workspace has no room for what would arrive.
        full: bool,
    },
    /// Command: keep it connected.
    Start,
    /// Command: keep it disconnected.
    Stop,
    /// Command: disconnect if connected, then connect anew.
    Restart,
    /// Command: link a device.
    Pair(PairMode),
    /// The client that asked for the pairing went away.
    CancelPairing,
    /// Command: end the link and delete the credentials.
    Logout,
    /// Admission was granted.
    Admitted,
    /// The phone accepted the link.
    Paired,
    /// The first login after the pairing succeeded.
    Confirmed,
    /// Connected and logged in.
    Online,
    /// The initial synchronisation is done.
    InitialSyncDone,
    /// The attempt ended.
    Ended(Cause),
    /// The workspace has no room for what would arrive.
    Full,
    /// The workspace is no longer full.
    Room,
    /// The time given by [`State::wake_at`] has come.
    Timer,
}

/// Something the actor must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Delete the credentials and everything derived from them (an explicit Logout, or a pairing that
    /// was never confirmed; nothing else asks for it).
    Wipe,
    /// Store these facts before going on.
    Persist(Facts),
    /// Build the line anew before the next attempt.
    Rebuild,
    /// Ask the fleet for permission to connect; answer with [`Input::Admitted`].
    Admit,
    /// Take the question back.
    Withdraw,
    /// Begin an attempt on the line; answer with [`Input::Ended`].
    Run(Goal),
    /// Tell the provider to forget this device (best effort), then close the connection.
    Unlink,
    /// Close the connection; [`Input::Ended`] follows.
    Close,
    /// Tell the fleet how an attempt went.
    Report(Outcome),
    /// Connection or login changed: publish and journal it.
    Announce(Option<Cause>),
    /// A pairing progressed: journal it and tell whoever pairs.
    Pairing(PairingStep),
    /// The provider limited us: journal it.
    Limited {
        /// `UPPER_SNAKE`, as in [`crate::domain::event::Payload::Signal`].
        signal: &'static str,
        /// The provider's code.
        code: Option<u32>,
        /// When it ends, if known.
        until: Option<Timestamp>,
    },
}

/// How an attempt went, for the fleet-wide breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It logged in.
    Online,
    /// It ended without a login.
    Refused(Class),
}

/// How far a pairing got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairingStep {
    /// Begun.
    Started,
    /// The phone accepted.
    Succeeded,
    /// A login confirmed it: the link is real.
    Confirmed,
    /// Nobody scanned or typed in time.
    Expired,
    /// It came to nothing.
    Failed {
        /// `UPPER_SNAKE`.
        reason: String,
    },
}

/// A command that makes no sense now: `FAILED_PRECONDITION`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Illegal {
    /// No credentials.
    #[error("the session is not paired: call Pair first")]
    NotPaired,
    /// Credentials exist.
    #[error("the session is paired already: call Logout first to link another device")]
    AlreadyPaired,
    /// A pairing is under way.
    #[error("a pairing is under way: wait for it to finish or expire, or call Stop")]
    PairingUnderWay,
    /// The credentials are dead.
    #[error("the provider ended the link: call Logout to discard the dead credentials, then Pair")]
    LoggedOut,
    /// The number is banned.
    #[error("the number is banned until {} (seconds since 1970); Restart tries earlier", until.secs())]
    Banned {
        /// When it ends.
        until: Timestamp,
    },
    /// The operator stopped it.
    #[error("the session is stopped: call Start first")]
    Stopped,
    /// A logout is under way.
    #[error("a logout is under way: try again when it is done")]
    LoggingOut,
    /// There is no room for what would arrive.
    #[error(
        "the workspace's journal is full: let the consumers of its subscriptions confirm events, or raise store.journal_max_size, then call Pair"
    )]
    WorkspaceFull,
}

impl Illegal {
    /// The stable reason for `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPaired => "SESSION_NOT_PAIRED",
            Self::AlreadyPaired => "SESSION_ALREADY_PAIRED",
            Self::PairingUnderWay => "PAIRING_UNDER_WAY",
            Self::LoggedOut => "SESSION_LOGGED_OUT",
            Self::Banned { .. } => "SESSION_BANNED",
            Self::Stopped => "SESSION_STOPPED",
            Self::LoggingOut => "LOGOUT_UNDER_WAY",
            Self::WorkspaceFull => "WORKSPACE_FULL",
        }
    }
}

/// A session as the machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub(super) facts: Facts,
    pub(super) phase: Phase,
    /// Attempts in a row that failed.
    pub(super) failures: u32,
    /// Internal faults in a row.
    pub(super) crashes: u32,
    /// Whether the next routine end may reconnect at once.
    pub(super) pass: bool,
    /// Why the pairing under way ran into trouble, if it did.
    pub(super) pairing_trouble: Option<String>,
    /// Whether the workspace has no room for what would arrive.
    pub(super) full: bool,
}

impl State {
    /// A session that was just made, of which nothing was announced yet; feed it [`Input::Boot`] first.
    pub fn new(facts: Facts) -> Self {
        Self::at(facts, Phase::Resting(Rest::Stopped))
    }

    /// A session that was read from the store; feed it [`Input::Boot`] first, which announces only what
    /// a restart changes: one that rests goes on resting without a word.
    pub fn restored(facts: Facts) -> Self {
        let phase = match (Rest::of(&facts), &facts.halt) {
            (Some(rest), _) => Phase::Resting(rest),
            (None, &Some(Halt::Banned { code, until })) => Phase::Waiting {
                due: Duration::MAX,
                shown: Connection::Banned { until, code },
            },
            (None, _) => Phase::Resting(Rest::Stopped),
        };
        Self::at(facts, phase)
    }

    /// Where a session is said to be until its actor has looked: where it rests, else on its way.
    pub fn expected(facts: Facts) -> Connection {
        let wanted = facts.desired == Desired::Running;
        match Self::restored(facts).connection() {
            Connection::Stopped if wanted => Connection::Connecting,
            connection => connection,
        }
    }

    fn at(facts: Facts, phase: Phase) -> Self {
        Self {
            facts,
            phase,
            failures: 0,
            crashes: 0,
            pass: true,
            pairing_trouble: None,
            full: false,
        }
    }

    /// What is durable.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What is going on.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Where the connection is, as shown to everybody.
    pub fn connection(&self) -> Connection {
        self.phase.connection()
    }

    /// When [`Input::Timer`] is due, in monotonic time.
    pub fn wake_at(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Waiting { due, .. } => Some(*due),
            _ => None,
        }
    }

    /// Whether an attempt is in progress that nobody told to end.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// Whether nothing runs and nothing is scheduled.
    pub fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Resting(_))
    }
}
