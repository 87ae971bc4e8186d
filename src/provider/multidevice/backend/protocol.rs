//! LID mappings, device lists, group metadata, base keys, and the library's own sent messages.

use async_trait::async_trait;
use bytes::Bytes;
use wacore::store::error::StoreError;
use wacore::store::traits::{
    DeviceListRecord, LidPnMappingEntry, PendingInboundKey, PendingInboundRow, ProtocolStore,
    TcTokenEntry,
};

use wacore_binary::Jid;

use super::{KeyBackend, Result, codec, library};
use crate::domain::clock::Timestamp;
use crate::domain::person::Person;
use crate::provider::multidevice::convert::event;
use crate::provider::multidevice::convert::person::from_users;
use crate::store::{KeyBatch, KeyId, KeyKind};

/// Base keys matter while a message is being retried.
const BASE_KEY_LIFE: std::time::Duration = std::time::Duration::from_hours(7 * 24);
/// Retry receipts for the library's own messages come within hours.
const OWN_MESSAGE_LIFE: std::time::Duration = std::time::Duration::from_hours(24);

impl KeyBackend {
    fn expires(&self, life: std::time::Duration) -> Timestamp {
        self.clock.now().plus(life)
    }

    /// The outbox has this message: what the library stores of it is not needed.
    pub(in super::super) fn held_by_outbox(&self, stanza_id: &str) {
        self.shared.held_by_outbox(stanza_id);
    }

    /// What went out to `chat` under this stanza id. Nothing for whoever merely knows the id.
    ///
    /// # Errors
    /// When the store fails.
    pub(in super::super) async fn sent_to(
        &self,
        chat: &Jid,
        stanza_id: &str,
    ) -> Result<Option<Vec<u8>>> {
        let sent = self.sink.sent_message(stanza_id).await;
        let sent = sent.map_err(|error| StoreError::Database(Box::new(error)))?;
        let Some(sent) = sent else {
            return Ok(None);
        };
        let is_theirs = if chat.server.is_pn_family() {
            let phone = chat.user_base().to_owned();
            self.is_person(&sent.to, Some(phone), None).await?
        } else if chat.server.is_lid_family() {
            let lid = chat.user_base().to_owned();
            self.is_person(&sent.to, None, Some(lid)).await?
        } else {
            sent.to.aliases().any(|alias| alias == chat.to_string())
        };
        Ok(is_theirs.then_some(sent.encoded))
    }

    /// Whether this is the person with that phone number or LID, with all that is known of both.
    async fn is_person(
        &self,
        person: &Person,
        phone: Option<String>,
        lid: Option<String>,
    ) -> Result<bool> {
        let user = |jid: Option<&String>| {
            let jid = jid.and_then(|jid| jid.parse::<Jid>().ok());
            jid.map(|jid| jid.user_base().to_owned())
        };
        let digits = person
            .phone
            .as_ref()
            .map(|phone| phone.trim_start_matches('+'));
        let known = user(person.pn_jid.as_ref()).or(digits.map(str::to_owned));
        let this = self.both_names(known, user(person.lid.as_ref())).await?;
        let that = self.both_names(phone, lid).await?;
        Ok(person.is_individual() && !this.differs_from(&that))
    }

    async fn both_names(&self, phone: Option<String>, lid: Option<String>) -> Result<Person> {
        let entry = match (&phone, &lid) {
            (Some(phone), None) => self.get_pn_mapping(phone).await?,
            (None, Some(lid)) => self.lid_row(lid).await?,
            _ => None,
        };
        let (known_phone, known_lid) = entry.map(|entry| (entry.phone_number, entry.lid)).unzip();
        let (phone, lid) = (phone.or(known_phone), lid.or(known_lid));
        Ok(from_users(phone.as_deref(), lid.as_deref()))
    }

    async fn lid_row(&self, lid: &str) -> Result<Option<LidPnMappingEntry>> {
        let row = self.get(KeyKind::LidMapping, &KeyId::name(lid)).await?;
        row.map(|row| codec::from_json("a LID mapping", &row))
            .transpose()
    }
}

#[async_trait]
impl ProtocolStore for KeyBackend {
    async fn get_sender_key_devices(&self, group_jid: &str) -> Result<Vec<(String, bool)>> {
        self.group_devices(group_jid).await
    }

    async fn set_sender_key_status(&self, group_jid: &str, entries: &[(&str, bool)]) -> Result<()> {
        self.set_group_devices(group_jid, entries).await
    }

    async fn clear_sender_key_devices(&self, group_jid: &str) -> Result<()> {
        let batch = KeyBatch::new().delete(KeyKind::SenderKeyDevice, KeyId::name(group_jid));
        self.commit_ordered(batch).await
    }

    async fn delete_sender_key_device_rows(&self, device_jids: &[&str]) -> Result<()> {
        self.forget_devices(device_jids).await
    }

    async fn clear_all_sender_key_devices(&self) -> Result<()> {
        self.keys
            .clear(KeyKind::SenderKeyDevice, &KeyId::single())
            .await
            .map_err(library)?;
        Ok(())
    }

    async fn get_lid_mapping(&self, lid: &str) -> Result<Option<LidPnMappingEntry>> {
        self.lid_row(lid).await
    }

    async fn get_pn_mapping(&self, phone: &str) -> Result<Option<LidPnMappingEntry>> {
        let Some(lid) = self.get(KeyKind::PnMapping, &KeyId::name(phone)).await? else {
            return Ok(None);
        };
        let lid = std::str::from_utf8(&lid)
            .map_err(|e| StoreError::Serialization(Box::new(e)))?
            .to_owned();
        self.lid_row(&lid).await
    }

    async fn put_lid_mapping(&self, entry: &LidPnMappingEntry) -> Result<()> {
        self.put_lid_mappings(std::slice::from_ref(entry)).await
    }

    async fn put_lid_mappings(&self, entries: &[LidPnMappingEntry]) -> Result<()> {
        let _one_at_a_time = self.shared.locks.mappings.lock().await;
        let mut batch = KeyBatch::new();
        let mut news = Vec::new();
        for entry in entries {
            let old = self.lid_row(&entry.lid).await?;
            if old.as_ref().map(|old| &old.phone_number) != Some(&entry.phone_number) {
                news.push(from_users(Some(&entry.phone_number), Some(&entry.lid)));
            }
            if let Some(old) = old.filter(|old| old.phone_number != entry.phone_number) {
                // The number may have gone to another LID meanwhile; only our own link is cut.
                let current = self
                    .get(KeyKind::PnMapping, &KeyId::name(&old.phone_number))
                    .await?;
                if current.as_deref() == Some(entry.lid.as_bytes()) {
                    batch = batch.delete(KeyKind::PnMapping, KeyId::name(&old.phone_number));
                }
            }
            batch = batch
                .put(
                    KeyKind::PnMapping,
                    KeyId::name(&entry.phone_number),
                    Bytes::copy_from_slice(entry.lid.as_bytes()),
                )
                .put(
                    KeyKind::LidMapping,
                    KeyId::name(&entry.lid),
                    codec::to_json(entry)?,
                );
        }
        self.commit_ordered(batch).await?;
        let now = self.clock.now();
        for person in news {
            self.sink.enqueue(event::mapping(person, now));
        }
        Ok(())
    }

    /// Nothing: the library would load every mapping into an unbounded cache at each start (about
    /// 900 bytes per contact and session). Its cache reads through to the rows instead, see
    /// [`super::super::mappings`].
    async fn get_all_lid_mappings(&self) -> Result<Vec<LidPnMappingEntry>> {
        Ok(Vec::new())
    }

    async fn save_base_key(&self, address: &str, message_id: &str, base_key: &[u8]) -> Result<()> {
        let batch = KeyBatch::new().put_expiring(
            KeyKind::BaseKey,
            KeyId::name(address).and_name(message_id),
            base_key.to_vec(),
            self.expires(BASE_KEY_LIFE),
        );
        self.commit_ordered(batch).await
    }

    async fn has_same_base_key(
        &self,
        address: &str,
        message_id: &str,
        current_base_key: &[u8],
    ) -> Result<bool> {
        let id = KeyId::name(address).and_name(message_id);
        let stored = self.get(KeyKind::BaseKey, &id).await?;
        Ok(stored.is_some_and(|stored| stored == current_base_key))
    }

    async fn delete_base_key(&self, address: &str, message_id: &str) -> Result<()> {
        let id = KeyId::name(address).and_name(message_id);
        self.commit_ordered(KeyBatch::new().delete(KeyKind::BaseKey, id))
            .await
    }

    async fn update_device_list(&self, record: DeviceListRecord) -> Result<()> {
        self.update_device_lists(vec![record]).await
    }

    async fn update_device_lists(&self, records: Vec<DeviceListRecord>) -> Result<()> {
        let mut batch = KeyBatch::new();
        for record in records {
            let id = KeyId::name(&record.user);
            batch = batch.put(KeyKind::DeviceList, id, codec::to_json(&record)?);
        }
        self.commit_ordered(batch).await
    }

    async fn get_devices(&self, user: &str) -> Result<Option<DeviceListRecord>> {
        let row = self.get(KeyKind::DeviceList, &KeyId::name(user)).await?;
        row.map(|row| codec::from_json("a device list", &row))
            .transpose()
    }

    async fn delete_devices(&self, user: &str) -> Result<()> {
        self.commit_ordered(KeyBatch::new().delete(KeyKind::DeviceList, KeyId::name(user)))
            .await
    }

    async fn get_group_metadata(&self, group_jid: &str) -> Result<Option<Vec<u8>>> {
        let id = KeyId::name(group_jid);
        let row = self.get(KeyKind::GroupMetadata, &id).await?;
        Ok(row.map(Into::into))
    }

    async fn put_group_metadata(&self, group_jid: &str, blob: &[u8]) -> Result<()> {
        let id = KeyId::name(group_jid);
        self.commit_ordered(KeyBatch::new().put(KeyKind::GroupMetadata, id, blob.to_vec()))
            .await
    }

    async fn delete_group_metadata(&self, group_jid: &str) -> Result<()> {
        let id = KeyId::name(group_jid);
        self.commit_ordered(KeyBatch::new().delete(KeyKind::GroupMetadata, id))
            .await
    }

    async fn get_tc_token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        self.token(jid).await
    }

    async fn put_tc_token(&self, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        self.change_token(jid, |_| Some(entry.clone())).await
    }

    async fn delete_tc_token(&self, jid: &str) -> Result<()> {
        self.remove_token(jid).await
    }

    async fn get_all_tc_token_jids(&self) -> Result<Vec<String>> {
        self.token_jids().await
    }

    /// Zero: rows carry their deadline and one sweeper removes them.
    async fn delete_expired_tc_tokens(&self, _token: i64, _sender: i64) -> Result<u32> {
        Ok(0)
    }

    async fn touch_tc_token_sender_timestamp(&self, jid: &str, at: i64) -> Result<()> {
        self.touch_token(jid, at).await
    }

    async fn store_received_tc_token(&self, jid: &str, token: &[u8], at: i64) -> Result<()> {
        self.receive_token(jid, token, at).await
    }

    /// Keeps a row only for messages the library sends on its own: for the others the outbox is the
    /// record, complete and durable since before the send.
    async fn store_sent_message(
        &self,
        chat_jid: &str,
        message_id: &str,
        payload: &[u8],
    ) -> Result<()> {
        if self.shared.is_held_by_outbox(message_id) {
            return Ok(());
        }
        let batch = KeyBatch::new().put_expiring(
            KeyKind::SentMessage,
            KeyId::name(message_id).and_name(chat_jid),
            payload.to_vec(),
            self.expires(OWN_MESSAGE_LIFE),
        );
        self.commit_ordered(batch).await
    }

    /// Reads without taking: a retry receipt lost with the connection must find the message again, and
    /// the library counts retries itself.
    async fn take_sent_message(&self, chat_jid: &str, message_id: &str) -> Result<Option<Vec<u8>>> {
        let now = self.clock.elapsed();
        if self.shared.retries.withholds(message_id, now) {
            return Ok(None);
        }
        let sent = match chat_jid.parse() {
            Ok(chat) => self.sent_to(&chat, message_id).await?,
            Err(_) => None,
        };
        if let Some(bytes) = sent {
            // The library stores what it took again, after the resend.
            self.shared.held_by_outbox(message_id);
            self.shared.retries.taken(message_id);
            return Ok(Some(bytes));
        }
        let row = self
            .get(
                KeyKind::SentMessage,
                &KeyId::name(message_id).and_name(chat_jid),
            )
            .await?;
        Ok(row.map(Into::into))
    }

    /// Zero: rows carry their deadline and one sweeper removes them.
    async fn delete_expired_sent_messages(&self, _cutoff: i64) -> Result<u32> {
        Ok(0)
    }

    async fn store_pending_inbound(
        &self,
        chat: &str,
        sender: &str,
        id: &str,
        message: &[u8],
    ) -> Result<()> {
        self.put_pending(&[PendingInboundRow {
            chat,
            sender,
            id,
            message,
        }])
        .await
    }

    async fn get_pending_inbound(
        &self,
        chat: &str,
        sender: &str,
        id: &str,
    ) -> Result<Option<Vec<u8>>> {
        self.pending(chat, sender, id).await
    }

    async fn delete_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<()> {
        self.remove_pending(&[PendingInboundKey { chat, sender, id }])
            .await
    }

    /// Zero: abandoned rows are dropped when the session's client is built.
    async fn delete_expired_pending_inbound(&self, _cutoff: i64) -> Result<u32> {
        Ok(0)
    }

    async fn store_pending_inbound_batch(&self, rows: &[PendingInboundRow<'_>]) -> Result<()> {
        self.put_pending(rows).await
    }

    async fn delete_pending_inbound_batch(&self, keys: &[PendingInboundKey<'_>]) -> Result<()> {
        self.remove_pending(keys).await
    }
}
