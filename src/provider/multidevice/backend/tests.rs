//! The key backend against the library's own in-memory backend, and what it promises beyond it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wacore::appstate::hash::HashState;
use wacore::store::Device;
use wacore::store::in_memory::InMemoryBackend;
use wacore::store::traits::{
    AppStateSyncKey, Backend, DeviceInfo, DeviceListRecord, DeviceStore, LidPnMappingEntry,
    MsgSecretEntry, MsgSecretStore, PendingInboundKey, PendingInboundRow, ProtocolStore,
    SignalStore, TcTokenEntry,
};
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use super::*;
use crate::domain::clock::{Entropy, SystemClock};
use crate::domain::ids::{SessionId, WorkspaceId};
use crate::domain::session::Desired;
use crate::provider::multidevice::facts::Facts;
use crate::provider::multidevice::testing::PausedSink;
use crate::store::keyring::Keks;
use crate::store::memory::MemoryEngine;
use crate::store::{NewSession, Store, StoreOptions};

struct Setup {
    ours: KeyBackend,
    sink: Arc<PausedSink>,
    keys: KeySpace,
    watch: Arc<Watch>,
}

async fn setup() -> Setup {
    let clock = Arc::new(SystemClock::new());
    let options = StoreOptions {
        engine: Arc::new(MemoryEngine::new()),
        keks: Keks::ephemeral([7; 32]),
        clock: clock.clone(),
        entropy: Entropy::seeded(1),
        release: "test".into(),
    };
    let store = Store::open(options).await.unwrap();
    let workspace = store
        .workspace(&WorkspaceId::default_workspace())
        .await
        .unwrap();
    let id = SessionId::new("shop").unwrap();
    let new = NewSession {
        id: id.clone(),
        display_name: String::new(),
        labels: std::collections::BTreeMap::new(),
        provider: "multidevice".into(),
        desired: Desired::Running,
    };
    workspace.sessions().create(new).await.unwrap();
    let keys = workspace.session(&id).await.unwrap().keys();
    let watch = Watch::new(clock.clone());
    let sink = Arc::new(PausedSink::default());
    let ours = KeyBackend::new(
        keys.clone(),
        Arc::default(),
        Arc::clone(&watch),
        sink.clone(),
        clock,
    );
    Setup {
        ours,
        sink,
        keys,
        watch,
    }
}

fn key(byte: u8) -> Bytes {
    Bytes::from(vec![byte; 70])
}

fn mac(index: u8, value: u8) -> AppStateMutationMAC {
    AppStateMutationMAC {
        index_mac: vec![index; 32],
        value_mac: vec![value; 32],
    }
}

fn mapping(lid: &str, phone: &str) -> LidPnMappingEntry {
    LidPnMappingEntry {
        lid: lid.into(),
        phone_number: phone.into(),
        created_at: 1,
        updated_at: 2,
        learning_source: "usync".into(),
    }
}

/// One sentence per answer; two backends that behave alike tell the same story.
async fn signal_story(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    let (alice, phone) = ("15551:2@s.whatsapp.net", "15551@s.whatsapp.net");
    told.push(format!("{:?}", backend.load_identity(alice).await.unwrap()));
    told.push(format!(
        "{}",
        backend.has_signal_state_for_user("15551").await.unwrap()
    ));
    backend.put_identity(alice, [3; 32]).await.unwrap();
    told.push(format!("{:?}", backend.load_identity(alice).await.unwrap()));
    told.push(format!(
        "{}",
        backend.has_signal_state_for_user("15551").await.unwrap()
    ));
    told.push(format!(
        "{}",
        backend.has_signal_state_for_user("1555").await.unwrap()
    ));
    backend.delete_identity(alice).await.unwrap();
    let sessions = [(Arc::from(alice), key(1)), (Arc::from(phone), key(2))];
    backend.put_sessions_batch(&sessions).await.unwrap();
    backend.put_session(phone, &key(3)).await.unwrap();
    for address in [alice, phone, "15559@lid"] {
        told.push(format!("{:?}", backend.get_session(address).await.unwrap()));
        told.push(format!("{}", backend.has_session(address).await.unwrap()));
    }
    backend.delete_session(alice).await.unwrap();
    told.push(format!("{:?}", backend.get_session(alice).await.unwrap()));

    told.push(format!("{}", backend.get_max_prekey_id().await.unwrap()));
    let prekeys: Vec<_> = (60..200)
        .map(|id| (id, key(u8::try_from(id).unwrap())))
        .collect();
    backend.store_prekeys_batch(&prekeys, false).await.unwrap();
    backend.store_prekey(5, &key(5), true).await.unwrap();
    told.push(format!("{}", backend.get_max_prekey_id().await.unwrap()));
    backend.remove_prekey(199).await.unwrap();
    backend.remove_prekey(62).await.unwrap();
    backend.remove_prekey(7777).await.unwrap();
    backend.mark_prekeys_uploaded(&[61, 62, 63]).await.unwrap();
    told.push(format!("{}", backend.get_max_prekey_id().await.unwrap()));
    for id in [5, 60, 61, 62, 126, 198, 199] {
        told.push(format!("{id} {:?}", backend.load_prekey(id).await.unwrap()));
    }
    told.push(format!(
        "{:?}",
        backend.load_prekeys_batch(&[198, 1, 5, 62]).await.unwrap()
    ));

    backend.store_signed_prekey(2, &key(2)).await.unwrap();
    backend.store_signed_prekey(9, &key(9)).await.unwrap();
    let mut signed = backend.load_all_signed_prekeys().await.unwrap();
    signed.sort();
    told.push(format!("{signed:?}"));
    backend.remove_signed_prekey(2).await.unwrap();
    told.push(format!(
        "{:?}",
        backend.load_signed_prekey(2).await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend.load_signed_prekey(9).await.unwrap()
    ));

    let group = "120363@g.us:15551@s.whatsapp.net";
    backend
        .put_sender_keys_batch(&[(Arc::from(group), key(4))])
        .await
        .unwrap();
    backend.put_sender_key("other", &key(5)).await.unwrap();
    backend.delete_sender_key("other").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_sender_key(group).await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend.get_sender_key("other").await.unwrap()
    ));
    told
}

async fn sync_story(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    told.push(format!(
        "{:?}",
        backend.get_latest_sync_key_id().await.unwrap()
    ));
    for id in [[1_u8, 2], [3, 4]] {
        let key = AppStateSyncKey {
            key_data: id.to_vec(),
            fingerprint: vec![9],
            timestamp: 7,
        };
        backend.set_sync_key(&id, key).await.unwrap();
    }
    told.push(format!(
        "{:?}",
        backend.get_latest_sync_key_id().await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend
            .get_sync_key(&[1, 2])
            .await
            .unwrap()
            .map(|k| k.key_data)
    ));
    told.push(format!(
        "{}",
        backend.get_sync_key(&[8]).await.unwrap().is_none()
    ));

    told.push(format!(
        "{:?}",
        backend.get_version("regular").await.unwrap().version
    ));
    let mut state = HashState {
        version: 4,
        ..HashState::default()
    };
    state.hash[3] = 8;
    backend.set_version("regular", state).await.unwrap();
    let stored = backend.get_version("regular").await.unwrap();
    told.push(format!("{} {:?}", stored.version, &stored.hash[..5]));

    let macs: Vec<_> = (0..40).map(|n| mac(n, n + 1)).collect();
    backend
        .put_mutation_macs("regular", 1, &macs)
        .await
        .unwrap();
    backend
        .put_mutation_macs("regular_low", 1, &macs[..2])
        .await
        .unwrap();
    backend
        .put_mutation_macs("regular", 2, &[mac(3, 99)])
        .await
        .unwrap();
    backend
        .delete_mutation_macs("regular", &[vec![5; 32], vec![77; 32]])
        .await
        .unwrap();
    for index in [3_u8, 4, 5, 20] {
        let mac = backend
            .get_mutation_mac("regular", &[index; 32])
            .await
            .unwrap();
        told.push(format!("{index} {:?}", mac.map(|m| m[0])));
    }
    let many = backend
        .get_mutation_macs("regular", &[[3; 32], [5; 32], [20; 32]])
        .await
        .unwrap();
    let mut many: Vec<_> = many.into_iter().map(|(i, v)| (i[0], v[0])).collect();
    many.sort_unstable();
    told.push(format!("{many:?}"));
    backend.clear_mutation_macs("regular").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_mutation_mac("regular", &[3; 32]).await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend
            .get_mutation_mac("regular_low", &[1; 32])
            .await
            .unwrap()
    ));
    told
}

async fn protocol_story(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    backend
        .set_sender_key_status("g1", &[("a", true), ("b", false)])
        .await
        .unwrap();
    backend
        .set_sender_key_status("g1", &[("b", true), ("c", false)])
        .await
        .unwrap();
    backend
        .set_sender_key_status("g2", &[("a", true)])
        .await
        .unwrap();
    backend
        .delete_sender_key_device_rows(&["a", "z"])
        .await
        .unwrap();
    for group in ["g1", "g2", "g3"] {
        let mut devices = backend.get_sender_key_devices(group).await.unwrap();
        devices.sort();
        told.push(format!("{devices:?}"));
    }
    backend.clear_sender_key_devices("g1").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_sender_key_devices("g1").await.unwrap()
    ));
    backend
        .set_sender_key_status("g2", &[("d", true)])
        .await
        .unwrap();
    backend.clear_all_sender_key_devices().await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_sender_key_devices("g2").await.unwrap()
    ));

    backend
        .put_lid_mapping(&mapping("77", "15551"))
        .await
        .unwrap();
    backend
        .put_lid_mappings(&[mapping("88", "15552"), mapping("77", "15553")])
        .await
        .unwrap();
    for phone in ["15551", "15552", "15553"] {
        let row = backend.get_pn_mapping(phone).await.unwrap();
        told.push(format!("{phone} {:?}", row.map(|row| row.lid)));
    }
    let row = backend.get_lid_mapping("77").await.unwrap();
    told.push(format!("{:?}", row.map(|row| row.phone_number)));

    backend.save_base_key("addr", "M1", &[1, 2]).await.unwrap();
    told.push(format!(
        "{}",
        backend
            .has_same_base_key("addr", "M1", &[1, 2])
            .await
            .unwrap()
    ));
    told.push(format!(
        "{}",
        backend.has_same_base_key("addr", "M1", &[2]).await.unwrap()
    ));
    backend.delete_base_key("addr", "M1").await.unwrap();
    told.push(format!(
        "{}",
        backend
            .has_same_base_key("addr", "M1", &[1, 2])
            .await
            .unwrap()
    ));

    let list = |user: &str, devices: Vec<DeviceInfo>| DeviceListRecord {
        user: user.into(),
        devices,
        timestamp: 5,
        phash: Some("2:x".into()),
        raw_id: Some(3),
    };
    let devices = vec![DeviceInfo::new(0, None), DeviceInfo::new(3, Some(1))];
    backend
        .update_device_lists(vec![list("u1", devices), list("u2", Vec::new())])
        .await
        .unwrap();
    told.push(format!("{:?}", backend.get_devices("u1").await.unwrap()));
    backend.delete_devices("u2").await.unwrap();
    told.push(format!("{:?}", backend.get_devices("u2").await.unwrap()));

    backend.put_group_metadata("g1", b"blob").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_group_metadata("g1").await.unwrap()
    ));
    backend.delete_group_metadata("g1").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_group_metadata("g1").await.unwrap()
    ));
    told
}

async fn token_story(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    backend
        .touch_tc_token_sender_timestamp("a@lid", 50)
        .await
        .unwrap();
    backend
        .touch_tc_token_sender_timestamp("a@lid", 40)
        .await
        .unwrap();
    backend
        .store_received_tc_token("a@lid", &[1], 10)
        .await
        .unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("a@lid").await.unwrap()
    ));
    backend
        .store_received_tc_token("a@lid", &[2], 5)
        .await
        .unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("a@lid").await.unwrap()
    ));
    backend
        .store_received_tc_token("a@lid", &[3], 20)
        .await
        .unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("a@lid").await.unwrap()
    ));
    let entry = TcTokenEntry {
        token: vec![9],
        token_timestamp: 1,
        sender_timestamp: None,
    };
    backend.put_tc_token("b@lid", &entry).await.unwrap();
    let mut jids = backend.get_all_tc_token_jids().await.unwrap();
    jids.sort();
    told.push(format!("{jids:?}"));
    backend.delete_tc_token("b@lid").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("b@lid").await.unwrap()
    ));
    told
}

async fn message_story(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    let row = |id: &'static str, message: &'static [u8]| PendingInboundRow {
        chat: "c",
        sender: "s",
        id,
        message,
    };
    backend
        .store_pending_inbound_batch(&[row("1", b"one"), row("2", b"two")])
        .await
        .unwrap();
    backend
        .store_pending_inbound("c", "other", "1", b"elsewhere")
        .await
        .unwrap();
    for (sender, id) in [("s", "1"), ("s", "2"), ("other", "1"), ("s", "3")] {
        told.push(format!(
            "{:?}",
            backend.get_pending_inbound("c", sender, id).await.unwrap()
        ));
    }
    let gone = |id: &'static str| PendingInboundKey {
        chat: "c",
        sender: "s",
        id,
    };
    backend
        .delete_pending_inbound_batch(&[gone("1"), gone("9")])
        .await
        .unwrap();
    backend.delete_pending_inbound("c", "s", "2").await.unwrap();
    for (sender, id) in [("s", "1"), ("s", "2"), ("other", "1")] {
        told.push(format!(
            "{:?}",
            backend.get_pending_inbound("c", sender, id).await.unwrap()
        ));
    }

    let entry = |id: &str, secret: u8, expires_at, message_ts| MsgSecretEntry {
        chat: "c".into(),
        sender: "s".into(),
        msg_id: id.into(),
        secret: [secret; 32],
        expires_at,
        message_ts,
    };
    let far = 4_000_000_000;
    let batch = vec![
        entry("1", 1, far, 10),
        entry("1", 2, far + 5, 0),
        entry("2", 3, 0, 0),
    ];
    told.push(format!("{}", backend.put_msg_secrets(batch).await.unwrap()));
    backend
        .put_msg_secrets(vec![entry("1", 4, far - 9, 30)])
        .await
        .unwrap();
    backend
        .put_msg_secret("c", "s", "3", &[6; 32])
        .await
        .unwrap();
    for id in ["1", "2", "3", "4"] {
        let secret = backend.get_msg_secret_with_ts("c", "s", id).await.unwrap();
        told.push(format!("{:?}", secret.map(|(secret, ts)| (secret[0], ts))));
        told.push(format!(
            "{}",
            backend
                .get_msg_secret("c", "s", id)
                .await
                .unwrap()
                .is_some()
        ));
    }
    told
}

#[tokio::test]
async fn it_behaves_as_the_librarys_own_backend() {
    let ours = setup().await.ours;
    let theirs = InMemoryBackend::new();
    assert_eq!(signal_story(&ours).await, signal_story(&theirs).await);
    assert_eq!(sync_story(&ours).await, sync_story(&theirs).await);
    assert_eq!(protocol_story(&ours).await, protocol_story(&theirs).await);
    assert_eq!(token_story(&ours).await, token_story(&theirs).await);
    assert_eq!(message_story(&ours).await, message_story(&theirs).await);
}

#[tokio::test]
async fn prekeys_are_packed_and_a_consumed_one_is_not_marked_back_to_life() {
    let Setup { ours, keys, .. } = setup().await;
    let prekeys: Vec<_> = (1..=812).map(|id| (id, key(1))).collect();
    ours.store_prekeys_batch(&prekeys, false).await.unwrap();
    let rows = keys
        .list_all(KeyKind::PreKey, &KeyId::single())
        .await
        .unwrap();
    assert_eq!(rows.len(), 13, "812 keys at 63 per row");
    ours.remove_prekey(10).await.unwrap();
    ours.mark_prekeys_uploaded(&[9, 10, 11]).await.unwrap();
    assert_eq!(ours.uploaded_prekeys(&[9, 10, 11, 12]).await, [9, 11]);
    assert_eq!(ours.load_prekey(10).await.unwrap(), None);
}

#[tokio::test]
async fn expiry_is_the_sweepers_business() {
    let ours = setup().await.ours;
    assert_eq!(ours.delete_expired_msg_secrets(i64::MAX).await.unwrap(), 0);
    assert_eq!(
        ours.delete_expired_pending_inbound(i64::MAX).await.unwrap(),
        0
    );
    assert_eq!(
        ours.delete_expired_sent_messages(i64::MAX).await.unwrap(),
        0
    );
    assert_eq!(
        ours.delete_expired_tc_tokens(i64::MAX, i64::MAX)
            .await
            .unwrap(),
        0
    );
    ours.put_lid_mapping(&mapping("77", "15551")).await.unwrap();
    assert!(ours.get_all_lid_mappings().await.unwrap().is_empty());
}

#[tokio::test]
async fn retries_are_answered_from_the_outbox_as_often_as_asked() {
    let Setup { ours, sink, .. } = setup().await;
    sink.sent
        .lock()
        .unwrap()
        .insert("A".into(), b"outbox".to_vec());
    ours.shared.held_by_outbox("A");
    ours.store_sent_message("c", "A", b"copy").await.unwrap();
    ours.store_sent_message("c", "B", b"own").await.unwrap();
    for _ in 0..2 {
        let taken = ours.take_sent_message("c", "A").await.unwrap();
        assert_eq!(taken.as_deref(), Some(&b"outbox"[..]));
        let taken = ours.take_sent_message("c", "B").await.unwrap();
        assert_eq!(taken.as_deref(), Some(&b"own"[..]));
    }
    sink.sent.lock().unwrap().clear();
    assert_eq!(
        ours.take_sent_message("c", "A").await.unwrap(),
        None,
        "no copy was kept"
    );
}

#[tokio::test]
async fn a_learned_mapping_is_told_once() {
    let Setup { ours, sink, .. } = setup().await;
    for _ in 0..2 {
        ours.put_lid_mapping(&mapping("77", "15551")).await.unwrap();
    }
    assert_eq!(sink.arrivals.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_failure_no_signal_state_is_written() {
    let Setup { ours, watch, .. } = setup().await;
    ours.put_session("a@lid", &key(1)).await.unwrap();
    watch.poison("disk full");
    assert!(ours.put_session("a@lid", &key(2)).await.is_err());
    assert!(ours.put_sender_key("g", &key(2)).await.is_err());
    assert!(
        ours.store_pending_inbound("c", "s", "1", b"m")
            .await
            .is_err()
    );
    assert_eq!(ours.get_session("a@lid").await.unwrap(), Some(key(1)));
}

#[tokio::test]
async fn the_first_save_with_an_account_marks_the_link_as_unconfirmed() {
    let Setup { ours, keys, .. } = setup().await;
    let facts = Facts::new(keys.clone());
    assert!(!ours.exists().await.unwrap());
    ours.create().await.unwrap();
    let mut device = ours.load().await.unwrap().expect("created");
    assert!(!ours.is_registered() && !facts.is_unconfirmed().await.unwrap());
    device.pn = Some("15551:3@s.whatsapp.net".parse().unwrap());
    ours.save(&device).await.unwrap();
    assert!(ours.is_registered());
    assert!(facts.is_unconfirmed().await.unwrap() && facts.is_initial_sync_owed().await.unwrap());
    facts.confirm().await.unwrap();
    device.push_name = "Shop".into();
    ours.save(&device).await.unwrap();
    assert!(
        !facts.is_unconfirmed().await.unwrap(),
        "later saves do not unconfirm"
    );
    let loaded: Device = ours.load().await.unwrap().unwrap();
    assert_eq!(loaded.push_name, "Shop");
    assert_eq!(loaded.registration_id, device.registration_id);
    keys.wipe().await.unwrap();
    assert!(ours.load().await.unwrap().is_none() && !ours.is_registered());
}

#[tokio::test]
async fn abandoned_pending_rows_are_dropped_and_fresh_ones_kept() {
    let Setup { ours, keys, .. } = setup().await;
    ours.store_pending_inbound("c", "s", "fresh", b"m")
        .await
        .unwrap();
    let old = KeyId::name("c").and_name("s").and_name("old");
    let mut value = (ours.clock.now().0
        - u64::try_from(Duration::from_hours(8 * 24).as_millis()).unwrap())
    .to_be_bytes()
    .to_vec();
    value.extend_from_slice(b"m");
    keys.put(KeyKind::PendingInbound, old, value, Durability::Ordered)
        .await
        .unwrap();
    ours.drop_abandoned().await.unwrap();
    assert!(
        ours.get_pending_inbound("c", "s", "old")
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        ours.get_pending_inbound("c", "s", "fresh")
            .await
            .unwrap()
            .is_some()
    );
}
