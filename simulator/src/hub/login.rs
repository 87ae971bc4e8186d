//! What follows a finished handshake: pairing, login, or refusal.

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;
use waproto::buffa::Message as _;
use waproto::whatsapp::ClientPayload;

use super::Hub;
use super::connection::{ConnectionId, Online, Phase, State, conflict};
use crate::directory::DeviceKey;
use crate::faults::Fault;
use crate::ledger::Fact;
use crate::wire::{self, Addressing};

/// A client that has finished Noise.
pub(crate) struct Arrival<'a> {
    pub(crate) connection: ConnectionId,
    pub(crate) client_static: [u8; 32],
    /// Encoded `ClientPayload`.
    pub(crate) payload: &'a [u8],
}

/// `<failure>` and its details.
struct Refusal {
    reason: u16,
    code: Option<u16>,
    expire: Option<u64>,
}

impl Refusal {
    fn plain(reason: u16) -> Self {
        Self {
            reason,
            code: None,
            expire: None,
        }
    }

    fn node(&self) -> Node {
        let mut builder = NodeBuilder::new("failure")
            .attr("reason", self.reason)
            .attr("location", "sim");
        if let Some(code) = self.code {
            builder = builder.attr("code", code);
        }
        if let Some(expire) = self.expire {
            builder = builder.attr("expire", expire);
        }
        builder.build()
    }
}

const LOGGED_OUT: u16 = 401;
const BAD_REQUEST: u16 = 400;

impl Hub {
    /// Decides what a client becomes.
    pub(crate) fn arrive(&mut self, arrival: &Arrival<'_>) {
        let id = arrival.connection;
        let payload = match ClientPayload::decode_from_slice(arrival.payload) {
            Ok(payload) => payload,
            Err(error) => {
                self.protocol_error(id, format!("client payload: {error}"));
                return self.refuse(id, "?", &Refusal::plain(BAD_REQUEST));
            }
        };
        if let Some(registration) = payload.device_pairing_data.as_option() {
            if let Some(refusal) = self.ordered_refusal(None) {
                return self.refuse(id, "unlinked", &refusal);
            }
            match super::new_device::NewDevice::parse(registration, arrival.client_static) {
                Ok(registration) => self.start_pairing(id, registration),
                Err(reason) => {
                    self.protocol_error(id, format!("pairing registration: {reason}"));
                    self.refuse(id, "unlinked", &Refusal::plain(BAD_REQUEST));
                }
            }
            return;
        }
        self.login(arrival, &payload);
    }

    fn login(&mut self, arrival: &Arrival<'_>, payload: &ClientPayload) {
        let id = arrival.connection;
        let digits = payload.username.unwrap_or(0).to_string();
        let number = payload.device.unwrap_or(0);
        let claimed = format!("{digits}:{number}");
        let device = self
            .directory
            .by_phone(&digits)
            .zip(u16::try_from(number).ok())
            .map(|(account, device)| DeviceKey { account, device });
        if let Some(refusal) = self.ordered_refusal(device) {
            return self.refuse(id, &claimed, &refusal);
        }
        let Some(device) = device.filter(|&key| {
            self.directory
                .device(key)
                .is_some_and(|d| d.noise_public == Some(arrival.client_static))
        }) else {
            return self.refuse(id, &claimed, &Refusal::plain(LOGGED_OUT));
        };
        if let Some(&older) = self.online.get(&device) {
            self.end(older, Some(conflict("replaced", None)));
        }
        self.enter(
            id,
            State::Online(Online {
                device,
                phase: Phase::Passive,
                pull: payload.pull.unwrap_or(false),
                cursor: 0,
                available: false,
            }),
        );
        self.online.insert(device, id);
        self.mailboxes.entry(device).or_default().start_over();
        self.record(Fact::Login {
            connection: id.0,
            device: claimed,
        });
        self.welcome(id, device);
        self.strike_at_login(id, device);
        if !payload.passive.unwrap_or(false) {
            self.activate(id);
        }
    }

    fn welcome(&mut self, id: ConnectionId, device: DeviceKey) {
        let success = NodeBuilder::new("success")
            .attr("t", self.now())
            .attr("lid", self.address(device, Addressing::Lid))
            .attr(
                "display_name",
                self.directory.account(device.account).name.as_str(),
            )
            .attr("location", "sim")
            .attr("props", 27)
            .attr("abprops", 0)
            .build();
        self.transmit(id, success);
        let routing = NodeBuilder::new("edge_routing")
            .children([
                wire::leaf(
                    "routing_info",
                    self.seed.number("edge-routing").to_be_bytes(),
                ),
                NodeBuilder::new("dns_domain").string_content("fb").build(),
            ])
            .build();
        self.transmit(id, wire::ib(routing));
    }

    fn ordered_refusal(&mut self, device: Option<DeviceKey>) -> Option<Refusal> {
        self.faults.take(device, |fault| match fault {
            Fault::ConnectFailure {
                reason,
                code,
                expire,
            } => Some(Refusal {
                reason: *reason,
                code: *code,
                expire: *expire,
            }),
            _ => None,
        })
    }

    fn refuse(&mut self, id: ConnectionId, claimed: &str, refusal: &Refusal) {
        self.record(Fact::LoginRefused {
            connection: id.0,
            device: claimed.to_owned(),
            reason: refusal.reason,
        });
        self.end(id, Some(refusal.node()));
    }
}
