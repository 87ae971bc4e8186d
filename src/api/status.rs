//! Errors of the API: one list of reasons, mapped once to gRPC codes and details.
//!
//! Every error carries `google.rpc.ErrorInfo` (reason, domain `trunkline`, dynamic parts as metadata);
//! malformed requests add `BadRequest`, illegal states `PreconditionFailure`, and whatever may be
//! repeated `RetryInfo`. Only UNAVAILABLE invites a blind retry (AIP-193, AIP-194).

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::domain::ids::IdError;
use crate::domain::phone::PhoneError;
pub use crate::pb::ErrorReason as Reason;

/// The `ErrorInfo` domain.
pub const DOMAIN: &str = "trunkline";

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    reason: Reason,
    message: Cow<'static, str>,
    fields: Vec<(Cow<'static, str>, String)>,
    precondition: Option<(String, String)>,
    retry_after: Option<Duration>,
    metadata: Vec<(&'static str, String)>,
}

/// The gRPC code of a reason.
pub fn code(reason: Reason) -> Code {
    match reason {
        Reason::InvalidField
        | Reason::InvalidPhoneNumber
        | Reason::InvalidPageToken
        | Reason::NoCredit
        | Reason::StreamNotOpened
        | Reason::UnsupportedContent => Code::InvalidArgument,
        Reason::TokenMissing | Reason::TokenInvalid => Code::Unauthenticated,
        Reason::AdministratorRequired => Code::PermissionDenied,
        Reason::ResourceNotFound | Reason::MediaGone => Code::NotFound,
        Reason::ResourceAlreadyExists | Reason::IdempotencyConflict => Code::AlreadyExists,
        Reason::EtagMismatch => Code::Aborted,
        Reason::IllegalTransition
        | Reason::SessionNotPaired
        | Reason::SessionAlreadyPaired
        | Reason::PairingUnderWay
        | Reason::UnsupportedByProvider
        | Reason::SessionLoggedOut
        | Reason::SessionBanned
        | Reason::SessionStopped
        | Reason::LogoutUnderWay
        | Reason::WorkspaceFull
        | Reason::ResourceBuiltIn => Code::FailedPrecondition,
        Reason::RevisionOutOfRange => Code::OutOfRange,
        Reason::MessageTooLarge
        | Reason::QuotaExceeded
        | Reason::TooManyStreams
        | Reason::TooManyLeases => Code::ResourceExhausted,
        Reason::Draining
        | Reason::StoreBusy
        | Reason::SessionBusy
        | Reason::SessionOffline
        | Reason::MediaUnavailable
        | Reason::ProviderUnavailable => Code::Unavailable,
        Reason::Unspecified | Reason::Internal => Code::Internal,
        Reason::RecordDamaged | Reason::MediaDamaged => Code::DataLoss,
        Reason::MethodUnknown => Code::Unimplemented,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
    }
}

/// The text of a reason as clients see it, in `UPPER_SNAKE`.
pub fn reason_text(reason: Reason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

impl ApiError {
    /// An error without details beyond its reason.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: message.into(),
            fields: Vec::new(),
            precondition: None,
            retry_after: None,
            metadata: Vec::new(),
        }))
    }

    /// A malformed field: which one, and what to write instead.
    pub fn field(field: impl Into<Cow<'static, str>>, description: impl Into<String>) -> Self {
        Self::field_with(Reason::InvalidField, field, description)
    }

    /// A malformed field, with a reason of its own.
    pub fn field_with(
        reason: Reason,
        field: impl Into<Cow<'static, str>>,
        description: impl Into<String>,
    ) -> Self {
        let (field, description) = (field.into(), description.into());
        let message = if description.starts_with(field.as_ref()) {
            description.clone()
        } else {
            format!("{field}: {description}")
        };
        let mut error = Self::new(reason, message);
        error.0.fields.push((field, description));
        error
    }

    /// There is no such resource, or the caller may not know that there is.
    pub fn not_found(resource: &str) -> Self {
        let resource: String = resource.chars().take(300).collect();
        Self::new(
            Reason::ResourceNotFound,
            format!("{resource} does not exist"),
        )
        .with("resource", resource)
    }

    /// The state of `subject` forbids this.
    pub fn precondition(
        reason: Reason,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        let (subject, description) = (subject.into(), description.into());
        let mut error = Self::new(reason, description.clone());
        error.0.precondition = Some((subject, description));
        error
    }

    /// A fault of ours; `incident` connects the answer with the log.
    pub fn internal(incident: &uuid::Uuid) -> Self {
        Self::new(
            Reason::Internal,
            "internal error; the daemon's log has the details",
        )
        .with("incident", incident.to_string())
    }

    /// Adds a dynamic part.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.metadata.push((key, value.into()));
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// The same error about `resource`: a `NOT_FOUND` names what the client asked for, so that the answer
    /// does not tell which part of the name is missing.
    #[must_use]
    pub(super) fn at(self, resource: &dyn std::fmt::Display) -> Self {
        match self.0.reason {
            Reason::ResourceNotFound => Self::not_found(&resource.to_string()),
            _ => self,
        }
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let error = *error.0;
        let metadata: HashMap<String, String> = error
            .metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        let mut details =
            ErrorDetails::with_error_info(reason_text(error.reason), DOMAIN, metadata);
        for (field, description) in error.fields {
            details.add_bad_request_violation(field, description);
        }
        if let Some((subject, description)) = error.precondition {
            details.add_precondition_failure_violation(
                reason_text(error.reason),
                subject,
                description,
            );
        }
        if let Some(delay) = error.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code(error.reason), error.message, details)
    }
}

impl From<IdError> for ApiError {
    fn from(error: IdError) -> Self {
        let description = error.to_string();
        let (IdError::Malformed { field, .. }
        | IdError::NotUuid { field, .. }
        | IdError::NotName { field, .. }) = error;
        Self::field(field, description)
    }
}

impl From<PhoneError> for ApiError {
    fn from(error: PhoneError) -> Self {
        let description = error.to_string();
        let (PhoneError::Unreadable { field } | PhoneError::Length { field, .. }) = error;
        Self::field_with(Reason::InvalidPhoneNumber, field, description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Reason> {
        (0..200).filter_map(|number| Reason::try_from(number).ok())
    }

    #[test]
    fn every_reason_has_info_and_a_code_that_is_an_error() {
        assert!(all().count() > 30);
        for reason in all() {
            let status = Status::from(ApiError::new(reason, "x"));
            assert_ne!(status.code(), Code::Ok);
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(info.domain, DOMAIN);
            let upper_snake = |c: char| c.is_ascii_uppercase() || c == '_';
            assert!(info.reason.chars().all(upper_snake), "{}", info.reason);
            assert!(!info.reason.starts_with("ERROR_REASON"));
        }
    }

    #[test]
    fn a_field_error_names_the_field_once() {
        let status = Status::from(ApiError::from(
            crate::domain::phone::normalise("to.phone", "0803").unwrap_err(),
        ));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message().matches("to.phone").count(), 1);
        let details = status.get_error_details();
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            "to.phone"
        );
        assert_eq!(details.error_info().unwrap().reason, "INVALID_PHONE_NUMBER");
    }
}
