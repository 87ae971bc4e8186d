//! Sender keys: libsignal's group cipher over an in-memory store, plus the memory of spent iterations
//! and of who holds this phone's own key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use futures::FutureExt as _;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};
use wacore::libsignal::protocol::{
    SenderKeyDistributionMessage, SenderKeyMessage, SenderKeyRecord, SenderKeyStore,
    SignalProtocolError, create_sender_key_distribution_message, group_decrypt, group_encrypt,
    process_sender_key_distribution_message,
};
use wacore::libsignal::store::sender_key_name::SenderKeyName;
use wacore::types::jid::JidExt as _;
use wacore_binary::Jid;

use super::signal::{OpenError, Opened, SealError, Spent, short_hash};

/// Sender keys by group and sending device.
#[derive(Default, Clone)]
pub(super) struct Records(BTreeMap<String, SenderKeyRecord>);

#[async_trait]
impl SenderKeyStore for Records {
    async fn store_sender_key(
        &mut self,
        name: &SenderKeyName,
        record: SenderKeyRecord,
    ) -> Result<(), SignalProtocolError> {
        self.0.insert(name.cache_key().to_owned(), record);
        Ok(())
    }

    async fn load_sender_key(
        &self,
        name: &SenderKeyName,
    ) -> Result<Option<SenderKeyRecord>, SignalProtocolError> {
        Ok(self.0.get(name.cache_key()).cloned())
    }
}

/// The group side of one device's Signal state. Devices are named in their canonical addressing.
#[derive(Default)]
pub(super) struct SenderKeys {
    records: Records,
    /// Who was given this phone's present key, by group.
    holders: BTreeMap<String, BTreeSet<String>>,
    /// Keyed by group, sending device, chain and iteration. Only ever looked up, never iterated.
    spent: HashMap<u64, Spent>,
}

impl SenderKeys {
    /// Forgets every key, received and own. What was spent stays spent.
    pub(super) fn lose(&mut self) {
        self.records = Records::default();
        self.holders.clear();
    }

    /// A copy of every key, as a backup holds it.
    #[cfg(test)]
    pub(super) fn backup(&self) -> Records {
        self.records.clone()
    }

    /// Puts an older copy back: the mistake that spends iterations twice.
    #[cfg(test)]
    pub(super) fn restore(&mut self, backup: Records) {
        self.records = backup;
    }

    /// Throws the own key away when somebody holds it who is not in `present` any more: whoever has
    /// left must not read on.
    pub(super) fn rotate_unless_among(
        &mut self,
        group: &Jid,
        own: &Jid,
        present: &BTreeSet<String>,
    ) {
        let group_key = group.to_string();
        let left_behind = self
            .holders
            .get(&group_key)
            .is_some_and(|holders| !holders.is_subset(present));
        if left_behind {
            self.holders.remove(&group_key);
            self.records.0.remove(name(group, own).cache_key());
        }
    }

    pub(super) fn holds(&self, group: &Jid, device: &Jid) -> bool {
        self.holders
            .get(&group.to_string())
            .is_some_and(|holders| holders.contains(&device.to_string()))
    }

    pub(super) fn given_to(&mut self, group: &Jid, device: &Jid) {
        self.holders
            .entry(group.to_string())
            .or_default()
            .insert(device.to_string());
    }

    /// The device asked for a message again: it is given the key anew with the next one.
    pub(super) fn lost_by(&mut self, group: &Jid, device: &Jid) {
        if let Some(holders) = self.holders.get_mut(&group.to_string()) {
            holders.remove(&device.to_string());
        }
    }

    /// The own key in its present state, for those who do not hold it; made when there is none.
    pub(super) fn distribution(
        &mut self,
        group: &Jid,
        own: &Jid,
        rng: &mut ChaCha20Rng,
    ) -> Result<Vec<u8>, SealError> {
        let made =
            create_sender_key_distribution_message(&name(group, own), &mut self.records, rng)
                .now_or_never()
                .ok_or(SealError::NotReady)??;
        Ok(made.into_serialized().into_vec())
    }

    /// Seals a padded plaintext with the own key.
    pub(super) fn seal(
        &mut self,
        group: &Jid,
        own: &Jid,
        padded: &[u8],
        rng: &mut ChaCha20Rng,
    ) -> Result<Vec<u8>, SealError> {
        let sealed = group_encrypt(&mut self.records, &name(group, own), padded, rng)
            .now_or_never()
            .ok_or(SealError::NotReady)??;
        Ok(sealed.serialized().to_vec())
    }

    /// Takes the key that `sender` distributed.
    pub(super) fn learn(
        &mut self,
        group: &Jid,
        sender: &Jid,
        distribution: &[u8],
    ) -> Result<(), OpenError> {
        let distribution = SenderKeyDistributionMessage::try_from(distribution)
            .map_err(|_| OpenError::Malformed)?;
        process_sender_key_distribution_message(
            &name(group, sender),
            &distribution,
            &mut self.records,
        )
        .now_or_never()
        .ok_or(OpenError::Malformed)??;
        Ok(())
    }

    /// Opens the group ciphertext of message `id` from `sender`. An iteration is spent when it was
    /// opened once: the same ciphertext under the same id is a redelivery, anything else is a reuse.
    pub(super) fn open(
        &mut self,
        group: &Jid,
        sender: &Jid,
        id: &str,
        bytes: &[u8],
    ) -> Result<Opened, OpenError> {
        let parsed = SenderKeyMessage::try_from(bytes).map_err(|_| OpenError::Malformed)?;
        let (chain, iteration) = (parsed.chain_id(), parsed.iteration());
        let name = name(group, sender);
        let key = spent_key(&name, chain, iteration);
        let spent = Spent {
            id: short_hash(id.as_bytes()),
            ciphertext: short_hash(bytes),
        };
        match self.spent.get(&key) {
            Some(before) if *before == spent => return Ok(Opened::Again),
            Some(_) => return Err(OpenError::CounterReused { counter: iteration }),
            None => {}
        }
        let opened = group_decrypt(bytes, &mut self.records, &name)
            .now_or_never()
            .ok_or(OpenError::Malformed)?;
        match opened {
            Ok(padded) => {
                self.spent.insert(key, spent);
                Ok(Opened::Fresh(padded))
            }
            // The key was distributed at a later iteration than this one: nothing here ever opened
            // it, so it is not a reuse, but it can never be opened.
            Err(error) => Err(error.into()),
        }
    }
}

fn name(group: &Jid, device: &Jid) -> SenderKeyName {
    SenderKeyName::from_parts(&group.to_string(), device.to_protocol_address().as_str())
}

fn spent_key(name: &SenderKeyName, chain: u32, iteration: u32) -> u64 {
    let digest = Sha256::new()
        .chain_update(name.cache_key())
        .chain_update([0])
        .chain_update(chain.to_be_bytes())
        .chain_update(iteration.to_be_bytes())
        .finalize();
    u64::from_be_bytes(std::array::from_fn(|index| digest[index]))
}
