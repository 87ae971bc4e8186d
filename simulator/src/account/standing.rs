//! What the server and other people think of a number, and calls.

use super::{Account, phone_digits};
use crate::hub::{CallEnd, PeopleError};

impl Account {
    /// Sets a server property for this account's clients, by `WhatsApp`'s code for it. They hear of it when
    /// they ask, at a login for instance.
    pub fn set_prop(&self, code: u32, value: &str) {
        self.core.with(|hub| hub.set_prop(self.id, code, value));
    }

    /// Gives a number a token of a trusted contact, as phones do when they write to somebody. (These do
    /// only when told.) Its companions get it and may show it with what they write to this person.
    pub fn trust(&self, phone: &str) -> Result<(), PeopleError> {
        let unknown = || PeopleError::NoSuchAccount(phone.to_owned());
        let digits = phone_digits(phone).ok_or_else(unknown)?;
        self.core.with(|hub| {
            let trusted = hub.directory.by_phone(&digits).ok_or_else(unknown)?;
            hub.trust_from_phone(self.id, trusted);
            Ok(())
        })
    }

    /// Whether this account's companions may write only to people who trust it: everything else is refused
    /// with 463, as in a reach-out time-lock.
    pub fn lock_reach_out(&self, locked: bool) {
        self.core.with(|hub| hub.lock_reach_out(self.id, locked));
    }

    /// Calls a phone number: it rings on every companion of that account. Returns the call id. Nobody can
    /// talk in it.
    pub fn call(&self, to_phone: &str, video: bool) -> Result<String, PeopleError> {
        let unknown = || PeopleError::NoSuchAccount(to_phone.to_owned());
        let digits = phone_digits(to_phone).ok_or_else(unknown)?;
        self.core.with(|hub| {
            let callee = hub.directory.by_phone(&digits).ok_or_else(unknown)?;
            hub.call(self.id, callee, video)
        })
    }

    /// Ends a call that rings: as its caller, or by taking or refusing it on the callee's phone.
    pub fn end_call(&self, id: &str, how: CallEnd) -> Result<(), PeopleError> {
        self.core.with(|hub| hub.end_call(self.id, id, how))
    }
}
