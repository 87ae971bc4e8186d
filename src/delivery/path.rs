//! A message's delivery, in the log; see [`crate::store::PATH`].

use super::dispatch::{Revision, Writes};
use crate::domain::event::{Event, Payload};
use crate::domain::ids::{SubscriptionId, WorkspaceId};
use crate::store::PATH;

/// Whose deliveries they are.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) workspace: WorkspaceId,
    pub(super) subscription: SubscriptionId,
}

impl Reader {
    /// An event is given to a consumer.
    pub(super) fn leased(&self, event: &Event, attempt: u32) {
        let is_message = matches!(
            event.payload,
            Payload::Message { .. } | Payload::Undecryptable { .. }
        );
        if !is_message {
            return;
        }
        tracing::info!(
            target: PATH,
            workspace = %self.workspace,
            session = event.session.as_ref().map(tracing::field::display),
            subscription = %self.subscription,
            event_id = %event.event_id,
            revision = event.revision,
            attempt,
            "message leased"
        );
    }

    /// Events are done for good: one line a commit, whose revisions lead to the messages among them.
    pub(super) fn settled(&self, writes: &Writes) {
        self.list(
            "events acknowledged",
            writes.acks.iter().map(|ack| ack.revision),
        );
        self.list("events given up", writes.dead.iter().map(|dead| dead.0));
    }

    fn list(&self, what: &'static str, revisions: impl Iterator<Item = Revision>) {
        if !tracing::enabled!(target: PATH, tracing::Level::INFO) {
            return;
        }
        let all: Vec<String> = revisions.map(|revision| revision.to_string()).collect();
        if !all.is_empty() {
            tracing::info!(
                target: PATH,
                workspace = %self.workspace,
                subscription = %self.subscription,
                revisions = all.join(","),
                "{what}"
            );
        }
    }
}
