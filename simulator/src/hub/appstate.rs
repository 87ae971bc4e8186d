//! App-state collections: an opaque, versioned patch log per account.

use std::collections::BTreeMap;

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};
use waproto::buffa::{Message as _, MessageField};
use waproto::whatsapp::{SyncdPatch, SyncdVersion};

use super::Hub;
use super::snapshot::fold;
use crate::directory::{AccountId, DeviceKey};
use crate::phone::ChatChange;
use crate::wire;

/// Patches of each collection; patch `n` (from 0) made version `n + 1`.
pub(super) type Collections = BTreeMap<String, Vec<Vec<u8>>>;

/// What a client meets when another device was faster.
const CONFLICT: u16 = 409;
const BAD_REQUEST: u16 = 400;

impl Hub {
    /// Answers `<sync>` with the state of each named collection.
    pub(super) fn sync_app_state(&mut self, from: DeviceKey, sync: &Node) -> Node {
        let mut changed = Vec::new();
        let answers: Vec<Node> = sync
            .get_children_by_tag("collection")
            .map(|request| {
                if let Some(answer) = self.snapshot_for(from, request) {
                    return answer;
                }
                let collections = self.app_state.entry(from.account).or_default();
                sync_collection(collections, request, &mut changed)
            })
            .collect();
        if !changed.is_empty() {
            self.check_patches(from, &changed);
            self.announce_app_state(from, &changed);
        }
        NodeBuilder::new("sync").children(answers).build()
    }

    /// The answer to a client that knows nothing of a collection and wants its snapshot, if the
    /// collection has one.
    fn snapshot_for(&mut self, from: DeviceKey, request: &Node) -> Option<Node> {
        let wanted = wire::attr_is(request, "return_snapshot", "true")
            && wire::uint_attr(request, "version").unwrap_or(0) == 0
            && request.get_optional_child("patch").is_none();
        if !wanted {
            return None;
        }
        let name = wire::attr(request, "name")?.into_owned();
        let patches = self.patches(from.account, &name);
        let snapshot = fold(&patches)?;
        let reference = self.shelve_snapshot(&snapshot)?;
        Some(
            NodeBuilder::new("collection")
                .attr("name", name)
                .attr("version", patches.len() as u64)
                .attr("has_more_patches", "false")
                .children([wire::leaf("snapshot", reference)])
                .build(),
        )
    }

    /// Changes a chat on a person's phone; the account's companions are told.
    pub(crate) fn change_chat(&mut self, account: AccountId, chat: &Jid, change: &ChatChange) {
        let name = change.collection();
        let patches = self.patches(account, name);
        let at = self.clock.now_millis();
        let patch = self.use_phone(account, |phone, _| {
            phone.change_chat(chat, change, &patches, at)
        });
        let collections = self.app_state.entry(account).or_default();
        let log = collections.entry(name.to_owned()).or_default();
        log.push(patch.encode_to_vec());
        let changed = [(name.to_owned(), log.len() as u64)];
        self.announce_app_state(DeviceKey::phone(account), &changed);
    }

    /// The account's phone looks at what a companion has just added.
    fn check_patches(&mut self, by: DeviceKey, changed: &[(String, u64)]) {
        for (name, _) in changed {
            let patches = self.patches(by.account, name);
            if let Err(objection) = self.phone(by.account).check_patch(name, &patches) {
                self.violation(by, None, format!("{name}: {objection:?}"));
            }
        }
    }

    /// All patches of a collection, numbered.
    fn patches(&self, account: AccountId, name: &str) -> Vec<SyncdPatch> {
        let log = self
            .app_state
            .get(&account)
            .and_then(|collections| collections.get(name));
        log.into_iter()
            .flatten()
            .zip(1..)
            .filter_map(|(patch, version)| numbered(patch, version))
            .collect()
    }
}

fn sync_collection(
    collections: &mut Collections,
    request: &Node,
    changed: &mut Vec<(String, u64)>,
) -> Node {
    let name = wire::attr(request, "name").unwrap_or_default().into_owned();
    let known = wire::uint_attr(request, "version").unwrap_or(0);
    let patches = collections.entry(name.clone()).or_default();
    let current = patches.len() as u64;
    let answer = NodeBuilder::new("collection").attr("name", name.as_str());
    if let Some(patch) = request.get_optional_child("patch") {
        if known != current {
            return refuse(answer.attr("version", current), CONFLICT, "conflict");
        }
        if SyncdPatch::decode_from_slice(wire::bytes(patch)).is_err() {
            return refuse(answer, BAD_REQUEST, "bad-request");
        }
        patches.push(wire::bytes(patch).to_vec());
        changed.push((name, current + 1));
        return answer.attr("version", current + 1).build();
    }
    let behind = patches
        .iter()
        .enumerate()
        .skip(usize::try_from(known).unwrap_or(usize::MAX))
        .filter_map(|(index, patch)| {
            let patch = numbered(patch, index as u64 + 1)?;
            Some(wire::leaf("patch", patch.encode_to_vec()))
        });
    let behind: Vec<Node> = behind.collect();
    let answer = answer
        .attr("version", current)
        .attr("has_more_patches", "false");
    if behind.is_empty() {
        answer.build()
    } else {
        answer
            .children([NodeBuilder::new("patches").children(behind).build()])
            .build()
    }
}

fn refuse(answer: NodeBuilder, code: u16, text: &'static str) -> Node {
    answer
        .attr("type", "error")
        .children([NodeBuilder::new("error")
            .attr("code", code)
            .attr("text", text)
            .build()])
        .build()
}

/// The server, not the author, numbers a patch.
fn numbered(patch: &[u8], version: u64) -> Option<SyncdPatch> {
    let mut patch = SyncdPatch::decode_from_slice(patch).ok()?;
    patch.version = MessageField::some(SyncdVersion {
        version: Some(version),
    });
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: u64, patch: Option<Vec<u8>>) -> Node {
        NodeBuilder::new("collection")
            .attr("name", "regular")
            .attr("version", version)
            .children(patch.map(|bytes| wire::leaf("patch", bytes)))
            .build()
    }

    #[test]
    fn patches_are_numbered_served_and_conflict() {
        let mut collections = Collections::new();
        let mut changed = Vec::new();
        let empty = sync_collection(&mut collections, &request(0, None), &mut changed);
        assert!(wire::attr_is(&empty, "version", "0"));
        let patch = SyncdPatch::default().encode_to_vec();
        let done = sync_collection(
            &mut collections,
            &request(0, Some(patch.clone())),
            &mut changed,
        );
        assert!(wire::attr_is(&done, "version", "1"));
        assert_eq!(changed, [("regular".to_owned(), 1)]);
        let late = sync_collection(&mut collections, &request(0, Some(patch)), &mut changed);
        assert!(wire::attr_is(&late, "type", "error"));
        let caught_up = sync_collection(&mut collections, &request(0, None), &mut changed);
        let bytes = caught_up
            .get_optional_child_by_tag(&["patches", "patch"])
            .unwrap();
        let served = SyncdPatch::decode_from_slice(wire::bytes(bytes)).unwrap();
        assert_eq!(served.version.into_option().unwrap().version, Some(1));
    }
}
