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
        let mut line = if status.message().is_empty() {
            format!("the daemon answered {:?}", status.code())
        } else {
            status.message().to_owned()
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

/// Without an `ErrorInfo` the answer did not come from the daemon but from the way to it.
fn exit(code: Code, from_daemon: bool) -> Exit {
    match code {
        Code::InvalidArgument => Exit::Usage,
        Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
        Code::Unavailable if from_daemon => Exit::Temporary,
        Code::Unavailable => Exit::Unreachable,
        Code::Unknown if !from_daemon => Exit::Unreachable,
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
    }
}
