//! Sockets as the hub sees them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::pairing::Pairing;
use crate::directory::DeviceKey;
use crate::faults::Fault;
use crate::ledger::Fact;
use crate::noise::NoisePattern;

/// How long a stanza takes that would cross the world to a phone or a distant server.
const DISTANCE: Duration = Duration::from_millis(250);

/// Number of a connection; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What a connection's writer is told to do.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Send a stanza.
    Stanza {
        node: Box<Node>,
        /// Ordered delay.
        not_before: Option<Instant>,
        /// Let the next message overtake this one.
        overtaken: bool,
        /// What to record at the moment the stanza leaves.
        departure: Option<Box<Fact>>,
    },
    /// Say goodbye on the WebSocket and end the connection.
    Close,
    /// End the connection without a word.
    Drop,
}

/// How a letter leaves.
pub(super) struct Departure {
    /// Recorded when the letter leaves.
    pub(super) fact: Fact,
    /// Let the next message overtake this one.
    pub(super) overtaken: bool,
}

pub(super) struct Connection {
    pub(super) tx: mpsc::UnboundedSender<Outgoing>,
    pub(super) state: State,
}

pub(super) enum State {
    /// Noise is not finished yet.
    Handshaking,
    Pairing(Box<Pairing>),
    Online(Online),
    /// Nothing is read or sent any more; the socket may still be open.
    Dead(Option<DeviceKey>),
}

/// A logged-in device's progress through its queue.
pub(super) struct Online {
    pub(super) device: DeviceKey,
    pub(super) phase: Phase,
    /// Whether the client asks for the backlog in batches.
    pub(super) pull: bool,
    /// Everything queued before this number has been sent on this connection.
    pub(super) cursor: u64,
    /// Whether the client declared itself available.
    pub(super) available: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Logged in; nothing flows until `<active/>`.
    Passive,
    /// The backlog is being sent: everything queued before `until`.
    Draining {
        until: u64,
        total: usize,
        credit: usize,
    },
    Live,
}

impl Hub {
    /// A socket was accepted.
    pub(crate) fn open(&mut self) -> (ConnectionId, mpsc::UnboundedReceiver<Outgoing>) {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let (tx, rx) = mpsc::unbounded_channel();
        let state = State::Handshaking;
        self.connections.insert(id, Connection { tx, state });
        let census = &mut self.census;
        census.accepted += 1;
        census.open += 1;
        census.peak_open = census.peak_open.max(census.open);
        census.handshaking += 1;
        census.peak_handshaking = census.peak_handshaking.max(census.handshaking);
        (id, rx)
    }

    /// Whether a client with this Noise key may go on by IK. Another is answered in the XX shape.
    pub(crate) fn accepts_ik(&mut self, key: &[u8; 32]) -> bool {
        let Some(device) = self.directory.by_noise_key(key) else {
            return false;
        };
        !self.strike(device, &Fault::DeclineIk)
    }

    pub(crate) fn handshake_done(&mut self, id: ConnectionId, pattern: NoisePattern) {
        self.record(Fact::Handshake {
            connection: id.0,
            pattern,
        });
    }

    pub(crate) fn protocol_error(&mut self, id: ConnectionId, reason: String) {
        self.record(Fact::ProtocolError {
            connection: id.0,
            reason,
        });
    }

    /// The socket is gone.
    pub(crate) fn closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        self.census.open -= 1;
        let device = match connection.state {
            State::Handshaking => {
                self.census.handshaking -= 1;
                None
            }
            State::Pairing(pairing) => {
                self.abandon_pairing(id, pairing.offered());
                None
            }
            State::Online(online) => {
                self.log_off(id, online.device, online.available);
                Some(online.device)
            }
            State::Dead(device) => device,
        };
        let fact = Fact::Closed {
            connection: id.0,
            device: device.map(|d| self.label(d)),
        };
        self.record(fact);
    }

    /// A decrypted stanza from a socket.
    pub(crate) fn on_wire(&mut self, id: ConnectionId, node: &Node) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        match &connection.state {
            State::Pairing(_) => {
                if !self.is_silent(None, true) {
                    self.on_pairing_stanza(id, node);
                }
            }
            State::Online(online) => {
                let device = online.device;
                if !self.is_silent(Some(device), true) {
                    self.on_stanza(device, node);
                }
            }
            State::Handshaking | State::Dead(_) => {}
        }
    }

    /// A frame that decrypts but is no stanza.
    pub(crate) fn malformed(&mut self, id: ConnectionId, reason: String) {
        self.protocol_error(id, reason);
        self.end(id, Some(stream_error_child("xml-not-well-formed")));
    }

    pub(super) fn device_of(&self, id: ConnectionId) -> Option<DeviceKey> {
        match &self.connections.get(&id)?.state {
            State::Online(online) => Some(online.device),
            State::Dead(device) => *device,
            State::Handshaking | State::Pairing(_) => None,
        }
    }

    pub(super) fn online_mut(&mut self, id: ConnectionId) -> Option<&mut Online> {
        match &mut self.connections.get_mut(&id)?.state {
            State::Online(online) => Some(online),
            _ => None,
        }
    }

    /// Moves a connection out of the handshake.
    pub(super) fn enter(&mut self, id: ConnectionId, state: State) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if matches!(connection.state, State::Handshaking) {
                self.census.handshaking -= 1;
            }
            connection.state = state;
        }
    }

    /// Whether an ordered silence covers the client. `inbound` uses up a counted order.
    pub(super) fn is_silent(&mut self, device: Option<DeviceKey>, inbound: bool) -> bool {
        let silence = |fault: &Fault| matches!(fault, Fault::Silence).then_some(());
        if inbound {
            self.faults.take(device, silence).is_some()
        } else {
            self.faults.find(device, silence).is_some()
        }
    }

    /// Sends on one connection, subject to silence and delay.
    pub(super) fn transmit(&mut self, id: ConnectionId, node: Node) {
        self.put_on_wire(id, node, None, None);
    }

    /// Sends a letter; `departure` is recorded when it leaves.
    pub(super) fn transmit_letter(&mut self, id: ConnectionId, node: Node, departure: Departure) {
        self.put_on_wire(id, node, None, Some(departure));
    }

    /// Sends something that has to come from further away than this process: a phone's answer, or a
    /// server's second thought. Clients rely on the time that takes.
    pub(super) fn transmit_from_afar(&mut self, id: ConnectionId, node: Node) {
        self.put_on_wire(id, node, Some(DISTANCE), None);
    }

    fn put_on_wire(
        &mut self,
        id: ConnectionId,
        node: Node,
        distance: Option<Duration>,
        departure: Option<Departure>,
    ) {
        let device = self.device_of(id);
        if self.is_silent(device, false) {
            return;
        }
        let ordered = self.faults.take(device, |fault| match fault {
            Fault::Delay { millis } => Some(Duration::from_millis(*millis)),
            _ => None,
        });
        let delay = ordered.max(distance);
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if matches!(connection.state, State::Dead(_)) {
            return;
        }
        let tx = connection.tx.clone();
        let overtaken = departure.as_ref().is_some_and(|d| d.overtaken);
        let mut departure = departure.map(|d| Box::new(d.fact));
        // What goes at once is recorded here, in the order of the hub's decisions.
        if delay.is_none()
            && !overtaken
            && let Some(fact) = departure.take()
        {
            self.record(*fact);
        }
        // A send error means that the socket task is ending; `closed` follows.
        let _ = tx.send(Outgoing::Stanza {
            node: Box::new(node),
            not_before: delay.map(|by| Instant::now() + by),
            overtaken,
            departure,
        });
    }

    /// A stanza that was held back leaves now.
    pub(crate) fn departed(&mut self, fact: Fact) {
        self.record(fact);
    }

    /// Sends a last stanza, if any, and closes.
    pub(super) fn end(&mut self, id: ConnectionId, last: Option<Node>) {
        if let Some(node) = last {
            self.transmit(id, node);
        }
        self.bury(id);
        self.tell(id, Outgoing::Close);
    }

    /// Closes without a word.
    pub(super) fn cut(&mut self, id: ConnectionId) {
        self.bury(id);
        self.tell(id, Outgoing::Drop);
    }

    fn tell(&self, id: ConnectionId, what: Outgoing) {
        if let Some(connection) = self.connections.get(&id) {
            let _ = connection.tx.send(what);
        }
    }

    /// Stops reading from and sending to a connection; its device counts as offline.
    pub(super) fn bury(&mut self, id: ConnectionId) {
        let device = self.device_of(id);
        let was_available = match self.connections.get(&id).map(|c| &c.state) {
            Some(State::Pairing(pairing)) => {
                let offered = pairing.offered();
                self.abandon_pairing(id, offered);
                false
            }
            Some(State::Online(online)) => online.available,
            _ => false,
        };
        self.enter(id, State::Dead(device));
        if let Some(device) = device {
            self.log_off(id, device, was_available);
        }
    }

    fn log_off(&mut self, id: ConnectionId, device: DeviceKey, was_available: bool) {
        if self.online.get(&device) == Some(&id) {
            self.online.remove(&device);
            self.went_away(device, was_available);
        }
    }
}

/// `<stream:error code=…/>`
pub(super) fn stream_error(code: u16) -> Node {
    NodeBuilder::new("stream:error").attr("code", code).build()
}

/// `<stream:error><child/></stream:error>`
pub(super) fn stream_error_child(child: &'static str) -> Node {
    NodeBuilder::new("stream:error")
        .children([NodeBuilder::new(child).build()])
        .build()
}

/// `<stream:error [code]><conflict type=…/></stream:error>`
pub(super) fn conflict(kind: &'static str, code: Option<u16>) -> Node {
    let mut builder = NodeBuilder::new("stream:error");
    if let Some(code) = code {
        builder = builder.attr("code", code);
    }
    builder
        .children([NodeBuilder::new("conflict").attr("type", kind).build()])
        .build()
}

impl Hub {
    /// Whether a device is logged in and has left passive mode.
    pub(crate) fn is_active(&self, account: crate::directory::AccountId, device: u16) -> bool {
        self.online
            .get(&DeviceKey { account, device })
            .and_then(|id| self.connections.get(id))
            .is_some_and(|connection| {
                matches!(&connection.state, State::Online(o) if o.phase != Phase::Passive)
            })
    }
}
