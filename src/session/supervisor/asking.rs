//! What a session's line is asked to do at once, without the outbox.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Supervisor;
use crate::domain::ids::SessionName;
use crate::domain::person::Person;
use crate::provider::contract::{FetchError, GroupsError, SendError};
use crate::session::groups::Groups;
use crate::session::mailbox::Message;

impl Supervisor {
    /// Marks messages as read towards their sender.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::NotConnected`] also when there is no such session.
    pub async fn mark_read(
        &self,
        name: &SessionName,
        chat: Person,
        sender: Person,
        stanza_ids: Vec<String>,
    ) -> Result<(), SendError> {
        let handle = self.handle(name).ok_or(SendError::NotConnected)?;
        let (reply, answer) = oneshot::channel();
        let message = Message::MarkRead {
            chat: Box::new(chat),
            sender: Box::new(sender),
            stanza_ids: stanza_ids.into(),
            reply,
        };
        handle
            .mailbox
            .try_send(message)
            .map_err(|_| SendError::Temporary("the session is busy".into()))?;
        answer.await.unwrap_or(Err(SendError::NotConnected))
    }

    /// Fetches the file of a message that arrived, by what its [`crate::domain::media::Media`] holds: its
    /// bytes, in order.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NotConnected`] also when there is no such session.
    pub async fn fetch(
        &self,
        name: &SessionName,
        raw: &[u8],
    ) -> Result<mpsc::Receiver<Bytes>, FetchError> {
        let handle = self.handle(name).ok_or(FetchError::NotConnected)?;
        let (reply, answer) = oneshot::channel();
        let message = Message::Fetch {
            raw: raw.into(),
            reply,
        };
        handle
            .mailbox
            .try_send(message)
            .map_err(|_| FetchError::Temporary("the session is busy".into()))?;
        let fetched = answer.await.unwrap_or(Err(FetchError::NotConnected))?;
        Ok(fetched.chunks)
    }

    /// The groups that a session's number is in, as its provider has them now, or had them a few seconds
    /// ago: see [`crate::session::groups`] for how often it is asked.
    ///
    /// # Errors
    /// [`GroupsError`]; [`GroupsError::NotConnected`] also when there is no such session.
    pub async fn groups(&self, name: &SessionName) -> Result<Arc<Groups>, GroupsError> {
        let handle = self.handle(name).ok_or(GroupsError::NotConnected)?;
        let (reply, answer) = oneshot::channel();
        handle
            .mailbox
            .try_send(Message::Groups { reply })
            .map_err(|_| GroupsError::Temporary("the session is busy".into()))?;
        answer.await.unwrap_or(Err(GroupsError::NotConnected))
    }
}
