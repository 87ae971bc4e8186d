//! Messages that arrived and have not been concluded yet.
//!
//! Three uses. The transport stops reading when too many are waiting, because the library's queues are
//! unbounded. And the library's write-behind flush can pick up a ratchet step between a message's
//! decryption and the writing of its row: were that the last thing on disk before a crash, the server's
//! redelivery would look like a duplicate and be acknowledged unseen. So a session write first waits
//! for the rows of messages from the addresses it covers. The wait is short and bounded: a message that
//! has not been decrypted yet takes no step, and cannot go on while the flush holds the library's lock.
//! Where that was not enough, the delivery that looks like a duplicate is still here with its stanza, so
//! that it can be looked up and asked for again (see [`super::super::spent`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use wacore_binary::OwnedNodeRef;

/// Messages above which the socket is not read. Above the library's own batch (400 messages while the
/// offline queue is drained), or a drain would stall.
pub(in super::super) const MAX_INFLIGHT: usize = 1024;
/// A message the library is done with without telling (a key distribution, say) is forgotten after
/// this.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// How long a session write waits for rows.
const ROW_PATIENCE: Duration = Duration::from_millis(10);

/// Ids remembered after their message was concluded. Enough for what the server delivers again after a
/// connection that ended before its acks arrived; for the rest there is the journal.
const MOST_RECENT: usize = 64;

struct Message {
    users: Vec<String>,
    since: Instant,
    row_written: bool,
    /// Deliveries on this connection.
    copies: u32,
    stanza: Option<Arc<OwnedNodeRef>>,
}

/// What is known of a delivery that the library takes for a repetition.
pub(super) enum Repeated {
    /// An earlier delivery of it is still on its way to the journal.
    Underway,
    /// It was concluded not long ago.
    Known,
    /// Nothing.
    Unknown(Arc<OwnedNodeRef>),
}

/// See the module documentation.
#[derive(Default)]
pub(in super::super) struct Inflight {
    messages: Mutex<HashMap<String, Message>>,
    recent: Mutex<VecDeque<String>>,
    progress: Notify,
}

fn user_of(address: &str) -> &str {
    let end = address.find([':', '@', '.']).unwrap_or(address.len());
    &address[..end]
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflight").finish_non_exhaustive()
    }
}

impl Inflight {
    fn messages(&self) -> MutexGuard<'_, HashMap<String, Message>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An encrypted message arrived; `users` are the user parts of every address its sender (or the
    /// group) may be known under.
    pub(in super::super) fn arrived(
        &self,
        stanza_id: &str,
        users: Vec<String>,
        stanza: Option<Arc<OwnedNodeRef>>,
    ) {
        let mut messages = self.messages();
        let copies = messages.get(stanza_id).map_or(0, |known| known.copies);
        let message = Message {
            users,
            since: Instant::now(),
            row_written: false,
            copies: copies + 1,
            stanza,
        };
        messages.insert(stanza_id.to_owned(), message);
    }

    /// The library takes a delivery of this stanza for a repetition.
    pub(super) fn repeated(&self, stanza_id: &str) -> Repeated {
        let recent = self.recent().iter().any(|id| id == stanza_id);
        let mut messages = self.messages();
        match messages.get_mut(stanza_id) {
            Some(message) if message.copies > 1 => {
                message.copies -= 1;
                Repeated::Underway
            }
            Some(Message {
                stanza: Some(stanza),
                ..
            }) if !recent => Repeated::Unknown(Arc::clone(stanza)),
            _ => {
                drop(messages);
                self.concluded(stanza_id);
                Repeated::Known
            }
        }
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its pending row is written.
    pub(super) fn row_written(&self, stanza_id: &str) {
        if let Some(message) = self.messages().get_mut(stanza_id) {
            message.row_written = true;
        }
        self.progress.notify_waiters();
    }

    /// It could not be read, and nothing more will happen to this delivery.
    pub(in super::super) fn given_up(&self, stanza_id: &str) {
        self.messages().remove(stanza_id);
        self.progress.notify_waiters();
    }

    /// It is in the journal, or nothing for the journal, and nothing more will happen to it.
    pub(in super::super) fn concluded(&self, stanza_id: &str) {
        let mut recent = self.recent();
        if !recent.iter().any(|id| id == stanza_id) {
            if recent.len() == MOST_RECENT {
                recent.pop_front();
            }
            recent.push_back(stanza_id.to_owned());
        }
        drop(recent);
        self.given_up(stanza_id);
    }

    /// A new connection begins: what was waiting will be delivered again.
    pub(in super::super) fn reset(&self) {
        self.messages().clear();
        self.progress.notify_waiters();
    }

    fn len(&self) -> usize {
        let mut messages = self.messages();
        if messages.len() > MAX_INFLIGHT {
            let now = Instant::now();
            messages.retain(|_, m| now.duration_since(m.since) < FORGET_AFTER);
        }
        messages.len()
    }

    /// Waits until few enough are waiting for the socket to be read.
    pub(in super::super) async fn room(&self) {
        while self.len() > MAX_INFLIGHT {
            let progress = self.progress.notified();
            // Forgetting happens by time, which nothing announces.
            let _ = tokio::time::timeout(Duration::from_secs(1), progress).await;
        }
    }

    fn missing_rows(&self, users: &[&str]) -> bool {
        let now = Instant::now();
        self.messages().values().any(|message| {
            !message.row_written
                && now.duration_since(message.since) < FORGET_AFTER
                && message
                    .users
                    .iter()
                    .any(|user| users.contains(&user.as_str()))
        })
    }

    /// Waits (briefly) until the messages waiting from these addresses have their rows.
    pub(super) async fn wait_for_rows<'a>(&self, addresses: impl Iterator<Item = &'a str>) {
        let users: Vec<&str> = addresses.map(user_of).collect();
        let wait = async {
            loop {
                let progress = self.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                if !self.missing_rows(&users) {
                    return;
                }
                progress.await;
            }
        };
        let _ = tokio::time::timeout(ROW_PATIENCE, wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_write_waits_for_the_rows_of_its_own_addresses_only() {
        let inflight = std::sync::Arc::new(Inflight::default());
        inflight.arrived("A", vec!["15550001".into()], None);
        let others = Instant::now();
        inflight
            .wait_for_rows(["15550002@s.whatsapp.net"].into_iter())
            .await;
        assert!(others.elapsed() < ROW_PATIENCE);

        let waiting = tokio::spawn({
            let inflight = inflight.clone();
            async move {
                inflight
                    .wait_for_rows(["15550001:3@s.whatsapp.net"].into_iter())
                    .await;
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        inflight.row_written("A");
        waiting.await.unwrap();
        assert!(!inflight.missing_rows(&["15550001"]));
    }

    #[tokio::test]
    async fn the_wait_is_bounded() {
        let inflight = Inflight::default();
        inflight.arrived("A", vec!["15550001".into()], None);
        let began = Instant::now();
        inflight.wait_for_rows(["15550001@lid"].into_iter()).await;
        assert!(began.elapsed() >= ROW_PATIENCE && began.elapsed() < ROW_PATIENCE * 10);
        inflight.concluded("A");
        assert!(!inflight.missing_rows(&["15550001"]));
    }

    #[test]
    fn too_many_waiting_stop_the_reading() {
        let inflight = Inflight::default();
        for n in 0..=MAX_INFLIGHT {
            inflight.arrived(&n.to_string(), vec!["1".into()], None);
        }
        assert!(inflight.len() > MAX_INFLIGHT);
        inflight.concluded("0");
        assert_eq!(inflight.len(), MAX_INFLIGHT);
    }
}
