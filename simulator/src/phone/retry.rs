//! Resends, both ways: asking for what could not be opened, and answering those who ask.

use wacore::libsignal::protocol::SignalProtocolError;
use wacore::messages::wrap_device_sent;
use wacore::protocol::retry::{MAX_RETRY_COUNT, MIN_RETRY_COUNT_FOR_KEYS, RetryReason};
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};
use waproto::whatsapp as wa;

use super::Phone;
use super::content;
use super::net::{Net, OneTimePreKeyPart, PreKeyBundleParts, SignedPreKeyPart, canonical, person};
use super::receipt::addressed_like;
use super::receive::Envelope;
use super::record::{Undecryptable, ViolationKind};
use super::send::enc;
use super::stanza::{attr, child_array, child_bytes, child_uint, number};

impl Phone {
    /// A message could not be opened: asks its sender for another copy, with fresh keys from the
    /// second attempt on, and gives up after the fifth.
    pub(super) fn ask_again(
        &mut self,
        envelope: &Envelope,
        error: &SignalProtocolError,
        net: &mut dyn Net,
    ) -> Vec<Node> {
        let now = net.now();
        let known = self
            .undecryptable
            .iter()
            .position(|failed| failed.id == envelope.id && failed.from == envelope.device);
        let position = known.unwrap_or_else(|| {
            self.undecryptable.push(Undecryptable {
                id: envelope.id.clone(),
                from: envelope.device.clone(),
                attempts: 0,
                reason: String::new(),
                at: now,
            });
            self.undecryptable.len() - 1
        });
        let failed = &mut self.undecryptable[position];
        failed.reason = error.to_string();
        if failed.attempts >= MAX_RETRY_COUNT {
            return Vec::new();
        }
        failed.attempts += 1;
        let attempt = failed.attempts;
        vec![self.retry_receipt(envelope, attempt, reason(error), now)]
    }

    fn retry_receipt(
        &mut self,
        envelope: &Envelope,
        attempt: u8,
        reason: RetryReason,
        now: u64,
    ) -> Node {
        let mut retry = NodeBuilder::new("retry")
            .attr("v", "1")
            .attr("id", envelope.id.as_str())
            .attr("t", now)
            .attr("count", attempt);
        if reason != RetryReason::UnknownError {
            retry = retry.attr("error", reason as u8);
        }
        let registration = NodeBuilder::new("registration")
            .bytes(self.signal.registration_id().to_be_bytes().to_vec())
            .build();
        let mut children = vec![retry.build(), registration];
        if attempt >= MIN_RETRY_COUNT_FOR_KEYS {
            children.push(self.keys_node());
        }
        let mut receipt = addressed_like(envelope)
            .attr("id", envelope.id.as_str())
            .attr("type", "retry");
        if envelope.own && envelope.peer {
            receipt = receipt.attr("category", "peer");
        } else if envelope.own
            && let Some(recipient) = &envelope.recipient
        {
            receipt = receipt.attr("recipient", recipient);
        }
        receipt.children(children).build()
    }

    /// The phone's own bundle inside a retry receipt. A primary has no device identity.
    fn keys_node(&mut self) -> Node {
        let one_time = self.signal.private_prekey();
        let signed = self.signal.signed_part();
        let leaf = |tag, bytes: Vec<u8>| NodeBuilder::new(tag).bytes(bytes).build();
        let id = |id: u32| leaf("id", id.to_be_bytes()[1..].to_vec());
        NodeBuilder::new("keys")
            .children([
                leaf("type", vec![5]),
                leaf("identity", self.identity().to_vec()),
                NodeBuilder::new("key")
                    .children([id(one_time.id), leaf("value", one_time.public.to_vec())])
                    .build(),
                NodeBuilder::new("skey")
                    .children([
                        id(signed.id),
                        leaf("value", signed.public.to_vec()),
                        leaf("signature", signed.signature.to_vec()),
                    ])
                    .build(),
            ])
            .build()
    }

    /// A device asks for a message again: repairs the session as the receipt tells, and sends the
    /// same id and content to that device alone.
    pub(super) fn on_retry(
        &mut self,
        stanza: &Node,
        from: &Jid,
        group: Option<&Jid>,
        net: &mut dyn Net,
    ) -> Vec<Node> {
        let bad = |detail: &str| ViolationKind::BadRetry {
            detail: detail.to_owned(),
        };
        let Some(retry) = stanza.get_optional_child("retry") else {
            self.object(stanza, bad("no <retry>"), net.now());
            return Vec::new();
        };
        let Some(id) = attr(retry, "id").or_else(|| attr(stanza, "id")) else {
            self.object(stanza, bad("no id"), net.now());
            return Vec::new();
        };
        let Some(registration) = child_uint(stanza, "registration") else {
            self.object(stanza, bad("no <registration>"), net.now());
            return Vec::new();
        };
        let count: u8 = number(retry, "count").unwrap_or(1);
        let own = self.is_own(from);
        if !self.is_linked(from, net) {
            self.object(stanza, ViolationKind::UnknownDevice, net.now());
            return Vec::new();
        }
        let message = match self.sent_content(&id, from, own, group, net) {
            Ok(Some(message)) => message,
            Ok(None) => return Vec::new(),
            Err(kind) => {
                self.object(stanza, kind, net.now());
                return Vec::new();
            }
        };
        if count >= MAX_RETRY_COUNT {
            return Vec::new();
        }
        if let Err(kind) = self.repair_session(stanza, from, registration, count, net) {
            self.object(stanza, kind, net.now());
            return Vec::new();
        }
        let padded = content::encode_padded(&message.content, &mut self.rng);
        let Some(sealed) = self.seal_for(from, &padded, net) else {
            return Vec::new();
        };
        if let Some(entry) = self.outbox_entry(&id) {
            entry.resends += 1;
        }
        let mut resend = NodeBuilder::new("message")
            .attr("id", id.as_ref())
            .attr("type", "text");
        resend = match group {
            Some(group) => {
                let holder = canonical(from, net);
                self.sender_keys.lost_by(group, &holder);
                resend
                    .attr("to", group)
                    .attr("participant", from)
                    .attr("addressing_mode", if from.is_lid() { "lid" } else { "pn" })
            }
            None => resend.attr("to", from),
        };
        if group.is_some() {
            // The group is the chat, whoever asks.
        } else if message.peer {
            resend = resend.attr("category", "peer");
        } else if let Some(recipient) = message.recipient {
            resend = resend.attr("recipient", recipient);
        }
        vec![resend.children([enc(sealed, Some(count))]).build()]
    }

    /// The content this phone sent under `id`, in the shape the asking device gets it. Nothing for
    /// an id it did not send; an objection when it was sent to somebody else.
    fn sent_content(
        &mut self,
        id: &str,
        from: &Jid,
        own: bool,
        group: Option<&Jid>,
        net: &mut dyn Net,
    ) -> Result<Option<SentContent>, ViolationKind> {
        if own
            && let Some(sent) = self
                .peer_sent
                .iter()
                .find(|sent| sent.id == id && sent.device == from.device)
        {
            return Ok(Some(SentContent {
                content: sent.message.clone(),
                peer: true,
                recipient: None,
            }));
        }
        let asker = person(from, net);
        let in_group = group.is_some_and(|group| {
            let members = net.members(group);
            members.iter().any(|member| person(member, net) == asker)
        });
        let Some(entry) = self.outbox_entry(id).filter(|entry| entry.via == 0) else {
            return Ok(None);
        };
        let addressed = match group {
            Some(group) => in_group && entry.to == *group,
            None => own || person(&entry.to, net) == asker,
        };
        if !addressed {
            return Err(ViolationKind::ForeignReceipt);
        }
        let recipient = own.then(|| entry.to.clone());
        let content = content::decode(&entry.message);
        let content = if own {
            wrap_device_sent(content, entry.to.to_string())
        } else {
            content
        };
        Ok(Some(SentContent {
            content,
            peer: false,
            recipient,
        }))
    }

    /// With keys: a new session from them. Without: another registration id, or a second request,
    /// means the session is dead and the directory is asked.
    fn repair_session(
        &mut self,
        stanza: &Node,
        from: &Jid,
        registration: u32,
        count: u8,
        net: &mut dyn Net,
    ) -> Result<(), ViolationKind> {
        let address = canonical(from, net);
        if let Some(keys) = stanza.get_optional_child("keys") {
            let bundle =
                bundle_from(keys, registration).ok_or_else(|| ViolationKind::BadRetry {
                    detail: "incomplete <keys>".to_owned(),
                })?;
            // A refusal is already on record, with its reason.
            let _started = self.start_session(from, &bundle, net);
            return Ok(());
        }
        let moved = self
            .signal
            .peer_registration(&address)
            .is_some_and(|known| known != registration);
        if moved || count >= MIN_RETRY_COUNT_FOR_KEYS {
            self.signal.drop_session(&address);
        }
        Ok(())
    }
}

struct SentContent {
    content: wa::Message,
    peer: bool,
    /// The chat, when the resend goes to an own companion.
    recipient: Option<Jid>,
}

fn bundle_from(keys: &Node, registration_id: u32) -> Option<PreKeyBundleParts> {
    let skey = keys.get_optional_child("skey")?;
    let one_time = match keys.get_optional_child("key") {
        Some(key) => Some(OneTimePreKeyPart {
            id: child_uint(key, "id")?,
            public: child_array(key, "value")?,
        }),
        None => None,
    };
    Some(PreKeyBundleParts {
        registration_id,
        identity: child_array(keys, "identity")?,
        signed: SignedPreKeyPart {
            id: child_uint(skey, "id")?,
            public: child_array(skey, "value")?,
            signature: child_array(skey, "signature")?,
        },
        one_time,
        device_identity: child_bytes(keys, "device-identity").map(<[u8]>::to_vec),
    })
}

fn reason(error: &SignalProtocolError) -> RetryReason {
    match error {
        SignalProtocolError::SessionNotFound(_) => RetryReason::NoSession,
        SignalProtocolError::InvalidPreKeyId | SignalProtocolError::InvalidSignedPreKeyId => {
            RetryReason::InvalidKeyId
        }
        SignalProtocolError::BadMac(_) => RetryReason::BadMac,
        SignalProtocolError::InvalidMessage(..) => RetryReason::InvalidMessage,
        SignalProtocolError::InvalidSessionStructure(_) => RetryReason::InvalidSession,
        _ => RetryReason::UnknownError,
    }
}
