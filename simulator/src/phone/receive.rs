//! Messages in: who sent it, may they, can it be opened, was it shown before.

use wacore::libsignal::protocol::SignalProtocolError;
use wacore::messages::unwrap_device_sent;
use wacore_binary::{Jid, JidExt as _, Node};
use waproto::buffa::Message as _;
use waproto::whatsapp as wa;

use super::Phone;
use super::content;
use super::media::MediaSeen;
use super::net::{Net, canonical, person};
use super::receipt;
use super::record::{Inbound, Outbound, ViolationKind};
use super::signal::{EncType, OpenError, Opened, Signal};
use super::stanza::{attr, bytes, child_bytes, jid};

/// The envelope of one incoming message.
pub(super) struct Envelope {
    pub(super) id: String,
    /// The sending device as the stanza names it.
    pub(super) from: Jid,
    /// The sending device as its session is kept.
    pub(super) device: Jid,
    /// The sender's account is this phone's account.
    pub(super) own: bool,
    /// `category=peer`: between devices of the account, not for the screen.
    pub(super) peer: bool,
    /// The group it was written to.
    pub(super) group: Option<Jid>,
    /// Whom an own companion wrote to.
    pub(super) recipient: Option<Jid>,
}

impl Phone {
    pub(super) fn on_message(&mut self, stanza: &Node, net: &mut dyn Net) -> Vec<Node> {
        let envelope = match self.envelope(stanza, net) {
            Ok(envelope) => envelope,
            Err(kind) => {
                self.object(stanza, kind, net.now());
                return Vec::new();
            }
        };
        if let Some(group) = envelope.group.clone() {
            return self.on_group_message(stanza, &envelope, &group, net);
        }
        let found = stanza
            .get_optional_child("enc")
            .ok_or_else(|| ViolationKind::BadStanza {
                detail: "message without enc".to_owned(),
            })
            .and_then(|enc| self.ciphertext(stanza, enc, &envelope, net));
        let (kind, ciphertext) = match found {
            Ok(found) => found,
            Err(kind) => {
                self.object(stanza, kind, net.now());
                return Vec::new();
            }
        };
        let opened = self.signal.open(
            &envelope.device,
            &envelope.id,
            kind,
            ciphertext,
            &mut self.rng,
        );
        match opened {
            Ok(Opened::Fresh(padded)) => match content::decode_padded(&padded) {
                Ok(message) => self.on_content(stanza, &envelope, message, net),
                Err(kind) => {
                    self.object(stanza, kind, net.now());
                    Vec::new()
                }
            },
            Ok(Opened::Again) => {
                let sender = person(&envelope.from, net);
                if let Some(entry) = self.inbox_entry(&sender, &envelope.id) {
                    entry.redeliveries += 1;
                }
                vec![receipt::delivery(&envelope)]
            }
            Err(error) => match self.object_to(stanza, error, net) {
                Some(error) => self.ask_again(&envelope, &error, net),
                None => Vec::new(),
            },
        }
    }

    /// Puts a ciphertext that no honest sender produces on record; returns the error when the
    /// message may be asked for again.
    pub(super) fn object_to(
        &mut self,
        stanza: &Node,
        error: OpenError,
        net: &dyn Net,
    ) -> Option<SignalProtocolError> {
        let (kind, again) = match error {
            OpenError::CounterReused { counter } => {
                (ViolationKind::CounterReused { counter }, None)
            }
            OpenError::Malformed => (ViolationKind::BadCiphertext, None),
            OpenError::PreKeyReused { id } => (
                ViolationKind::PrekeyReused { prekey: id },
                Some(SignalProtocolError::InvalidPreKeyId),
            ),
            OpenError::Signal(error) => return Some(error),
        };
        self.object(stanza, kind, net.now());
        again
    }

    fn envelope(&self, stanza: &Node, net: &mut dyn Net) -> Result<Envelope, ViolationKind> {
        let missing = |what: &str| ViolationKind::BadStanza {
            detail: format!("message without {what}"),
        };
        let id = attr(stanza, "id")
            .filter(|id| !id.is_empty())
            .ok_or_else(|| missing("id"))?
            .into_owned();
        let chat = jid(stanza, "from").ok_or_else(|| missing("from"))?;
        let (group, from) = if chat.is_group() {
            let author = jid(stanza, "participant").ok_or_else(|| missing("participant"))?;
            (Some(chat), author)
        } else {
            (None, chat)
        };
        if !(from.is_pn() || from.is_lid()) {
            return Err(missing("a person in from"));
        }
        let own = self.is_own(&from);
        if !self.is_linked(&from, net) {
            return Err(ViolationKind::UnknownDevice);
        }
        Ok(Envelope {
            id,
            device: canonical(&from, net),
            own,
            group,
            peer: attr(stanza, "category").is_some_and(|category| category == "peer"),
            recipient: jid(stanza, "recipient"),
            from,
        })
    }

    /// Whether the device belongs to its account: by this phone's own list for its companions, by
    /// the network's for everybody else.
    pub(super) fn is_linked(&self, device: &Jid, net: &mut dyn Net) -> bool {
        if self.is_own(device) {
            return self
                .companions
                .get(&device.device)
                .is_some_and(|companion| companion.confirmed);
        }
        net.devices(&device.to_non_ad())
            .iter()
            .any(|entry| entry.device == device.device)
    }

    /// Reads one pairwise `<enc>` and checks what can be checked before opening it.
    pub(super) fn ciphertext<'a>(
        &self,
        stanza: &Node,
        enc: &'a Node,
        envelope: &Envelope,
        net: &dyn Net,
    ) -> Result<(EncType, &'a [u8]), ViolationKind> {
        let bad = |detail: String| ViolationKind::BadEnc { detail };
        let version = attr(enc, "v").unwrap_or_default();
        if version != "2" {
            return Err(bad(format!("version {version}")));
        }
        let kind = attr(enc, "type").unwrap_or_default();
        let kind = EncType::from_wire(&kind).ok_or_else(|| bad(format!("type {kind}")))?;
        let ciphertext = bytes(enc).ok_or_else(|| bad("no ciphertext".to_owned()))?;
        if kind == EncType::PreKey {
            let identity =
                Signal::claimed_identity(ciphertext).ok_or(ViolationKind::BadCiphertext)?;
            if net
                .identity(&envelope.from)
                .is_some_and(|known| known != identity)
            {
                return Err(ViolationKind::WrongIdentity);
            }
            if envelope.from.device != 0 {
                let blob = child_bytes(stanza, "device-identity");
                self.check_adv(&envelope.from, &identity, blob, net)?;
            }
        }
        Ok((kind, ciphertext))
    }

    fn on_content(
        &mut self,
        stanza: &Node,
        envelope: &Envelope,
        message: wa::Message,
        net: &mut dyn Net,
    ) -> Vec<Node> {
        self.undecryptable
            .retain(|failed| failed.id != envelope.id || failed.from != envelope.device);
        let mut sent = vec![receipt::delivery(envelope)];
        if envelope.own && envelope.peer {
            // Some clients wrap even what they tell their own phone.
            let message = unwrap_device_sent(message);
            sent.extend(self.on_peer_message(envelope, &message, net));
        } else if envelope.own {
            self.on_own_copy(stanza, envelope, message, net);
        } else if message.device_sent_message.is_set() {
            self.object(stanza, ViolationKind::ForgedDeviceSent, net.now());
            return Vec::new();
        } else {
            self.show(stanza, envelope, &message, net);
            sent.extend(self.answer_waiting(&envelope.id, net));
        }
        sent
    }

    pub(super) fn show(
        &mut self,
        stanza: &Node,
        envelope: &Envelope,
        message: &wa::Message,
        net: &mut dyn Net,
    ) {
        let mut shown = content::shown(message);
        let sender = person(&envelope.from, net);
        if let Some(entry) = self.inbox_entry(&sender, &envelope.id) {
            entry.duplicates += 1;
            if entry.kind != shown.kind
                || entry.text != shown.text
                || sha256(&entry.media) != sha256(&shown.media)
            {
                self.object(stanza, ViolationKind::IdReused, net.now());
            }
            return;
        }
        if let Some(media) = &mut shown.media {
            match media.open(net) {
                Ok(_) => media.opened = true,
                Err(kind) => self.object(stanza, kind, net.now()),
            }
        }
        let user = envelope.from.to_non_ad();
        let (pn, lid) = if user.is_lid() {
            (
                net.pn_of(&user)
                    .or_else(|| jid(stanza, "sender_pn"))
                    .or_else(|| jid(stanza, "participant_pn")),
                Some(user),
            )
        } else {
            let lid = net
                .lid_of(&user)
                .or_else(|| jid(stanza, "sender_lid"))
                .or_else(|| jid(stanza, "participant_lid"));
            (Some(user), lid)
        };
        if let (Some(pn), Some(name)) = (&pn, attr(stanza, "notify")) {
            self.push_names
                .insert(pn.to_non_ad().to_string(), name.into_owned());
        }
        self.record_inbound(
            &sender,
            Inbound {
                id: envelope.id.clone(),
                from: envelope.from.clone(),
                group: envelope.group.clone(),
                sender_key: super::group::sealed_under(stanza),
                pn: pn.map(Jid::into_non_ad),
                lid: lid.map(Jid::into_non_ad),
                kind: shown.kind,
                text: shown.text,
                media: shown.media,
                at: net.now(),
                displays: 1,
                duplicates: 0,
                redeliveries: 0,
                read: None,
                message: message.encode_to_vec(),
            },
        );
    }

    /// A companion sent something: its copy for the phone names the destination twice, in the
    /// stanza and inside the encryption, and both must agree.
    fn on_own_copy(
        &mut self,
        stanza: &Node,
        envelope: &Envelope,
        message: wa::Message,
        net: &mut dyn Net,
    ) {
        let inner: Option<Jid> = message
            .device_sent_message
            .as_option()
            .and_then(|copy| copy.destination_jid.as_deref())
            .and_then(|destination| destination.parse().ok());
        let agrees = match (&inner, &envelope.recipient) {
            (Some(inner), Some(outer)) => person(inner, net) == person(outer, net),
            (None, None) => false,
            _ => true,
        };
        let Some(to) = envelope.recipient.clone().or(inner).filter(|_| agrees) else {
            self.object(stanza, ViolationKind::ForgedDeviceSent, net.now());
            return;
        };
        let wrapped = message.device_sent_message.is_set();
        let message = unwrap_device_sent(message);
        self.note_own(stanza, envelope, to.into_non_ad(), &message, net);
        if let Some(entry) = self.outbox_entry(&envelope.id) {
            entry.wrapped |= wrapped;
        }
    }

    /// Adds what a companion of the account sent to the list of what the account sent.
    pub(super) fn note_own(
        &mut self,
        stanza: &Node,
        envelope: &Envelope,
        to: Jid,
        message: &wa::Message,
        net: &mut dyn Net,
    ) {
        let shown = content::shown(message);
        if let Some(entry) = self.outbox_entry(&envelope.id) {
            entry.duplicates += 1;
            if entry.text != shown.text
                || sha256(&entry.media) != sha256(&shown.media)
                || entry.via != envelope.from.device
            {
                self.object(stanza, ViolationKind::IdReused, net.now());
            }
            return;
        }
        self.record_outbound(Outbound {
            media: shown.media,
            message: message.encode_to_vec(),
            ..Outbound::new(
                envelope.id.clone(),
                to,
                shown.text,
                net.now(),
                envelope.from.device,
            )
        });
    }
}

#[allow(clippy::ref_option, reason = "both callers hold the field itself")]
fn sha256(media: &Option<MediaSeen>) -> Option<&str> {
    media.as_ref().map(|media| media.sha256.as_str())
}
