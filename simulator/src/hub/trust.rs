//! Tokens of trusted contacts (`tctoken`): who is given one may write to whoever gave it, also while the
//! server lets an account write to no strangers (463, the reach-out time-lock).
//!
//! A client gives tokens with `privacy set <tokens>`, a person's phone when it is told to. The server makes
//! the token and brings it to the companions of who is trusted (`privacy_token`); they show it with their
//! messages. Stanzas as `wacore::iq::tctoken` reads and builds them.

use rand::Rng as _;
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::keys::Answer;
use super::mailbox::Class;
use super::message::Nack;
use super::notify::SERVER;
use crate::directory::{AccountId, DeviceKey};
use crate::ledger::Fact;
use crate::wire::{self, Addressing};

const BAD_REQUEST: (u16, &str) = (400, "bad-request");
const NOT_FOUND: (u16, &str) = (404, "item-not-found");
/// The message is to somebody who does not trust its sender, whom the server lets write to nobody else.
const TIMELOCK: u16 = 463;
/// The only kind of token there is.
const TRUSTED: &str = "trusted_contact";
const TOKEN_LENGTH: usize = 32;

/// A token that was given.
pub(super) struct Token {
    by: AccountId,
    to: AccountId,
    bytes: Vec<u8>,
}

impl Hub {
    /// `<tokens><token jid t type=trusted_contact/>…</tokens>`. The answer carries no bytes: they are for
    /// the other side.
    pub(super) fn on_tokens(&mut self, from: DeviceKey, tokens: &Node) -> Answer {
        let mut trusted = Vec::new();
        for token in tokens.get_children_by_tag("token") {
            let jid = wire::jid_attr(token, "jid").ok_or(BAD_REQUEST)?;
            let at = wire::uint_attr(token, "t").ok_or(BAD_REQUEST)?;
            if !wire::attr_is(token, "type", TRUSTED) {
                return Err(BAD_REQUEST);
            }
            let peer = self.directory.resolve(&jid).ok_or(NOT_FOUND)?;
            trusted.push((peer, at));
        }
        if trusted.is_empty() {
            return Err(BAD_REQUEST);
        }
        for (peer, at) in trusted {
            self.trust(from, peer, at);
        }
        Ok(Vec::new())
    }

    /// Gives `to` a new token from a person's phone.
    pub(crate) fn trust_from_phone(&mut self, by: AccountId, to: AccountId) {
        let now = self.now();
        self.trust(DeviceKey::phone(by), to, now);
    }

    fn trust(&mut self, by: DeviceKey, to: AccountId, at: u64) {
        let mut bytes = vec![0; TOKEN_LENGTH];
        self.rng.fill_bytes(&mut bytes);
        let fact = Fact::TokenGiven {
            by: self.label(by),
            to: self.directory.account(to).pn.clone(),
        };
        self.record(fact);
        let giver = self.directory.account(by.account);
        let (number, lid) = (giver.jid(Addressing::Pn), giver.jid(Addressing::Lid));
        for device in self.directory.devices_of(to) {
            if device.is_phone() {
                continue;
            }
            let token = NodeBuilder::new("token")
                .attr("type", TRUSTED)
                .attr("t", at)
                .bytes(bytes.clone())
                .build();
            let notification = NodeBuilder::new("notification")
                .attr("from", number.clone())
                .attr("sender_lid", lid.clone())
                .attr("type", "privacy_token")
                .attr("id", self.stanza_id())
                .attr("t", self.now())
                .children([NodeBuilder::new("tokens").children([token]).build()])
                .build();
            self.deliver(device, SERVER, Class::Notification, notification);
        }
        self.tokens.push(Token {
            by: by.account,
            to,
            bytes,
        });
    }

    /// Whether the server lets the companions of this account write only to people who trust it.
    pub(crate) fn lock_reach_out(&mut self, account: AccountId, locked: bool) {
        self.settings.entry(account).or_default().locked = locked;
    }

    /// Looks at the token beside a message to one person. Returns whether it is good.
    pub(super) fn check_token(
        &self,
        from: DeviceKey,
        to: AccountId,
        node: &Node,
    ) -> Result<bool, Nack> {
        let shown = wire::child_bytes(node, "tctoken");
        let given = |bytes: &[u8]| {
            let mut tokens = self.tokens.iter();
            tokens.any(|t| t.by == to && t.to == from.account && t.bytes == bytes)
        };
        let good = shown.is_some_and(given);
        if shown.is_some() && !good {
            return Err(Nack::new(400, "tctoken that the recipient never gave"));
        }
        let locked = self.settings.get(&from.account).is_some_and(|s| s.locked);
        if locked && !good && !from.is_phone() && to != from.account {
            return Err(Nack::honest(TIMELOCK));
        }
        Ok(good)
    }

    pub(super) fn record_token_shown(&mut self, from: DeviceKey, to: AccountId, id: &str) {
        let fact = Fact::TokenShown {
            id: id.to_owned(),
            by: self.label(from),
            to: self.directory.account(to).pn.clone(),
        };
        self.record(fact);
    }
}
