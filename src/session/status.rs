//! What can be seen of a session from outside, and the handle's side of it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::holds::Holds;
use super::outbound::Depth;
use super::pacing::Limits;
use crate::domain::clock::Timestamp;
use crate::domain::ids::SessionName;
use crate::domain::person::Person;
use crate::domain::session::{Cause, Connection, Desired, Login, Traffic};
use crate::provider::contract::Line;

/// What is going on with a session. A snapshot: cheap, and never a promise about the next moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStatus {
    /// Its full name.
    pub name: SessionName,
    /// The provider's name.
    pub provider: String,
    /// What the operator wants.
    pub desired: Desired,
    /// Where the connection is.
    pub connection: Connection,
    /// Whether credentials exist and are good.
    pub login: Login,
    /// The account it is linked to, once known.
    pub account: Option<Person>,
    /// Linked, but no login has confirmed it yet.
    pub pairing_unconfirmed: bool,
    /// Since when the connection is in this state.
    pub since: Timestamp,
    /// Why the last connection ended.
    pub last_cause: Option<Cause>,
    /// When it was last logged in.
    pub last_online: Option<Timestamp>,
    /// When the next attempt may begin, while it waits for that.
    pub next_attempt: Option<Timestamp>,
    /// Signs of life of the present or last connection.
    pub traffic: Traffic,
    /// What waits to be sent.
    pub queue: Depth,
    /// Until when the server wants nothing sent, and no conversation opened.
    pub holds: (Option<Timestamp>, Option<Timestamp>),
    /// How often the session's own code has crashed since the daemon started.
    pub crashes: u64,
}

/// Where an actor and everybody who asks about it meet. Outlives the actor's incarnations.
pub(super) struct Cell {
    pub(super) status: watch::Sender<SessionStatus>,
    pub(super) depth: watch::Sender<Depth>,
    pub(super) nudge: Arc<Notify>,
    pub(super) holds: Arc<Holds>,
    pub(super) limits: Arc<Limits>,
    line: Mutex<Option<Arc<dyn Line>>>,
}

impl Cell {
    pub(super) fn new(status: SessionStatus, limits: Limits) -> Self {
        Self {
            status: watch::channel(status).0,
            depth: watch::channel(Depth::default()).0,
            nudge: Arc::default(),
            holds: Arc::default(),
            limits: Arc::new(limits),
            line: Mutex::default(),
        }
    }

    /// Replaces the line whose traffic is shown.
    pub(super) fn show_line(&self, line: Option<Arc<dyn Line>>) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }

    /// The status with the freshest numbers.
    pub(super) fn status(&self, now: Timestamp) -> SessionStatus {
        let line = self
            .line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut status = self.status.borrow().clone();
        if let Some(line) = line {
            status.traffic = line.traffic();
        }
        status.queue = *self.depth.borrow();
        status.holds = self.holds.until(now);
        status
    }
}
