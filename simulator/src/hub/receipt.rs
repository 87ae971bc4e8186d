//! Receipts: acknowledged to their sender, forwarded to whoever should see them.

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, JidExt as _, Node};

use super::mailbox::Class;
use super::{Hub, receipt_ids};
use crate::directory::{AccountId, DeviceKey};
use crate::ledger::Fact;
use crate::wire::{self, Addressing};

/// Where a receipt goes.
enum Route {
    /// It told the server that a stanza arrived, nobody else.
    Consumed,
    /// One device that must act on it.
    Device(DeviceKey),
    /// Everyone on the account of the message's author.
    Author(AccountId),
    /// The author, and the reader's own other devices.
    AuthorAndOwn(AccountId),
    /// The reader's own other devices.
    Own,
}

impl Hub {
    pub(super) fn on_receipt(&mut self, from: DeviceKey, node: &Node) {
        let kind = wire::attr(node, "type").map(std::borrow::Cow::into_owned);
        // That a call rings, and not that a message arrived.
        let rings = node.get_optional_child("offer").is_some();
        let kind = kind.or_else(|| rings.then(|| "offer".to_owned()));
        let to = wire::jid_attr(node, "to");
        let ids = receipt_ids(node);
        let fact = Fact::Receipt {
            ids,
            from: self.label(from),
            to: to.as_ref().map(Jid::to_string).unwrap_or_default(),
            kind: kind.clone().unwrap_or_else(|| "delivery".to_owned()),
        };
        self.record(fact);
        self.acknowledge(from, node, "receipt", None);
        // A retry receipt is followed by an ack; every other kind is one.
        if kind.as_deref() != Some("retry") {
            self.confirm_by_receipt(from, node);
        }
        let Some(to) = to else {
            return self.violation(from, None, "receipt without a valid `to`");
        };
        if to.is_group() {
            return self.on_group_receipt(from, node, &to);
        }
        let (Some(addressing), Some(target)) =
            (Addressing::of(&to), self.directory.resolve_device(&to))
        else {
            return;
        };
        let sender = self.address(from, addressing);
        match route(kind.as_deref(), from, target) {
            Route::Consumed => {}
            Route::Device(device) => self.forward(node, &sender, device, from, None),
            Route::Author(account) => self.forward_to_all(node, &sender, account, from),
            Route::AuthorAndOwn(account) => {
                self.forward_to_all(node, &sender, account, from);
                self.forward_to_own(node, &sender, &to, from);
            }
            Route::Own => self.forward_to_own(node, &sender, &to, from),
        }
    }

    fn forward_to_all(&mut self, node: &Node, sender: &Jid, account: AccountId, from: DeviceKey) {
        for device in self.directory.devices_of(account) {
            self.forward(node, sender, device, from, None);
        }
    }

    fn forward_to_own(&mut self, node: &Node, sender: &Jid, chat: &Jid, from: DeviceKey) {
        for device in self.directory.devices_of(from.account) {
            if device != from {
                self.forward(node, sender, device, from, Some(&chat.to_non_ad()));
            }
        }
    }

    /// Forwards to one device. `chat` is set on the reader's own copies.
    fn forward(
        &mut self,
        node: &Node,
        sender: &Jid,
        to: DeviceKey,
        from: DeviceKey,
        chat: Option<&Jid>,
    ) {
        let mut builder = NodeBuilder::new("receipt")
            .attr("from", sender.clone())
            .attr("t", self.now());
        for key in ["id", "type", "participant"] {
            if let Some(value) = node.attrs.get(key) {
                builder = builder.attr(key, value.clone());
            }
        }
        if wire::attr_is(node, "type", "retry") {
            // Within an account the chat and the category tell which message is meant.
            for key in ["recipient", "category"] {
                if let Some(value) = node.attrs.get(key) {
                    builder = builder.attr(key, value.clone());
                }
            }
        }
        if let Some(chat) = chat {
            builder = builder
                .attr("recipient", chat.clone())
                .attr("type", own_kind(node));
        }
        let forwarded = builder.apply_content(node.content.clone()).build();
        let label = self.label(from);
        self.deliver(to, &label, Class::Receipt, forwarded);
    }
}

/// How the reader's other devices are told.
pub(super) fn own_kind(node: &Node) -> &'static str {
    match wire::attr(node, "type").as_deref() {
        Some("played" | "played-self") => "played-self",
        _ => "read-self",
    }
}

fn route(kind: Option<&str>, from: DeviceKey, target: DeviceKey) -> Route {
    let own = from.account == target.account;
    match kind {
        Some("retry" | "enc_rekey_retry" | "server-error") => Route::Device(target),
        Some("read-self" | "played-self") => Route::Own,
        Some("sender" | "peer_msg" | "hist_sync" | "offer") => Route::Consumed,
        Some("read" | "played") if own => Route::Own,
        Some("read" | "played") => Route::AuthorAndOwn(target.account),
        _ if own => Route::Consumed,
        _ => Route::Author(target.account),
    }
}
