//! Errors as JSON that names the field.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::account::NewAccountError;
use crate::hub::{CodeFailure, GroupError, PeopleError, ScanFailure};
use crate::simulator::FaultError;

/// `{"error": {"field": …, "message": …}}`
#[derive(Debug)]
pub(super) struct ControlError {
    status: StatusCode,
    field: Option<String>,
    message: String,
}

impl ControlError {
    pub(super) fn new(status: StatusCode, field: &str, message: impl std::fmt::Display) -> Self {
        Self {
            status,
            field: Some(field.to_owned()),
            message: message.to_string(),
        }
    }

    pub(super) fn bad(field: &str, message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, field, message)
    }

    pub(super) fn not_found(field: &str, message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, field, message)
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"field": self.field, "message": self.message}});
        (self.status, Json(body)).into_response()
    }
}

pub(super) async fn no_such_route(uri: Uri) -> ControlError {
    ControlError {
        status: StatusCode::NOT_FOUND,
        field: None,
        message: format!("no route {}", uri.path()),
    }
}

impl From<NewAccountError> for ControlError {
    fn from(error: NewAccountError) -> Self {
        match error {
            NewAccountError::InvalidPhone(_) => Self::bad("phone", error),
            NewAccountError::EmptyName => Self::bad("name", error),
            NewAccountError::Refused(error) => error.into(),
        }
    }
}

impl From<PeopleError> for ControlError {
    fn from(error: PeopleError) -> Self {
        match error {
            PeopleError::PhoneTaken(_) => Self::new(StatusCode::CONFLICT, "phone", error),
            PeopleError::NoSuchAccount(_) | PeopleError::CallsItself(_) | PeopleError::Phone(_) => {
                Self::bad("to", error)
            }
            PeopleError::NoSuchCall(_) => Self::not_found("call", error),
            PeopleError::Group(error) => error.into(),
            PeopleError::NoSuchDevice(..) => Self::not_found("device", error),
            PeopleError::Keys(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "phone", error),
        }
    }
}

impl From<GroupError> for ControlError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::NoSuchGroup(_) => Self::not_found("group", error),
            GroupError::NotAMember(..) | GroupError::NotAnAdmin(..) => {
                Self::new(StatusCode::CONFLICT, "group", error)
            }
            GroupError::BadSubject => Self::bad("subject", error),
            GroupError::NoSuchAccount(_) => Self::bad("members", error),
        }
    }
}

impl From<ScanFailure> for ControlError {
    fn from(error: ScanFailure) -> Self {
        match error {
            ScanFailure::Unreadable(_) => Self::bad("qr", error),
            ScanFailure::UnknownReference
            | ScanFailure::ExpiredReference
            | ScanFailure::ForeignKeys
            | ScanFailure::PasskeyDemanded
            | ScanFailure::TooManyDevices(_) => Self::new(StatusCode::CONFLICT, "qr", error),
        }
    }
}

impl From<CodeFailure> for ControlError {
    fn from(error: CodeFailure) -> Self {
        match error {
            CodeFailure::Malformed => Self::bad("code", error),
            CodeFailure::NotRequested | CodeFailure::Expired | CodeFailure::TooManyDevices(_) => {
                Self::new(StatusCode::CONFLICT, "code", error)
            }
        }
    }
}

impl From<FaultError> for ControlError {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::NoSuchAccount(_) => Self::not_found("target", error),
            FaultError::TargetsEveryone => Self::bad("target", error),
            FaultError::ZeroTimes => Self::bad("times", error),
        }
    }
}
