//! What was said before the number was linked: chunks that its phone offers, journaled as HISTORY events if
//! that is configured. None of it ever becomes a MESSAGE event: a core that answers messages must not answer
//! those of last week.
//!
//! The library tells the phone that it has a chunk before it fetches it, so that nothing is sent again: a
//! crash loses what was not journaled yet. What cannot be fetched or read is a GAP event.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};
use wacore::history_sync::HistorySyncError;
use wacore::types::events::LazyHistorySync;
use waproto::buffa::Message as _;
use waproto::whatsapp as wa;

use crate::domain::clock::Timestamp;
use crate::domain::event::{NewEvent, Payload};
use crate::provider::contract::{Arrival, Sink};

/// Encoded conversations in an event, in bytes: it ends with the message that reaches this.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the journal.
const WAITING: usize = 4;

/// [`Payload::Gap::reason`] of history that was not received.
const GAP: &str = "HISTORY";

/// Journals a chunk; returns when it is durable.
pub(super) async fn journal(chunk: LazyHistorySync, sink: &Arc<dyn Sink>, now: Timestamp) {
    let kind = name(chunk.sync_type());
    let (pieces, mut cut_pieces) = mpsc::channel(WAITING);
    let cutting = tokio::task::spawn_blocking(move || cut(&chunk, &pieces));
    let mut count = 0_u32;
    while let Some(raw) = cut_pieces.recv().await {
        let kind = kind.clone();
        let seq = enqueue(sink, now, Payload::History { kind, raw });
        count += 1;
        if sink.wait_durable(seq).await.is_err() {
            // The connection is closed because of that; nothing more can be written.
            return;
        }
    }
    match cutting.await {
        Ok(Ok(())) => info!(kind, count, "history was journaled"),
        Ok(Err(error)) => {
            warn!(kind, %error, "a chunk of history cannot be read to its end");
            missing(sink, now);
        }
        Err(_) => missing(sink, now),
    }
}

/// A chunk that was announced. Unless it is settled, its end is a gap.
pub(super) struct Announcement<'a> {
    sink: &'a Arc<dyn Sink>,
    at: Timestamp,
    is_open: bool,
}

impl<'a> Announcement<'a> {
    pub(super) fn of(sink: &'a Arc<dyn Sink>, at: Timestamp) -> Self {
        Self {
            sink,
            at,
            is_open: true,
        }
    }

    /// What became of it was told.
    pub(super) fn settle(mut self) {
        self.is_open = false;
    }
}

impl Drop for Announcement<'_> {
    fn drop(&mut self) {
        if self.is_open {
            missing(self.sink, self.at);
        }
    }
}

/// Tells that history was announced and not received.
fn missing(sink: &Arc<dyn Sink>, now: Timestamp) {
    let gap = Payload::Gap {
        reason: GAP.to_owned(),
        from_revision: None,
        to_revision: None,
    };
    enqueue(sink, now, gap);
}

fn enqueue(sink: &Arc<dyn Sink>, at: Timestamp, payload: Payload) -> u64 {
    sink.enqueue(Arrival::Event(NewEvent {
        at,
        payload,
        dedup: None,
    }))
}

/// The protocol's name of a kind of chunk.
fn name(kind: i32) -> String {
    use waproto::buffa::Enumeration as _;
    wa::history_sync::HistorySyncType::from_i32(kind)
        .map_or_else(|| kind.to_string(), |kind| kind.proto_name().to_owned())
}

/// Cuts a chunk into smaller ones of the same kind: conversations first, then whatever else it has. What
/// only the protocol has a use for, keys among it, stays out.
fn cut(chunk: &LazyHistorySync, pieces: &mpsc::Sender<Vec<u8>>) -> Result<(), HistorySyncError> {
    let mut stream = chunk.stream();
    let mut piece = Piece::new(chunk, pieces);
    while let Some(conversation) = stream.next_conversation()? {
        piece.add(conversation);
    }
    if stream.skipped_conversations() > 0 {
        warn!(
            skipped = stream.skipped_conversations(),
            "conversations of the history cannot be read"
        );
    }
    piece.give();
    let mut rest = stream.remainder()?;
    rest.nct_salt = None;
    rest.thread_id_user_secret = None;
    rest.shareable_chat_identifier_encryption_key = None;
    rest.companion_meta_nonce = None;
    // Nobody reads on: the line has ended.
    let _ = pieces.blocking_send(rest.encode_to_vec());
    Ok(())
}

/// A piece in the making.
struct Piece<'a> {
    of: wa::HistorySync,
    size: usize,
    pieces: &'a mpsc::Sender<Vec<u8>>,
}

impl<'a> Piece<'a> {
    fn new(chunk: &LazyHistorySync, pieces: &'a mpsc::Sender<Vec<u8>>) -> Self {
        use waproto::buffa::Enumeration as _;
        let kind = wa::history_sync::HistorySyncType::from_i32(chunk.sync_type());
        Self {
            of: wa::HistorySync {
                sync_type: kind.unwrap_or_default(),
                chunk_order: chunk.chunk_order(),
                progress: chunk.progress(),
                ..Default::default()
            },
            size: 0,
            pieces,
        }
    }

    fn add(&mut self, mut conversation: wa::Conversation) {
        conversation.tc_token = None;
        conversation.contact_primary_identity_key = None;
        let mut messages = std::mem::take(&mut conversation.messages).into_iter();
        loop {
            let mut part = conversation.clone();
            let mut size = 0;
            for message in messages.by_ref() {
                size += message.encode_to_vec().len();
                part.messages.push(message);
                if self.size + size >= PIECE {
                    break;
                }
            }
            self.size += size;
            self.of.conversations.push(part);
            if self.size < PIECE {
                return;
            }
            self.give();
            if messages.len() == 0 {
                return;
            }
        }
    }

    fn give(&mut self) {
        if self.of.conversations.is_empty() {
            return;
        }
        let raw = self.of.encode_to_vec();
        self.of.conversations.clear();
        self.size = 0;
        // Nobody reads on: the line has ended.
        let _ = self.pieces.blocking_send(raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waproto::buffa::MessageField;

    fn text(id: &str, length: usize) -> wa::HistorySyncMsg {
        wa::HistorySyncMsg {
            message: MessageField::some(wa::WebMessageInfo {
                key: MessageField::some(wa::MessageKey {
                    id: Some(id.to_owned()),
                    ..Default::default()
                }),
                message: MessageField::some(wa::Message {
                    conversation: Some("x".repeat(length)),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pieces(sync: &wa::HistorySync) -> Vec<wa::HistorySync> {
        let raw = sync.encode_to_vec();
        let chunk = LazyHistorySync::new(stored(&raw).into(), raw.len(), 3, Some(1), Some(100));
        let (sender, mut receiver) = mpsc::channel(1_000);
        cut(&chunk, &sender).unwrap();
        drop(sender);
        let mut found = Vec::new();
        while let Some(raw) = receiver.blocking_recv() {
            assert!(raw.len() < PIECE * 2, "{} bytes", raw.len());
            found.push(waproto::codec::history_sync_decode(&raw[..]).unwrap());
        }
        found
    }

    /// A zlib stream without compression.
    fn stored(data: &[u8]) -> Vec<u8> {
        let mut stream = vec![0x78, 0x01];
        let mut blocks = data.chunks(0xffff).peekable();
        while let Some(block) = blocks.next() {
            let length = u16::try_from(block.len()).unwrap();
            stream.push(u8::from(blocks.peek().is_none()));
            stream.extend(length.to_le_bytes());
            stream.extend((!length).to_le_bytes());
            stream.extend(block);
        }
        let (low, high) = data.iter().fold((1_u32, 0_u32), |(low, high), byte| {
            let low = (low + u32::from(*byte)) % 65_521;
            (low, (high + low) % 65_521)
        });
        stream.extend((high << 16 | low).to_be_bytes());
        stream
    }

    #[test]
    fn a_chunk_is_cut_into_pieces_and_no_message_is_left_out() {
        let conversation = |n: usize, messages: usize, length: usize| wa::Conversation {
            id: format!("{n}@s.whatsapp.net"),
            messages: (0..messages)
                .map(|m| text(&format!("{n}.{m}"), length))
                .collect(),
            tc_token: Some(vec![1; 16]),
            ..Default::default()
        };
        let sync = wa::HistorySync {
            sync_type: wa::history_sync::HistorySyncType::RECENT,
            // Many small ones, one that does not fit into a piece, one without messages.
            conversations: (0..50)
                .map(|n| conversation(n, 20, 100))
                .chain([conversation(50, 700, 1_000), conversation(51, 0, 0)])
                .collect(),
            pushnames: vec![wa::Pushname {
                id: Some("1@s.whatsapp.net".to_owned()),
                pushname: Some("Ada".to_owned()),
            }],
            nct_salt: Some(vec![7; 32]),
            ..Default::default()
        };
        let found = pieces(&sync);
        let ids = |sync: &wa::HistorySync| -> Vec<String> {
            let messages = sync.conversations.iter().flat_map(|it| &it.messages);
            let keys = messages.filter_map(|said| said.message.as_option()?.key.as_option());
            keys.filter_map(|key| key.id.clone()).collect()
        };
        assert!(found.len() >= 4, "{} pieces", found.len());
        assert_eq!(found.iter().flat_map(ids).collect::<Vec<_>>(), ids(&sync));
        assert!(found.iter().all(|piece| piece.sync_type == sync.sync_type));
        let conversations = || found.iter().flat_map(|piece| &piece.conversations);
        assert!(conversations().any(|it| it.id == "51@s.whatsapp.net"));
        assert!(conversations().all(|it| it.tc_token.is_none()));
        let rest = found.last().unwrap();
        assert_eq!(rest.pushnames, sync.pushnames);
        assert!(rest.conversations.is_empty());
        assert_eq!(rest.nct_salt, None, "a key of the protocol");
    }

    #[test]
    fn a_chunk_that_breaks_off_is_an_error_after_what_could_be_read() {
        let chunk = LazyHistorySync::new(vec![0x78, 0x01, 0x02].into(), 100, 0, None, None);
        let (sender, _receiver) = mpsc::channel(1);
        assert!(cut(&chunk, &sender).is_err());
    }

    #[test]
    fn kinds_have_the_protocols_names() {
        assert_eq!(name(0), "INITIAL_BOOTSTRAP");
        assert_eq!(name(3), "RECENT");
        assert_eq!(name(99), "99");
    }
}
