//! Groups: one ciphertext for everybody under a sender key, and the key itself to every device that
//! does not hold it.

use std::collections::BTreeSet;

use rand::RngExt as _;
use wacore::libsignal::protocol::{SenderKeyMessage, SignalProtocolError};
use wacore::messages::{MessageUtils, unwrap_device_sent};
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};
use waproto::buffa::Message as _;
use waproto::whatsapp as wa;

use super::content;
use super::net::{Net, canonical, person};
use super::receipt;
use super::receive::Envelope;
use super::record::{Outbound, ViolationKind};
use super::send::participant;
use super::signal::Opened;
use super::stanza::{attr, bytes};
use super::{Phone, PhoneError};

/// `<enc type>` of a group ciphertext.
const SENDER_KEY: &str = "skmsg";

/// The chain of the sender key that a group message is sealed under; nothing when it was sealed for one
/// device, as resends are.
pub(super) fn sealed_under(stanza: &Node) -> Option<u32> {
    let sealed = stanza
        .get_children_by_tag("enc")
        .find(|enc| attr(enc, "type").is_some_and(|kind| kind == SENDER_KEY))?;
    let message = SenderKeyMessage::try_from(bytes(sealed)?).ok()?;
    Some(message.chain_id())
}

/// What one `<enc>` of a group message brought.
enum Brought {
    /// Something for the screen, or for the account's list of what it sent.
    Content,
    /// A sender key alone.
    Key,
    /// Nothing new: the server delivered it again.
    Again,
    /// It could not be opened and may be asked for again.
    Nothing(SignalProtocolError),
    /// An objection, already on record.
    Objection,
}

impl Phone {
    /// Writes a text to a group this person is in. Returns the message id and the `<message>` with
    /// one ciphertext for all, and the sender key for every device that does not hold it. A key that
    /// somebody holds who is not in the group any more is replaced first.
    pub fn send_group_text(
        &mut self,
        group: &Jid,
        text: &str,
        net: &mut dyn Net,
    ) -> Result<(String, Node), PhoneError> {
        let members = net.members(group);
        let own = members
            .iter()
            .find(|member| self.is_own(member))
            .cloned()
            .ok_or_else(|| PhoneError::NotInGroup(group.to_string()))?;
        let mut devices = Vec::new();
        for member in &members {
            let entries = net.devices(member);
            devices.extend(entries.iter().map(|entry| member.with_device(entry.device)));
        }
        let others: Vec<Jid> = devices.iter().filter(|d| **d != own).cloned().collect();
        let present: BTreeSet<String> = others
            .iter()
            .map(|device| canonical(device, net).to_string())
            .collect();
        let sender = canonical(&own, net);
        self.sender_keys
            .rotate_unless_among(group, &sender, &present);

        let id = self.message_id();
        let secret: [u8; 32] = self.rng.random();
        let message = content::text_message(text, &secret);
        let unusable = |_| PhoneError::NoUsableKeys(group.to_string());
        let key = self
            .sender_keys
            .distribution(group, &sender, &mut self.rng)
            .map_err(unusable)?;
        let distribution = content::distribution_message(group, key);
        let padded_key = content::encode_padded(&distribution, &mut self.rng);
        let mut participants = Vec::new();
        for device in &others {
            let holder = canonical(device, net);
            if self.sender_keys.holds(group, &holder) {
                continue;
            }
            if let Some(sealed) = self.seal_for(device, &padded_key, net) {
                participants.push(participant(device, sealed, None));
                self.sender_keys.given_to(group, &holder);
            }
        }
        let padded = content::encode_padded(&message, &mut self.rng);
        let sealed = self
            .sender_keys
            .seal(group, &sender, &padded, &mut self.rng)
            .map_err(unusable)?;

        let mut stanza = NodeBuilder::new("message")
            .attr("to", group)
            .attr("id", id.as_str())
            .attr("type", "text")
            .attr("addressing_mode", if own.is_lid() { "lid" } else { "pn" });
        if let Ok(phash) = MessageUtils::participant_list_hash(&devices) {
            stanza = stanza.attr("phash", phash);
        }
        let mut children = Vec::new();
        if !participants.is_empty() {
            let list = NodeBuilder::new("participants").children(participants);
            children.push(list.build());
        }
        let enc = NodeBuilder::new("enc")
            .attr("v", "2")
            .attr("type", SENDER_KEY)
            .bytes(sealed);
        children.push(enc.build());
        let (to, text) = (group.clone(), text.to_owned());
        self.record_outbound(Outbound {
            message: message.encode_to_vec(),
            ..Outbound::new(id.clone(), to, text, net.now(), 0)
        });
        Ok((id, stanza.children(children).build()))
    }

    /// A message to a group: sender keys first, then what they open.
    pub(super) fn on_group_message(
        &mut self,
        stanza: &Node,
        envelope: &Envelope,
        group: &Jid,
        net: &mut dyn Net,
    ) -> Vec<Node> {
        let parts: Vec<&Node> = stanza.get_children_by_tag("enc").collect();
        if parts.is_empty() {
            let detail = "message without enc".to_owned();
            self.object(stanza, ViolationKind::BadStanza { detail }, net.now());
            return Vec::new();
        }
        let (mut arrived, mut again, mut failure) = (false, true, None);
        for part in parts {
            let brought = self.group_part(stanza, part, envelope, group, net);
            again &= matches!(brought, Brought::Again);
            match brought {
                Brought::Content => arrived = true,
                Brought::Nothing(error) => failure = Some(error),
                Brought::Objection => return Vec::new(),
                Brought::Key | Brought::Again => {}
            }
        }
        if again {
            let sender = person(&envelope.from, net);
            if let Some(entry) = self.inbox_entry(&sender, &envelope.id) {
                entry.redeliveries += 1;
            }
        }
        if let Some(error) = failure.filter(|_| !arrived) {
            return self.ask_again(envelope, &error, net);
        }
        self.undecryptable
            .retain(|failed| failed.id != envelope.id || failed.from != envelope.device);
        vec![receipt::delivery(envelope)]
    }

    fn group_part(
        &mut self,
        stanza: &Node,
        part: &Node,
        envelope: &Envelope,
        group: &Jid,
        net: &mut dyn Net,
    ) -> Brought {
        let opened = if attr(part, "type").is_some_and(|kind| kind == SENDER_KEY) {
            let ciphertext = bytes(part).unwrap_or_default();
            self.sender_keys
                .open(group, &envelope.device, &envelope.id, ciphertext)
        } else {
            match self.ciphertext(stanza, part, envelope, net) {
                Ok((kind, ciphertext)) => self.signal.open(
                    &envelope.device,
                    &envelope.id,
                    kind,
                    ciphertext,
                    &mut self.rng,
                ),
                Err(kind) => {
                    self.object(stanza, kind, net.now());
                    return Brought::Objection;
                }
            }
        };
        match opened {
            Ok(Opened::Fresh(padded)) => match content::decode_padded(&padded) {
                Ok(message) => self.on_group_content(stanza, envelope, group, message, net),
                Err(kind) => {
                    self.object(stanza, kind, net.now());
                    Brought::Objection
                }
            },
            Ok(Opened::Again) => Brought::Again,
            Err(error) => match self.object_to(stanza, error, net) {
                Some(error) => Brought::Nothing(error),
                None => Brought::Objection,
            },
        }
    }

    fn on_group_content(
        &mut self,
        stanza: &Node,
        envelope: &Envelope,
        group: &Jid,
        message: wa::Message,
        net: &mut dyn Net,
    ) -> Brought {
        if !envelope.own && message.device_sent_message.is_set() {
            self.object(stanza, ViolationKind::ForgedDeviceSent, net.now());
            return Brought::Objection;
        }
        let message = unwrap_device_sent(message);
        if let Some(distribution) = message.sender_key_distribution_message.as_option() {
            let key = distribution
                .axolotl_sender_key_distribution_message
                .as_deref()
                .unwrap_or_default();
            let ours = distribution.group_id.as_deref() == Some(group.to_string().as_str());
            let learnt = ours && self.sender_keys.learn(group, &envelope.device, key).is_ok();
            if !learnt {
                self.object(stanza, ViolationKind::BadDistribution, net.now());
                return Brought::Objection;
            }
        }
        if content::is_distribution_alone(&message) {
            return Brought::Key;
        }
        if envelope.own {
            self.note_own(stanza, envelope, group.clone(), &message, net);
        } else {
            self.show(stanza, envelope, &message, net);
        }
        Brought::Content
    }
}
