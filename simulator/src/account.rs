//! A person's handle.

mod groups;
mod standing;

use std::sync::Arc;

use bytes::Bytes;
use wacore_binary::Jid;

use crate::core::Core;
use crate::directory::{AccountId, DeviceKey};
use crate::hub::{CodeFailure, PeopleError, ScanFailure, typed};
use crate::phone::{
    Attachment, ChatChange, Inbound, Outbound, Undecryptable, Violation, ViolationKind,
};
use crate::simulator::DeviceInfo;

/// A person to create.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// Phone number in international form; `+`, spaces and hyphens are ignored.
    pub phone: String,
    /// The name others see.
    pub name: String,
}

impl NewAccount {
    /// A person with this number and name.
    pub fn new(phone: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            phone: phone.into(),
            name: name.into(),
        }
    }
}

/// Why an account was not created.
#[derive(Debug, thiserror::Error)]
pub enum NewAccountError {
    /// The number cannot be one.
    #[error("phone: {0:?} is not an international number of 7 to 15 digits")]
    InvalidPhone(String),
    /// Names must not be empty: clients treat an empty name as not yet known.
    #[error("name: must not be empty")]
    EmptyName,
    /// The hub refused it.
    #[error(transparent)]
    Refused(#[from] PeopleError),
}

/// The digits of an international number, or nothing when it cannot be one.
pub(crate) fn phone_digits(text: &str) -> Option<String> {
    let digits: String = text
        .trim()
        .trim_start_matches('+')
        .chars()
        .filter(|c| !matches!(c, ' ' | '-' | '(' | ')' | '.'))
        .collect();
    let plausible = (7..=15).contains(&digits.len())
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !digits.starts_with('0');
    plausible.then_some(digits)
}

/// One simulated person: an account and the phone that owns it. Cheap to clone.
#[derive(Clone)]
pub struct Account {
    core: Arc<Core>,
    id: AccountId,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Account").field(&self.id.0).finish()
    }
}

impl Account {
    pub(crate) fn new(core: Arc<Core>, id: AccountId) -> Self {
        Self { core, id }
    }

    /// Phone number, digits only.
    pub fn phone(&self) -> String {
        self.core
            .look(|hub| hub.directory.account(self.id).pn.clone())
    }

    /// LID, digits only.
    pub fn lid(&self) -> String {
        self.core
            .look(|hub| hub.directory.account(self.id).lid.clone())
    }

    /// The name others see.
    pub fn name(&self) -> String {
        self.core
            .look(|hub| hub.directory.account(self.id).name.clone())
    }

    /// Scans the QR that a client shows and links it. Returns the device number it was offered;
    /// the link is complete when the client has answered (`Fact::Paired`).
    pub fn scan_qr(&self, qr: &str) -> Result<u16, ScanFailure> {
        self.core.with(|hub| hub.scan(self.id, qr))
    }

    /// Types the pairing code that a client shows for this number. The client is told that a phone
    /// answers; whether the code was the right one is known when it has answered
    /// (`Fact::CodeAccepted`, then `Fact::Paired`, or `Fact::CodeRefused`). Deriving keys from a code
    /// takes a good part of a second of CPU on the calling thread.
    pub fn enter_code(&self, code: &str) -> Result<(), CodeFailure> {
        let code = typed(code).ok_or(CodeFailure::Malformed)?;
        let challenge = self.core.with(|hub| hub.challenge(self.id))?;
        // Without the lock: nobody else has to wait for the derivation.
        let (reference, hello) = challenge.enter(&code);
        self.core
            .with(|hub| hub.primary_hello(self.id, &reference, hello))
    }

    /// Whether the account demands its passkey before it links a device. Clients are asked for it and
    /// are not linked: this simulator has no authenticator.
    pub fn demand_passkey(&self, demanded: bool) {
        self.core.with(|hub| hub.set_passkey(self.id, demanded));
    }

    /// Writes a text to a phone number. Returns the message id.
    pub fn send_text(&self, to_phone: &str, text: &str) -> Result<String, PeopleError> {
        let digits = phone_digits(to_phone)
            .ok_or_else(|| PeopleError::NoSuchAccount(to_phone.to_owned()))?;
        self.core
            .with(|hub| hub.send_text(self.id, &Jid::pn(digits), text))
    }

    /// Like [`send_text`](Self::send_text), addressed by LID as official phones do now. The number
    /// must have an account.
    pub fn send_text_by_lid(&self, to_phone: &str, text: &str) -> Result<String, PeopleError> {
        let unknown = || PeopleError::NoSuchAccount(to_phone.to_owned());
        let digits = phone_digits(to_phone).ok_or_else(unknown)?;
        self.core.with(|hub| {
            let peer = hub.directory.by_phone(&digits).ok_or_else(unknown)?;
            let lid = Jid::lid(hub.directory.account(peer).lid.clone());
            hub.send_text(self.id, &lid, text)
        })
    }

    /// Sends a file to a phone number: encrypted, put on the media host, announced. Returns the message
    /// id.
    pub fn send_media(&self, to_phone: &str, file: &Attachment) -> Result<String, PeopleError> {
        let digits = phone_digits(to_phone)
            .ok_or_else(|| PeopleError::NoSuchAccount(to_phone.to_owned()))?;
        self.core
            .with(|hub| hub.send_media(self.id, &Jid::pn(digits), file))
    }

    /// The file of a message that the phone has shown, fetched from the media host and checked.
    /// `None` when there is no such message or it carries none.
    pub fn open_media(&self, id: &str) -> Option<Result<Bytes, ViolationKind>> {
        self.core.with(|hub| hub.open_media(self.id, id))
    }

    /// Changes the chat with somebody, or the contact; the account's companions are told.
    pub fn change_chat(&self, with_phone: &str, change: &ChatChange) -> Result<(), PeopleError> {
        let digits = phone_digits(with_phone)
            .ok_or_else(|| PeopleError::NoSuchAccount(with_phone.to_owned()))?;
        self.core
            .with(|hub| hub.change_chat(self.id, &Jid::pn(digits), change));
        Ok(())
    }

    /// Whether the phone is within the network's reach (at first it is). While it is not, messages,
    /// receipts and notifications for it wait on the server; what the person is made to do through
    /// this API happens all the same.
    pub fn set_reachable(&self, reachable: bool) {
        self.core.with(|hub| hub.set_reachable(self.id, reachable));
    }

    /// The phone forgets every Signal session and sender key, as after restoring an old backup: what is sent to
    /// it next cannot be opened and is asked for again.
    pub fn lose_sessions(&self) {
        self.core.with(|hub| hub.lose_sessions(self.id));
    }

    /// Opens messages on the phone: read receipts go out. Unknown ids are ignored.
    pub fn mark_read(&self, ids: &[String]) {
        self.core.with(|hub| hub.mark_read(self.id, ids));
    }

    /// Answers every text with `template`, in which `{text}` stands for what was received;
    /// `None` stops that. People with automatic replies do not answer each other.
    pub fn set_auto_reply(&self, template: Option<String>) {
        self.core.with(|hub| hub.set_auto_reply(self.id, template));
    }

    /// Opens or leaves the app: subscribers see the person available or not.
    pub fn set_presence(&self, available: bool) {
        self.core.with(|hub| hub.set_presence(self.id, available));
    }

    /// Starts or stops typing to a phone number.
    pub fn set_typing(&self, to_phone: &str, typing: bool) -> Result<(), PeopleError> {
        let digits = phone_digits(to_phone)
            .ok_or_else(|| PeopleError::NoSuchAccount(to_phone.to_owned()))?;
        self.core
            .with(|hub| hub.set_typing(self.id, &Jid::pn(digits), typing));
        Ok(())
    }

    /// Messages the phone has shown, oldest first.
    pub fn inbox(&self) -> Vec<Inbound> {
        self.core.look(|hub| hub.inbox(self.id).to_vec())
    }

    /// Messages sent from any device of the account, oldest first.
    pub fn sent(&self) -> Vec<Outbound> {
        self.core.look(|hub| hub.outbox(self.id).to_vec())
    }

    /// What clients and other people did that this phone refused, oldest first.
    pub fn violations(&self) -> Vec<Violation> {
        self.core
            .look(|hub| hub.phone(self.id).violations().to_vec())
    }

    /// Messages this phone could not open so far.
    pub fn undecryptable(&self) -> Vec<Undecryptable> {
        self.core
            .look(|hub| hub.phone(self.id).undecryptable().to_vec())
    }

    /// Linked devices, without the phone.
    pub fn devices(&self) -> Vec<DeviceInfo> {
        self.core.look(|hub| {
            hub.directory
                .devices_of(self.id)
                .into_iter()
                .filter(|device| !device.is_phone())
                .filter_map(|device| DeviceInfo::of(hub, device))
                .collect()
        })
    }

    /// Unlinks a device as a person does on the phone; it is told `401 device_removed`.
    pub fn unlink(&self, device: u16) -> Result<(), PeopleError> {
        self.core.with(|hub| {
            hub.unlink(DeviceKey {
                account: self.id,
                device,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::phone_digits;

    #[test]
    fn numbers_are_read_generously_and_nothing_else_is() {
        assert_eq!(
            phone_digits("+1 (555) 010-0001").as_deref(),
            Some("15550100001")
        );
        assert_eq!(
            phone_digits("5511987654321").as_deref(),
            Some("5511987654321")
        );
        for wrong in [
            "",
            "+",
            "12345",
            "0155501000",
            "1555x100001",
            "1234567890123456",
        ] {
            assert_eq!(phone_digits(wrong), None, "{wrong}");
        }
    }
}
