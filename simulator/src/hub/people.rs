//! Accounts and the phones that own them.

use rand::RngExt as _;
use wacore_binary::{Jid, Node};

use super::Hub;
use super::group::GroupError;
use super::mailbox::Class;
use super::network::View;
use crate::directory::{Account, AccountId, Device, DeviceKey, KeyPool};
use crate::ledger::Fact;
use crate::phone::{
    ChatState, ContentKind, Inbound, NewPhone, Outbound, Phone, PhoneError, ScanError,
};

/// One-time prekeys a phone keeps in the directory.
const PHONE_PREKEYS: usize = 32;

/// A person with a phone.
pub(super) struct Person {
    pub(super) phone: Phone,
    /// Inbox entries already reported in the ledger.
    shown: usize,
    /// Violations already reported in the ledger.
    objections: usize,
    auto_reply: Option<String>,
    /// Whether the person has the app open.
    pub(super) available: bool,
    /// Whether the account lets no device in without its passkey.
    pub(super) passkey: bool,
    /// What waits on the server while the phone is out of reach; `None` while it is within reach.
    pub(super) waiting: Option<Vec<Waiting>>,
}

/// A stanza for a phone that is out of reach.
pub(super) struct Waiting {
    pub(super) from: String,
    pub(super) class: Class,
    pub(super) node: Node,
}

/// A person to create.
#[derive(Debug, Clone)]
pub(crate) struct NewPerson {
    /// Phone number, digits only.
    pub(crate) pn: String,
    pub(crate) name: String,
}

/// Why an account was not created, or a person could not do something.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// The number belongs to another account.
    #[error("phone: {0} has an account already")]
    PhoneTaken(String),
    /// Nobody has this number.
    #[error("phone: no account with number {0}")]
    NoSuchAccount(String),
    /// The account has no such device.
    #[error("device: account {0} has no linked device {1}")]
    NoSuchDevice(String, u16),
    /// A number cannot call itself.
    #[error("to: {0} is the number that calls")]
    CallsItself(String),
    /// Nothing rings under this id that this person may end in this way.
    #[error("call: no call {0} rings that this person may end so")]
    NoSuchCall(String),
    /// The phone's keys are unusable.
    #[error("phone keys: {0}")]
    Keys(String),
    /// There is no such group, or the person may not do that in it.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The phone could not do it.
    #[error(transparent)]
    Phone(#[from] PhoneError),
}

/// Why a scan linked nothing.
#[derive(Debug, thiserror::Error)]
pub enum ScanFailure {
    /// The phone cannot read it.
    #[error("qr: {0}")]
    Unreadable(#[from] ScanError),
    /// No open connection shows this reference.
    #[error("qr: its reference is not shown by any connected client")]
    UnknownReference,
    /// The reference was valid once.
    #[error("qr: its reference has expired; scan the current code")]
    ExpiredReference,
    /// The connection that got the reference registered other keys than the QR shows.
    #[error("qr: its keys differ from those the waiting client registered")]
    ForeignKeys,
    /// The account has as many companions as it may have.
    #[error("the account has {0} linked devices, the maximum; unlink one first")]
    TooManyDevices(usize),
    /// The account is protected by a passkey; the client was asked for it and is not linked.
    #[error("the account demands a passkey; the client was asked for it")]
    PasskeyDemanded,
}

impl Hub {
    pub(crate) fn create_person(&mut self, person: &NewPerson) -> Result<AccountId, PeopleError> {
        let pn = person.pn.clone();
        let lid = self.lid_for(&pn);
        let mut phone = Phone::new(
            NewPhone {
                pn: pn.clone(),
                lid: lid.clone(),
                name: person.name.clone(),
            },
            self.seed.number(&format!("phone:{pn}")),
        );
        let keys = KeyPool::of_phone(phone.publish(PHONE_PREKEYS))
            .map_err(|e| PeopleError::Keys(e.to_string()))?;
        let device = Device {
            key_index: None,
            noise_public: None,
            adv_identity: None,
            keys,
            linked_at: self.now(),
            app_state_shared: true,
        };
        let account = Account::new(pn.clone(), lid, person.name.clone(), device);
        let id = self
            .directory
            .add(account)
            .ok_or(PeopleError::PhoneTaken(pn))?;
        self.people.push(Person {
            phone,
            shown: 0,
            objections: 0,
            auto_reply: None,
            available: false,
            passkey: false,
            waiting: None,
        });
        Ok(id)
    }

    /// The LID of a number: fixed by the seed, 15 digits as WhatsApp's are.
    fn lid_for(&self, pn: &str) -> String {
        let mut rng = self.seed.stream(&format!("lid:{pn}"));
        let digits: u64 = rng.random_range(100_000_000_000_000..1_000_000_000_000_000);
        digits.to_string()
    }

    pub(crate) fn phone(&self, account: AccountId) -> &Phone {
        &self.people[account.0].phone
    }

    pub(crate) fn set_auto_reply(&mut self, account: AccountId, template: Option<String>) {
        self.people[account.0].auto_reply = template;
    }

    /// Sends a text from a person's phone. `to` may be any number, with or without an account.
    pub(crate) fn send_text(
        &mut self,
        from: AccountId,
        to: &Jid,
        text: &str,
    ) -> Result<String, PeopleError> {
        let sent = self.use_phone(from, |phone, net| phone.send_text(to, text, net));
        let (id, node) = sent?;
        self.on_stanza(DeviceKey::phone(from), &node);
        Ok(id)
    }

    /// Sends a text from a person's phone to a group it is in.
    pub(crate) fn send_group_text(
        &mut self,
        from: AccountId,
        group: &Jid,
        text: &str,
    ) -> Result<String, PeopleError> {
        let sent = self.use_phone(from, |phone, net| phone.send_group_text(group, text, net));
        let (id, node) = sent?;
        self.on_stanza(DeviceKey::phone(from), &node);
        Ok(id)
    }

    /// Takes a phone out of the network's reach, or brings it back: then it gets what has waited.
    pub(crate) fn set_reachable(&mut self, account: AccountId, reachable: bool) {
        let waiting = &mut self.people[account.0].waiting;
        if !reachable {
            waiting.get_or_insert_default();
            return;
        }
        for Waiting { from, class, node } in waiting.take().unwrap_or_default() {
            self.deliver(DeviceKey::phone(account), &from, class, node);
        }
    }

    pub(crate) fn lose_sessions(&mut self, account: AccountId) {
        self.people[account.0].phone.lose_sessions();
    }

    /// Marks messages as read on a person's phone.
    pub(crate) fn mark_read(&mut self, account: AccountId, ids: &[String]) {
        let out = self.use_phone(account, |phone, net| phone.mark_read(ids, net));
        self.send_from_phone(account, &out);
    }

    pub(crate) fn set_presence(&mut self, account: AccountId, available: bool) {
        let out = self.use_phone(account, |phone, _| phone.set_presence(available));
        self.send_from_phone(account, &out);
    }

    pub(crate) fn set_typing(&mut self, account: AccountId, to: &Jid, typing: bool) {
        let state = if typing {
            ChatState::Composing
        } else {
            ChatState::Paused
        };
        let out = self.use_phone(account, |phone, _| phone.chatstate(to, state));
        self.send_from_phone(account, &out);
    }

    fn send_from_phone(&mut self, account: AccountId, nodes: &[Node]) {
        for node in nodes {
            self.on_stanza(DeviceKey::phone(account), node);
        }
    }

    /// Runs `act` on a phone with the network around it, and records the prekeys it took.
    pub(super) fn use_phone<T>(
        &mut self,
        account: AccountId,
        act: impl FnOnce(&mut Phone, &mut View<'_>) -> T,
    ) -> T {
        let now = self.clock.now_secs();
        let mut view = View {
            directory: &mut self.directory,
            shelf: &mut self.shelf,
            groups: &self.groups,
            now,
            taken: Vec::new(),
            stored: Vec::new(),
        };
        let result = act(&mut self.people[account.0].phone, &mut view);
        let View { taken, stored, .. } = view;
        for (device, id) in taken {
            self.record_taken(DeviceKey::phone(account), device, id);
        }
        for (kind, path, size) in stored {
            let by = self.label(DeviceKey::phone(account));
            self.record(Fact::MediaStored {
                kind,
                path,
                size,
                by,
            });
        }
        result
    }

    pub(super) fn record_taken(&mut self, by: DeviceKey, device: DeviceKey, id: Option<u32>) {
        let fact = Fact::PrekeyTaken {
            device: self.label(device),
            by: self.label(by),
            id,
        };
        self.record(fact);
    }

    /// Hands one stanza to a phone and carries what it answers.
    pub(super) fn run_errand(&mut self, account: AccountId, node: &Node) {
        let out = self.use_phone(account, |phone, net| phone.handle(node, net));
        self.report_phone(account);
        self.send_from_phone(account, &out);
        self.reply_automatically(account);
    }

    /// Copies what a phone newly shows or objects to into the ledger.
    fn report_phone(&mut self, account: AccountId) {
        let pn = self.directory.account(account).pn.clone();
        let person = &self.people[account.0];
        let mut facts: Vec<Fact> = person.phone.inbox()[person.shown..]
            .iter()
            .map(|inbound| Fact::Displayed {
                id: inbound.id.clone(),
                by: pn.clone(),
                from: inbound.from.to_string(),
            })
            .collect();
        facts.extend(
            person.phone.violations()[person.objections..]
                .iter()
                .map(|violation| Fact::Violation {
                    device: violation.from.clone(),
                    what: format!("{:?}", violation.kind),
                    id: Some(violation.id.clone()).filter(|id| !id.is_empty()),
                }),
        );
        let person = &mut self.people[account.0];
        person.objections = person.phone.violations().len();
        // `shown` moves on in `reply_automatically`, which needs to know what is new.
        for fact in facts {
            self.record(fact);
        }
    }

    fn reply_automatically(&mut self, account: AccountId) {
        let person = &mut self.people[account.0];
        let fresh = person.shown;
        person.shown = person.phone.inbox().len();
        let Some(template) = person.auto_reply.clone() else {
            return;
        };
        let texts: Vec<(Jid, String)> = person.phone.inbox()[fresh..]
            .iter()
            // Whoever answers everything in a group talks to everybody who does.
            .filter(|inbound| inbound.kind == ContentKind::Text && inbound.group.is_none())
            .map(|inbound| (inbound.from.to_non_ad(), inbound.text.clone()))
            .collect();
        for (to, text) in texts {
            // Two people with automatic replies would talk for ever.
            let echoes = self
                .directory
                .resolve(&to)
                .is_none_or(|peer| self.people[peer.0].auto_reply.is_some());
            if !echoes
                && let Err(error) = self.send_text(account, &to, &template.replace("{text}", &text))
            {
                tracing::warn!(%error, "automatic reply failed");
            }
        }
    }

    /// Ends the link of a companion, as a person does in the phone's settings.
    pub(crate) fn unlink(&mut self, device: DeviceKey) -> Result<(), PeopleError> {
        if device.is_phone() || self.directory.device(device).is_none() {
            let pn = self.directory.account(device.account).pn.clone();
            return Err(PeopleError::NoSuchDevice(pn, device.device));
        }
        self.people[device.account.0].phone.unlink(device.device);
        let account = self.directory.account_mut(device.account);
        account.devices.remove(&device.device);
        account.former.insert(device.device);
        self.mailboxes.remove(&device);
        self.refresh_key_index_list(device.account);
        let fact = Fact::Unlinked {
            device: self.label(device),
        };
        self.record(fact);
        if let Some(&connection) = self.online.get(&device) {
            self.end(
                connection,
                Some(super::connection::conflict("device_removed", Some(401))),
            );
        }
        self.announce_device(device, false);
        Ok(())
    }

    /// Fetches the phone's current signed list of key indexes.
    pub(super) fn refresh_key_index_list(&mut self, account: AccountId) {
        let now = self.now();
        let list = self.people[account.0].phone.key_index_list(now);
        let account = self.directory.account_mut(account);
        account.key_index_list = list;
        account.key_index_at = now;
    }

    /// Publishes more prekeys of a phone.
    pub(super) fn replenish_phone(&mut self, account: AccountId) {
        let keys = self.people[account.0].phone.publish(PHONE_PREKEYS);
        let phone = DeviceKey::phone(account);
        if let Some(device) = self.directory.device_mut(phone)
            && let Err(error) = device.keys.add(keys.one_time)
        {
            self.violation(phone, None, format!("phone prekeys: {error}"));
        }
    }

    /// After a new device has published keys: its phone shares the app-state key and the
    /// history with it.
    pub(super) fn share_app_state_key(&mut self, device: DeviceKey) {
        let Some(record) = self.directory.device_mut(device) else {
            return;
        };
        if std::mem::replace(&mut record.app_state_shared, true) {
            return;
        }
        let shared = self.use_phone(device.account, |phone, net| {
            let key = phone.share_app_state_key(device.device, net);
            let history = phone.initial_history(device.device, net);
            key.into_iter().chain(history).collect::<Vec<_>>()
        });
        for (_, node) in shared {
            self.on_stanza(DeviceKey::phone(device.account), &node);
        }
    }

    pub(crate) fn inbox(&self, account: AccountId) -> &[Inbound] {
        self.phone(account).inbox()
    }

    pub(crate) fn outbox(&self, account: AccountId) -> &[Outbound] {
        self.phone(account).outbox()
    }
}
