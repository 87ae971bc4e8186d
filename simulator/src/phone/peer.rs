//! Between the phone and its companions: app-state key, peer messages, placeholder resend.

use std::collections::VecDeque;

use rand::RngExt as _;
use rand_chacha::ChaCha20Rng;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};
use waproto::buffa::{Message as _, MessageField};
use waproto::whatsapp as wa;
use waproto::whatsapp::message::protocol_message::Type as ProtocolType;

use super::Phone;
use super::content;
use super::net::{Net, person};
use super::receive::Envelope;
use super::send::enc;

/// How many peer messages stay available for a resend.
const PEER_SENT_LIMIT: usize = 32;
/// How many unanswered placeholder requests are remembered.
const WAITING_LIMIT: usize = 32;

/// A peer message as sent.
pub(super) struct PeerSent {
    pub(super) id: String,
    pub(super) device: u16,
    pub(super) message: wa::Message,
}

/// A companion's request for a message this phone has not seen (or could not open) yet.
pub(super) struct Waiting {
    device: u16,
    request_id: String,
    key: wa::MessageKey,
}

/// The account's one app-state sync key.
pub(super) struct AppStateKey {
    id: [u8; 6],
    data: [u8; 32],
}

impl AppStateKey {
    pub(super) fn generate(rng: &mut ChaCha20Rng) -> Self {
        // Official ids are a device number and an epoch; the phone is device 0.
        let mut id = [0; 6];
        id[2..].copy_from_slice(&rng.random_range(1..0x7fff_u32).to_be_bytes());
        Self {
            id,
            data: rng.random(),
        }
    }
}

impl Phone {
    /// The app-state sync key every companion gets: its id and its data.
    pub fn app_state_key(&self) -> (&[u8], &[u8]) {
        (&self.app_state_key.id, &self.app_state_key.data)
    }

    /// Shares the app-state key with a linked companion, as phones do right after linking. `None`
    /// when the companion is not linked or has published no keys yet.
    pub fn share_app_state_key(
        &mut self,
        device_id: u16,
        net: &mut dyn Net,
    ) -> Option<(String, Node)> {
        let key = self.app_state_key_message(net.now());
        let share = wa::message::AppStateSyncKeyShare { keys: vec![key] };
        self.send_key_share(device_id, share, net)
    }

    fn send_key_share(
        &mut self,
        device_id: u16,
        share: wa::message::AppStateSyncKeyShare,
        net: &mut dyn Net,
    ) -> Option<(String, Node)> {
        let message = content::protocol_message(wa::message::ProtocolMessage {
            r#type: Some(ProtocolType::APP_STATE_SYNC_KEY_SHARE),
            app_state_sync_key_share: MessageField::some(share),
            ..Default::default()
        });
        self.peer_message(device_id, message, net)
    }

    fn app_state_key_message(&self, now: u64) -> wa::message::AppStateSyncKey {
        let fingerprint = wa::message::AppStateSyncKeyFingerprint {
            raw_id: Some(self.raw_id),
            current_index: Some(self.current_index),
            device_indexes: std::iter::once(0)
                .chain(self.confirmed().map(|(_, companion)| companion.key_index))
                .collect(),
        };
        wa::message::AppStateSyncKey {
            key_id: MessageField::some(wa::message::AppStateSyncKeyId {
                key_id: Some(self.app_state_key.id.to_vec()),
            }),
            key_data: MessageField::some(wa::message::AppStateSyncKeyData {
                key_data: Some(self.app_state_key.data.to_vec()),
                fingerprint: MessageField::some(fingerprint),
                timestamp: i64::try_from(now).ok().map(|now| now * 1000),
            }),
        }
    }

    /// One `category=peer` message to one companion.
    pub(super) fn peer_message(
        &mut self,
        device_id: u16,
        message: wa::Message,
        net: &mut dyn Net,
    ) -> Option<(String, Node)> {
        if !self.confirmed().any(|(device, _)| device == device_id) {
            return None;
        }
        let device = self.pn.with_device(device_id);
        let padded = content::encode_padded(&message, &mut self.rng);
        let sealed = self.seal_for(&device, &padded, net)?;
        let id = self.message_id();
        let stanza = NodeBuilder::new("message")
            .attr("to", device)
            .attr("id", id.as_str())
            .attr("type", "text")
            .attr("category", "peer")
            .attr("push_priority", "high")
            .children([
                NodeBuilder::new("meta").attr("appdata", "default").build(),
                enc(sealed, None),
            ])
            .build();
        if self.peer_sent.len() == PEER_SENT_LIMIT {
            self.peer_sent.pop_front();
        }
        self.peer_sent.push_back(PeerSent {
            id: id.clone(),
            device: device_id,
            message,
        });
        Some((id, stanza))
    }

    /// A companion asks its phone for something.
    pub(super) fn on_peer_message(
        &mut self,
        envelope: &Envelope,
        message: &wa::Message,
        net: &mut dyn Net,
    ) -> Vec<Node> {
        let Some(protocol) = message.protocol_message.as_option() else {
            return Vec::new();
        };
        let device = envelope.from.device;
        let answer = match protocol.r#type {
            Some(ProtocolType::PEER_DATA_OPERATION_REQUEST_MESSAGE) => protocol
                .peer_data_operation_request_message
                .as_option()
                .and_then(|request| self.answer_placeholders(envelope, request, net)),
            Some(ProtocolType::APP_STATE_SYNC_KEY_REQUEST) => protocol
                .app_state_sync_key_request
                .as_option()
                .map(|request| self.key_answer(request, net.now()))
                .and_then(|share| self.send_key_share(device, share, net)),
            _ => None,
        };
        answer.map(|(_, stanza)| stanza).into_iter().collect()
    }

    /// Keys this phone has are shared; an unknown id is answered without data, as phones do.
    fn key_answer(
        &self,
        request: &wa::message::AppStateSyncKeyRequest,
        now: u64,
    ) -> wa::message::AppStateSyncKeyShare {
        let keys = request
            .key_ids
            .iter()
            .map(|wanted| {
                if wanted.key_id.as_deref() == Some(self.app_state_key.id.as_slice()) {
                    self.app_state_key_message(now)
                } else {
                    wa::message::AppStateSyncKey {
                        key_id: MessageField::some(wanted.clone()),
                        key_data: MessageField::default(),
                    }
                }
            })
            .collect();
        wa::message::AppStateSyncKeyShare { keys }
    }

    /// Messages the phone knows go to the companion that could not open them; the others follow
    /// when they turn up.
    fn answer_placeholders(
        &mut self,
        envelope: &Envelope,
        request: &wa::message::PeerDataOperationRequestMessage,
        net: &mut dyn Net,
    ) -> Option<(String, Node)> {
        let mut known = Vec::new();
        for wanted in &request.placeholder_message_resend_request {
            let Some(key) = wanted.message_key.as_option() else {
                continue;
            };
            match self.known_message(key, net) {
                Some(info) => known.push(info),
                None => self.wait_for(envelope, key),
            }
        }
        let answer = placeholder_response(&envelope.id, &known)?;
        self.peer_message(envelope.from.device, answer, net)
    }

    fn wait_for(&mut self, envelope: &Envelope, key: &wa::MessageKey) {
        if self.waiting.len() == WAITING_LIMIT {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting {
            device: envelope.from.device,
            request_id: envelope.id.clone(),
            key: key.clone(),
        });
    }

    /// A message has just been shown: companions that asked for it get it now.
    pub(super) fn answer_waiting(&mut self, id: &str, net: &mut dyn Net) -> Vec<Node> {
        let (asked, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| waiting.key.id.as_deref() == Some(id));
        self.waiting = waiting;
        let asked: VecDeque<Waiting> = asked;
        asked
            .into_iter()
            .filter_map(|waiting| {
                let info = self.known_message(&waiting.key, net)?;
                let answer = placeholder_response(&waiting.request_id, &[info])?;
                self.peer_message(waiting.device, answer, net)
            })
            .map(|(_, stanza)| stanza)
            .collect()
    }

    fn known_message(&self, key: &wa::MessageKey, net: &dyn Net) -> Option<wa::WebMessageInfo> {
        let id = key.id.as_deref()?;
        let chat: Jid = key.remote_jid.as_deref()?.parse().ok()?;
        let chat = person(&chat, net);
        let from_me = key.from_me.unwrap_or(false);
        let (message, peer, at) = if from_me {
            let entry = &self.outbox[*self.outbox_index.get(id)?];
            (&entry.message, &entry.to, entry.at)
        } else {
            let entry = &self.inbox[*self.inbox_index.get(&super::inbox_key(&chat, id))?];
            (&entry.message, &entry.from, entry.at)
        };
        // Phones answer with the phone-number form of the chat.
        let peer = peer.to_non_ad();
        let remote = if peer.is_lid() {
            net.pn_of(&peer).unwrap_or(peer)
        } else {
            peer
        };
        Some(wa::WebMessageInfo {
            key: MessageField::some(wa::MessageKey {
                remote_jid: Some(remote.to_string()),
                from_me: Some(from_me),
                id: Some(id.to_owned()),
                participant: None,
            }),
            message: MessageField::some(content::decode(message)),
            message_timestamp: Some(at),
            ..Default::default()
        })
    }
}

fn placeholder_response(request_id: &str, known: &[wa::WebMessageInfo]) -> Option<wa::Message> {
    use wa::message::peer_data_operation_request_response_message::PeerDataOperationResult;
    use wa::message::peer_data_operation_request_response_message::peer_data_operation_result::PlaceholderMessageResendResponse;
    if known.is_empty() {
        return None;
    }
    let results = known
        .iter()
        .map(|info| PeerDataOperationResult {
            placeholder_message_resend_response: MessageField::some(
                PlaceholderMessageResendResponse {
                    web_message_info_bytes: Some(info.encode_to_vec()),
                },
            ),
            ..Default::default()
        })
        .collect();
    Some(content::protocol_message(wa::message::ProtocolMessage {
        r#type: Some(ProtocolType::PEER_DATA_OPERATION_REQUEST_RESPONSE_MESSAGE),
        peer_data_operation_request_response_message: MessageField::some(
            wa::message::PeerDataOperationRequestResponseMessage {
                peer_data_operation_request_type: Some(
                    wa::message::PeerDataOperationRequestType::PLACEHOLDER_MESSAGE_RESEND,
                ),
                stanza_id: Some(request_id.to_owned()),
                peer_data_operation_result: results,
            },
        ),
        ..Default::default()
    }))
}
