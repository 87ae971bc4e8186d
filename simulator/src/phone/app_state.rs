//! What a person keeps about chats and contacts, as every device of the account has it: app state.
//!
//! The server holds a log of encrypted patches per collection; whoever changes something builds the
//! next patch over what all before it add up to.

use std::collections::HashMap;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use wacore::appstate::hash::{HashState, generate_patch_mac};
use wacore::appstate::schemas::{self, Schema};
use wacore::appstate::{
    ExpandedAppStateKeys, encode_record, expand_app_state_keys, validate_patch_macs,
};
use wacore_binary::Jid;
use waproto::buffa::MessageField;
use waproto::whatsapp as wa;
use waproto::whatsapp::sync_action_value::{
    ArchiveChatAction, ContactAction, MuteAction, PinAction,
};
use waproto::whatsapp::syncd_mutation::SyncdOperation;

use super::Phone;
use super::record::ViolationKind;

/// A change that a person makes to a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatChange {
    /// Keeps the chat on top, or not.
    Pin(bool),
    /// Silences the chat for good, or not.
    Mute(bool),
    /// Puts the chat away, or back.
    Archive(bool),
    /// Saves the person under this name.
    Contact(String),
    /// Deletes the person from the contacts.
    ForgetContact,
}

impl ChatChange {
    fn schema(&self) -> &'static Schema {
        match self {
            Self::Pin(_) => &schemas::PIN,
            Self::Mute(_) => &schemas::MUTE,
            Self::Archive(_) => &schemas::ARCHIVE,
            Self::Contact(_) | Self::ForgetContact => &schemas::CONTACT,
        }
    }

    /// The collection that holds it.
    pub(crate) fn collection(&self) -> &'static str {
        self.schema().collection.as_str()
    }

    fn operation(&self) -> SyncdOperation {
        match self {
            Self::ForgetContact => SyncdOperation::REMOVE,
            _ => SyncdOperation::SET,
        }
    }

    /// `at` in milliseconds.
    fn value(&self, at: i64) -> wa::SyncActionValue {
        let mut value = wa::SyncActionValue {
            timestamp: Some(at),
            ..Default::default()
        };
        match self {
            Self::Pin(pinned) => {
                value.pin_action = MessageField::some(PinAction {
                    pinned: Some(*pinned),
                });
            }
            Self::Mute(muted) => {
                value.mute_action = MessageField::some(MuteAction {
                    muted: Some(*muted),
                    // For ever.
                    mute_end_timestamp: muted.then_some(-1),
                    ..Default::default()
                });
            }
            Self::Archive(archived) => {
                value.archive_chat_action = MessageField::some(ArchiveChatAction {
                    archived: Some(*archived),
                    ..Default::default()
                });
            }
            Self::Contact(name) => {
                value.contact_action = MessageField::some(ContactAction {
                    full_name: Some(name.clone()),
                    first_name: name.split_whitespace().next().map(str::to_owned),
                    ..Default::default()
                });
            }
            Self::ForgetContact => {
                value.contact_action = MessageField::some(ContactAction::default());
            }
        }
        value
    }
}

/// What the patches of a collection add up to.
struct Sum {
    state: HashState,
    /// The value MAC that stands at each index MAC.
    values: HashMap<Vec<u8>, Vec<u8>>,
}

impl Sum {
    fn of(patches: &[wa::SyncdPatch]) -> Self {
        let mut sum = Self {
            state: HashState::default(),
            values: HashMap::new(),
        };
        for patch in patches {
            sum.add(patch);
        }
        sum
    }

    fn add(&mut self, patch: &wa::SyncdPatch) {
        let values = &self.values;
        let (_, added) = self
            .state
            .update_hash(&patch.mutations, |index, _| Ok(values.get(index).cloned()));
        if let Err(error) = added {
            tracing::debug!(%error, "a patch with an unknown operation");
        }
        self.state.version += 1;
        for mutation in &patch.mutations {
            let Some((index, value)) = macs(mutation) else {
                continue;
            };
            if mutation
                .operation
                .is_some_and(|operation| operation == SyncdOperation::REMOVE)
            {
                self.values.remove(index);
            } else {
                self.values.insert(index.to_vec(), value.to_vec());
            }
        }
    }
}

/// Index MAC and value MAC of a mutation.
fn macs(mutation: &wa::SyncdMutation) -> Option<(&[u8], &[u8])> {
    let record = mutation.record.as_option()?;
    let index = record.index.as_option()?.blob.as_deref()?;
    let value = record.value.as_option()?.blob.as_deref()?;
    Some((index, value.get(value.len().checked_sub(32)?..)?))
}

impl Phone {
    /// Builds the patch that makes a change to the chat with `chat`, to follow `patches`, all that its
    /// collection has. `at` in unix milliseconds.
    pub(crate) fn change_chat(
        &mut self,
        chat: &Jid,
        change: &ChatChange,
        patches: &[wa::SyncdPatch],
        at: u64,
    ) -> wa::SyncdPatch {
        let schema = change.schema();
        let (key_id, keys) = self.app_state_keys();
        let index = serde_json::json!([schema.name, chat.to_string()]).to_string();
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let (mutation, _) = encode_record(
            change.operation(),
            index.as_bytes(),
            &change.value(at),
            &keys,
            &key_id,
            &self.rng.random(),
            i32::try_from(schema.version).unwrap_or(i32::MAX),
        );
        let mut patch = wa::SyncdPatch {
            mutations: vec![mutation],
            key_id: MessageField::some(wa::KeyId { id: Some(key_id) }),
            device_index: Some(0),
            ..Default::default()
        };
        let mut sum = Sum::of(patches);
        sum.add(&patch);
        let name = change.collection();
        patch.snapshot_mac = Some(sum.state.generate_snapshot_mac(name, &keys.snapshot_mac));
        let mac = generate_patch_mac(&patch, name, &keys.patch_mac, sum.state.version);
        patch.patch_mac = Some(mac);
        patch
    }

    /// Checks the patch that a companion added last: it must be authentic, and built over what the
    /// patches before it add up to.
    pub(crate) fn check_patch(
        &self,
        collection: &str,
        patches: &[wa::SyncdPatch],
    ) -> Result<(), ViolationKind> {
        let Some(last) = patches.last() else {
            return Ok(());
        };
        let bad = |detail: String| ViolationKind::BadPatch { detail };
        let (key_id, keys) = self.app_state_keys();
        let used = last.key_id.as_option().and_then(|key| key.id.as_deref());
        if used != Some(key_id.as_slice()) {
            return Err(bad("another key than the account's".to_owned()));
        }
        let sum = Sum::of(patches);
        let verdict = validate_patch_macs(last, &sum.state, &keys, collection, true, false)
            .map_err(|error| bad(error.to_string()))?;
        if verdict.snapshot_mac_diverged {
            return Err(bad("its snapshot MAC is of another state".to_owned()));
        }
        Ok(())
    }

    fn app_state_keys(&self) -> (Vec<u8>, ExpandedAppStateKeys) {
        let (id, data) = self.app_state_key();
        (id.to_vec(), expand_app_state_keys(data))
    }
}
