//! Carrying the files of messages to the provider before the messages go.
//!
//! Uploads are no part of the window: a long film must not hold up the texts to other chats. Its own chat
//! waits, because order within a chat is kept. A file that was carried there a short while ago is not
//! carried again, whoever it goes to.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

use crate::domain::clock::Clock;
use crate::domain::ids::{MediaId, MessageId};
use crate::domain::media::MediaKind;
use crate::domain::message::{Content, MessageState, OutboundMessage};
use crate::domain::person::Person;
use crate::provider::contract::{Line, UploadError};
use crate::store::media::{Departing, MediaStore};
use crate::store::{LookupError, QueueEntry, SessionStore, StoreError};

/// Uploads of one session under way at a time.
const AT_ONCE: usize = 2;

/// How long an upload is good for further messages. WhatsApp keeps files for weeks; the recipient needs
/// most of that time to fetch it.
const REUSED_FOR: Duration = Duration::from_hours(24);

/// What became of an upload.
#[derive(Debug)]
pub(super) enum Uploaded {
    /// The message is complete and may go.
    Ready,
    /// Its deadline has passed.
    Late,
    /// It is not to be sent any more: canceled, or gone.
    Dropped,
    /// The connection is ending.
    NotConnected,
    /// Something passing.
    Passing(String),
    /// It will never go, for this reason.
    Hopeless(&'static str, String),
    /// The store failed.
    Failed(StoreError),
}

/// The uploads of one session over one connection. Dropping it ends them.
pub(super) struct Uploads {
    store: SessionStore,
    line: Arc<dyn Line>,
    clock: Arc<dyn Clock>,
    account: Option<Person>,
    under_way: FuturesUnordered<BoxFuture<'static, (QueueEntry, Uploaded)>>,
    messages: BTreeSet<MessageId>,
}

impl Uploads {
    pub(super) fn new(
        store: SessionStore,
        line: Arc<dyn Line>,
        clock: Arc<dyn Clock>,
        account: Option<Person>,
    ) -> Self {
        Self {
            store,
            line,
            clock,
            account,
            under_way: FuturesUnordered::new(),
            messages: BTreeSet::new(),
        }
    }

    /// Whether no more uploads may begin now.
    pub(super) fn is_full(&self) -> bool {
        self.under_way.len() >= AT_ONCE
    }

    /// Messages whose files are on their way.
    pub(super) fn messages(&self) -> &BTreeSet<MessageId> {
        &self.messages
    }

    /// Begins to carry a message's file.
    pub(super) fn start(&mut self, entry: QueueEntry) {
        self.messages.insert(entry.id);
        let work = Work {
            store: self.store.clone(),
            line: Arc::clone(&self.line),
            clock: Arc::clone(&self.clock),
            account: self.account.clone(),
        };
        self.under_way.push(Box::pin(async move {
            // The library's own panics must not end the sender of everything else.
            let carried = AssertUnwindSafe(work.carry(entry.id)).catch_unwind().await;
            let panicked = |_| Uploaded::Passing("the upload panicked".to_owned());
            (entry, carried.unwrap_or_else(panicked))
        }));
    }

    /// The next upload that has ended; `None` when there is none under way.
    pub(super) async fn next(&mut self) -> Option<(QueueEntry, Uploaded)> {
        let (entry, uploaded) = self.under_way.next().await?;
        self.messages.remove(&entry.id);
        Some((entry, uploaded))
    }
}

struct Work {
    store: SessionStore,
    line: Arc<dyn Line>,
    clock: Arc<dyn Clock>,
    account: Option<Person>,
}

/// Why a file does not go.
enum Trouble {
    Upload(UploadError),
    Store(StoreError),
}

impl Work {
    async fn carry(&self, id: MessageId) -> Uploaded {
        let message = match self.store.outbox().get(id).await {
            Ok(message) if message.state == MessageState::Queued => message,
            Ok(_) | Err(LookupError::NotFound { .. }) => return Uploaded::Dropped,
            Err(LookupError::Store(error)) => return Uploaded::Failed(error),
        };
        if message.expire_at.is_some_and(|at| at <= self.clock.now()) {
            return Uploaded::Late;
        }
        let accounts = message.from.as_ref().zip(self.account.as_ref());
        if accounts.is_some_and(|(then, now)| then.differs_from(now)) {
            // It will not go from this number, and neither does its file.
            return Uploaded::Ready;
        }
        match self.complete(&message).await {
            Ok(true) => Uploaded::Ready,
            Ok(false) => Uploaded::Dropped,
            Err(Trouble::Store(error)) => Uploaded::Failed(error),
            Err(Trouble::Upload(error)) => match error {
                UploadError::NotConnected => Uploaded::NotConnected,
                UploadError::Temporary(detail) => Uploaded::Passing(detail),
                UploadError::Lost(detail) => Uploaded::Hopeless("MEDIA_LOST", detail),
                UploadError::Refused(detail) => Uploaded::Hopeless("MEDIA_REFUSED", detail),
            },
        }
    }

    /// Whether the message is complete in the store.
    async fn complete(&self, message: &OutboundMessage) -> Result<bool, Trouble> {
        let lost = |what: &str| Trouble::Upload(UploadError::Lost(what.to_owned()));
        let Content::Media { media } = &message.content else {
            return Err(lost("the message carries no file"));
        };
        let id = message.media.ok_or_else(|| lost("its file has no id"))?;
        let files = self.store.media();
        let files = files.ok_or_else(|| lost("this store keeps no files"))?;
        let departing = match files.depart(id, media.kind).await {
            Ok(departing) => departing,
            // Nobody can read what a damaged row says: like a file that is gone.
            Err(LookupError::NotFound { what } | LookupError::Store(StoreError::Damaged(what))) => {
                return Err(lost(&what));
            }
            Err(LookupError::Store(error)) => return Err(Trouble::Store(error)),
        };
        let known = self.still_there(&departing);
        // A note that does not fit is as good as none.
        let known = known.and_then(|note| self.line.attach(&message.encoded, &note).ok());
        let encoded = if let Some(encoded) = known {
            encoded
        } else {
            let note = self.upload(&files, id, media.kind, departing).await?;
            let attached = self.line.attach(&message.encoded, &note);
            attached.map_err(Trouble::Upload)?
        };
        let completed = self.store.outbox().complete(message.id, encoded).await;
        completed.map_err(Trouble::Store)
    }

    fn still_there(&self, departing: &Departing) -> Option<Vec<u8>> {
        let (reference, at) = departing.reference.as_ref()?;
        (self.clock.now().since(*at) < REUSED_FOR).then(|| reference.clone())
    }

    async fn upload(
        &self,
        files: &MediaStore,
        id: MediaId,
        kind: MediaKind,
        departing: Departing,
    ) -> Result<Vec<u8>, Trouble> {
        let uploaded = self.line.upload(departing.file, kind).await;
        let outcome = match &uploaded {
            Ok(_) => "done",
            Err(UploadError::NotConnected) => "not_connected",
            Err(UploadError::Temporary(_)) => "temporary",
            Err(UploadError::Lost(_)) => "lost",
            Err(UploadError::Refused(_)) => "refused",
        };
        metrics::counter!("trunkline_media_uploads_total", "outcome" => outcome).increment(1);
        let reference = uploaded.map_err(Trouble::Upload)?;
        let remembered = files.remember_reference(id, kind, reference.clone()).await;
        remembered.map_err(Trouble::Store)?;
        Ok(reference)
    }
}
