//! Linking a new device by QR.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rand::Rng as _;
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;
use waproto::whatsapp::client_payload::DevicePairingRegistrationData;

use super::Hub;
use super::connection::{ConnectionId, State, stream_error};
use super::people::ScanFailure;
use crate::directory::{AccountId, Device, DeviceKey, KeyPool};
use crate::ledger::Fact;
use crate::phone::SignedPreKeyPart;
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
    applicant: NewDevice,
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

/// `DevicePairingRegistrationData`, checked.
pub(super) struct NewDevice {
    noise_public: [u8; 32],
    registration_id: u32,
    identity: [u8; 32],
    signed: SignedPreKeyPart,
}

impl Pairing {
    /// The device a phone has offered and the client has not confirmed.
    pub(super) fn offered(&self) -> Option<DeviceKey> {
        self.offer.as_ref().map(|offer| offer.device)
    }
}

impl NewDevice {
    pub(super) fn parse(
        data: &DevicePairingRegistrationData,
        noise_public: [u8; 32],
    ) -> Result<Self, String> {
        let number = |bytes: &Option<Vec<u8>>, name: &str| {
            wire::big_endian(bytes.as_deref().unwrap_or_default())
                .ok_or_else(|| format!("{name} is not a number of 1 to 4 bytes"))
        };
        if data.e_keytype.as_deref() != Some(&[5]) {
            return Err("eKeytype is not 5".to_owned());
        }
        if data.build_hash.as_ref().map(Vec::len) != Some(16) {
            return Err("buildHash is not 16 bytes".to_owned());
        }
        let applicant = Self {
            noise_public,
            registration_id: number(&data.e_regid, "eRegid")?,
            identity: array(data.e_ident.as_deref(), "eIdent")?,
            signed: SignedPreKeyPart {
                id: number(&data.e_skey_id, "eSkeyId")?,
                public: array(data.e_skey_val.as_deref(), "eSkeyVal")?,
                signature: array(data.e_skey_sig.as_deref(), "eSkeySig")?,
            },
        };
        applicant.pool()?;
        Ok(applicant)
    }

    fn pool(&self) -> Result<KeyPool, String> {
        KeyPool::new(self.registration_id, self.identity, self.signed.clone())
            .map_err(|e| e.to_string())
    }
}

fn array<const N: usize>(bytes: Option<&[u8]>, name: &str) -> Result<[u8; N], String> {
    bytes
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| format!("{name} is not {N} bytes"))
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

    /// The client is gone: its references are void, and a link it has not confirmed never was.
    pub(super) fn abandon_pairing(&mut self, id: ConnectionId, offered: Option<DeviceKey>) {
        self.forget_references(id);
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
        let Some(reference) = known else {
            return Err(ScanFailure::UnknownReference);
        };
        let device = DeviceKey {
            account,
            device: number,
        };
        let stanza = self.stanza_id();
        let Some(State::Pairing(pairing)) = self
            .connections
            .get_mut(&reference.connection)
            .map(|connection| &mut connection.state)
        else {
            return Err(ScanFailure::UnknownReference);
        };
        let applicant = &pairing.applicant;
        if applicant.noise_public != scan.noise_pub || applicant.identity != scan.identity_pub {
            self.people[account.0].phone.unlink(number);
            return Err(ScanFailure::ForeignKeys);
        }
        pairing.offer = Some(Offer {
            device,
            key_index: scan.key_index,
            stanza: stanza.clone(),
        });
        self.forget_references(reference.connection);
        let fact = Fact::Scanned {
            connection: reference.connection.0,
            device: self.label(device),
        };
        self.record(fact);
        let success = self.pair_success(device, scan.device_identity);
        self.transmit(reference.connection, md_push(&stanza, success));
        Ok(number)
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
        self.end(id, Some(stream_error(RESTART)));
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

fn md_push(id: &str, child: Node) -> Node {
    NodeBuilder::new("iq")
        .attr("from", wire::server())
        .attr("type", "set")
        .attr("id", id)
        .attr("xmlns", "md")
        .children([child])
        .build()
}
