//! `usync`: which devices, LIDs and contacts exist.

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::Hub;
use crate::directory::AccountId;
use crate::wire::{self, Addressing};

impl Hub {
    /// Answers `<usync>`; the result is the content of the iq.
    pub(super) fn usync(&self, request: &Node) -> Node {
        let query: Vec<&str> = request
            .get_optional_child("query")
            .and_then(Node::children)
            .unwrap_or_default()
            .iter()
            .map(|protocol| protocol.tag.as_ref())
            .collect();
        let users: Vec<Node> = request
            .get_optional_child("list")
            .into_iter()
            .flat_map(|list| list.get_children_by_tag("user"))
            .filter_map(|user| self.usync_user(user, &query))
            .collect();
        let protocols = query
            .iter()
            .map(|tag| NodeBuilder::new_dynamic((*tag).to_owned()).build());
        let mut builder = NodeBuilder::new("usync")
            .attr("index", 0)
            .attr("last", "true");
        for key in ["sid", "mode", "context"] {
            if let Some(value) = request.attrs.get(key) {
                builder = builder.attr(key, value.clone());
            }
        }
        builder
            .children([
                NodeBuilder::new("result").children(protocols).build(),
                NodeBuilder::new("list").children(users).build(),
            ])
            .build()
    }

    fn usync_user(&self, user: &Node, query: &[&str]) -> Option<Node> {
        let contact = user
            .get_optional_child("contact")
            .and_then(Node::content_as_string)
            .filter(|text| !text.is_empty());
        let jid = match (wire::jid_attr(user, "jid"), &contact) {
            (Some(jid), _) => jid,
            (None, Some(number)) => Jid::pn(number.trim_start_matches('+')),
            (None, None) => return None,
        };
        let account = self.directory.resolve(&jid);
        let mut children = Vec::new();
        for protocol in query {
            match *protocol {
                "contact" => children.push(
                    NodeBuilder::new("contact")
                        .attr("type", if account.is_some() { "in" } else { "out" })
                        .build(),
                ),
                "devices" => {
                    let account = account?;
                    if self.is_unchanged(account, user) {
                        return None;
                    }
                    children.push(self.usync_devices(account));
                }
                // Echoing the LID to someone who asked by LID makes Baileys replace live sessions.
                "lid" if Addressing::of(&jid) == Some(Addressing::Pn) => {
                    if let Some(account) = account {
                        let lid = self.directory.account(account).jid(Addressing::Lid);
                        children.push(NodeBuilder::new("lid").attr("val", lid).build());
                    }
                }
                "status" if account.is_some() => {
                    children.push(NodeBuilder::new("status").string_content("").build());
                }
                "disappearing_mode" if account.is_some() => children.push(
                    NodeBuilder::new("disappearing_mode")
                        .attr("duration", 0)
                        .attr("t", 0)
                        .build(),
                ),
                _ => {}
            }
        }
        let mut builder = NodeBuilder::new("user").attr("jid", jid.to_non_ad());
        if let Some(account) = account
            && Addressing::of(&jid) == Some(Addressing::Lid)
        {
            let pn = self.directory.account(account).jid(Addressing::Pn);
            builder = builder.attr("pn_jid", pn);
        }
        Some(builder.children(children).build())
    }

    /// Whether the asker named the current hash: unchanged users are left out of the answer.
    fn is_unchanged(&self, account: AccountId, user: &Node) -> bool {
        user.get_optional_child("devices")
            .and_then(|known| wire::attr(known, "device_hash"))
            .is_some_and(|hash| hash == self.directory.account(account).device_hash())
    }

    fn usync_devices(&self, account: AccountId) -> Node {
        let record = self.directory.account(account);
        let devices = record.devices.iter().map(|(&id, device)| {
            let mut builder = NodeBuilder::new("device").attr("id", id);
            if let Some(index) = device.key_index {
                builder = builder.attr("key-index", index);
            }
            builder.build()
        });
        let mut children = vec![
            NodeBuilder::new("device-list")
                .attr("hash", record.device_hash())
                .children(devices)
                .build(),
        ];
        // Without the signed list whatsapp-rust drops the companions and sends to the phone only.
        if let Some(signed) = record
            .key_index_list
            .as_ref()
            .filter(|_| record.companions() > 0)
        {
            children.push(
                NodeBuilder::new("key-index-list")
                    .attr("ts", record.key_index_at)
                    .bytes(signed.clone())
                    .build(),
            );
        }
        NodeBuilder::new("devices").children(children).build()
    }
}
