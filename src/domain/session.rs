//! What a session is and the three separate facts about it: desired, connection, login.

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Keep it connected.
    #[default]
    Running,
    /// Keep it disconnected; credentials stay.
    Stopped,
}

/// Whether credentials exist and are believed good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// Never linked, or the link was never confirmed.
    #[default]
    Unpaired,
    /// Linked; credentials on disk.
    Paired,
    /// The provider ended the link; credentials are dead but kept until an explicit delete.
    LoggedOut,
}

/// Where the connection is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Connection {
    /// No credentials; waiting for a Pair.
    #[default]
    Unpaired,
    /// A pairing is under way.
    Pairing,
    /// An attempt to connect is under way (or waits for admission).
    Connecting,
    /// Connected and logged in.
    Online,
    /// Waiting before the next attempt.
    Backoff {
        /// When the next attempt may start.
        until: Timestamp,
        /// How many attempts in a row have failed, from 1.
        attempt: u32,
        /// Why the last one ended.
        reason: Cause,
    },
    /// Another connection took this device over; never retried blindly.
    Replaced,
    /// The provider ended the link.
    LoggedOut,
    /// The provider banned the number; `until` is absent when it is permanent or unknown.
    Banned {
        /// When the ban ends, if the provider said so.
        until: Option<Timestamp>,
        /// The provider's code.
        code: u32,
    },
    /// The provider refuses this client version; affects the whole fleet.
    Outdated,
    /// Stopped after repeated internal faults; needs an operator.
    Failed {
        /// What happened.
        reason: String,
    },
    /// Stopped on request.
    Stopped,
}

impl Connection {
    /// The name used in the API, metrics, logs and the CLI.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unpaired => "UNPAIRED",
            Self::Pairing => "PAIRING",
            Self::Connecting => "CONNECTING",
            Self::Online => "ONLINE",
            Self::Backoff { .. } => "BACKOFF",
            Self::Replaced => "REPLACED",
            Self::LoggedOut => "LOGGED_OUT",
            Self::Banned { .. } => "BANNED",
            Self::Outdated => "OUTDATED",
            Self::Failed { .. } => "FAILED",
            Self::Stopped => "STOPPED",
        }
    }
}

/// A provider's verdict that outlives a restart of the daemon: the session must not connect by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "halt")]
pub enum Halt {
    /// Another connection owns the device; only an explicit Start or Restart tries again.
    Replaced,
    /// Banned; it connects again by itself once `until` has passed.
    Banned {
        /// The provider's code.
        code: u32,
        /// When it ends, if known.
        until: Option<Timestamp>,
    },
}

/// Why a connection ended, classified once, by the provider, in terms every provider can use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Cause {
    /// We closed it on request.
    Requested,
    /// The server recycled the connection (EOF or a clean close): routine, reconnect at once.
    Recycled,
    /// Stream error 515: restart required, normal after pairing; reconnect at once.
    RestartRequired,
    /// Network trouble, stream 503, connect failure 500/503/409, a `run` that returned without a word.
    Transient {
        /// The provider's code where there was one.
        code: Option<u32>,
        /// A short technical detail without personal data.
        detail: String,
    },
    /// Nothing arrived for too long and a probe was not answered.
    Stalled,
    /// The login did not finish in time.
    LoginTimeout,
    /// The server asked us to slow down (429).
    RateLimited,
    /// The client version is refused (405): the whole fleet is affected.
    Outdated,
    /// Another connection of the same device took over (440, conflict replaced, stream 409).
    Replaced,
    /// The link is gone (401, 403, 406, 516, device removed).
    LoggedOut {
        /// The provider's code.
        code: u32,
    },
    /// Temporary or permanent ban (402 with a code and an expiry).
    Banned {
        /// The provider's ban code (101 strangers, 102 blocked, 103 groups, 104 same message, 106 broadcast).
        code: u32,
        /// When it ends, if the provider said so.
        until: Option<Timestamp>,
    },
    /// The pairing ran out of QR codes or time.
    PairingExpired,
    /// The pairing was refused or failed.
    PairingFailed {
        /// `UPPER_SNAKE` reason such as `PASSKEY_REQUIRED`.
        reason: String,
    },
    /// We could not make something durable and closed to keep it unacknowledged.
    StoreFailed {
        /// A short technical detail without personal data.
        detail: String,
    },
    /// The workspace's journal is full: closed, so that the provider queues what arrives.
    WorkspaceFull,
    /// Our own code failed (a contained panic, for instance).
    Internal {
        /// A short technical detail without personal data.
        detail: String,
    },
}

/// The numbers that tell whether a session is really alive, from traffic and not from a flag.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// When the last frame arrived.
    pub last_inbound: Option<Timestamp>,
    /// When the server last acknowledged something we sent.
    pub last_ack: Option<Timestamp>,
    /// Messages that could not be decrypted since the last connect.
    pub undecryptable: u64,
    /// Messages decrypted since the last connect.
    pub decrypted: u64,
}
