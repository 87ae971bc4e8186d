//! The faults, and what must become of a line that one strikes.

use trunkline::pb::ConnectionState;
use trunkline_simulator::Fault;

/// How often a connection is ended in a row.
const STRIKES: usize = 3;

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
    /// An orderly stop that a call holds up, and a new start.
    Drained,
}

/// What must be true while a fault lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct During {
    pub(crate) reach: Reach,
    /// Where the struck lines may be.
    pub(crate) states: &'static [ConnectionState],
    pub(crate) socket: Socket,
    pub(crate) lasts: Lasts,
}

/// Whom a fault strikes. Nobody else may notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Line,
    Fleet,
}

/// What the simulator knows of a struck line's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Socket {
    /// It is the one of before.
    Kept,
    /// There is none that is logged in.
    None,
    /// There may be one, of which the line has not heard a word.
    Unheard,
    /// It comes and goes.
    Changes,
}

/// When a fault is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// When it is lifted.
    UntilLifted,
    /// When it has struck this often and the struck lines have logged in since.
    Strikes(usize),
    /// When the struck lines have logged in anew.
    UntilBack,
}

impl Step {
    pub(crate) const ALL: [Self; 18] = [
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
        Self::Drained,
    ];

    /// What is ordered for the line, in this order, and how often it applies.
    pub(crate) fn orders(self) -> Vec<(Fault, Option<u32>)> {
        let refused = |reason| Fault::ConnectFailure {
            reason,
            code: (reason == 402).then_some(104),
            expire: (reason == 402).then_some(3_600),
        };
        let often = |fault| vec![(fault, u32::try_from(STRIKES).ok())];
        match self {
            Self::Close => often(Fault::Close),
            Self::CloseAll => vec![(Fault::Close, None)],
            Self::RestartRequired => often(Fault::StreamError { code: 515 }),
            Self::Unavailable => often(Fault::StreamError { code: 503 }),
            Self::SlowDown => vec![(Fault::StreamError { code: 429 }, None)],
            Self::BadXml => often(Fault::XmlNotWellFormed),
            Self::Silence => vec![(Fault::Silence, None)],
            Self::Replaced => vec![(Fault::Replaced, None)],
            Self::Banned => vec![(refused(402), None), (Fault::Close, None)],
            Self::Outdated => vec![(refused(405), None), (Fault::Close, None)],
            Self::LoginsRefused => vec![(refused(503), None), (Fault::Close, None)],
            Self::Unreachable => vec![(Fault::RefuseTcp, None), (Fault::Close, None)],
            Self::Late => vec![(Fault::Delay { millis: 200 }, None)],
            Self::Muddled => vec![(Fault::Duplicate, Some(2)), (Fault::Reorder, Some(1))],
            Self::NoAcks => vec![(Fault::WithholdAcks, Some(1))],
            Self::Unlinked | Self::Killed | Self::Drained => Vec::new(),
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

    /// What must be true while it lasts. `None`: the daemon itself is away, and says nothing.
    pub(crate) fn during(self) -> Option<During> {
        use ConnectionState::{Backoff, Banned, Connecting, LoggedOut, Online, Outdated, Replaced};
        let of = |reach, states, socket, lasts| {
            Some(During {
                reach,
                states,
                socket,
                lasts,
            })
        };
        let recovers = |reach, lasts| {
            of(
                reach,
                &[Online, Connecting, Backoff],
                Socket::Changes,
                lasts,
            )
        };
        let stays_in = |states| of(Reach::Line, states, Socket::None, Lasts::UntilLifted);
        let unmoved = of(Reach::Line, &[Online], Socket::Kept, Lasts::UntilLifted);
        match self {
            Self::Close | Self::RestartRequired | Self::Unavailable | Self::BadXml => {
                recovers(Reach::Line, Lasts::Strikes(STRIKES))
            }
            Self::CloseAll => recovers(Reach::Fleet, Lasts::UntilBack),
            // The message whose ack is missed goes out again on a new connection.
            Self::NoAcks => recovers(Reach::Line, Lasts::UntilBack),
            Self::SlowDown => stays_in(&[Backoff]),
            Self::LoginsRefused => stays_in(&[Connecting, Backoff]),
            Self::Silence => of(
                Reach::Line,
                &[Connecting, Backoff],
                Socket::Unheard,
                Lasts::UntilLifted,
            ),
            Self::Replaced => stays_in(&[Replaced]),
            Self::Unlinked => stays_in(&[LoggedOut]),
            Self::Banned => stays_in(&[Banned]),
            Self::Outdated => stays_in(&[Outdated]),
            Self::Unreachable => of(
                Reach::Fleet,
                &[Connecting, Backoff],
                Socket::None,
                Lasts::UntilLifted,
            ),
            Self::Late | Self::Muddled => unmoved,
            Self::Killed | Self::Drained => None,
        }
    }
}
