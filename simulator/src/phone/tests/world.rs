//! A network of a few lines: a key directory, and a queue whose order the test decides.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use wacore::companion_reg::CompanionWebClientType;
use wacore::libsignal::protocol::KeyPair;
use wacore::pair::{DeviceState, PairUtils};
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, JidExt as _, Node, NodeContent};
use waproto::whatsapp as wa;

use crate::phone::content::{decode_padded, encode_padded};
use crate::phone::net::{Net, canonical};
use crate::phone::send::enc;
use crate::phone::signal::{EncType, Opened, Sealed, Signal};
use crate::phone::stanza::{attr, bytes, child_bytes, jid};
use crate::phone::{
    DeviceEntry, DeviceKeys, MediaPlace, NewPhone, OneTimePreKeyPart, Phone, PreKeyBundleParts,
    Scan,
};

/// The group of these tests.
pub(super) fn group_jid() -> Jid {
    Jid::group("120363000000000001")
}

/// Account and device number.
pub(super) type Place = (usize, u16);

struct Entry {
    keys: DeviceKeys,
    pool: VecDeque<OneTimePreKeyPart>,
    key_index: Option<u32>,
    device_identity: Option<Vec<u8>>,
}

struct Account {
    pn: Jid,
    lid: Jid,
    devices: BTreeMap<u16, Entry>,
}

/// The directory and the clock.
#[derive(Default)]
pub(super) struct Directory {
    accounts: Vec<Account>,
    /// The one group, and the accounts in it.
    pub(super) group: Vec<usize>,
    pub(super) now: u64,
    pub(super) handed_out: Vec<(Jid, u32)>,
    pub(super) blobs: BTreeMap<String, Bytes>,
}

impl Directory {
    pub(super) fn find(&self, user: &Jid) -> Option<usize> {
        self.accounts.iter().position(|account| {
            let own = if user.is_lid() {
                &account.lid
            } else {
                &account.pn
            };
            own.user == user.user && own.server == user.server
        })
    }

    fn entry(&self, device: &Jid) -> Option<&Entry> {
        self.accounts[self.find(device)?]
            .devices
            .get(&device.device)
    }

    /// Replaces what the directory says about a device.
    pub(super) fn tamper(&mut self, device: &Jid, change: impl FnOnce(&mut DeviceKeys)) {
        let account = self.find(device).expect("known user");
        let entry = self.accounts[account].devices.get_mut(&device.device);
        change(&mut entry.expect("known device").keys);
    }

    pub(super) fn remove(&mut self, (account, device): Place) {
        self.accounts[account].devices.remove(&device);
    }

    fn register(
        &mut self,
        (account, device): Place,
        mut keys: DeviceKeys,
        key_index: Option<u32>,
        device_identity: Option<Vec<u8>>,
    ) {
        let pool = keys.one_time.drain(..).collect();
        let entry = Entry {
            keys,
            pool,
            key_index,
            device_identity,
        };
        self.accounts[account].devices.insert(device, entry);
    }
}

impl Net for Directory {
    fn devices(&mut self, user: &Jid) -> Vec<DeviceEntry> {
        let Some(account) = self.find(user) else {
            return Vec::new();
        };
        self.accounts[account]
            .devices
            .iter()
            .map(|(device, entry)| DeviceEntry {
                device: *device,
                key_index: entry.key_index,
            })
            .collect()
    }

    fn take_bundle(&mut self, device: &Jid) -> Option<PreKeyBundleParts> {
        let account = self.find(device)?;
        let entry = self.accounts[account].devices.get_mut(&device.device)?;
        let one_time = entry.pool.pop_front();
        if let Some(key) = &one_time {
            self.handed_out.push((device.clone(), key.id));
        }
        Some(PreKeyBundleParts {
            registration_id: entry.keys.registration_id,
            identity: entry.keys.identity,
            signed: entry.keys.signed.clone(),
            one_time,
            device_identity: entry.device_identity.clone(),
        })
    }

    fn identity(&self, device: &Jid) -> Option<[u8; 32]> {
        self.entry(device).map(|entry| entry.keys.identity)
    }

    fn lid_of(&self, pn: &Jid) -> Option<Jid> {
        self.find(pn).map(|found| self.accounts[found].lid.clone())
    }

    fn pn_of(&self, lid: &Jid) -> Option<Jid> {
        self.find(lid).map(|found| self.accounts[found].pn.clone())
    }

    fn store_media(&mut self, kind: &str, blob: Bytes) -> MediaPlace {
        let direct_path = format!("/v/{kind}/{}", self.blobs.len());
        self.blobs.insert(direct_path.clone(), blob);
        MediaPlace {
            url: format!("https://media{direct_path}"),
            direct_path,
        }
    }

    fn media(&self, direct_path: &str) -> Option<Bytes> {
        self.blobs.get(direct_path).cloned()
    }

    fn members(&self, group: &Jid) -> Vec<Jid> {
        let members = self.group.iter().filter(|_| *group == group_jid());
        members
            .map(|&member| self.accounts[member].lid.clone())
            .collect()
    }

    fn subject(&self, group: &Jid) -> Option<String> {
        (*group == group_jid()).then(|| "Everybody".to_owned())
    }

    fn now(&self) -> u64 {
        self.now
    }
}

/// A companion from raw keys: what a client does, written down by hand over the library's own
/// verification.
pub(super) struct Companion {
    pub(super) signal: Signal,
    pub(super) state: DeviceState,
    pub(super) rng: ChaCha20Rng,
    pub(super) signed_identity: Vec<u8>,
    /// Opened messages.
    pub(super) opened: Vec<(String, wa::Message)>,
    /// Messages that failed to open.
    pub(super) failed: Vec<String>,
}

impl Companion {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let signal = Signal::generate(&mut rng);
        let state = DeviceState {
            identity_key: signal.account().clone(),
            noise_key: KeyPair::generate(&mut rng),
            adv_secret_key: [7; 32],
        };
        Self {
            signal,
            state,
            rng,
            signed_identity: Vec::new(),
            opened: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub(super) fn qr(&self) -> String {
        PairUtils::make_qr_data(&self.state, "the-ref", CompanionWebClientType::Chrome)
    }

    /// Seals `message` for one device, as a client would.
    pub(super) fn seal(&mut self, to: &Jid, message: &wa::Message, net: &mut Directory) -> Sealed {
        let address = canonical(to, net);
        if !self.signal.has_session(&address) {
            let bundle = net.take_bundle(to).expect("bundle");
            self.signal
                .start(&address, &bundle, &mut self.rng)
                .expect("session");
        }
        let padded = encode_padded(message, &mut self.rng);
        self.signal.seal(&address, &padded).expect("sealed")
    }

    fn receive(&mut self, stanza: &Node, net: &Directory) {
        let Some(node) = stanza.get_optional_child("enc") else {
            return;
        };
        let id = attr(stanza, "id").expect("id").into_owned();
        let from = canonical(&jid(stanza, "from").expect("from"), net);
        let kind = EncType::from_wire(&attr(node, "type").expect("type")).expect("pairwise");
        let ciphertext = bytes(node).expect("ciphertext");
        match self
            .signal
            .open(&from, &id, kind, ciphertext, &mut self.rng)
        {
            Ok(Opened::Fresh(padded)) => {
                self.opened
                    .push((id, decode_padded(&padded).expect("content")));
            }
            Ok(Opened::Again) => {}
            Err(_) => self.failed.push(id),
        }
    }
}

enum Endpoint {
    Phone(Box<Phone>),
    Companion(Box<Companion>),
}

/// One stanza on its way to one device.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) to: Place,
    pub(super) stanza: Node,
}

/// Everybody, and everything under way.
#[derive(Default)]
pub(super) struct World {
    pub(super) net: Directory,
    endpoints: BTreeMap<Place, Endpoint>,
    pub(super) wire: VecDeque<Delivery>,
    /// Every stanza any phone sent, in order.
    pub(super) sent: Vec<Node>,
}

impl World {
    /// `people` phones with 20 prekeys each.
    pub(super) fn new(people: usize, seed: u64) -> Self {
        let mut world = Self::default();
        world.net.now = 1_700_000_000;
        for index in 0..people {
            let spec = NewPhone {
                pn: format!("49151000{index:04}"),
                lid: format!("1000000000{index:04}"),
                name: format!("Person {index}"),
            };
            let mut phone = Phone::new(spec, seed + index as u64);
            world.net.accounts.push(Account {
                pn: phone.pn().clone(),
                lid: phone.lid().clone(),
                devices: BTreeMap::new(),
            });
            world
                .net
                .register((index, 0), phone.publish(20), None, None);
            world
                .endpoints
                .insert((index, 0), Endpoint::Phone(Box::new(phone)));
        }
        world
    }

    pub(super) fn phone(&self, account: usize) -> &Phone {
        match &self.endpoints[&(account, 0)] {
            Endpoint::Phone(phone) => phone,
            Endpoint::Companion(_) => panic!("device 0 is a phone"),
        }
    }

    pub(super) fn phone_mut(&mut self, account: usize) -> (&mut Phone, &mut Directory) {
        match self.endpoints.get_mut(&(account, 0)) {
            Some(Endpoint::Phone(phone)) => (phone, &mut self.net),
            _ => panic!("device 0 is a phone"),
        }
    }

    pub(super) fn companion(&mut self, place: Place) -> (&mut Companion, &mut Directory) {
        match self.endpoints.get_mut(&place) {
            Some(Endpoint::Companion(companion)) => (companion, &mut self.net),
            _ => panic!("no companion at {place:?}"),
        }
    }

    pub(super) fn pn(&self, account: usize) -> Jid {
        self.net.accounts[account].pn.clone()
    }

    pub(super) fn lid(&self, account: usize) -> Jid {
        self.net.accounts[account].lid.clone()
    }

    /// Links a companion through its QR, with the library's own checks on the companion's side.
    pub(super) fn link(&mut self, account: usize, device: u16, seed: u64) -> Scan {
        let mut companion = Companion::new(seed);
        let now = self.net.now;
        let (phone, _) = self.phone_mut(account);
        let scan = phone.scan_qr(&companion.qr(), device, now).expect("scan");
        let (signed, key_index) =
            PairUtils::do_pair_crypto(&companion.state, &scan.device_identity).expect("library");
        assert_eq!(key_index, scan.key_index);
        phone.confirm_link(device, &signed).expect("confirmed");
        companion.signed_identity.clone_from(&signed);
        let keys = companion.signal.publish(20);
        self.net
            .register((account, device), keys, Some(key_index), Some(signed));
        self.endpoints
            .insert((account, device), Endpoint::Companion(Box::new(companion)));
        scan
    }

    /// Writes a text from a phone and puts it on the wire; returns its id.
    pub(super) fn text(&mut self, from: usize, to: &Jid, text: &str) -> String {
        let (phone, net) = self.phone_mut(from);
        let (id, stanza) = phone.send_text(to, text, net).expect("sent");
        self.post((from, 0), &stanza);
        id
    }

    /// Carries a stanza from a device: fan-out, namespaces and acks, as a server does.
    pub(super) fn post(&mut self, from: Place, stanza: &Node) {
        self.sent.push(stanza.clone());
        let to = jid(stanza, "to");
        match (stanza.tag.as_ref(), to) {
            ("message", Some(to)) if to.is_group() => self.post_to_group(from, stanza, &to),
            ("receipt", Some(to)) if to.is_group() => self.post_group_receipt(from, stanza, &to),
            ("message", Some(to)) => self.post_message(from, stanza, &to),
            ("receipt" | "chatstate", Some(to)) => self.post_receipt(from, stanza, &to),
            _ => {}
        }
    }

    fn sender(&self, from: Place, like: &Jid) -> Jid {
        let account = &self.net.accounts[from.0];
        if like.is_lid() {
            &account.lid
        } else {
            &account.pn
        }
        .with_device(from.1)
    }

    fn post_message(&mut self, from: Place, stanza: &Node, to: &Jid) {
        let identity = child_bytes(stanza, "device-identity").map(<[u8]>::to_vec);
        let mut targets: Vec<(Jid, Node)> = Vec::new();
        if let Some(list) = stanza.get_optional_child("participants") {
            for target in list.get_children_by_tag("to") {
                let enc = target.get_optional_child("enc").expect("enc").clone();
                targets.push((jid(target, "jid").expect("jid"), enc));
            }
        } else {
            let enc = stanza.get_optional_child("enc").expect("enc").clone();
            targets.push((to.clone(), enc));
        }
        for (target, enc) in targets {
            let place = (self.net.find(&target).expect("known"), target.device);
            let mut node = NodeBuilder::new("message")
                .attr("from", self.sender(from, &target))
                .attr("id", attr(stanza, "id").expect("id").as_ref())
                .attr("t", self.net.now)
                .attr("type", "text");
            if let Some(category) = attr(stanza, "category") {
                node = node.attr("category", category.as_ref());
            } else if place.0 == from.0 {
                let recipient = jid(stanza, "recipient").unwrap_or_else(|| to.to_non_ad());
                node = node.attr("recipient", recipient);
            }
            let mut children = vec![enc];
            if let Some(identity) = &identity {
                children.push(
                    NodeBuilder::new("device-identity")
                        .bytes(identity.clone())
                        .build(),
                );
            }
            self.wire.push_back(Delivery {
                to: place,
                stanza: node.children(children).build(),
            });
        }
        let ack = NodeBuilder::new("ack")
            .attr("class", "message")
            .attr("id", attr(stanza, "id").expect("id").as_ref())
            .attr("from", to)
            .attr("t", self.net.now)
            .build();
        self.wire.push_back(Delivery {
            to: from,
            stanza: ack,
        });
    }

    /// One copy for every phone in the group: its own key, then the ciphertext for all; or a resend
    /// for the one that the stanza names.
    fn post_to_group(&mut self, from: Place, stanza: &Node, to: &Jid) {
        let for_all: Vec<Node> = stanza.get_children_by_tag("enc").cloned().collect();
        let named = jid(stanza, "participant").and_then(|jid| self.net.find(&jid));
        for account in self.net.group.clone() {
            if account == from.0 || named.is_some_and(|named| named != account) {
                continue;
            }
            let lid = self.net.accounts[account].lid.clone();
            let list = stanza.get_optional_child("participants");
            let keys = list
                .into_iter()
                .flat_map(|list| list.get_children_by_tag("to"))
                .filter(|target| jid(target, "jid").as_ref() == Some(&lid))
                .flat_map(|target| target.get_children_by_tag("enc").cloned());
            let node = NodeBuilder::new("message")
                .attr("from", to)
                .attr("participant", self.sender(from, &lid))
                .attr("id", attr(stanza, "id").expect("id").as_ref())
                .attr("t", self.net.now)
                .attr("type", "text")
                .children(keys.chain(for_all.iter().cloned()));
            self.wire.push_back(Delivery {
                to: (account, 0),
                stanza: node.build(),
            });
        }
    }

    fn post_group_receipt(&mut self, from: Place, stanza: &Node, to: &Jid) {
        let author = jid(stanza, "participant").expect("participant");
        let account = self.net.find(&author).expect("known");
        let mut node = stanza.clone();
        node.attrs.0.retain(|(name, _)| name != "to");
        node.attrs.insert("from", to.clone());
        node.attrs
            .insert("participant", self.sender(from, &self.lid(account)));
        self.wire.push_back(Delivery {
            to: (account, 0),
            stanza: node,
        });
    }

    /// Writes a text to the group from a phone and puts it on the wire; returns its id.
    pub(super) fn group_text(&mut self, from: usize, text: &str) -> String {
        let (phone, net) = self.phone_mut(from);
        let (id, stanza) = phone
            .send_group_text(&group_jid(), text, net)
            .expect("sent");
        self.post((from, 0), &stanza);
        id
    }

    fn post_receipt(&mut self, from: Place, stanza: &Node, to: &Jid) {
        let account = self.net.find(to).expect("known");
        let mut node = stanza.clone();
        node.attrs.0.retain(|(name, _)| name != "to");
        node.attrs.insert("from", self.sender(from, to));
        let retry = attr(stanza, "type").is_some_and(|kind| kind == "retry");
        let places: Vec<Place> = self
            .endpoints
            .keys()
            .filter(|place| place.0 == account && **place != from)
            .filter(|place| !retry || place.1 == to.device)
            .copied()
            .collect();
        for place in places {
            self.wire.push_back(Delivery {
                to: place,
                stanza: node.clone(),
            });
        }
    }

    /// Hands one stanza to its device and carries what comes back.
    pub(super) fn deliver(&mut self, delivery: &Delivery) {
        let sent = match self.endpoints.get_mut(&delivery.to) {
            Some(Endpoint::Phone(phone)) => phone.handle(&delivery.stanza, &mut self.net),
            Some(Endpoint::Companion(companion)) => {
                if delivery.stanza.tag == "message" {
                    companion.receive(&delivery.stanza, &self.net);
                }
                Vec::new()
            }
            None => Vec::new(),
        };
        for stanza in sent {
            self.post(delivery.to, &stanza);
        }
    }

    /// Delivers everything in order until nothing is under way.
    pub(super) fn settle(&mut self) {
        while let Some(delivery) = self.wire.pop_front() {
            self.net.now += 1;
            self.deliver(&delivery);
        }
    }

    /// Sends a message from a companion to single devices, with a copy for its own phone.
    pub(super) fn companion_message(
        &mut self,
        from: Place,
        id: &str,
        to: &Jid,
        message: &wa::Message,
        copy: &wa::Message,
    ) {
        let own = self.sender((from.0, 0), to);
        let (companion, net) = self.companion(from);
        let peer = companion.seal(to, message, net);
        let own_copy = companion.seal(&own, copy, net);
        let identity = companion.signed_identity.clone();
        let target = |jid: &Jid, sealed| {
            NodeBuilder::new("to")
                .attr("jid", jid)
                .children([enc(sealed, None)])
                .build()
        };
        let stanza = NodeBuilder::new("message")
            .attr("to", to)
            .attr("id", id)
            .attr("type", "text")
            .children([
                NodeBuilder::new("participants")
                    .children([target(to, peer), target(&own, own_copy)])
                    .build(),
                NodeBuilder::new("device-identity").bytes(identity).build(),
            ])
            .build();
        self.post(from, &stanza);
    }

    /// Sends a `category=peer` message from a companion to its phone.
    pub(super) fn peer_request(&mut self, from: Place, id: &str, message: &wa::Message) {
        let phone = self.lid(from.0);
        let (companion, net) = self.companion(from);
        let sealed = companion.seal(&phone, message, net);
        let identity = companion.signed_identity.clone();
        let stanza = NodeBuilder::new("message")
            .attr("to", phone)
            .attr("id", id)
            .attr("type", "text")
            .attr("category", "peer")
            .children([
                enc(sealed, None),
                NodeBuilder::new("device-identity").bytes(identity).build(),
            ])
            .build();
        self.post(from, &stanza);
    }

    pub(super) fn no_violations(&self) {
        for (place, endpoint) in &self.endpoints {
            if let Endpoint::Phone(phone) = endpoint {
                assert_eq!(phone.violations(), [], "at {place:?}");
            }
        }
    }
}

/// Rewrites the `<enc>` bytes of a delivery.
pub(super) fn alter_ciphertext(delivery: &mut Delivery, change: impl FnOnce(&mut Vec<u8>)) {
    let Some(NodeContent::Nodes(children)) = &mut delivery.stanza.content else {
        panic!("no children");
    };
    let enc = children.iter_mut().find(|child| child.tag == "enc");
    match enc.map(|enc| &mut enc.content) {
        Some(Some(NodeContent::Bytes(bytes))) => change(bytes),
        _ => panic!("no ciphertext"),
    }
}
