//! The key backend against the library's own in-memory backend, and what it promises beyond it.

mod stories;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use wacore::appstate::hash::HashState;
use wacore::store::Device;
use wacore::store::in_memory::InMemoryBackend;
use wacore::store::traits::{Backend, DeviceStore, MsgSecretStore, ProtocolStore, SignalStore};

use self::stories::{key, mac, mapping};
use super::*;
use crate::domain::clock::{Entropy, SystemClock};
use crate::domain::ids::{SessionId, WorkspaceId};
use crate::domain::person::Person;
use crate::domain::session::Desired;
use crate::provider::contract::SentMessage;
use crate::provider::multidevice::convert::person::from_users;
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
        media: None,
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

#[tokio::test]
async fn a_forgotten_collection_is_read_anew() {
    let setup = setup().await;
    let ours: &dyn Backend = &setup.ours;
    let state = HashState {
        version: 7,
        ..HashState::default()
    };
    ours.set_version("regular", state.clone()).await.unwrap();
    ours.set_version("regular_low", state).await.unwrap();
    for name in ["regular", "regular_low"] {
        ours.put_mutation_macs(name, 7, &[mac(1, 1), mac(2, 2)])
            .await
            .unwrap();
    }
    setup.ours.forget_collection("regular").await.unwrap();
    assert_eq!(ours.get_version("regular").await.unwrap().version, 0);
    assert_eq!(
        ours.get_mutation_mac("regular", &[1; 32]).await.unwrap(),
        None
    );
    assert_eq!(ours.get_version("regular_low").await.unwrap().version, 7);
    assert!(
        ours.get_mutation_mac("regular_low", &[2; 32])
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn it_behaves_as_the_librarys_own_backend() {
    let ours = setup().await.ours;
    let theirs = InMemoryBackend::new();
    assert_eq!(stories::signal(&ours).await, stories::signal(&theirs).await);
    assert_eq!(stories::sync(&ours).await, stories::sync(&theirs).await);
    assert_eq!(
        stories::protocol(&ours).await,
        stories::protocol(&theirs).await
    );
    assert_eq!(stories::token(&ours).await, stories::token(&theirs).await);
    assert_eq!(
        stories::message(&ours).await,
        stories::message(&theirs).await
    );
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
    let to = "15551@s.whatsapp.net";
    let sent = SentMessage {
        to: from_users(Some("15551"), None),
        encoded: b"outbox".to_vec(),
    };
    sink.sent.lock().unwrap().insert("A".into(), sent);
    ours.shared.held_by_outbox("A");
    ours.store_sent_message(to, "A", b"copy").await.unwrap();
    ours.store_sent_message(to, "B", b"own").await.unwrap();
    for _ in 0..2 {
        let taken = ours.take_sent_message(to, "A").await.unwrap();
        assert_eq!(taken.as_deref(), Some(&b"outbox"[..]));
        let taken = ours.take_sent_message(to, "B").await.unwrap();
        assert_eq!(taken.as_deref(), Some(&b"own"[..]));
    }
    sink.sent.lock().unwrap().clear();
    assert_eq!(
        ours.take_sent_message(to, "A").await.unwrap(),
        None,
        "no copy was kept"
    );
}

#[tokio::test]
async fn a_sent_message_is_for_those_it_was_sent_to_whoever_names_its_id() {
    let Setup { ours, sink, .. } = setup().await;
    ours.put_lid_mapping(&mapping("77", "15551")).await.unwrap();
    ours.put_lid_mapping(&mapping("88", "15552")).await.unwrap();
    let keep = |id: &str, to: Person| {
        let encoded = id.as_bytes().to_vec();
        let sent = SentMessage { to, encoded };
        sink.sent.lock().unwrap().insert(id.into(), sent);
    };
    keep("P", from_users(Some("15551"), None));
    keep("L", from_users(None, Some("77")));
    keep("U", from_users(Some("15559"), None));
    let group = Person {
        provider_id: Some("12036302@g.us".into()),
        ..Person::default()
    };
    keep("G", group);
    ours.store_sent_message("15551@s.whatsapp.net", "O", b"own")
        .await
        .unwrap();
    let gets = async |chat: &str, id: &str| {
        let taken = ours.take_sent_message(chat, id).await.unwrap();
        taken.is_some()
    };
    for id in ["P", "L"] {
        assert!(gets("15551@s.whatsapp.net", id).await, "{id}");
        assert!(gets("77@lid", id).await, "{id}");
        assert!(!gets("15552@s.whatsapp.net", id).await, "{id}");
        assert!(!gets("88@lid", id).await, "{id}");
        assert!(!gets("99@lid", id).await, "{id}: a LID nobody knows");
        assert!(!gets("12036302@g.us", id).await, "{id}");
    }
    assert!(gets("66@lid", "U").await, "may be the same person");
    assert!(!gets("88@lid", "U").await, "is certainly another");
    assert!(gets("12036302@g.us", "G").await);
    assert!(!gets("12036303@g.us", "G").await);
    assert!(!gets("15551@s.whatsapp.net", "G").await);
    assert!(gets("15551@s.whatsapp.net", "O").await);
    assert!(!gets("15552@s.whatsapp.net", "O").await);
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
