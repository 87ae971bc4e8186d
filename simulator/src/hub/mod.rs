//! The server behind the sockets: one state, changed by one stanza at a time.
//!
//! Every connection task and every control call takes the same lock, hands in what it has, and
//! leaves. Nothing in here waits; stanzas go out through per-connection channels, and people's
//! phones, which have no socket, are run in line from the `errands` queue.

mod appstate;
mod call;
mod connection;
mod delivery;
mod fault_orders;
mod group;
mod iq;
mod keys;
mod link_code;
mod login;
mod mailbox;
mod media;
mod message;
mod network;
mod new_device;
mod notify;
mod pairing;
mod passkey;
mod people;
mod presence;
mod props;
mod receipt;
mod settings;
mod snapshot;
mod trust;
mod usync;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use wacore_binary::{Jid, Node};

pub use call::CallEnd;
pub(crate) use connection::{ConnectionId, Outgoing};
pub(crate) use group::GroupChange;
pub use group::{GroupError, GroupInfo, GroupMember, GroupRole};
pub use link_code::CodeFailure;
pub(crate) use link_code::typed;
pub(crate) use login::Arrival;
pub(crate) use people::NewPerson;
pub use people::{PeopleError, ScanFailure};

use crate::clock::Clock;
use crate::directory::{AccountId, DeviceKey, Directory};
use crate::faults::FaultBook;
use crate::ledger::{Fact, Ledger};
use crate::media::Shelf;
use crate::seed::Seed;
use crate::wire::{self, Addressing};

use connection::Connection;
use mailbox::Mailbox;
use people::Person;

/// Settings of the hub that tests vary.
#[derive(Debug, Clone)]
pub(crate) struct HubConfig {
    /// Host (and port) of the media host, named in `media_conn`.
    pub(crate) media_host: String,
    /// Companions one account may link.
    pub(crate) max_companions: usize,
}

/// The whole server state.
pub(crate) struct Hub {
    seed: Seed,
    rng: ChaCha20Rng,
    clock: Arc<dyn Clock>,
    config: HubConfig,
    pub(crate) directory: Directory,
    /// Index = [`AccountId`].
    people: Vec<Person>,
    connections: HashMap<ConnectionId, Connection>,
    next_connection: u64,
    /// The live connection of each device.
    online: HashMap<DeviceKey, ConnectionId>,
    mailboxes: HashMap<DeviceKey, Mailbox>,
    /// Open pairing references.
    references: HashMap<String, pairing::Reference>,
    /// The client that waits for a code to be typed on this account's phone.
    codes: HashMap<AccountId, link_code::CodeRequest>,
    /// Who has exchanged messages with whom: they hear about each other's devices.
    acquainted: HashMap<AccountId, BTreeSet<AccountId>>,
    groups: group::Groups,
    settings: HashMap<AccountId, settings::Settings>,
    props: HashMap<AccountId, props::Props>,
    tokens: Vec<trust::Token>,
    /// What a change of a group has to tell, until the request is answered.
    notices: Vec<(DeviceKey, Node)>,
    app_state: HashMap<AccountId, appstate::Collections>,
    /// What the media host holds.
    shelf: Shelf,
    subscriptions: HashMap<AccountId, BTreeSet<DeviceKey>>,
    /// What rings now.
    calls: Vec<call::Call>,
    faults: FaultBook,
    ledger: Ledger,
    /// Stanzas that wait for a phone.
    errands: VecDeque<(AccountId, Node)>,
    census: Census,
}

/// Connection counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Census {
    /// Sockets open now.
    pub open: usize,
    /// Most sockets open at once.
    pub peak_open: usize,
    /// Handshakes under way now, from accept to login or pairing.
    pub handshaking: usize,
    /// Most handshakes under way at once.
    pub peak_handshaking: usize,
    /// Devices logged in now.
    pub online: usize,
    /// Sockets accepted since the start.
    pub accepted: u64,
}

impl Hub {
    pub(crate) fn new(seed: Seed, clock: Arc<dyn Clock>, config: HubConfig) -> Self {
        Self {
            seed,
            rng: seed.stream("hub"),
            clock,
            shelf: Shelf::new(config.media_host.clone(), seed.stream("media")),
            config,
            directory: Directory::default(),
            people: Vec::new(),
            connections: HashMap::new(),
            next_connection: 1,
            online: HashMap::new(),
            mailboxes: HashMap::new(),
            references: HashMap::new(),
            codes: HashMap::new(),
            acquainted: HashMap::new(),
            groups: group::Groups::default(),
            settings: HashMap::new(),
            props: HashMap::new(),
            tokens: Vec::new(),
            notices: Vec::new(),
            app_state: HashMap::new(),
            subscriptions: HashMap::new(),
            calls: Vec::new(),
            faults: FaultBook::default(),
            ledger: Ledger::default(),
            errands: VecDeque::new(),
            census: Census::default(),
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn census(&self) -> Census {
        Census {
            online: self.online.len(),
            ..self.census
        }
    }

    fn now(&self) -> u64 {
        self.clock.now_secs()
    }

    fn record(&mut self, fact: Fact) {
        self.ledger.append(self.clock.now_millis(), fact);
    }

    /// `<phone digits>:<device>`, as the ledger names devices.
    pub(crate) fn label(&self, device: DeviceKey) -> String {
        format!(
            "{}:{}",
            self.directory.account(device.account).pn,
            device.device
        )
    }

    fn violation(&mut self, device: DeviceKey, id: Option<&str>, what: impl Into<String>) {
        let fact = Fact::Violation {
            device: self.label(device),
            what: what.into(),
            id: id.map(str::to_owned),
        };
        self.record(fact);
    }

    /// A stanza id of the server's own.
    fn stanza_id(&mut self) -> String {
        format!(
            "{:010}-{}",
            self.rng.next_u32(),
            self.ledger.entries().len()
        )
    }

    /// Takes one stanza from a device, phone or companion.
    pub(crate) fn on_stanza(&mut self, from: DeviceKey, node: &Node) {
        match node.tag.as_ref() {
            "message" => self.on_message(from, node),
            "receipt" => self.on_receipt(from, node),
            "ack" => self.on_ack(from, node),
            "iq" => self.on_iq(from, node),
            "ib" => self.on_ib(from, node),
            "presence" => self.on_presence(from, node),
            "chatstate" => self.on_chatstate(from, node),
            "call" => self.on_call(from, node),
            tag => {
                let fact = Fact::Unknown {
                    device: self.label(from),
                    what: format!("<{tag}>"),
                };
                self.record(fact);
            }
        }
    }

    /// Sends a stanza that is not queued: it is lost unless the device is connected.
    fn send(&mut self, to: DeviceKey, node: Node) {
        if to.is_phone() {
            self.errands.push_back((to.account, node));
        } else if let Some(&connection) = self.online.get(&to) {
            self.transmit(connection, node);
        }
    }

    /// Runs the phones until none has anything left to do.
    pub(crate) fn settle(&mut self) {
        self.send_notices();
        while let Some((account, node)) = self.errands.pop_front() {
            self.run_errand(account, &node);
        }
        for device in self.directory.drain_low_on_prekeys() {
            self.ask_for_prekeys(device);
        }
        if !self.errands.is_empty() {
            self.settle();
        }
    }

    fn address(&self, device: DeviceKey, addressing: Addressing) -> Jid {
        self.directory.jid(device, addressing)
    }

    /// `<ack class=…>` back to the sender of `node`.
    fn acknowledge(&mut self, to: DeviceKey, node: &Node, class: &'static str, error: Option<u16>) {
        let ack = ack_for(node, class, self.now(), error);
        self.send(to, ack);
    }
}

/// The ack of a stanza that came from a client: its `to` becomes the ack's `from`.
fn ack_for(node: &Node, class: &'static str, now: u64, error: Option<u16>) -> Node {
    let mut builder = wacore_binary::builder::NodeBuilder::new("ack").attr("class", class);
    for (theirs, ours) in [
        ("id", "id"),
        ("to", "from"),
        ("type", "type"),
        ("participant", "participant"),
    ] {
        // A message's ack carries no type; a receipt's does.
        if theirs == "type" && class == "message" {
            continue;
        }
        if let Some(value) = node.attrs.get(theirs) {
            builder = builder.attr(ours, value.clone());
        }
    }
    builder = builder.attr("t", now);
    if let Some(error) = error {
        builder = builder.attr("error", error);
    }
    builder.build()
}

/// Every message id a receipt speaks of, without repeats.
fn receipt_ids(node: &Node) -> Vec<String> {
    let own = wire::attr(node, "id")
        .into_iter()
        .map(std::borrow::Cow::into_owned);
    let listed = node
        .get_optional_child("list")
        .and_then(Node::children)
        .unwrap_or_default()
        .iter()
        .filter(|item| item.tag == "item")
        .filter_map(|item| wire::attr(item, "id").map(std::borrow::Cow::into_owned));
    let mut seen = BTreeSet::new();
    own.chain(listed)
        .filter(|id| seen.insert(id.clone()))
        .collect()
}
