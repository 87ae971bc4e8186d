use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use wacore::libsignal::protocol::{KeyPair, SenderKeyRecord};

use super::*;
use crate::domain::clock::SystemClock;
use crate::domain::ids::{SessionId, WorkspaceId};
use crate::domain::session::Desired;
use crate::provider::multidevice::facts::{COLLECTIONS, Owed};
use crate::store::keyring::Keks;
use crate::store::memory::MemoryEngine;
use crate::store::{NewSession, Store, StoreOptions};

async fn open(engine: &Arc<MemoryEngine>) -> KeySpace {
    let store = store(engine).await;
    let id = SessionId::new("shop").unwrap();
    let workspace = WorkspaceId::default_workspace();
    let workspace = store.workspace(&workspace).await.unwrap();
    let new = NewSession {
        id: id.clone(),
        display_name: String::new(),
        labels: std::collections::BTreeMap::new(),
        provider: "multidevice".into(),
        desired: Desired::Running,
    };
    // There already the second time.
    let _ = workspace.sessions().create(new).await;
    workspace.session(&id).await.unwrap().keys()
}

async fn store(engine: &Arc<MemoryEngine>) -> Store {
    let options = StoreOptions {
        engine: Arc::clone(engine) as _,
        keks: Keks::ephemeral([7; 32]),
        clock: Arc::new(SystemClock::new()),
        entropy: Entropy::seeded(1),
        release: "test".into(),
        media: None,
    };
    Store::open(options).await.unwrap()
}

fn sender_key(with_private: bool) -> Vec<u8> {
    let pair = KeyPair::generate(&mut ChaCha20Rng::seed_from_u64(6));
    let mut record = SenderKeyRecord::new_empty();
    record
        .add_sender_key_state(
            3,
            1,
            40,
            &[5; 32],
            pair.public_key,
            with_private.then_some(pair.private_key),
        )
        .unwrap();
    record.serialize().unwrap()
}

async fn fill(keys: &KeySpace) -> Device {
    let mut device = Device::new();
    device.next_pre_key_id = 813;
    device.first_unupload_pre_key_id = 813;
    let row = |batch: KeyBatch, kind, name: &str| batch.put(kind, KeyId::name(name), vec![1]);
    let batch = KeyBatch::new()
        .put(
            KeyKind::Device,
            KeyId::single(),
            codec::to_json(&device).unwrap(),
        )
        .put(KeyKind::SenderKey, KeyId::name("ours"), sender_key(true))
        .put(KeyKind::SenderKey, KeyId::name("theirs"), sender_key(false))
        .put(KeyKind::PreKey, KeyId::number(0), vec![1]);
    let batch = row(batch, KeyKind::Session, "ada");
    let batch = row(batch, KeyKind::Identity, "ada");
    let batch = row(batch, KeyKind::SenderKeyDevice, "group");
    let batch = row(batch, KeyKind::DeviceList, "ada");
    let batch = row(batch, KeyKind::GroupMetadata, "group");
    keys.commit(batch, Durability::Durable).await.unwrap();
    device
}

async fn has(keys: &KeySpace, kind: KeyKind, name: &str) -> bool {
    keys.contains(kind, &KeyId::name(name)).await.unwrap()
}

#[tokio::test]
async fn what_encrypts_goes_and_what_decrypts_stays_once_per_generation() {
    let engine = Arc::new(MemoryEngine::new());
    let keys = open(&engine).await;
    let before = fill(&keys).await;
    let entropy = Entropy::seeded(3);
    assert!(!settle(&keys, &entropy).await.unwrap());
    assert!(has(&keys, KeyKind::Session, "ada").await);

    store(&engine).await.take_back().await.unwrap();
    let keys = open(&engine).await;
    assert!(settle(&keys, &entropy).await.unwrap());
    for (kind, name, stays) in [
        (KeyKind::Session, "ada", false),
        (KeyKind::SenderKey, "ours", false),
        (KeyKind::SenderKeyDevice, "group", false),
        (KeyKind::DeviceList, "ada", false),
        (KeyKind::GroupMetadata, "group", false),
        (KeyKind::SenderKey, "theirs", true),
        (KeyKind::Identity, "ada", true),
    ] {
        assert_eq!(has(&keys, kind, name).await, stays, "{kind:?} {name}");
    }
    assert!(
        keys.contains(KeyKind::PreKey, &KeyId::number(0))
            .await
            .unwrap()
    );
    let row = keys
        .get(KeyKind::Device, &KeyId::single())
        .await
        .unwrap()
        .unwrap();
    let device: Device = codec::from_json("device", &row).unwrap();
    assert!(device.next_pre_key_id >= 813 + PREKEYS_PASSED);
    assert_eq!(device.first_unupload_pre_key_id, device.next_pre_key_id);
    assert_eq!(
        device.identity_key.public_key,
        before.identity_key.public_key
    );
    let facts = Facts::new(keys.clone());
    for name in COLLECTIONS {
        assert_eq!(facts.owed(name).await.unwrap(), Some(Owed::Snapshot));
    }

    // What is built from here on is of this generation.
    fill(&keys).await;
    assert!(!settle(&keys, &entropy).await.unwrap());
    assert!(has(&keys, KeyKind::Session, "ada").await);
}

#[tokio::test]
async fn prekey_ids_never_leave_their_24_bits() {
    let engine = Arc::new(MemoryEngine::new());
    let entropy = Entropy::seeded(4);
    fill(&open(&engine).await).await;
    let mut last = 813;
    let mut rounds = 0;
    for _ in 0..60 {
        store(&engine).await.take_back().await.unwrap();
        let keys = open(&engine).await;
        assert!(settle(&keys, &entropy).await.unwrap());
        let row = keys
            .get(KeyKind::Device, &KeyId::single())
            .await
            .unwrap()
            .unwrap();
        let next = codec::from_json::<Device>("device", &row)
            .unwrap()
            .next_pre_key_id;
        assert!((1..=LAST_START).contains(&next), "{next}");
        rounds += u32::from(next < last);
        last = next;
    }
    assert!(rounds > 0);
}
