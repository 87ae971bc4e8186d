//! A gRPC error as one plain line and an exit code.

use std::fmt::Write as _;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::exit::{Exit, Failure};
use crate::config::duration;

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str());
        let mut line = match (status.message(), reason) {
            ("", _) => format!("the daemon answered {:?}", status.code()),
            (message, Some(_)) => message.to_owned(),
            (message, None) => without_words(status.code(), message),
        };
        for violation in details
            .bad_request()
            .map(|bad| bad.field_violations.as_slice())
            .unwrap_or_default()
        {
            if !line.contains(&violation.description) {
                let _ = write!(line, "; {}: {}", violation.field, violation.description);
            }
        }
        if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
            let _ = write!(line, "; try again in {}", duration::format(delay));
        }
        if let Some(reason) = reason {
            let _ = write!(line, " [{reason}]");
        }
        Self::new(exit(status.code(), reason.is_some()), line)
    }
}

/// What the way to the daemon says, in words for people.
fn without_words(code: Code, message: &str) -> String {
    match code {
        Code::Unimplemented => format!(
            "what answers there is not Trunkline's API ({message}); --endpoint takes the address of listen.grpc, not that of listen.ops"
        ),
        Code::Unknown | Code::Internal | Code::Cancelled => {
            format!("the connection to the daemon broke ({message})")
        }
        _ => message.to_owned(),
    }
}

/// Without an `ErrorInfo` the answer did not come from the daemon but from the way to it.
fn exit(code: Code, from_daemon: bool) -> Exit {
    match code {
        Code::InvalidArgument => Exit::Usage,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        Code::Unavailable if from_daemon => Exit::Temporary,
        Code::Unavailable => Exit::Unreachable,
        Code::Unknown | Code::Internal | Code::Cancelled | Code::Unimplemented if !from_daemon => {
            Exit::Unreachable
        }
        Code::ResourceExhausted | Code::DeadlineExceeded => Exit::Temporary,
        Code::Internal | Code::DataLoss | Code::Unimplemented | Code::Unknown => Exit::Internal,
        Code::Cancelled => Exit::Interrupted,
        Code::Ok
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange => Exit::Refused,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn the_line_has_the_message_the_wait_and_the_reason() {
        let mut details = ErrorDetails::with_error_info("DRAINING", "trunkline", HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(5)));
        let status = Status::with_error_details(Code::Unavailable, "shutting down", details);
        let failure = Failure::from(status);
        assert_eq!(
            failure.to_string(),
            "shutting down; try again in 5s [DRAINING]"
        );
        assert_eq!(failure.exit, Exit::Temporary);
    }

    #[test]
    fn fields_are_named_unless_the_message_does() {
        let mut details =
            ErrorDetails::with_error_info("INVALID_FIELD", "trunkline", HashMap::new());
        details.add_bad_request_violation("to.phone", "needs a country code");
        let status = Status::with_error_details(Code::InvalidArgument, "bad request", details);
        let failure = Failure::from(status);
        assert_eq!(
            failure.to_string(),
            "bad request; to.phone: needs a country code [INVALID_FIELD]"
        );
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn a_lost_connection_is_told_from_a_busy_daemon() {
        assert_eq!(
            Failure::from(Status::unavailable("tcp connect error")).exit,
            Exit::Unreachable
        );
        let broke = Failure::from(Status::unknown("h2 protocol error: error reading a body"));
        assert_eq!(broke.exit, Exit::Unreachable);
        assert!(
            broke
                .to_string()
                .starts_with("the connection to the daemon broke"),
            "{broke}"
        );
        let elsewhere = Failure::from(Status::unimplemented("HTTP status code 404"));
        assert_eq!(elsewhere.exit, Exit::Unreachable);
        assert!(elsewhere.to_string().contains("listen.ops"), "{elsewhere}");
    }
}
