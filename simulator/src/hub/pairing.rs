//! Linking a new device: the QR references, the offer after a scan or a code, the client's answer.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rand::Rng as _;
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;
use waproto::buffa::Message as _;
use waproto::whatsapp::ClientPairingProps;

use super::connection::{ConnectionId, State, stream_error};
use super::new_device::NewDevice;
use super::people::ScanFailure;
use super::{Hub, link_code, passkey};
use crate::directory::{AccountId, Device, DeviceKey};
use crate::ledger::Fact;
use crate::phone::SignedLink;
use crate::wire::{self, Addressing};

const REFERENCES: usize = 6;
/// The first reference is shown for a minute, each further one for 20 seconds.
const FIRST_LIFETIME: u64 = 60;
const NEXT_LIFETIME: u64 = 20;
/// Restart required: how the server ends the connection a device was linked on.
const RESTART: u16 = 515;
const PAIRING_REFUSED: u16 = 401;

/// A connection that waits for a scan, or for the client's answer to one.
pub(super) struct Pairing {
    pub(super) applicant: NewDevice,
    offer: Option<Offer>,
}

struct Offer {
    device: DeviceKey,
    key_index: u32,
    stanza: String,
}

/// One reference of a `<pair-device>`.
#[derive(Clone)]
pub(super) struct Reference {
    connection: ConnectionId,
    /// Unix seconds.
    expires: u64,
}

impl Pairing {
    /// The device a phone has offered and the client has not confirmed.
    pub(super) fn offered(&self) -> Option<DeviceKey> {
        self.offer.as_ref().map(|offer| offer.device)
    }
}

impl Hub {
    pub(super) fn start_pairing(&mut self, id: ConnectionId, applicant: NewDevice) {
        let now = self.now();
        let mut nodes = Vec::with_capacity(REFERENCES);
        for position in 0..REFERENCES {
            let mut random = [0u8; 24];
            self.rng.fill_bytes(&mut random);
            let reference = format!("2@{}", BASE64_URL_SAFE_NO_PAD.encode(random));
            nodes.push(wire::leaf("ref", reference.as_bytes()));
            let expires = now + FIRST_LIFETIME + NEXT_LIFETIME * position as u64;
            self.references.insert(
                reference,
                Reference {
                    connection: id,
                    expires,
                },
            );
        }
        self.enter(
            id,
            State::Pairing(Box::new(Pairing {
                applicant,
                offer: None,
            })),
        );
        self.record(Fact::PairingStarted { connection: id.0 });
        let stanza = self.stanza_id();
        let push = md_push(
            &stanza,
            NodeBuilder::new("pair-device").children(nodes).build(),
        );
        self.transmit(id, push);
    }

    fn forget_references(&mut self, id: ConnectionId) {
        self.references.retain(|_, r| r.connection != id);
    }

    /// The client is gone: its references and codes are void, and a link it has not confirmed never
    /// was.
    pub(super) fn abandon_pairing(&mut self, id: ConnectionId, offered: Option<DeviceKey>) {
        self.forget_references(id);
        self.forget_code(id);
        if let Some(device) = offered {
            self.cancel_offer(device, "the client left before it confirmed the link");
        }
    }

    /// A person scans a QR with their phone.
    pub(crate) fn scan(&mut self, account: AccountId, qr: &str) -> Result<u16, ScanFailure> {
        let now = self.now();
        let fields = qr.trim().rsplit('#').next().unwrap_or_default();
        let reference = fields.split(',').next().unwrap_or_default().to_owned();
        let is_complete = fields.split(',').count() == 5;
        let known = self.references.get(&reference).cloned();
        // Anything that does not even look like a QR is left to the phone to name.
        if is_complete {
            match &known {
                None => return Err(ScanFailure::UnknownReference),
                Some(reference) if reference.expires <= now => {
                    return Err(ScanFailure::ExpiredReference);
                }
                Some(_) => {}
            }
            if self.directory.account(account).companions() >= self.config.max_companions {
                return Err(ScanFailure::TooManyDevices(self.config.max_companions));
            }
        }
        let number = self.directory.account_mut(account).reserve_device();
        let scan = self.people[account.0].phone.scan_qr(qr, number, now)?;
        let Some(connection) = known.map(|reference| reference.connection) else {
            return Err(ScanFailure::UnknownReference);
        };
        let Some(applicant) = self.applicant(connection) else {
            return Err(ScanFailure::UnknownReference);
        };
        if applicant.noise_public != scan.noise_pub || applicant.identity != scan.identity_pub {
            self.people[account.0].phone.unlink(number);
            return Err(ScanFailure::ForeignKeys);
        }
        let device = DeviceKey {
            account,
            device: number,
        };
        if self.demands_passkey(account) {
            self.people[account.0].phone.unlink(number);
            self.demand_passkey(connection, account);
            return Err(ScanFailure::PasskeyDemanded);
        }
        let fact = Fact::Scanned {
            connection: connection.0,
            device: self.label(device),
        };
        self.record(fact);
        let link = SignedLink {
            device_identity: scan.device_identity,
            key_index: scan.key_index,
        };
        self.offer(connection, device, link);
        Ok(number)
    }

    /// The client that waits for a link on this connection.
    pub(super) fn applicant(&self, id: ConnectionId) -> Option<&NewDevice> {
        match &self.connections.get(&id)?.state {
            State::Pairing(pairing) => Some(&pairing.applicant),
            _ => None,
        }
    }

    /// Tells a waiting client that a phone has signed it in; it has to answer with its own signature.
    pub(super) fn offer(&mut self, id: ConnectionId, device: DeviceKey, link: SignedLink) {
        let stanza = self.stanza_id();
        if let Some(State::Pairing(pairing)) = self.connections.get_mut(&id).map(|c| &mut c.state) {
            pairing.offer = Some(Offer {
                device,
                key_index: link.key_index,
                stanza: stanza.clone(),
            });
        }
        self.forget_references(id);
        self.forget_code(id);
        let success = self.pair_success(device, link.device_identity);
        self.transmit_from_afar(id, md_push(&stanza, success));
    }

    fn pair_success(&self, device: DeviceKey, device_identity: Vec<u8>) -> Node {
        NodeBuilder::new("pair-success")
            .children([
                wire::leaf("device-identity", device_identity),
                NodeBuilder::new("biz")
                    .attr("name", self.directory.account(device.account).name.as_str())
                    .build(),
                NodeBuilder::new("device")
                    .attr("jid", self.address(device, Addressing::Pn))
                    .attr("lid", self.address(device, Addressing::Lid))
                    .build(),
                NodeBuilder::new("platform").attr("name", "android").build(),
                wire::leaf("client-props", client_props()),
            ])
            .build()
    }

    /// A stanza from a client that is not linked yet.
    pub(super) fn on_pairing_stanza(&mut self, id: ConnectionId, node: &Node) {
        if node.tag != "iq" {
            return;
        }
        let stanza = wire::attr(node, "id").unwrap_or_default().into_owned();
        let kind = wire::attr(node, "type").unwrap_or_default().into_owned();
        match kind.as_str() {
            "result" | "error" => self.on_pairing_answer(id, &stanza, &kind, node),
            _ if node.get_optional_child("ping").is_some() => {
                self.transmit(id, wire::iq_result(&stanza, []));
            }
            _ if node.get_optional_child(link_code::TAG).is_some() => {
                self.on_link_code(id, &stanza, node);
            }
            _ if node.get_optional_child(passkey::OPTIONS).is_some() => {
                self.on_passkey_options(id, &stanza);
            }
            _ => {
                let what = node.children().and_then(<[Node]>::first);
                let what = what.map_or("iq", |child| child.tag.as_ref());
                self.record(Fact::Unknown {
                    device: "unlinked".to_owned(),
                    what: format!("iq <{what}>"),
                });
                self.transmit(id, wire::iq_error(&stanza, 501, "feature-not-implemented"));
            }
        }
    }

    fn on_pairing_answer(&mut self, id: ConnectionId, stanza: &str, kind: &str, node: &Node) {
        let Some(State::Pairing(pairing)) = self.connections.get_mut(&id).map(|c| &mut c.state)
        else {
            return;
        };
        let Some(offer) = pairing.offer.take_if(|offer| offer.stanza == stanza) else {
            return;
        };
        let signed = node
            .get_optional_child_by_tag(&["pair-device-sign", "device-identity"])
            .map(|n| wire::bytes(n).to_vec());
        let pool = pairing.applicant.pool();
        let noise_public = pairing.applicant.noise_public;
        let Some(signed) = signed.filter(|_| kind == "result") else {
            return self.refuse_pairing(id, offer.device, "the client answered with an error");
        };
        let confirmed = self.people[offer.device.account.0]
            .phone
            .confirm_link(offer.device.device, &signed);
        let pool = match (confirmed, pool) {
            (Ok(()), Ok(pool)) => pool,
            (Err(error), _) => return self.refuse_pairing(id, offer.device, &error.to_string()),
            (_, Err(error)) => return self.refuse_pairing(id, offer.device, &error),
        };
        let linked_at = self.now();
        let account = self.directory.account_mut(offer.device.account);
        account.devices.insert(
            offer.device.device,
            Device {
                key_index: Some(offer.key_index),
                noise_public: Some(noise_public),
                adv_identity: Some(signed),
                keys: pool,
                linked_at,
                app_state_shared: false,
            },
        );
        let fact = Fact::Paired {
            device: self.label(offer.device),
        };
        self.record(fact);
        self.refresh_key_index_list(offer.device.account);
        self.announce_device(offer.device, true);
        self.transmit_from_afar(id, stream_error(RESTART));
        self.end(id, None);
    }

    fn refuse_pairing(&mut self, id: ConnectionId, device: DeviceKey, reason: &str) {
        self.cancel_offer(device, reason);
        self.end(id, Some(stream_error(PAIRING_REFUSED)));
    }

    fn cancel_offer(&mut self, device: DeviceKey, reason: &str) {
        self.people[device.account.0].phone.unlink(device.device);
        let fact = Fact::PairingRefused {
            device: self.label(device),
            reason: reason.to_owned(),
        };
        self.record(fact);
    }
}

/// What the phone says about the account: its chats are addressed by LID, as all accounts' are by now.
fn client_props() -> Vec<u8> {
    ClientPairingProps {
        is_chat_db_lid_migrated: Some(true),
        ..Default::default()
    }
    .encode_to_vec()
}

fn md_push(id: &str, child: Node) -> Node {
    NodeBuilder::new("iq")
        .attr("from", wire::server())
        .attr("type", "set")
        .attr("id", id)
        .attr("xmlns", "md")
        .children([child])
        .build()
}
