//! What becomes of messages whose files were carried to the provider, or could not be.

use std::time::Duration;

use super::{Sender, accepted_at};
use crate::session::outbound::upload::Uploaded;
use crate::store::{QueueEntry, StoreError};

impl Sender {
    pub(super) async fn uploaded(
        &mut self,
        mut entry: QueueEntry,
        uploaded: Uploaded,
    ) -> Result<(), StoreError> {
        self.backlog.unpark();
        match uploaded {
            Uploaded::Late => self.put_back(entry, Duration::ZERO),
            Uploaded::Ready => {
                self.kept_off.remove(&entry.id);
                entry.awaits_upload = false;
                self.put_back(entry, Duration::ZERO);
            }
            Uploaded::Dropped => {
                self.kept_off.remove(&entry.id);
                self.backlog.done(entry.chat);
            }
            // The connection is ending; if it is not, there is nothing to hurry for.
            Uploaded::NotConnected => self.put_back(entry, Duration::from_secs(5)),
            Uploaded::Passing(detail) => {
                let waited = self.parts.clock.now().since(accepted_at(entry.id));
                if waited < self.parts.config.upload_patience {
                    self.keep_off(entry, &detail);
                } else {
                    self.give_up(entry, "MEDIA_UNAVAILABLE", &detail).await?;
                }
            }
            Uploaded::Hopeless(reason, detail) => self.give_up(entry, reason, &detail).await?,
            Uploaded::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// A message whose file cannot be sent.
    async fn give_up(
        &mut self,
        entry: QueueEntry,
        reason: &'static str,
        detail: &str,
    ) -> Result<(), StoreError> {
        tracing::warn!(message_id = %entry.id, reason, "a message's file cannot be sent");
        tracing::debug!(message_id = %entry.id, detail, "why it cannot be sent");
        self.kept_off.remove(&entry.id);
        self.settler.fail(entry.id, reason).await?;
        self.backlog.done(entry.chat);
        Ok(())
    }
}
