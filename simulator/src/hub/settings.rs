//! What an account decides about others: privacy settings and whom it has blocked.

use std::collections::{BTreeMap, BTreeSet};

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::keys::Answer;
use crate::directory::{AccountId, DeviceKey};
use crate::wire::{self, Addressing};

const BAD_REQUEST: (u16, &str) = (400, "bad-request");
const NOT_FOUND: (u16, &str) = (404, "item-not-found");

/// Every setting, with the values it can have; the first is what a new account has.
const CATEGORIES: [(&str, &[&str]); 8] = [
    ("last", &["all", "contacts", "contact_blacklist", "none"]),
    ("online", &["all", "match_last_seen"]),
    ("profile", &["all", "contacts", "contact_blacklist", "none"]),
    ("status", &["all", "contacts", "contact_blacklist", "none"]),
    ("groupadd", &["all", "contacts", "contact_blacklist"]),
    ("calladd", &["all", "known"]),
    ("readreceipts", &["all", "none"]),
    ("messages", &["all", "contacts"]),
];

/// What one account has changed.
#[derive(Default)]
pub(super) struct Settings {
    privacy: BTreeMap<&'static str, &'static str>,
    blocked: BTreeSet<AccountId>,
    /// The server lets its companions write only to people who trust it.
    pub(super) locked: bool,
}

impl Hub {
    /// `privacy`: settings on `<privacy/>`, and tokens for trusted contacts.
    pub(super) fn on_privacy(&mut self, from: DeviceKey, kind: &str, node: &Node) -> Answer {
        if let Some(tokens) = node.get_optional_child("tokens").filter(|_| kind == "set") {
            return self.on_tokens(from, tokens);
        }
        let account = from.account;
        let Some(request) = node.get_optional_child("privacy") else {
            return Err(BAD_REQUEST);
        };
        if kind == "set" {
            let mut changes = Vec::new();
            for category in request.get_children_by_tag("category") {
                changes.push(setting(category).ok_or(BAD_REQUEST)?);
            }
            if changes.is_empty() {
                return Err(BAD_REQUEST);
            }
            let settings = self.settings.entry(account).or_default();
            settings.privacy.extend(changes);
        }
        let chosen = self.settings.get(&account);
        let categories = CATEGORIES.map(|(name, values)| {
            let value = chosen.and_then(|settings| settings.privacy.get(name));
            NodeBuilder::new("category")
                .attr("name", name)
                .attr("value", *value.unwrap_or(&values[0]))
                .build()
        });
        let privacy = NodeBuilder::new("privacy").children(categories);
        Ok(vec![privacy.build()])
    }

    /// `blocklist`: who is blocked, and `<item action=block|unblock>`. Blocking names the LID, and the
    /// number beside it.
    pub(super) fn on_blocklist(&mut self, account: AccountId, kind: &str, node: &Node) -> Answer {
        if kind == "set" {
            let item = node.get_optional_child("item").ok_or(BAD_REQUEST)?;
            let jid = wire::jid_attr(item, "jid").ok_or(BAD_REQUEST)?;
            let peer = self.directory.resolve(&jid).ok_or(NOT_FOUND)?;
            let settings = self.settings.entry(account).or_default();
            match wire::attr(item, "action").as_deref() {
                Some("block") if Addressing::of(&jid) == Some(Addressing::Lid) => {
                    settings.blocked.insert(peer);
                }
                Some("unblock") => {
                    settings.blocked.remove(&peer);
                }
                _ => return Err(BAD_REQUEST),
            }
        }
        let blocked = self.settings.get(&account).map(|s| &s.blocked);
        let items = blocked.into_iter().flatten().map(|&peer| {
            let peer = self.directory.account(peer);
            NodeBuilder::new("item")
                .attr("jid", peer.jid(Addressing::Lid))
                .attr("pn_jid", peer.jid(Addressing::Pn))
                .build()
        });
        Ok(vec![NodeBuilder::new("list").children(items).build()])
    }

    /// Whether `account` has blocked `peer`: what `peer` writes to it is accepted and goes nowhere.
    pub(super) fn has_blocked(&self, account: AccountId, peer: AccountId) -> bool {
        self.settings
            .get(&account)
            .is_some_and(|settings| settings.blocked.contains(&peer))
    }
}

fn setting(category: &Node) -> Option<(&'static str, &'static str)> {
    let (name, values) = CATEGORIES
        .iter()
        .find(|(name, _)| wire::attr_is(category, "name", name))?;
    let value = values
        .iter()
        .find(|value| wire::attr_is(category, "value", value))?;
    Some((name, value))
}
