//! Reading many messages: pages for people, the queue for the sender.

use std::collections::BTreeMap;

use super::Outbox;
use super::rows::{MessageRow, OpenRow, message_id, priority_of, state_of};
use crate::domain::clock::Timestamp;
use crate::domain::ids::MessageId;
use crate::domain::message::{MessageState, OutboundMessage, Priority};
use crate::store::engine::Scan;
use crate::store::errors::StoreError;
use crate::store::key::{Hash, Kind, trailing_u64};
use crate::store::page::{Page, PageRequest, PageToken};

/// Which messages a listing goes through, and in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// Only those accepted then or later.
    pub from: Option<Timestamp>,
    /// Only those accepted before.
    pub until: Option<Timestamp>,
    /// The newest first.
    pub newest_first: bool,
}

/// Messages read at once.
const CHUNK: usize = 200;

/// Most messages one filtered page looks at.
pub const MAX_SCAN: usize = 5_000;

/// An entry of the queue: what has to be known to choose the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueEntry {
    /// Position in the order of acceptance; FIFO within a chat.
    pub seq: u64,
    /// The message.
    pub id: MessageId,
    /// The recipient, hashed: equal exactly for equal canonical recipients.
    pub chat: Hash,
    /// How urgent it is.
    pub priority: Priority,
    /// Not before this.
    pub send_after: Option<Timestamp>,
    /// Not after this.
    pub expire_at: Option<Timestamp>,
    /// [`MessageState::Queued`] or [`MessageState::Sending`].
    pub state: MessageState,
    /// Its file has to be carried to the provider first.
    pub awaits_upload: bool,
}

impl Outbox {
    /// Lists messages in the order of acceptance.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list(&self, request: &PageRequest) -> Result<Page<OutboundMessage>, StoreError> {
        self.list_where(&Range::default(), request, |_| true).await
    }

    /// Lists the messages of `range` that are `wanted`. A page may hold fewer than asked for and yet not be
    /// the last: at most [`MAX_SCAN`] messages are looked at.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list_where(
        &self,
        range: &Range,
        request: &PageRequest,
        wanted: impl Fn(&OutboundMessage) -> bool + Send,
    ) -> Result<Page<OutboundMessage>, StoreError> {
        let mut scan = self.scan_of(range);
        let place = |id: MessageId| PageToken::new(id.0.as_bytes().to_vec());
        let after = request.after.as_ref();
        if let Some(id) = after.and_then(|token| uuid::Uuid::from_slice(token.bytes()).ok()) {
            scan = scan.after(&self.row_key(MessageId(id)));
        }
        let mut items = Vec::new();
        let mut seen = 0;
        while seen < MAX_SCAN {
            let (rows, more) = self.scope().scan::<MessageRow>(scan.clone()).await?;
            let end = rows.len();
            seen += end;
            let mut last = None;
            for (index, (key, row)) in rows.into_iter().enumerate() {
                let id = key.get(key.len().saturating_sub(17)..key.len() - 1);
                let message = row.into_message(message_id(id.unwrap_or_default())?)?;
                let at = message.id;
                last = Some((key, at));
                if !wanted(&message) {
                    continue;
                }
                items.push(message);
                if items.len() == request.rows() {
                    let next = (more || index + 1 < end).then(|| place(at));
                    return Ok(Page { items, next });
                }
            }
            match last {
                Some((key, at)) if more => {
                    scan = scan.after(&key);
                    if seen >= MAX_SCAN {
                        let next = Some(place(at));
                        return Ok(Page { items, next });
                    }
                }
                _ => break,
            }
        }
        Ok(Page { items, next: None })
    }

    /// The keys of a range: ids begin with the time of acceptance.
    fn scan_of(&self, range: &Range) -> Scan {
        let first = |at: Timestamp| {
            let millis = u128::from(at.0 & 0x0000_ffff_ffff_ffff);
            self.row_key(MessageId(uuid::Uuid::from_u128(millis << 80)))
        };
        let mut scan = Scan::prefix(&self.scope().prefix(Kind::Outbox), CHUNK);
        if let Some(from) = range.from {
            scan.start = first(from);
        }
        if let Some(until) = range.until {
            scan.end = first(until);
        }
        if range.newest_first {
            scan = scan.reversed();
        }
        scan
    }

    /// Reads the queue: messages that are QUEUED or SENDING, in the order of acceptance, after `seq`
    /// (0 for the start), at most `limit` (1,000 at most).
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn queue(&self, after: u64, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let mut scan = Scan::prefix(&self.scope().prefix(Kind::OutboxOpen), limit);
        scan = scan.after(&self.open_key(after));
        let (rows, _) = self.scope().scan::<OpenRow>(scan).await?;
        let mut entries = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let damaged = || StoreError::Damaged("a queue entry cannot be read".into());
            entries.push(QueueEntry {
                seq: trailing_u64(&key).ok_or_else(damaged)?,
                id: message_id(&row.id)?,
                chat: Hash(row.chat.as_slice().try_into().map_err(|_| damaged())?),
                priority: priority_of(row.priority)?,
                send_after: row.send_after.map(Timestamp),
                expire_at: row.expire_at.map(Timestamp),
                state: state_of(row.state)?,
                awaits_upload: row.awaits_upload,
            });
        }
        Ok(entries)
    }

    /// The messages that were on the wire when the daemon stopped, in the order of acceptance: each has
    /// to be resent under its stanza id, or settled as UNKNOWN past its deadline.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn sending(&self) -> Result<Vec<QueueEntry>, StoreError> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let page = self.queue(after, 1_000).await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = last.seq;
            found.extend(
                page.into_iter()
                    .filter(|entry| entry.state == MessageState::Sending),
            );
        }
    }

    /// How many messages are QUEUED or SENDING, by state; counts at most `limit` of them.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn depth(&self, limit: usize) -> Result<BTreeMap<&'static str, usize>, StoreError> {
        let mut counts = BTreeMap::new();
        let (mut after, mut seen) = (0, 0);
        while seen < limit {
            let page = self.queue(after, (limit - seen).min(1_000)).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            seen += page.len();
            for entry in page {
                *counts.entry(entry.state.name()).or_default() += 1;
            }
        }
        Ok(counts)
    }
}
