use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::store::engine::{Commit, Urgency};

const KIND: KeyKind = KeyKind::Session;

fn id(name: &str) -> KeyId {
    KeyId::name(name)
}

async fn space() -> (World, KeySpace) {
    let world = World::new().await;
    let keys = world.session("line").await.keys();
    (world, keys)
}

#[tokio::test]
async fn every_durability_is_visible_at_once() {
    let (_world, keys) = space().await;
    for durability in [
        Durability::Durable,
        Durability::Ordered,
        Durability::Deferred,
    ] {
        let name = format!("{durability:?}");
        keys.put(KIND, id(&name), "1", durability).await.unwrap();
        assert_eq!(keys.get(KIND, &id(&name)).await.unwrap().unwrap(), "1");
        keys.put(KIND, id(&name), "2", durability).await.unwrap();
        assert_eq!(keys.get(KIND, &id(&name)).await.unwrap().unwrap(), "2");
        keys.delete(KIND, id(&name), durability).await.unwrap();
        assert_eq!(keys.get(KIND, &id(&name)).await.unwrap(), None);
        keys.put(KIND, id(&name), "3", durability).await.unwrap();
    }
    let ids = ["Durable", "none", "Deferred", "Ordered"].map(id);
    let values = keys.get_many(KIND, &ids).await.unwrap();
    let three = Some(Bytes::from_static(b"3"));
    assert_eq!(values, [three.clone(), None, three.clone(), three]);
}

#[tokio::test]
async fn deferred_rows_wait_for_the_next_write_and_pairs_never_reach_the_engine() {
    let (world, keys) = space().await;
    let writes = || world.engine.health().durable;
    let before = writes();
    for n in 0..50 {
        let name = format!("p{n}");
        keys.put(
            KeyKind::PendingInbound,
            id(&name),
            "m",
            Durability::Deferred,
        )
        .await
        .unwrap();
        keys.delete(KeyKind::PendingInbound, id(&name), Durability::Deferred)
            .await
            .unwrap();
    }
    keys.put(
        KeyKind::PendingInbound,
        id("kept"),
        "m",
        Durability::Deferred,
    )
    .await
    .unwrap();
    assert_eq!(writes(), before, "nothing was written yet");
    keys.put(KIND, id("s"), "session", Durability::Durable)
        .await
        .unwrap();
    assert_eq!(
        writes(),
        before + 2,
        "what was deferred, and the write it waited for"
    );
    let world = world.restarted().await;
    let keys = world.session("line").await.keys();
    assert!(
        keys.contains(KeyKind::PendingInbound, &id("kept"))
            .await
            .unwrap()
    );
    assert!(
        !keys
            .contains(KeyKind::PendingInbound, &id("p1"))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_deferred_row_that_a_crash_takes_is_gone_with_everything_after_it() {
    let (world, keys) = space().await;
    keys.put(KIND, id("a"), "durable", Durability::Durable)
        .await
        .unwrap();
    keys.put(KIND, id("a"), "deferred", Durability::Deferred)
        .await
        .unwrap();
    let world = world.restarted().await;
    let keys = world.session("line").await.keys();
    assert_eq!(keys.get(KIND, &id("a")).await.unwrap().unwrap(), "durable");
}

#[tokio::test]
async fn deferred_rows_are_bounded() {
    let (world, keys) = space().await;
    let before = world.engine.health().durable;
    for n in 0..300 {
        let name = format!("{n}");
        keys.put(KIND, id(&name), "v", Durability::Deferred)
            .await
            .unwrap();
    }
    assert_eq!(world.engine.health().durable, before + 1);
    keys.put(KIND, id("big"), vec![0; 2 << 20], Durability::Deferred)
        .await
        .unwrap();
    assert_eq!(world.engine.health().durable, before + 2);
}

#[tokio::test]
async fn an_awaited_write_overrides_what_was_deferred_before_it() {
    let (_world, keys) = space().await;
    keys.put(KIND, id("a"), "old", Durability::Deferred)
        .await
        .unwrap();
    keys.put(KIND, id("b"), "old", Durability::Deferred)
        .await
        .unwrap();
    keys.delete(KIND, id("c"), Durability::Deferred)
        .await
        .unwrap();
    let batch = KeyBatch::new()
        .put(KIND, id("a"), "new")
        .delete(KIND, id("b"))
        .put(KIND, id("c"), "new")
        .put(KIND, id("d"), "first")
        .put(KIND, id("d"), "last");
    keys.commit(batch, Durability::Durable).await.unwrap();
    for (name, value) in [
        ("a", Some("new")),
        ("b", None),
        ("c", Some("new")),
        ("d", Some("last")),
    ] {
        let read = keys.get(KIND, &id(name)).await.unwrap();
        assert_eq!(read, value.map(Bytes::from), "{name}");
    }
}

#[tokio::test]
async fn updates_are_atomic_and_see_deferred_rows() {
    let (_world, keys) = space().await;
    keys.put(KIND, id("n"), "100", Durability::Deferred)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let keys = keys.clone();
            tokio::spawn(async move {
                let add = |current: Option<Bytes>| {
                    let text = String::from_utf8(current.unwrap().to_vec()).unwrap();
                    let next = text.parse::<u32>().unwrap() + 1;
                    (Some(next.to_string().into()), next)
                };
                keys.update(KIND, id("n"), add).await.unwrap()
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (101..=120).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_of_many_takers_gets_the_row() {
    let (_world, keys) = space().await;
    keys.put(KIND, id("m"), "once", Durability::Ordered)
        .await
        .unwrap();
    let mut got = 0;
    for task in (0..8).map(|_| {
        let keys = keys.clone();
        tokio::spawn(async move { keys.take(KIND, id("m")).await.unwrap() })
    }) {
        got += usize::from(task.await.unwrap().is_some());
    }
    assert_eq!(got, 1);
}

#[tokio::test]
async fn listings_stay_below_their_prefix_and_give_numbers_back() {
    let (_world, keys) = space().await;
    for device in [0_u16, 1, 77] {
        let address = id("alice@s.whatsapp.net").and_device(device);
        keys.put(KIND, address, vec![1], Durability::Deferred)
            .await
            .unwrap();
    }
    keys.put(
        KIND,
        id("alice@s.whatsapp.netx").and_device(5),
        "b",
        Durability::Durable,
    )
    .await
    .unwrap();
    let entries = keys
        .list(KIND, &id("alice@s.whatsapp.net"), None, 100)
        .await
        .unwrap();
    let devices: Vec<_> = entries.iter().map(|entry| entry.id.last_device()).collect();
    assert_eq!(devices, [Some(0), Some(1), Some(77)]);
    let batch = KeyBatch::new().delete_raw(KIND, entries[1].id.clone());
    keys.commit(batch, Durability::Durable).await.unwrap();
    assert_eq!(
        keys.list_all(KIND, &id("alice@s.whatsapp.net"))
            .await
            .unwrap()
            .len(),
        2
    );

    for number in [300, 2, 70_000] {
        keys.put(
            KeyKind::SignedPreKey,
            KeyId::number(number),
            "k",
            Durability::Ordered,
        )
        .await
        .unwrap();
    }
    let all = keys
        .list_all(KeyKind::SignedPreKey, &KeyId::single())
        .await
        .unwrap();
    let numbers: Vec<_> = all
        .iter()
        .filter_map(|entry| entry.id.last_number())
        .collect();
    assert_eq!(numbers, [2, 300, 70_000]);
    let last = keys
        .last(KeyKind::SignedPreKey, &KeyId::single())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(last.id.last_number(), Some(70_000));
    assert_eq!(
        keys.clear(KeyKind::SignedPreKey, &KeyId::single())
            .await
            .unwrap(),
        3
    );
    assert!(
        keys.last(KeyKind::SignedPreKey, &KeyId::single())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn names_of_different_kinds_and_sessions_do_not_meet() {
    let (world, keys) = space().await;
    keys.put(KeyKind::Identity, id("a"), "identity", Durability::Durable)
        .await
        .unwrap();
    assert_eq!(keys.get(KeyKind::Session, &id("a")).await.unwrap(), None);
    let other = world.session("other").await.keys();
    assert_eq!(other.get(KeyKind::Identity, &id("a")).await.unwrap(), None);
}

#[tokio::test]
async fn wiping_leaves_nothing_not_even_what_was_deferred() {
    let (world, keys) = space().await;
    keys.put(KeyKind::Device, KeyId::single(), "d", Durability::Durable)
        .await
        .unwrap();
    keys.put(KIND, id("a"), "1", Durability::Ordered)
        .await
        .unwrap();
    keys.put(KIND, id("b"), "1", Durability::Deferred)
        .await
        .unwrap();
    keys.wipe().await.unwrap();
    keys.put(KeyKind::Meta, KeyId::single(), "after", Durability::Durable)
        .await
        .unwrap();
    let world = world.restarted().await;
    let keys = world.session("line").await.keys();
    assert!(
        !keys
            .contains(KeyKind::Device, &KeyId::single())
            .await
            .unwrap()
    );
    assert!(
        keys.list_all(KIND, &KeyId::single())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        keys.contains(KeyKind::Meta, &KeyId::single())
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn expiring_rows_end_after_their_last_deadline() {
    let (world, keys) = space().await;
    let hour = Duration::from_hours(1);
    let put = |name: &str, at| {
        let batch = KeyBatch::new().put_expiring(KeyKind::MessageSecret, id(name), "s", at);
        keys.commit(batch, Durability::Durable)
    };
    put("short", NOW.plus(hour)).await.unwrap();
    put("renewed", NOW.plus(hour)).await.unwrap();
    put("renewed", NOW.plus(hour * 100)).await.unwrap();
    put("kept", NOW.plus(hour)).await.unwrap();
    keys.put(
        KeyKind::MessageSecret,
        id("kept"),
        "for good",
        Durability::Durable,
    )
    .await
    .unwrap();
    assert_eq!(
        keys.get(KeyKind::MessageSecret, &id("short"))
            .await
            .unwrap()
            .unwrap(),
        "s"
    );

    assert_eq!(world.store.sweep().await.unwrap(), Swept::default());
    world.clock.advance(hour * 3);
    let swept = world.store.sweep().await.unwrap();
    assert_eq!(
        swept,
        Swept {
            expired: 1,
            renewed: 2,
            ..Swept::default()
        }
    );
    let there = |name: &'static str| {
        let keys = keys.clone();
        async move {
            keys.contains(KeyKind::MessageSecret, &id(name))
                .await
                .unwrap()
        }
    };
    assert!(!there("short").await && there("renewed").await && there("kept").await);
    world.clock.advance(hour * 200);
    assert_eq!(world.store.sweep().await.unwrap().expired, 1);
    assert!(!there("renewed").await && there("kept").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_rows_stay_visible_while_they_are_written() {
    let (engine, gate) = super::writer::gated();
    let world = World::on(engine).await;
    let keys = world.session("line").await.keys();
    keys.put(
        KeyKind::PendingInbound,
        id("p"),
        "row",
        Durability::Deferred,
    )
    .await
    .unwrap();
    gate.close_after(0);
    let durable = tokio::spawn({
        let keys = keys.clone();
        async move { keys.put(KIND, id("s"), "v", Durability::Durable).await }
    });
    gate.stands().await;
    let row = keys.get(KeyKind::PendingInbound, &id("p")).await.unwrap();
    assert_eq!(row.as_deref(), Some(&b"row"[..]));
    gate.open();
    durable.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_rows_outlive_the_write_they_were_to_go_with() {
    let (engine, gate) = super::writer::gated();
    let world = World::on(engine).await;
    let keys = world.session("line").await.keys();
    gate.close_after(0);
    let blocking = tokio::spawn({
        let keys = keys.clone();
        async move { keys.put(KIND, id("b"), "v", Durability::Durable).await }
    });
    gate.stands().await;
    keys.put(KIND, id("d"), "row", Durability::Deferred)
        .await
        .unwrap();
    // All the room the queue has, so that the next write has to wait for its place.
    let large = Commit {
        put: vec![("large".into(), vec![0; 70 << 20].into())],
        ..Commit::default()
    };
    let large = world.engine.submit(large, Urgency::Lazy).await.unwrap();
    let mut waiting = Box::pin(keys.put(KIND, id("w"), "v", Durability::Durable));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(waiting);
    gate.open();
    blocking.await.unwrap().unwrap();
    large.await.unwrap_err();
    keys.sync().await.unwrap();
    let world = world.restarted().await;
    let keys = world.session("line").await.keys();
    assert!(keys.contains(KIND, &id("d")).await.unwrap());
}

#[tokio::test]
async fn a_batch_that_no_commit_can_hold_is_refused_at_once() {
    let (_world, keys) = space().await;
    let batch = (0..5_000).fold(KeyBatch::new(), |batch, n: u32| {
        batch.put(KIND, KeyId::number(n), "v")
    });
    for durability in [
        Durability::Durable,
        Durability::Ordered,
        Durability::Deferred,
    ] {
        let refused = keys.commit(batch.clone(), durability).await;
        assert!(matches!(refused, Err(StoreError::TooLarge(_))));
    }
    for part in batch.into_parts(1_000) {
        keys.commit(part, Durability::Ordered).await.unwrap();
    }
    let last = keys.get(KIND, &KeyId::number(4_999)).await.unwrap();
    assert!(last.is_some());
    let many = (0..4_000).fold(KeyBatch::new(), |batch, n: u32| {
        batch.delete(KIND, KeyId::number(n))
    });
    keys.commit(many, Durability::Deferred).await.unwrap();
    keys.sync().await.unwrap();
    assert_eq!(
        keys.list_all(KIND, &KeyId::single()).await.unwrap().len(),
        1_000
    );
}
