//! Resource names as requests carry them, each knowing the workspace it lies in.

use std::fmt;

use super::status::ApiError;
use crate::domain::ids::{MediaId, MessageId, SessionId, SessionName, SubscriptionId, WorkspaceId};

/// A resource inside a workspace.
pub(super) trait Named: fmt::Display {
    /// The workspace it lies in.
    fn workspace(&self) -> &WorkspaceId;

    /// The session it lies in, if any; for spans.
    fn session(&self) -> Option<&SessionId> {
        None
    }
}

/// A workspace itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkspaceName(pub(super) WorkspaceId);

/// An outbound message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MessageName {
    /// The session it is sent from.
    pub(super) session: SessionName,
    /// The message within it.
    pub(super) message: MessageId,
}

/// A file in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaName {
    /// The session it came to, or is sent from.
    pub(super) session: SessionName,
    /// The file within it.
    pub(super) file: FileId,
}

/// A file within its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileId {
    /// It came with a message: where the event lies in the journal.
    Arrived(u64),
    /// It was uploaded to be sent.
    Uploaded(MediaId),
}

/// A group that a session's number is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupName {
    /// The session.
    pub(super) session: SessionName,
    /// The group's id, as the provider gave it.
    pub(super) group: String,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubscriptionName {
    /// The workspace whose events it consumes.
    pub(super) workspace: WorkspaceId,
    /// The subscription within it.
    pub(super) subscription: SubscriptionId,
}

fn not_name(field: &'static str, pattern: &str, value: &str) -> ApiError {
    let shown: String = value.chars().take(80).collect();
    ApiError::field(field, format!("`{shown}` is not of the form `{pattern}`"))
}

/// An id error under the name of the request field it came in.
pub(super) fn in_field<T>(
    field: &'static str,
    result: Result<T, crate::domain::ids::IdError>,
) -> Result<T, ApiError> {
    result.map_err(|error| ApiError::field(field, error.to_string()))
}

impl WorkspaceName {
    /// Parses `workspaces/{workspace}`.
    pub(super) fn parse(field: &'static str, name: &str) -> Result<Self, ApiError> {
        in_field(field, WorkspaceId::from_name(field, name)).map(Self)
    }
}

/// Parses `workspaces/{workspace}/sessions/{session}`.
pub(super) fn session_name(field: &'static str, name: &str) -> Result<SessionName, ApiError> {
    in_field(field, SessionName::from_name(field, name))
}

impl MessageName {
    /// Parses `workspaces/{workspace}/sessions/{session}/messages/{message}`.
    pub(super) fn parse(field: &'static str, name: &str) -> Result<Self, ApiError> {
        const PATTERN: &str = "workspaces/{workspace}/sessions/{session}/messages/{message}";
        let split = name.rsplit_once("/messages/");
        let (session, message) = split.ok_or_else(|| not_name(field, PATTERN, name))?;
        let session =
            SessionName::from_name(field, session).map_err(|_| not_name(field, PATTERN, name))?;
        let message = in_field(field, message.parse())?;
        Ok(Self { session, message })
    }
}

impl MediaName {
    /// Parses `workspaces/{workspace}/sessions/{session}/media/{media}`.
    pub(super) fn parse(field: &'static str, name: &str) -> Result<Self, ApiError> {
        const PATTERN: &str = "workspaces/{workspace}/sessions/{session}/media/{media}";
        let wrong = || not_name(field, PATTERN, name);
        let (session, file) = name.rsplit_once("/media/").ok_or_else(wrong)?;
        let file = match file.parse() {
            Ok(revision) => FileId::Arrived(revision),
            Err(_) => FileId::Uploaded(file.parse().map_err(|_| wrong())?),
        };
        Ok(Self {
            session: SessionName::from_name(field, session).map_err(|_| wrong())?,
            file,
        })
    }
}

impl GroupName {
    /// Parses `workspaces/{workspace}/sessions/{session}/groups/{group}`. The id is the provider's: whether
    /// there is such a group is not for its form to say.
    pub(super) fn parse(field: &'static str, name: &str) -> Result<Self, ApiError> {
        const PATTERN: &str = "workspaces/{workspace}/sessions/{session}/groups/{group}";
        const LONGEST: usize = 64;
        let wrong = || not_name(field, PATTERN, name);
        let (session, group) = name.rsplit_once("/groups/").ok_or_else(wrong)?;
        let is_id = |id: &str| {
            (1..=LONGEST).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_id(group) || group.contains('/') {
            return Err(wrong());
        }
        Ok(Self {
            session: SessionName::from_name(field, session).map_err(|_| wrong())?,
            group: group.to_owned(),
        })
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/groups/{}", self.session, self.group)
    }
}

impl Named for GroupName {
    fn workspace(&self) -> &WorkspaceId {
        &self.session.workspace
    }

    fn session(&self) -> Option<&SessionId> {
        Some(&self.session.session)
    }
}

impl fmt::Display for MediaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            FileId::Arrived(revision) => write!(f, "{}/media/{revision}", self.session),
            FileId::Uploaded(id) => write!(f, "{}/media/{id}", self.session),
        }
    }
}

impl Named for MediaName {
    fn workspace(&self) -> &WorkspaceId {
        &self.session.workspace
    }

    fn session(&self) -> Option<&SessionId> {
        Some(&self.session.session)
    }
}

impl SubscriptionName {
    /// Parses `workspaces/{workspace}/subscriptions/{subscription}`.
    pub(super) fn parse(field: &'static str, name: &str) -> Result<Self, ApiError> {
        const PATTERN: &str = "workspaces/{workspace}/subscriptions/{subscription}";
        match name.split('/').collect::<Vec<_>>()[..] {
            ["workspaces", workspace, "subscriptions", subscription] => Ok(Self {
                workspace: in_field(field, WorkspaceId::new(workspace))?,
                subscription: in_field(field, SubscriptionId::new(subscription))?,
            }),
            _ => Err(not_name(field, PATTERN, name)),
        }
    }
}

/// An event that a subscription gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeadLetterName {
    /// The subscription.
    pub(super) of: SubscriptionName,
    /// Where the event lies in the journal.
    pub(super) revision: u64,
}

impl DeadLetterName {
    /// Parses `workspaces/{workspace}/subscriptions/{subscription}/deadLetters/{revision}`.
    pub(super) fn parse(field: &'static str, name: &str) -> Result<Self, ApiError> {
        const PATTERN: &str =
            "workspaces/{workspace}/subscriptions/{subscription}/deadLetters/{revision}";
        let wrong = || not_name(field, PATTERN, name);
        let (of, revision) = name.rsplit_once("/deadLetters/").ok_or_else(wrong)?;
        Ok(Self {
            of: SubscriptionName::parse(field, of).map_err(|_| wrong())?,
            revision: revision.parse().map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for DeadLetterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/deadLetters/{}", self.of, self.revision)
    }
}

impl Named for DeadLetterName {
    fn workspace(&self) -> &WorkspaceId {
        &self.of.workspace
    }
}

/// An event in a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeliveryName {
    /// The subscription.
    pub(super) of: SubscriptionName,
    /// Where the event lies in the journal.
    pub(super) revision: u64,
}

impl DeliveryName {
    /// Parses `workspaces/{workspace}/subscriptions/{subscription}/deliveries/{revision}`.
    pub(super) fn parse(field: &'static str, name: &str) -> Result<Self, ApiError> {
        const PATTERN: &str =
            "workspaces/{workspace}/subscriptions/{subscription}/deliveries/{revision}";
        let wrong = || not_name(field, PATTERN, name);
        let (of, revision) = name.rsplit_once("/deliveries/").ok_or_else(wrong)?;
        Ok(Self {
            of: SubscriptionName::parse(field, of).map_err(|_| wrong())?,
            revision: revision.parse().map_err(|_| wrong())?,
        })
    }
}

impl fmt::Display for DeliveryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/deliveries/{}", self.of, self.revision)
    }
}

impl Named for DeliveryName {
    fn workspace(&self) -> &WorkspaceId {
        &self.of.workspace
    }
}

/// Parses `tokens/{token}`.
pub(super) fn token_name(field: &'static str, name: &str) -> Result<uuid::Uuid, ApiError> {
    name.strip_prefix("tokens/")
        .and_then(|id| uuid::Uuid::parse_str(id).ok())
        .ok_or_else(|| not_name(field, "tokens/{token}", name))
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name())
    }
}

impl fmt::Display for MessageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/messages/{}", self.session, self.message)
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "workspaces/{}/subscriptions/{}",
            self.workspace, self.subscription
        )
    }
}

impl Named for WorkspaceName {
    fn workspace(&self) -> &WorkspaceId {
        &self.0
    }
}

impl Named for SessionName {
    fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }

    fn session(&self) -> Option<&SessionId> {
        Some(&self.session)
    }
}

impl Named for MessageName {
    fn workspace(&self) -> &WorkspaceId {
        &self.session.workspace
    }

    fn session(&self) -> Option<&SessionId> {
        Some(&self.session.session)
    }
}

impl Named for SubscriptionName {
    fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let message = "workspaces/w/sessions/s/messages/1b4e28ba-2fa1-4d2b-883f-0016d3cca427";
        assert_eq!(
            MessageName::parse("name", message).unwrap().to_string(),
            message
        );
        let media = "workspaces/w/sessions/s/media/7";
        assert_eq!(MediaName::parse("name", media).unwrap().to_string(), media);
        let group = "workspaces/w/sessions/s/groups/120363@g.us";
        assert_eq!(GroupName::parse("name", group).unwrap().to_string(), group);
        let media = "workspaces/w/sessions/s/media/1b4e28ba-2fa1-4d2b-883f-0016d3cca427";
        assert_eq!(MediaName::parse("name", media).unwrap().to_string(), media);
        let subscription = "workspaces/w/subscriptions/default";
        assert_eq!(
            SubscriptionName::parse("name", subscription)
                .unwrap()
                .to_string(),
            subscription
        );
    }

    #[test]
    fn rubbish_is_refused() {
        for bad in [
            "",
            "workspaces/w/sessions/s",
            "workspaces/w/sessions/s/messages/",
            "workspaces/w/sessions/s/messages/7",
            "workspaces/W/sessions/s/messages/1b4e28ba-2fa1-4d2b-883f-0016d3cca427",
        ] {
            assert!(MessageName::parse("name", bad).is_err(), "{bad}");
        }
        for bad in ["", "a/b", "a b", "ä@g.us", &"1".repeat(65)] {
            let name = format!("workspaces/w/sessions/s/groups/{bad}");
            assert!(GroupName::parse("name", &name).is_err(), "{bad}");
        }
        for bad in ["", "workspaces/w/subscriptions/", "subscriptions/x"] {
            assert!(SubscriptionName::parse("name", bad).is_err(), "{bad}");
        }
        assert!(token_name("name", "tokens/x").is_err());
    }
}
