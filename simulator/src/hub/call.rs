//! Calls: they ring on the companions of whoever is called, until the caller hangs up or the callee's phone
//! takes or refuses them. Only the signalling is simulated: no call key is sealed and there is no relay, so
//! nobody can talk.
//!
//! Stanzas as `wacore::stanza::call` reads and builds them. The caller is named by LID, with the number
//! beside it.

use rand::Rng as _;
use serde::{Deserialize, Serialize};
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::mailbox::Class;
use super::{Hub, PeopleError};
use crate::directory::{AccountId, DeviceKey};
use crate::ledger::Fact;
use crate::wire::{self, Addressing};

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallEnd {
    /// The caller gives up.
    HangUp,
    /// The callee takes it on the phone.
    Accept,
    /// The callee refuses it on the phone.
    Reject,
}

/// A call that rings.
pub(super) struct Call {
    id: String,
    caller: AccountId,
    callee: AccountId,
}

/// What the caller's phone tells companions of the callee, and the reason beside it.
struct Told {
    action: &'static str,
    reason: Option<&'static str>,
}

impl Hub {
    /// Begins a call from a person's phone. Returns its id.
    pub(crate) fn call(
        &mut self,
        caller: AccountId,
        to: AccountId,
        video: bool,
    ) -> Result<String, PeopleError> {
        if caller == to {
            let pn = self.directory.account(to).pn.clone();
            return Err(PeopleError::CallsItself(pn));
        }
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        let call = Call {
            id: hex::encode_upper(id),
            caller,
            callee: to,
        };
        self.record_call(&call, "offer", DeviceKey::phone(caller));
        if !self.has_blocked(to, caller) {
            self.acquaint(caller, to);
            for device in self.companions_of(to) {
                let offer = self.ring(&call, video);
                self.signal(&call, device, offer);
            }
        }
        let id = call.id.clone();
        self.calls.push(call);
        Ok(id)
    }

    /// Ends a call that rings, from the phone of the caller or of the callee.
    pub(crate) fn end_call(
        &mut self,
        by: AccountId,
        id: &str,
        how: CallEnd,
    ) -> Result<(), PeopleError> {
        let may_end = |call: &Call| match how {
            CallEnd::HangUp => call.caller == by,
            CallEnd::Accept | CallEnd::Reject => call.callee == by,
        };
        let found = self.calls.iter().position(|c| c.id == id && may_end(c));
        let Some(position) = found else {
            return Err(PeopleError::NoSuchCall(id.to_owned()));
        };
        let call = self.calls.remove(position);
        let (fact, reason) = match how {
            CallEnd::HangUp => ("terminate", None),
            CallEnd::Accept => ("accept", Some("accepted_elsewhere")),
            CallEnd::Reject => ("reject", Some("rejected_elsewhere")),
        };
        self.record_call(&call, fact, DeviceKey::phone(by));
        self.dismiss(&call, reason, None);
        Ok(())
    }

    /// `<call>` from a companion: it can refuse a call that rings. To take one it would need a call key.
    pub(super) fn on_call(&mut self, from: DeviceKey, node: &Node) {
        let action = node.children().and_then(<[Node]>::first);
        let mut ack = super::ack_for(node, "call", self.now(), None);
        if let Some(action) = action {
            ack.attrs.insert("type", action.tag.to_string());
        }
        self.send(from, ack);
        let Some(action) = action else {
            return self.violation(from, None, "call without an action");
        };
        let id = wire::attr(action, "call-id").unwrap_or_default();
        let rings = |call: &Call| call.id == id && call.callee == from.account;
        match (action.tag.as_ref(), self.calls.iter().position(rings)) {
            ("reject", Some(position)) => {
                let call = self.calls.remove(position);
                self.record_call(&call, "reject", from);
                self.dismiss(&call, Some("rejected_elsewhere"), Some(from));
            }
            // The caller may have hung up meanwhile.
            ("reject", None) => {}
            (tag, _) => {
                let fact = Fact::Unknown {
                    device: self.label(from),
                    what: format!("<call> <{tag}>"),
                };
                self.record(fact);
            }
        }
    }

    /// Tells every companion of the callee but one that the call is over.
    fn dismiss(&mut self, call: &Call, reason: Option<&'static str>, except: Option<DeviceKey>) {
        if self.has_blocked(call.callee, call.caller) {
            return;
        }
        for device in self.companions_of(call.callee) {
            if Some(device) != except {
                let told = Told {
                    action: "terminate",
                    reason,
                };
                let node = self.action(call, &told).build();
                self.signal(call, device, node);
            }
        }
    }

    fn companions_of(&self, account: AccountId) -> Vec<DeviceKey> {
        let mut devices = self.directory.devices_of(account);
        devices.retain(|device| !device.is_phone());
        devices
    }

    fn caller_jid(&self, call: &Call, addressing: Addressing) -> Jid {
        self.address(DeviceKey::phone(call.caller), addressing)
    }

    fn ring(&self, call: &Call, video: bool) -> Node {
        let told = Told {
            action: "offer",
            reason: None,
        };
        let audio = |rate: u32| {
            NodeBuilder::new("audio")
                .attr("enc", "opus")
                .attr("rate", rate)
                .build()
        };
        let mut children = vec![audio(16_000), audio(8_000)];
        if video {
            children.push(NodeBuilder::new("video").attr("enc", "h264").build());
        }
        children.push(NodeBuilder::new("net").attr("medium", 3).build());
        children.push(NodeBuilder::new("encopt").attr("keygen", 2).build());
        self.action(call, &told)
            .attr("caller_pn", self.caller_jid(call, Addressing::Pn))
            .children(children)
            .build()
    }

    fn action(&self, call: &Call, told: &Told) -> NodeBuilder {
        let builder = NodeBuilder::new(told.action)
            .attr("call-id", call.id.as_str())
            .attr("call-creator", self.caller_jid(call, Addressing::Lid));
        match told.reason {
            Some(reason) => builder.attr("reason", reason),
            None => builder,
        }
    }

    /// Queues one stanza of a call for one device, until that acknowledges it.
    fn signal(&mut self, call: &Call, to: DeviceKey, action: Node) {
        let node = NodeBuilder::new("call")
            .attr("from", self.caller_jid(call, Addressing::Lid))
            .attr("id", self.stanza_id())
            .attr("t", self.now())
            .attr("notify", self.directory.account(call.caller).name.as_str())
            .attr("platform", "android")
            .attr("version", "2.25.37.76")
            .children([action])
            .build();
        let from = self.label(DeviceKey::phone(call.caller));
        self.deliver(to, &from, Class::Call, node);
    }

    fn record_call(&mut self, call: &Call, what: &str, by: DeviceKey) {
        let fact = Fact::Call {
            id: call.id.clone(),
            what: what.to_owned(),
            by: self.label(by),
            to: self.directory.account(call.callee).pn.clone(),
        };
        self.record(fact);
    }
}
