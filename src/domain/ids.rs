//! Identifiers and the resource names built from them.
//!
//! Names follow AIP-122: `workspaces/{workspace}/sessions/{session}`. Workspace and session ids are
//! chosen by clients; message and event ids are UUIDs of ours.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Longest client-chosen id, in bytes (AIP-122 asks for DNS-label-like ids).
pub const MAX_ID_LEN: usize = 63;

/// Why a text is not the id or the resource name it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// A client-chosen id breaks the alphabet or the length.
    #[error(
        "{field} `{value}` is not valid: use 1 to 63 of a-z, 0-9 and `-`, starting with a letter and not ending with `-`"
    )]
    Malformed {
        /// The request field (or resource segment) at fault.
        field: &'static str,
        /// What was given, shortened to at most 80 characters.
        value: String,
    },
    /// A UUID was expected.
    #[error("{field} `{value}` is not a UUID such as 1b4e28ba-2fa1-4d2b-883f-0016d3cca427")]
    NotUuid {
        /// The request field at fault.
        field: &'static str,
        /// What was given, shortened to at most 80 characters.
        value: String,
    },
    /// A resource name does not have the expected form.
    #[error("{field} `{value}` is not of the form `{pattern}`")]
    NotName {
        /// The request field at fault.
        field: &'static str,
        /// The expected pattern.
        pattern: &'static str,
        /// What was given, shortened to at most 80 characters.
        value: String,
    },
}

fn shorten(value: &str) -> String {
    value.chars().take(80).collect()
}

fn check_label(field: &'static str, value: &str) -> Result<(), IdError> {
    let bytes = value.as_bytes();
    let alphabet = bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    let edges = bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|b| *b != b'-');
    if alphabet && edges && bytes.len() <= MAX_ID_LEN {
        Ok(())
    } else {
        Err(IdError::Malformed {
            field,
            value: shorten(value),
        })
    }
}

macro_rules! label_id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes a client-chosen id.
            ///
            /// # Errors
            /// [`IdError::Malformed`] names the field and the allowed alphabet.
            pub fn new(value: impl Into<String>) -> Result<Self, IdError> {
                let value = value.into();
                check_label($field, &value)?;
                Ok(Self(value))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(s: String) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

label_id!(
    /// A tenant. Every record belongs to one.
    WorkspaceId,
    "workspace"
);
label_id!(
    /// One WhatsApp line (one linked device) within a workspace.
    SessionId,
    "session"
);
label_id!(
    /// A consumer group of a workspace's events.
    SubscriptionId,
    "subscription"
);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Uuid::parse_str(s).map(Self).map_err(|_| IdError::NotUuid {
                    field: $field,
                    value: shorten(s),
                })
            }
        }
    };
}

uuid_id!(
    /// An outbound message as our API names it; not the stanza id WhatsApp sees.
    MessageId,
    "message"
);
uuid_id!(
    /// A file that was uploaded to be sent.
    MediaId,
    "media"
);
uuid_id!(
    /// The stable id of an event; every redelivery of the event carries the same one.
    EventId,
    "event_id"
);
uuid_id!(
    /// What makes a mutation idempotent (AIP-155).
    RequestId,
    "request_id"
);

impl WorkspaceId {
    /// The workspace every fresh install has.
    pub fn default_workspace() -> Self {
        Self("default".to_owned())
    }

    /// `workspaces/{workspace}`.
    pub fn name(&self) -> String {
        format!("workspaces/{self}")
    }

    /// Parses `workspaces/{workspace}`; `field` is the request field for the error.
    ///
    /// # Errors
    /// [`IdError::NotName`] or [`IdError::Malformed`].
    pub fn from_name(field: &'static str, name: &str) -> Result<Self, IdError> {
        match name.split('/').collect::<Vec<_>>()[..] {
            ["workspaces", workspace] => Self::new(workspace),
            _ => Err(IdError::NotName {
                field,
                pattern: "workspaces/{workspace}",
                value: shorten(name),
            }),
        }
    }
}

/// The full address of a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionName {
    /// The tenant that owns the session.
    pub workspace: WorkspaceId,
    /// The session within it.
    pub session: SessionId,
}

impl SessionName {
    /// Joins the two ids.
    pub fn new(workspace: WorkspaceId, session: SessionId) -> Self {
        Self { workspace, session }
    }

    /// Parses `workspaces/{workspace}/sessions/{session}`; `field` is the request field for the error.
    ///
    /// # Errors
    /// [`IdError::NotName`] or [`IdError::Malformed`].
    pub fn from_name(field: &'static str, name: &str) -> Result<Self, IdError> {
        match name.split('/').collect::<Vec<_>>()[..] {
            ["workspaces", workspace, "sessions", session] => Ok(Self {
                workspace: WorkspaceId::new(workspace)?,
                session: SessionId::new(session)?,
            }),
            _ => Err(IdError::NotName {
                field,
                pattern: "workspaces/{workspace}/sessions/{session}",
                value: shorten(name),
            }),
        }
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workspaces/{}/sessions/{}", self.workspace, self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_at_both_ends() {
        for good in ["a", "shop-1", "z9"] {
            assert!(SessionId::new(good).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "1a", "A", "a_b", "a b", "é", long.as_str()] {
            assert!(SessionId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_round_trip_and_refuse_other_shapes() {
        let name = SessionName::from_name("name", "workspaces/w/sessions/s").unwrap();
        assert_eq!(name.to_string(), "workspaces/w/sessions/s");
        for bad in [
            "workspaces/w",
            "workspaces//sessions/s",
            "x/w/sessions/s",
            "workspaces/w/sessions/s/",
        ] {
            assert!(SessionName::from_name("name", bad).is_err(), "{bad}");
        }
    }
}
