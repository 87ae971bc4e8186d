//! Which groups a session's number is in.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Supervisor;
use crate::domain::ids::SessionName;
use crate::provider::contract::GroupsError;
use crate::session::groups::Groups;
use crate::session::mailbox::Message;

impl Supervisor {
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
