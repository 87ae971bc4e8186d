//! Queries: routed by namespace, answered at once.

use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use super::keys::Answer;
use crate::directory::DeviceKey;
use crate::ledger::Fact;
use crate::wire;

impl Hub {
    pub(super) fn on_iq(&mut self, from: DeviceKey, node: &Node) {
        let kind = wire::attr(node, "type").unwrap_or_default().into_owned();
        // Answers to the server's own pushes.
        if kind == "result" || kind == "error" {
            return;
        }
        let id = wire::attr(node, "id").unwrap_or_default().into_owned();
        if id.is_empty() {
            return self.violation(from, None, "iq without id");
        }
        let namespace = wire::attr(node, "xmlns").unwrap_or_default().into_owned();
        let answer = match self.answer(from, &namespace, &kind, node) {
            Ok(children) => wire::iq_result(&id, children),
            Err((code, text)) => wire::iq_error(&id, code, text),
        };
        self.send(from, answer);
        self.after_iq(from, &namespace, node);
    }

    fn answer(&mut self, from: DeviceKey, namespace: &str, kind: &str, node: &Node) -> Answer {
        match namespace {
            "encrypt" => self.on_encrypt(from, node),
            "usync" => match node.get_optional_child("usync") {
                Some(request) => Ok(vec![self.usync(request)]),
                None => Err((400, "bad-request")),
            },
            "passive"
            | "w:p"
            | "urn:xmpp:ping"
            | "urn:xmpp:whatsapp:push"
            | "urn:xmpp:whatsapp:dirty" => Ok(Vec::new()),
            "abt" | "w" => Ok(vec![self.on_props(from.account, node)]),
            "blocklist" => self.on_blocklist(from.account, kind, node),
            "privacy" => self.on_privacy(from, kind, node),
            "w:sync:app:state" => match node.get_optional_child("sync") {
                Some(sync) => Ok(vec![self.sync_app_state(from, sync)]),
                None => Err((400, "bad-request")),
            },
            "w:m" => Ok(vec![self.media_conn(from)]),
            "w:g2" => self.on_groups(from, kind, node),
            "w:profile:picture" => Err((404, "item-not-found")),
            "bot" => Ok(vec![NodeBuilder::new("bot").build()]),
            "md" if node.get_optional_child("remove-companion-device").is_some() => Ok(Vec::new()),
            _ => self.unknown(from, namespace, kind, node),
        }
    }

    /// Side effects that must follow the answer on the wire.
    fn after_iq(&mut self, from: DeviceKey, namespace: &str, node: &Node) {
        match namespace {
            "passive" if node.get_optional_child("active").is_some() => {
                if let Some(&id) = self.online.get(&from) {
                    self.activate(id);
                }
            }
            "w:g2" => self.send_notices(),
            "md" => {
                let Some(request) = node.get_optional_child("remove-companion-device") else {
                    return;
                };
                let device = wire::jid_attr(request, "jid")
                    .and_then(|jid| self.directory.resolve_device(&jid))
                    .unwrap_or(from);
                if device.account != from.account {
                    return self.violation(from, None, "logout of another account's device");
                }
                if let Err(error) = self.unlink(device) {
                    self.violation(from, None, error.to_string());
                }
            }
            _ => {}
        }
    }

    fn unknown(&mut self, from: DeviceKey, namespace: &str, kind: &str, node: &Node) -> Answer {
        let child = node.children().and_then(<[Node]>::first);
        let child = child.map_or("", |c| c.tag.as_ref());
        let fact = Fact::Unknown {
            device: self.label(from),
            what: format!("iq {kind} {namespace} <{child}>"),
        };
        self.record(fact);
        if kind == "set" {
            Ok(Vec::new())
        } else {
            Err((501, "feature-not-implemented"))
        }
    }
}
