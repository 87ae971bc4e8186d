//! Simulated people: each [`Phone`] is device 0 of one account, with real Signal state.
//!
//! A phone is sans-I/O. The hub hands it stanzas as the server would deliver them ([`Phone::handle`])
//! and carries the stanzas it returns; time comes from [`Net::now`], randomness from a seed, so the
//! same seed and the same calls give the same bytes. It is strict: whatever `WhatsApp` or an official
//! phone would refuse is not shown and becomes a [`Violation`].
//!
//! Stanza conventions between hub and phone:
//! - *to the phone*: `from` is the sending device (PN or LID form); the phone's own `<enc>` is a
//!   direct child of `<message>` (the hub picks it out of `<participants>`), `<device-identity>` is
//!   passed along, copies from own companions carry `recipient`, peer messages `category=peer`;
//! - *from the phone*: a text is one `<message to=user>` with `<participants>`; resends and peer
//!   messages go `to` one device with a direct `<enc>`;
//! - *groups*: the group stands in `from` and `to`, the sending device in `participant`; a message
//!   carries the group ciphertext and, for this device, the sender key before it.
//!
//! | file | job |
//! |---|---|
//! | `net` | what a phone asks of the hub, and what it publishes |
//! | `link` | QR, ADV signing and checking, key index list |
//! | `link_code` | the exchange behind a pairing code |
//! | `signal`, `stores` | libsignal over in-memory stores; spent counters |
//! | `group`, `sender_keys` | messages of groups; sender keys, spent iterations, who holds a key |
//! | `content` | building, padding and reading `Message` |
//! | `send`, `receive` | messages out and in |
//! | `media` | files: encrypted, announced, fetched and checked |
//! | `receipt`, `retry` | delivery and read; resends both ways |
//! | `peer` | app-state key, placeholder resend |
//! | `history` | what was said before a companion was linked |
//! | `app_state` | pins, mutes, contacts: patches of collections |
//! | `presence` | presence and chat state |
//! | `record` | what the person saw, and the violations |

mod app_state;
mod content;
mod group;
mod history;
mod link;
mod link_code;
mod media;
mod net;
mod peer;
mod presence;
mod receipt;
mod receive;
mod record;
mod retry;
mod send;
mod sender_keys;
mod signal;
mod stanza;
mod stores;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};
use wacore_binary::{Jid, Node};

pub use app_state::ChatChange;
pub use link::{LinkError, Scan, ScanError, SignedLink};
pub use link_code::{CodeEntry, CodeError, KeyBundle, PrimaryHello, WRAPPED};
pub use media::{Attachment, MediaKind, MediaSeen};
pub use net::{
    DeviceEntry, DeviceKeys, MediaPlace, Net, OneTimePreKeyPart, PreKeyBundleParts,
    SignedPreKeyPart,
};
pub use presence::ChatState;
pub use record::{
    ContentKind, DeviceReceipt, Inbound, Outbound, PresenceSeen, ReceiptKind, Undecryptable,
    Violation, ViolationKind,
};
pub use send::PhoneError;

use link::{Companion, Qr};
use peer::{AppStateKey, PeerSent, Waiting};
use sender_keys::SenderKeys;
use signal::Signal;

/// Who the new person is.
#[derive(Debug, Clone)]
pub struct NewPhone {
    /// Phone number, digits only.
    pub pn: String,
    /// LID user, digits only.
    pub lid: String,
    /// Push name.
    pub name: String,
}

/// Device 0 of one account.
pub struct Phone {
    pn: Jid,
    lid: Jid,
    name: String,
    rng: ChaCha20Rng,
    signal: Signal,
    sender_keys: SenderKeys,
    /// Identifies this ADV chain; fixed for the life of the account key.
    raw_id: u32,
    /// Key index of the companion linked last; 0 before the first.
    current_index: u32,
    companions: BTreeMap<u16, Companion>,
    app_state_key: AppStateKey,
    inbox: Vec<Inbound>,
    outbox: Vec<Outbound>,
    /// Positions in the inbox by person and id, in the outbox by id. Only looked up, not iterated.
    inbox_index: HashMap<String, usize>,
    outbox_index: HashMap<String, usize>,
    undecryptable: Vec<Undecryptable>,
    /// Peer messages that a companion may still ask for again.
    peer_sent: VecDeque<PeerSent>,
    /// Where everything is that came in or went out, in this order.
    said: Vec<history::Said>,
    /// The names that people write under, by phone-number JID.
    push_names: BTreeMap<String, String>,
    /// Placeholder requests to answer once the message turns up.
    waiting: VecDeque<Waiting>,
    presences: BTreeMap<String, PresenceSeen>,
    violations: Vec<Violation>,
}

impl Phone {
    /// A new person with fresh keys. `seed` and the phone number decide every key and every later
    /// random byte.
    pub fn new(spec: NewPhone, seed: u64) -> Self {
        let digest = Sha256::new()
            .chain_update(b"trunkline simulated phone")
            .chain_update(seed.to_be_bytes())
            .chain_update(spec.pn.as_bytes())
            .finalize();
        let mut rng = ChaCha20Rng::from_seed(digest.into());
        let signal = Signal::generate(&mut rng);
        let app_state_key = AppStateKey::generate(&mut rng);
        Self {
            pn: Jid::pn(spec.pn),
            lid: Jid::lid(spec.lid),
            name: spec.name,
            signal,
            sender_keys: SenderKeys::default(),
            raw_id: rng.random_range(1..u32::MAX),
            current_index: 0,
            companions: BTreeMap::new(),
            app_state_key,
            inbox: Vec::new(),
            outbox: Vec::new(),
            inbox_index: HashMap::new(),
            outbox_index: HashMap::new(),
            undecryptable: Vec::new(),
            peer_sent: VecDeque::new(),
            said: Vec::new(),
            push_names: BTreeMap::new(),
            waiting: VecDeque::new(),
            presences: BTreeMap::new(),
            violations: Vec::new(),
            rng,
        }
    }

    /// The account's phone-number JID, without device.
    pub fn pn(&self) -> &Jid {
        &self.pn
    }

    /// The account's LID, without device.
    pub fn lid(&self) -> &Jid {
        &self.lid
    }

    /// The push name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The account's identity public key, raw.
    pub fn identity(&self) -> [u8; 32] {
        stores::raw_public(self.signal.account())
    }

    /// Keys for the server's directory. Call it once at registration and again whenever the
    /// directory runs low: each call issues `one_time` new one-time prekeys.
    pub fn publish(&mut self, one_time: usize) -> DeviceKeys {
        self.signal.publish(one_time)
    }

    /// Reads a companion's QR and signs it into the account as `device_id`. The companion is
    /// pending until [`Phone::confirm_link`]; scanning again under the same number replaces a
    /// pending one.
    pub fn scan_qr(&mut self, qr: &str, device_id: u16, now: u64) -> Result<Scan, ScanError> {
        let qr = Qr::parse(qr)?;
        let link = self.sign_in(device_id, &qr.identity, &qr.adv_secret, now)?;
        Ok(Scan {
            reference: qr.reference,
            device_identity: link.device_identity,
            key_index: link.key_index,
            noise_pub: qr.noise,
            identity_pub: qr.identity,
            client_type: qr.client_type,
        })
    }

    /// The person begins to type a pairing code: what the phone contributes to the exchange.
    pub fn type_code(&mut self) -> CodeEntry {
        CodeEntry::generate(self.identity(), &mut self.rng)
    }

    /// Opens the companion's answer to the phone's hello and signs the companion into the account as
    /// `device_id`, pending like after [`Phone::scan_qr`].
    pub fn finish_code(
        &mut self,
        hello: &PrimaryHello,
        bundle: &KeyBundle<'_>,
        device_id: u16,
        now: u64,
    ) -> Result<SignedLink, CodeError> {
        let adv_secret = hello.open(bundle, self.signal.account())?;
        Ok(self.sign_in(device_id, bundle.companion_identity, &adv_secret, now)?)
    }

    fn sign_in(
        &mut self,
        device_id: u16,
        identity: &[u8; 32],
        adv_secret: &[u8; 32],
        now: u64,
    ) -> Result<SignedLink, ScanError> {
        if device_id == 0 {
            return Err(ScanError::ReservedDevice);
        }
        if self
            .companions
            .get(&device_id)
            .is_some_and(|known| known.confirmed)
        {
            return Err(ScanError::DeviceInUse(device_id));
        }
        let key_index = self.current_index + 1;
        let (companion, device_identity) = Companion::sign(
            identity,
            adv_secret,
            self.signal.account(),
            self.raw_id,
            key_index,
            now,
            &mut self.rng,
        )?;
        self.current_index = key_index;
        self.forget_companion(device_id);
        self.companions.insert(device_id, companion);
        Ok(SignedLink {
            device_identity,
            key_index,
        })
    }

    /// Checks the `<device-identity>` of `pair-device-sign` and makes the companion part of the
    /// account. A repeated confirmation of a linked companion is checked and accepted.
    pub fn confirm_link(
        &mut self,
        device_id: u16,
        signed_identity: &[u8],
    ) -> Result<(), LinkError> {
        let companion = self
            .companions
            .get_mut(&device_id)
            .ok_or(LinkError::NotPending(device_id))?;
        companion.check(signed_identity, &self.signal.account().public_key)?;
        companion.confirmed = true;
        Ok(())
    }

    /// Removes a companion, pending or linked; its key index is never valid again.
    pub fn unlink(&mut self, device_id: u16) {
        self.forget_companion(device_id);
    }

    fn forget_companion(&mut self, device_id: u16) {
        if self.companions.remove(&device_id).is_some() {
            let device = self.lid.with_device(device_id);
            self.signal.drop_session(&device);
        }
    }

    /// Linked companions by device number, with their key indexes; pending ones are left out.
    pub fn companions(&self) -> Vec<DeviceEntry> {
        self.confirmed()
            .map(|(device, companion)| DeviceEntry {
                device,
                key_index: Some(companion.key_index),
            })
            .collect()
    }

    fn confirmed(&self) -> impl Iterator<Item = (u16, &Companion)> {
        self.companions
            .iter()
            .filter(|(_, companion)| companion.confirmed)
            .map(|(device, companion)| (*device, companion))
    }

    /// Encoded `ADVSignedKeyIndexList` for this account's `usync` entry; `None` while no companion
    /// was ever signed. Signing is derived from the content: equal lists are equal bytes.
    pub fn key_index_list(&self, now: u64) -> Option<Vec<u8>> {
        if self.current_index == 0 {
            return None;
        }
        let valid: Vec<u32> = std::iter::once(0)
            .chain(
                self.companions
                    .values()
                    .map(|companion| companion.key_index),
            )
            .collect();
        let mut digest = Sha256::new()
            .chain_update(b"key index list")
            .chain_update(self.signal.account().private_key.serialize())
            .chain_update(now.to_be_bytes())
            .chain_update(self.current_index.to_be_bytes());
        for index in &valid {
            digest.update(index.to_be_bytes());
        }
        link::signed_key_index_list(
            self.signal.account(),
            self.raw_id,
            self.current_index,
            valid,
            now,
            &mut ChaCha20Rng::from_seed(digest.finalize().into()),
        )
    }

    /// Takes one stanza as the server delivers it; returns what the phone sends in response:
    /// delivery and retry receipts, resends, answers to its companions.
    pub fn handle(&mut self, stanza: &Node, net: &mut dyn Net) -> Vec<Node> {
        match stanza.tag.as_ref() {
            "message" => self.on_message(stanza, net),
            "receipt" => self.on_receipt(stanza, net),
            "ack" => {
                self.on_ack(stanza, net);
                Vec::new()
            }
            "presence" | "chatstate" => {
                self.on_presence(stanza, net);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Takes a batch, such as an offline queue; delivery receipts to one device become one
    /// aggregated receipt, after everything else.
    pub fn handle_batch(&mut self, stanzas: &[Node], net: &mut dyn Net) -> Vec<Node> {
        let sent = stanzas
            .iter()
            .flat_map(|stanza| self.handle(stanza, net))
            .collect();
        receipt::aggregate(sent)
    }

    /// Forgets every Signal session and sender key, as a phone restored from an old backup has: the next messages
    /// to it cannot be opened and are asked for again. A fault to order, not a habit.
    pub fn lose_sessions(&mut self) {
        self.signal.lose_sessions();
        self.sender_keys.lose();
    }

    /// Messages people sent to this person, in the order shown.
    pub fn inbox(&self) -> &[Inbound] {
        &self.inbox
    }

    /// Messages this person sent, from any device of the account, in the order known.
    pub fn outbox(&self) -> &[Outbound] {
        &self.outbox
    }

    /// Messages that could not be opened so far.
    pub fn undecryptable(&self) -> &[Undecryptable] {
        &self.undecryptable
    }

    /// What clients did wrong, in order.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    fn is_own(&self, jid: &Jid) -> bool {
        (jid.is_pn() && jid.user == self.pn.user) || (jid.is_lid() && jid.user == self.lid.user)
    }

    /// This account in the addressing of `like`.
    fn own_like(&self, like: &Jid) -> &Jid {
        if like.is_lid() { &self.lid } else { &self.pn }
    }

    /// A message id of the shape official Android phones use.
    fn message_id(&mut self) -> String {
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        hex::encode_upper(id)
    }

    fn object(&mut self, stanza: &Node, kind: ViolationKind, now: u64) {
        let text = |key| stanza::attr(stanza, key).unwrap_or_default().into_owned();
        self.violations.push(Violation {
            at: now,
            from: text("from"),
            id: text("id"),
            kind,
        });
    }

    fn inbox_entry(&mut self, person: &Jid, id: &str) -> Option<&mut Inbound> {
        let position = *self.inbox_index.get(&inbox_key(person, id))?;
        self.inbox.get_mut(position)
    }

    fn outbox_entry(&mut self, id: &str) -> Option<&mut Outbound> {
        let position = *self.outbox_index.get(id)?;
        self.outbox.get_mut(position)
    }

    fn record_inbound(&mut self, person: &Jid, entry: Inbound) {
        self.inbox_index
            .insert(inbox_key(person, &entry.id), self.inbox.len());
        self.said.push(history::Said::In(self.inbox.len()));
        self.inbox.push(entry);
    }

    fn record_outbound(&mut self, entry: Outbound) {
        self.outbox_index
            .insert(entry.id.clone(), self.outbox.len());
        self.said.push(history::Said::Out(self.outbox.len()));
        self.outbox.push(entry);
    }
}

fn inbox_key(person: &Jid, id: &str) -> String {
    format!("{person}/{id}")
}
