//! Classification of why a connection ended: done once, here.

use crate::domain::session::Cause;

/// What a cause asks of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// We asked for it.
    Requested,
    /// Part of a healthy life: reconnect at once, unless it repeats.
    Routine,
    /// Trouble that passes: back off.
    Transient,
    /// The provider asked for less: back off for longer.
    RateLimited,
    /// The whole fleet is affected: back off for longer and let the breaker probe.
    Fleet,
    /// Over until somebody acts.
    Terminal,
    /// Over until a date.
    Timed,
    /// The pairing came to nothing.
    Pairing,
    /// Our own fault: back off, and give up when it repeats.
    Internal,
}

/// Classifies a cause. `was_online` tells whether the attempt had reached a login: an end of stream
/// before that is trouble, not routine.
pub fn classify(cause: &Cause, was_online: bool) -> Class {
    match cause {
        // Not why an attempt ends, but why none begins.
        Cause::Requested | Cause::WorkspaceFull => Class::Requested,
        Cause::Recycled if was_online => Class::Routine,
        Cause::RestartRequired => Class::Routine,
        Cause::Recycled
        | Cause::Transient { .. }
        | Cause::Stalled
        | Cause::LoginTimeout
        | Cause::StoreFailed { .. } => Class::Transient,
        Cause::RateLimited => Class::RateLimited,
        Cause::Outdated => Class::Fleet,
        Cause::Replaced | Cause::LoggedOut { .. } | Cause::Banned { until: None, .. } => {
            Class::Terminal
        }
        Cause::Banned { until: Some(_), .. } => Class::Timed,
        Cause::PairingExpired | Cause::PairingFailed { .. } => Class::Pairing,
        Cause::Internal { .. } => Class::Internal,
    }
}

/// The name of a cause in metrics and logs; carries no detail.
pub fn name(cause: &Cause) -> &'static str {
    match cause {
        Cause::Requested => "requested",
        Cause::Recycled => "recycled",
        Cause::RestartRequired => "restart_required",
        Cause::Transient { .. } => "transient",
        Cause::Stalled => "stalled",
        Cause::LoginTimeout => "login_timeout",
        Cause::RateLimited => "rate_limited",
        Cause::Outdated => "outdated",
        Cause::Replaced => "replaced",
        Cause::LoggedOut { .. } => "logged_out",
        Cause::Banned { .. } => "banned",
        Cause::PairingExpired => "pairing_expired",
        Cause::PairingFailed { .. } => "pairing_failed",
        Cause::StoreFailed { .. } => "store_failed",
        Cause::WorkspaceFull => "workspace_full",
        Cause::Internal { .. } => "internal",
    }
}

/// Whether the line must be built anew before the next attempt: its client saw a terminal disconnect,
/// changed credentials, or cannot be trusted.
pub fn spoils_line(cause: &Cause) -> bool {
    !matches!(
        cause,
        Cause::Recycled | Cause::RestartRequired | Cause::Transient { .. } | Cause::RateLimited
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_stream_is_routine_only_after_a_login() {
        assert_eq!(classify(&Cause::Recycled, true), Class::Routine);
        assert_eq!(classify(&Cause::Recycled, false), Class::Transient);
        assert_eq!(classify(&Cause::RestartRequired, false), Class::Routine);
    }
}
