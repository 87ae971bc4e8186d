//! The history a phone sends to a new companion: what was said before it was linked.

use std::collections::BTreeMap;

use rand::RngExt as _;
use wacore::download::MediaType;
use wacore::upload::encrypt_media_with_key;
use wacore_binary::{Jid, Node};
use waproto::buffa::{Message as _, MessageField};
use waproto::whatsapp as wa;
use waproto::whatsapp::history_sync::HistorySyncType as Chunk;
use waproto::whatsapp::message::HistorySyncType as Announced;
use waproto::whatsapp::message::protocol_message::Type as ProtocolType;

use super::Phone;
use super::content;
use super::net::Net;
use super::record::ContentKind;

/// Messages of each chat in the first chunk, the newest.
const FIRST: usize = 10;
/// Older messages of each chat in the chunk after it.
const OLDER: usize = 200;
/// Largest stored block of a deflate stream.
const STORED_BLOCK: usize = 0xffff;

/// Where a message is.
pub(super) enum Said {
    /// In the inbox, at this index.
    In(usize),
    /// In the outbox, at this index.
    Out(usize),
}

/// A chat, its messages in the order in which they were said.
#[derive(Default)]
struct Chat {
    messages: Vec<wa::WebMessageInfo>,
    unread: u32,
    lid: Option<Jid>,
    /// A group's name, or the one that the other person writes under.
    name: Option<String>,
    /// Everybody in it, when it is a group.
    members: Vec<Jid>,
}

impl Phone {
    /// The history a phone sends to a companion after linking, in three chunks: an initial bootstrap with
    /// the newest messages of each chat, within its announcement; the names of people; and, on the media
    /// host if there are any, the messages before those. Each also has the push name and the account's own
    /// PN–LID mapping. Clients that wait for history (Baileys) proceed on the first. Empty when the
    /// companion is not linked or has published no keys yet.
    pub fn initial_history(&mut self, device_id: u16, net: &mut dyn Net) -> Vec<(String, Node)> {
        if !self.confirmed().any(|(device, _)| device == device_id) {
            return Vec::new();
        }
        let chats = self.chats(net);
        let part = |older: bool| -> Vec<wa::Conversation> {
            let parts = chats.iter().map(|(id, chat)| conversation(id, chat, older));
            parts.filter(|part| !part.messages.is_empty()).collect()
        };
        let (newest, older) = (part(false), part(true));
        let names = self.push_names.iter().map(|(id, name)| wa::Pushname {
            id: Some(id.clone()),
            pushname: Some(name.clone()),
        });
        let names = wa::HistorySync {
            pushnames: names.collect(),
            ..self.history_chunk(Chunk::PUSH_NAME, Vec::new())
        };
        let chunks = [
            (
                self.history_chunk(Chunk::INITIAL_BOOTSTRAP, newest),
                Announced::INITIAL_BOOTSTRAP,
            ),
            (names, Announced::PUSH_NAME),
            (self.history_chunk(Chunk::RECENT, older), Announced::RECENT),
        ];
        chunks
            .into_iter()
            .filter(|(chunk, _)| chunk.sync_type != Chunk::PUSH_NAME || !chunk.pushnames.is_empty())
            .filter_map(|(chunk, announced)| {
                let notification = self.announce_chunk(&chunk, announced, net);
                let message = content::protocol_message(wa::message::ProtocolMessage {
                    r#type: Some(ProtocolType::HISTORY_SYNC_NOTIFICATION),
                    history_sync_notification: MessageField::some(notification),
                    ..Default::default()
                });
                self.peer_message(device_id, message, net)
            })
            .collect()
    }

    /// Every chat by the id a phone gives it (the phone number, or the group), oldest message first.
    fn chats(&self, net: &dyn Net) -> BTreeMap<String, Chat> {
        let mut chats: BTreeMap<String, Chat> = BTreeMap::new();
        let by_number = |user: Jid| {
            if let Some(number) = user.is_lid().then(|| net.pn_of(&user)).flatten() {
                return (number, Some(user));
            }
            let lid = net.lid_of(&user);
            (user, lid)
        };
        for said in &self.said {
            match *said {
                Said::In(at) => {
                    let entry = &self.inbox[at];
                    if !matches!(entry.kind, ContentKind::Text | ContentKind::Media) {
                        continue;
                    }
                    let (id, lid) = match &entry.group {
                        Some(group) => (group.clone(), None),
                        None => by_number(entry.from.to_non_ad()),
                    };
                    let author = entry.group.is_some().then(|| entry.from.to_non_ad());
                    let said = message(&id, &entry.id, author.as_ref(), &entry.message, entry.at);
                    let chat = chats.entry(id.to_string()).or_default();
                    chat.lid = lid;
                    chat.unread += u32::from(entry.read.is_none());
                    chat.messages.push(said);
                }
                Said::Out(at) => {
                    let entry = &self.outbox[at];
                    let (id, lid) = by_number(entry.to.to_non_ad());
                    let mut said = message(&id, &entry.id, None, &entry.message, entry.at);
                    if let Some(key) = said.key.as_option_mut() {
                        key.from_me = Some(true);
                    }
                    let chat = chats.entry(id.to_string()).or_default();
                    chat.lid = lid;
                    chat.messages.push(said);
                }
            }
        }
        for (id, chat) in &mut chats {
            let Ok(jid) = id.parse::<Jid>() else { continue };
            chat.name = net
                .subject(&jid)
                .or_else(|| self.push_names.get(id).cloned());
            chat.members = net.members(&jid);
        }
        chats
    }

    /// A chunk within its announcement, or on the media host when it is one that only such chunks are.
    fn announce_chunk(
        &mut self,
        chunk: &wa::HistorySync,
        announced: Announced,
        net: &mut dyn Net,
    ) -> wa::message::HistorySyncNotification {
        let payload = stored_zlib(&chunk.encode_to_vec());
        let mut notification = wa::message::HistorySyncNotification {
            sync_type: Some(announced),
            chunk_order: Some(1),
            progress: Some(100),
            file_length: u64::try_from(payload.len()).ok(),
            ..Default::default()
        };
        let on_host = chunk.sync_type == Chunk::RECENT && !chunk.conversations.is_empty();
        let key: Option<[u8; 32]> = on_host.then(|| self.rng.random());
        let sealed = key
            .and_then(|key| encrypt_media_with_key(&payload, MediaType::History, Some(&key)).ok());
        match sealed {
            Some(sealed) => {
                let blob = sealed.data_to_upload.into();
                let place = net.store_media(MediaType::History.mms_type(), blob);
                notification.direct_path = Some(place.direct_path);
                notification.media_key = Some(sealed.media_key.to_vec());
                notification.file_sha256 = Some(sealed.file_sha256.to_vec());
                notification.file_enc_sha256 = Some(sealed.file_enc_sha256.to_vec());
            }
            None => notification.initial_hist_bootstrap_inline_payload = Some(payload),
        }
        notification
    }

    fn history_chunk(&self, chunk: Chunk, conversations: Vec<wa::Conversation>) -> wa::HistorySync {
        wa::HistorySync {
            sync_type: chunk,
            conversations,
            chunk_order: Some(1),
            progress: Some(100),
            pushnames: vec![wa::Pushname {
                id: Some(self.pn.to_string()),
                pushname: Some(self.name.clone()),
            }],
            phone_number_to_lid_mappings: vec![wa::PhoneNumberToLIDMapping {
                pn_jid: Some(self.pn.to_string()),
                lid_jid: Some(self.lid.to_string()),
            }],
            ..Default::default()
        }
    }
}

fn message(
    chat: &Jid,
    id: &str,
    author: Option<&Jid>,
    message: &[u8],
    at: u64,
) -> wa::WebMessageInfo {
    wa::WebMessageInfo {
        key: MessageField::some(wa::MessageKey {
            remote_jid: Some(chat.to_string()),
            from_me: Some(false),
            id: Some(id.to_owned()),
            participant: author.map(ToString::to_string),
        }),
        message: MessageField::some(content::decode(message)),
        message_timestamp: Some(at),
        ..Default::default()
    }
}

/// A chat, by its name, with its newest messages, or with those before them, newest first.
fn conversation(id: &str, chat: &Chat, older: bool) -> wa::Conversation {
    let newest_first = chat.messages.iter().enumerate().rev();
    let part: Vec<(usize, &wa::WebMessageInfo)> = if older {
        newest_first.skip(FIRST).take(OLDER).collect()
    } else {
        newest_first.take(FIRST).collect()
    };
    let messages = part.into_iter().map(|(order, said)| wa::HistorySyncMsg {
        message: MessageField::some(said.clone()),
        msg_order_id: u64::try_from(order).ok(),
    });
    let members = chat.members.iter().map(|member| wa::GroupParticipant {
        user_jid: member.to_string(),
        ..Default::default()
    });
    let newest = chat.messages.last().and_then(|said| said.message_timestamp);
    wa::Conversation {
        id: id.to_owned(),
        messages: messages.collect(),
        unread_count: Some(chat.unread),
        conversation_timestamp: newest,
        last_msg_timestamp: newest,
        lid_jid: chat.lid.as_ref().map(ToString::to_string),
        name: chat.name.clone(),
        participant: members.collect(),
        ..Default::default()
    }
}

/// A zlib stream of stored blocks: valid for every inflater, without a compressor.
fn stored_zlib(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = data.chunks(STORED_BLOCK).peekable();
    if blocks.peek().is_none() {
        stream.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(data).to_be_bytes());
    stream
}

fn adler32(data: &[u8]) -> u32 {
    const MODULUS: u32 = 65_521;
    let (low, high) = data.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % MODULUS;
        (low, (high + low) % MODULUS)
    });
    high << 16 | low
}
