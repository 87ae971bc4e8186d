//! Messages out: fan-out to every device of the peer and to the account's own companions.

use rand::RngExt as _;
use wacore::adv::{AdvValidation, validate_adv_with_identity_key};
use wacore::messages::wrap_device_sent;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};
use waproto::buffa::Message as _;
use waproto::whatsapp as wa;

use super::content;
use super::net::{Net, PreKeyBundleParts, canonical};
use super::record::{Outbound, Violation, ViolationKind};
use super::signal::{EncType, Sealed};
use super::{Phone, stores};

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhoneError {
    /// Only people can be written to.
    #[error("`{0}` is neither a phone-number nor a LID user")]
    NotAUser(String),
    /// The network knows no device of this user.
    #[error("`{0}` is not on the network")]
    UnknownUser(String),
    /// None of the user's devices could be encrypted for.
    #[error("no device of `{0}` has usable keys")]
    NoUsableDevice(String),
    /// The person is not in the group, or there is no such group.
    #[error("not a member of the group `{0}`")]
    NotInGroup(String),
    /// The companion is not linked.
    #[error("device {0} is not linked to this account")]
    NotLinked(u16),
    /// The file could not be encrypted.
    #[error("media: {0}")]
    Media(String),
    /// The device could not be encrypted for.
    #[error("device `{0}` has no usable keys")]
    NoUsableKeys(String),
}

impl Phone {
    /// Writes a text to a PN or LID user; the addressing of `to` is the addressing on the wire.
    /// Returns the message id and the `<message>` with one `<to>` per device.
    pub fn send_text(
        &mut self,
        to: &Jid,
        text: &str,
        net: &mut dyn Net,
    ) -> Result<(String, Node), PhoneError> {
        let secret: [u8; 32] = self.rng.random();
        let message = content::text_message(text, &secret);
        self.send_message(to, message, None, net)
    }

    /// Sends any content; `media` is the `mediatype` of a file.
    pub(super) fn send_message(
        &mut self,
        to: &Jid,
        message: wa::Message,
        media: Option<&'static str>,
        net: &mut dyn Net,
    ) -> Result<(String, Node), PhoneError> {
        let to = to.to_non_ad();
        if !(to.is_pn() || to.is_lid()) {
            return Err(PhoneError::NotAUser(to.to_string()));
        }
        let id = self.message_id();
        let shown = content::shown(&message);
        let encoded = message.encode_to_vec();
        let mut participants = Vec::new();
        if !self.is_own(&to) {
            let devices = net.devices(&to);
            if devices.is_empty() {
                return Err(PhoneError::UnknownUser(to.to_string()));
            }
            let padded = content::encode_padded(&message, &mut self.rng);
            for entry in devices {
                let device = to.with_device(entry.device);
                participants.extend(
                    self.seal_for(&device, &padded, net)
                        .map(|sealed| participant(&device, sealed, media)),
                );
            }
            if participants.is_empty() {
                return Err(PhoneError::NoUsableDevice(to.to_string()));
            }
        }
        let own: Vec<Jid> = self
            .confirmed()
            .map(|(device, _)| self.own_like(&to).with_device(device))
            .collect();
        if !own.is_empty() {
            let copy = wrap_device_sent(message, to.to_string());
            let padded = content::encode_padded(&copy, &mut self.rng);
            for device in own {
                participants.extend(
                    self.seal_for(&device, &padded, net)
                        .map(|sealed| participant(&device, sealed, media)),
                );
            }
        }
        let mut stanza = NodeBuilder::new("message")
            .attr("to", &to)
            .attr("id", id.as_str())
            .attr("type", if media.is_some() { "media" } else { "text" });
        if to.is_lid()
            && let Some(pn) = net.pn_of(&to)
        {
            stanza = stanza.attr("peer_recipient_pn", pn);
        }
        let stanza = stanza
            .children([NodeBuilder::new("participants")
                .children(participants)
                .build()])
            .build();
        self.record_outbound(Outbound {
            media: shown.media,
            message: encoded,
            ..Outbound::new(id.clone(), to, shown.text, net.now(), 0)
        });
        Ok((id, stanza))
    }

    /// Seals for one device, starting a session when there is none. `None` when its keys are
    /// missing or refused; a refusal is a violation.
    pub(super) fn seal_for(
        &mut self,
        device: &Jid,
        padded: &[u8],
        net: &mut dyn Net,
    ) -> Option<Sealed> {
        let address = canonical(device, net);
        if !self.signal.has_session(&address) {
            let bundle = net.take_bundle(device)?;
            self.start_session(device, &bundle, net)?;
        }
        self.signal.seal(&address, padded).ok()
    }

    /// Starts (or replaces) the session with a device from a bundle that passed every check.
    pub(super) fn start_session(
        &mut self,
        device: &Jid,
        bundle: &PreKeyBundleParts,
        net: &mut dyn Net,
    ) -> Option<()> {
        let address = canonical(device, net);
        let started = self.check_bundle(device, bundle, net).and_then(|()| {
            let started = self.signal.start(&address, bundle, &mut self.rng);
            started.map_err(|_| ViolationKind::BadSignature)
        });
        match started {
            Ok(()) => Some(()),
            Err(kind) => {
                self.violations.push(Violation {
                    at: net.now(),
                    from: device.to_string(),
                    id: String::new(),
                    kind,
                });
                None
            }
        }
    }

    fn check_bundle(
        &self,
        device: &Jid,
        bundle: &PreKeyBundleParts,
        net: &dyn Net,
    ) -> Result<(), ViolationKind> {
        if net
            .identity(device)
            .is_some_and(|known| known != bundle.identity)
        {
            return Err(ViolationKind::WrongIdentity);
        }
        if device.device == 0 {
            return Ok(());
        }
        self.check_adv(
            device,
            &bundle.identity,
            bundle.device_identity.as_deref(),
            net,
        )
    }

    /// Checks that a companion's identity key is bound to its account by ADV: the account signed
    /// it, the companion signed back, and the account key is the one the network knows.
    pub(super) fn check_adv(
        &self,
        device: &Jid,
        identity: &[u8; 32],
        device_identity: Option<&[u8]>,
        net: &dyn Net,
    ) -> Result<(), ViolationKind> {
        let blob = device_identity.ok_or(ViolationKind::MissingDeviceIdentity)?;
        let wrong = |detail: &str| {
            Err(ViolationKind::WrongAdv {
                detail: detail.to_owned(),
            })
        };
        let account = if self.is_own(device) {
            Some(stores::raw_public(self.signal.account()))
        } else {
            net.identity(&device.to_non_ad())
        };
        let Ok(decoded) = waproto::codec::adv_signed_device_identity_decode(blob) else {
            return wrong("not a signed device identity");
        };
        if let (Some(claimed), Some(account)) = (&decoded.account_signature_key, &account)
            && !claimed.is_empty()
            && claimed != account
        {
            return wrong("another account's signature key");
        }
        match validate_adv_with_identity_key(blob, identity, account.as_ref()) {
            AdvValidation::Valid => Ok(()),
            AdvValidation::Invalid => wrong("signatures do not hold"),
            AdvValidation::NoAccountKey => wrong("no account key to check against"),
        }
    }
}

pub(super) fn participant(device: &Jid, sealed: Sealed, media: Option<&'static str>) -> Node {
    let mut enc = enc(sealed, None);
    if let Some(media) = media {
        enc.attrs.insert("mediatype", media);
    }
    NodeBuilder::new("to")
        .attr("jid", device)
        .children([enc])
        .build()
}

/// One `<enc>`; `count` on a resend.
pub(super) fn enc(sealed: Sealed, count: Option<u8>) -> Node {
    let Sealed { kind, bytes } = sealed;
    let kind: EncType = kind;
    let mut enc = NodeBuilder::new("enc")
        .attr("v", "2")
        .attr("type", kind.wire());
    if let Some(count) = count {
        enc = enc.attr("count", count);
    }
    enc.bytes(bytes).build()
}
