//! The faults, and what must become of a line that one strikes.

use trunkline::pb::ConnectionState;
use trunkline_simulator::Fault;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The server ends one connection.
    Close,
    /// The server ends every connection.
    CloseAll,
    /// 515.
    RestartRequired,
    /// 503: the socket stays open, dead.
    Unavailable,
    /// 429, likewise.
    SlowDown,
    /// What was sent was not XML.
    BadXml,
    /// Not a word any more.
    Silence,
    /// Another connection of the same device.
    Replaced,
    /// The phone ended the link.
    Unlinked,
    /// 402 with an end.
    Banned,
    /// 405.
    Outdated,
    /// Logins are refused for a while.
    LoginsRefused,
    /// Nobody listens for a while.
    Unreachable,
    /// Everything comes late.
    Late,
    /// Messages come twice, and in another order.
    Muddled,
    /// The server keeps its acks for itself.
    NoAcks,
    /// SIGKILL, and a new start.
    Killed,
}

impl Step {
    pub(crate) const ALL: [Self; 17] = [
        Self::Close,
        Self::CloseAll,
        Self::RestartRequired,
        Self::Unavailable,
        Self::SlowDown,
        Self::BadXml,
        Self::Silence,
        Self::Replaced,
        Self::Unlinked,
        Self::Banned,
        Self::Outdated,
        Self::LoginsRefused,
        Self::Unreachable,
        Self::Late,
        Self::Muddled,
        Self::NoAcks,
        Self::Killed,
    ];

    /// What is ordered for the line, in this order, and how often it applies.
    pub(crate) fn orders(self) -> Vec<(Fault, Option<u32>)> {
        let refused = |reason| Fault::ConnectFailure {
            reason,
            code: (reason == 402).then_some(104),
            expire: (reason == 402).then_some(3_600),
        };
        match self {
            Self::Close | Self::CloseAll => vec![(Fault::Close, None)],
            Self::RestartRequired => vec![(Fault::StreamError { code: 515 }, None)],
            Self::Unavailable => vec![(Fault::StreamError { code: 503 }, None)],
            Self::SlowDown => vec![(Fault::StreamError { code: 429 }, None)],
            Self::BadXml => vec![(Fault::XmlNotWellFormed, None)],
            Self::Silence => vec![(Fault::Silence, None)],
            Self::Replaced => vec![(Fault::Replaced, None)],
            Self::Banned => vec![(refused(402), None), (Fault::Close, None)],
            Self::Outdated => vec![(refused(405), None), (Fault::Close, None)],
            Self::LoginsRefused => vec![(refused(503), None), (Fault::Close, None)],
            Self::Late => vec![(Fault::Delay { millis: 200 }, Some(20))],
            Self::Muddled => vec![(Fault::Duplicate, Some(2)), (Fault::Reorder, Some(1))],
            Self::NoAcks => vec![(Fault::WithholdAcks, Some(1))],
            Self::Unlinked | Self::Unreachable | Self::Killed => Vec::new(),
        }
    }

    /// Where the line comes to rest while the fault is in force. `None`: it stays, or comes back, ONLINE.
    pub(crate) fn rests_in(self) -> Option<ConnectionState> {
        match self {
            Self::Replaced => Some(ConnectionState::Replaced),
            Self::Unlinked => Some(ConnectionState::LoggedOut),
            Self::Banned => Some(ConnectionState::Banned),
            Self::Outdated => Some(ConnectionState::Outdated),
            Self::SlowDown | Self::LoginsRefused => Some(ConnectionState::Backoff),
            _ => None,
        }
    }
}
