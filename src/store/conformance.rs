//! What every engine must do: one suite, run against each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::engine::{
    Append, Commit, CommitError, Engine, EngineError, Expectation, Fence, RowError, Scan, Urgency,
    Version,
};

mod model;
mod snapshots;

pub(super) use model::behaves_like_the_model;
pub(super) use snapshots::{a_snapshot_holds_everything, a_snapshot_shows_one_moment};

/// Runs the suite on engines made by `$make`, which returns an engine and whatever must outlive it.
macro_rules! suite {
    ($make:expr) => {
        mod conforms {
            use super::*;

            macro_rules! case {
                ($name:ident) => {
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        let make = $make;
                        let (engine, _keep) = make();
                        conformance::$name(engine).await;
                    }
                };
            }

            case!(reads_what_was_written);
            case!(expectations_decide);
            case!(a_refused_commit_changes_nothing);
            case!(the_stale_owner_is_fenced_out);
            case!(deletes_come_before_puts_and_updates);
            case!(streams_number_their_entries);
            case!(functions_that_fail_or_panic_refuse_the_commit);
            case!(scans_page_through_in_both_directions);
            case!(large_values_are_one_value);
            case!(too_large_is_refused);
            case!(lazy_writes_are_visible_at_once);
            case!(lazy_writes_become_durable_with_the_next_awaited_one);
            case!(order_is_the_order_of_submission);
            case!(only_one_of_many_rivals_wins);
            case!(counters_lose_nothing_under_concurrency);
            case!(watchers_learn_of_every_revision);
            case!(a_closed_engine_says_so);
            case!(behaves_like_the_model);
            case!(a_snapshot_holds_everything);
            case!(a_snapshot_shows_one_moment);
        }
    };
}
pub(super) use suite;

/// Waits for a condition, not for a time.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(90), async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the condition never came true");
}

type E = Arc<dyn Engine>;

fn put(key: &str, value: &str) -> Commit {
    Commit {
        put: vec![(key.to_owned().into(), value.to_owned().into())],
        ..Commit::default()
    }
}

fn expecting(key: &str, expectation: Expectation, mut commit: Commit) -> Commit {
    commit.expect.push((key.to_owned().into(), expectation));
    commit
}

async fn read(engine: &E, key: &str) -> Option<String> {
    let value = engine.get(key.as_bytes()).await.unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn entry(stream: &str, prefix: &'static str) -> Append {
    Append {
        stream: stream.to_owned().into(),
        rows: Box::new(move |revision| {
            let key = format!("{prefix}/{revision:03}");
            Ok(vec![(key.into(), revision.to_string().into())])
        }),
    }
}

pub(super) async fn reads_what_was_written(engine: E) {
    assert_eq!(engine.get(b"none").await.unwrap(), None);
    engine.commit(put("a", "1")).await.unwrap();
    engine.commit(put("b", "")).await.unwrap();
    assert_eq!(read(&engine, "a").await.as_deref(), Some("1"));
    assert_eq!(read(&engine, "b").await.as_deref(), Some(""));
    let keys: Vec<Bytes> = ["b", "none", "a"].map(|key| key.to_owned().into()).to_vec();
    let values = engine.get_many(&keys).await.unwrap();
    assert_eq!(values, vec![Some("".into()), None, Some("1".into())]);
    let delete = vec![Bytes::from_static(b"a"), Bytes::from_static(b"none")];
    engine
        .commit(Commit {
            delete,
            ..Commit::default()
        })
        .await
        .unwrap();
    assert_eq!(read(&engine, "a").await, None);
}

pub(super) async fn expectations_decide(engine: E) {
    let absent = |commit| expecting("k", Expectation::Absent, commit);
    engine.commit(absent(put("k", "1"))).await.unwrap();
    let refused = engine.commit(absent(put("k", "2"))).await;
    assert_eq!(refused, Err(CommitError::ExpectationFailed { index: 0 }));
    let equals = |value: &str| Expectation::Equals(value.to_owned().into());
    engine
        .commit(expecting("k", equals("1"), put("k", "3")))
        .await
        .unwrap();
    let version = Version::of(b"3");
    engine
        .commit(expecting("k", Expectation::Version(version), put("k", "4")))
        .await
        .unwrap();
    for wrong in [
        equals("1"),
        equals("44"),
        Expectation::Version(version),
        Expectation::Absent,
    ] {
        let refused = engine.commit(expecting("k", wrong, put("k", "5"))).await;
        assert_eq!(refused, Err(CommitError::ExpectationFailed { index: 0 }));
    }
    for on_missing in [equals(""), Expectation::Version(Version::of(b""))] {
        let refused = engine
            .commit(expecting("missing", on_missing, put("k", "5")))
            .await;
        assert_eq!(refused, Err(CommitError::ExpectationFailed { index: 0 }));
    }
    assert_eq!(read(&engine, "k").await.as_deref(), Some("4"));
}

pub(super) async fn a_refused_commit_changes_nothing(engine: E) {
    engine.commit(put("kept", "1")).await.unwrap();
    let mut commit = put("new", "1");
    commit.delete.push("kept".into());
    commit.append.push(entry("s", "row"));
    commit = expecting("x", Expectation::Absent, commit);
    commit = expecting("kept", Expectation::Absent, commit);
    let refused = engine.commit(commit).await;
    assert_eq!(refused, Err(CommitError::ExpectationFailed { index: 1 }));
    assert_eq!(read(&engine, "kept").await.as_deref(), Some("1"));
    assert_eq!(read(&engine, "new").await, None);
    assert_eq!(read(&engine, "row/001").await, None);
    let mut commit = Commit::default();
    commit.append.push(entry("s", "row"));
    assert_eq!(engine.commit(commit).await.unwrap().revisions, [1]);
}

pub(super) async fn the_stale_owner_is_fenced_out(engine: E) {
    let fenced = |epoch, commit| Commit {
        fence: Some(Fence {
            key: "owner".into(),
            epoch,
        }),
        ..commit
    };
    let refused = engine.commit(fenced(1, put("k", "1"))).await;
    assert_eq!(
        refused,
        Err(CommitError::Fenced {
            held: 1,
            current: 0
        })
    );
    let take = |epoch: u64| Commit {
        put: vec![("owner".into(), Bytes::copy_from_slice(&epoch.to_be_bytes()))],
        ..Commit::default()
    };
    engine.commit(take(1)).await.unwrap();
    engine.commit(fenced(1, put("k", "1"))).await.unwrap();
    engine.commit(take(2)).await.unwrap();
    let refused = engine.commit(fenced(1, put("k", "2"))).await;
    assert_eq!(
        refused,
        Err(CommitError::Fenced {
            held: 1,
            current: 2
        })
    );
    engine.commit(fenced(2, put("k", "3"))).await.unwrap();
    assert_eq!(read(&engine, "k").await.as_deref(), Some("3"));
}

pub(super) async fn deletes_come_before_puts_and_updates(engine: E) {
    engine.commit(put("k", "old")).await.unwrap();
    let mut commit = put("k", "new");
    commit.delete.push("k".into());
    commit.update.push((
        "k".into(),
        Box::new(|current| {
            let mut next = current.unwrap_or_default().to_vec();
            next.push(b'!');
            Ok(Some(next.into()))
        }),
    ));
    engine.commit(commit).await.unwrap();
    assert_eq!(read(&engine, "k").await.as_deref(), Some("new!"));
    let commit = Commit {
        update: vec![("k".into(), Box::new(|_| Ok(None)))],
        ..Commit::default()
    };
    engine.commit(commit).await.unwrap();
    assert_eq!(read(&engine, "k").await, None);
}

pub(super) async fn streams_number_their_entries(engine: E) {
    let mut commit = Commit::default();
    commit.append.push(entry("one", "a"));
    commit.append.push(entry("two", "b"));
    commit.append.push(entry("one", "a"));
    let committed = engine.commit(commit).await.unwrap();
    assert_eq!(committed.revisions, [1, 1, 2]);
    let mut commit = Commit::default();
    commit.append.push(entry("one", "a"));
    assert_eq!(engine.commit(commit).await.unwrap().revisions, [3]);
    for (key, value) in [
        ("a/001", "1"),
        ("a/002", "2"),
        ("a/003", "3"),
        ("b/001", "1"),
    ] {
        assert_eq!(read(&engine, key).await.as_deref(), Some(value), "{key}");
    }
}

pub(super) async fn functions_that_fail_or_panic_refuse_the_commit(engine: E) {
    let failing = || {
        let mut commit = put("k", "1");
        let fail = |_: Option<&[u8]>| Err(RowError("no".into()));
        commit.update.push(("u".into(), Box::new(fail)));
        commit
    };
    let refused = engine.commit(failing()).await;
    assert_eq!(refused, Err(CommitError::Row(RowError("no".into()))));
    let mut commit = put("k", "1");
    commit.append.push(Append {
        stream: "s".into(),
        rows: Box::new(|_| panic!("on purpose")),
    });
    assert!(matches!(
        engine.commit(commit).await,
        Err(CommitError::Row(_))
    ));
    assert_eq!(read(&engine, "k").await, None);
    engine.commit(put("k", "alive")).await.unwrap();
}

pub(super) async fn scans_page_through_in_both_directions(engine: E) {
    let keys: Vec<String> = (0..25).map(|n| format!("p/{n:02}")).collect();
    for key in &keys {
        engine.commit(put(key, key)).await.unwrap();
    }
    engine.commit(put("q", "outside")).await.unwrap();
    engine.commit(put("o", "outside")).await.unwrap();
    for reverse in [false, true] {
        let mut scan = Scan::prefix(b"p/", 7);
        scan.reverse = reverse;
        let mut seen = Vec::new();
        loop {
            let page = engine.range(scan.clone()).await.unwrap();
            assert!(page.rows.len() <= 7);
            if let Some((last, _)) = page.rows.last() {
                scan = scan.after(last);
            }
            for (key, value) in page.rows {
                assert_eq!(key, value);
                seen.push(String::from_utf8(key.to_vec()).unwrap());
            }
            if !page.more {
                break;
            }
        }
        if reverse {
            seen.reverse();
        }
        assert_eq!(seen, keys, "reverse: {reverse}");
    }
    let nothing = Scan {
        start: "z".into(),
        end: "a".into(),
        limit: 5,
        reverse: false,
    };
    assert!(engine.range(nothing).await.unwrap().rows.is_empty());
}

pub(super) async fn large_values_are_one_value(engine: E) {
    let large = |fill: u8, len: usize| Bytes::from(vec![fill; len]);
    for (fill, len) in [
        (1, 70_000),
        (2, 300_000),
        (3, 6 << 10),
        (4, (6 << 10) + 1),
        (5, 10),
    ] {
        let value = large(fill, len);
        let commit = Commit {
            put: vec![("k".into(), value.clone())],
            ..Commit::default()
        };
        engine.commit(commit).await.unwrap();
        assert_eq!(engine.get(b"k").await.unwrap(), Some(value.clone()));
        let rows = engine.range(Scan::prefix(b"k", 10)).await.unwrap().rows;
        assert_eq!(rows, vec![(Bytes::from_static(b"k"), value.clone())]);
        engine
            .commit(expecting("k", Expectation::Equals(value), put("seen", "1")))
            .await
            .unwrap();
    }
    // Readers during overwrites see one value or the other.
    let writer = {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            for round in 0..60_u8 {
                let commit = Commit {
                    put: vec![("race".into(), large(round, 20_000 + usize::from(round)))],
                    ..Commit::default()
                };
                engine.commit(commit).await.unwrap();
            }
        })
    };
    while !writer.is_finished() {
        if let Some(value) = engine.get(b"race").await.unwrap() {
            assert_eq!(value.len(), 20_000 + usize::from(value[0]));
            assert!(value.iter().all(|byte| *byte == value[0]));
        }
    }
    writer.await.unwrap();
}

pub(super) async fn too_large_is_refused(engine: E) {
    let put = (0..5_000).map(|n| (Bytes::from(format!("{n}")), Bytes::new()));
    let commit = Commit {
        put: put.collect(),
        ..Commit::default()
    };
    let refused = engine.commit(commit).await;
    assert!(matches!(
        refused,
        Err(CommitError::TooLarge { keys: 5_000, .. })
    ));
    let commit = Commit {
        put: vec![("k".into(), vec![0; 40 << 20].into())],
        ..Commit::default()
    };
    assert!(matches!(
        engine.commit(commit).await,
        Err(CommitError::TooLarge { .. })
    ));
    assert!(
        engine
            .range(Scan::prefix(b"", 1))
            .await
            .unwrap()
            .rows
            .is_empty()
    );
    let put = (0..3_000).map(|n| (Bytes::from(format!("{n}")), Bytes::new()));
    let commit = Commit {
        put: put.collect(),
        ..Commit::default()
    };
    engine.commit(commit).await.unwrap();
}

pub(super) async fn lazy_writes_are_visible_at_once(engine: E) {
    engine.commit(put("old", "1")).await.unwrap();
    engine.commit(put("p/1", "stored")).await.unwrap();
    for round in 0..50 {
        let value = round.to_string();
        let mut commit = put("p/2", &value);
        commit.delete.push("old".into());
        engine.submit(commit, Urgency::Lazy).await.unwrap();
        assert_eq!(read(&engine, "p/2").await, Some(value.clone()));
        assert_eq!(read(&engine, "old").await, None);
        let page = engine.range(Scan::prefix(b"p/", 10)).await.unwrap();
        let values: Vec<_> = page.rows.into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, vec![Bytes::from_static(b"stored"), value.into()]);
        let many = engine
            .get_many(&["old".into(), "p/1".into()])
            .await
            .unwrap();
        assert_eq!(many, vec![None, Some("stored".into())]);
        engine.submit(put("old", "1"), Urgency::Lazy).await.unwrap();
        assert_eq!(read(&engine, "old").await.as_deref(), Some("1"));
    }
    // Queued removals hide rows without shortening the page.
    for n in 0..30 {
        engine.commit(put(&format!("r/{n:02}"), "v")).await.unwrap();
    }
    let commit = Commit {
        delete: (0..20).map(|n| format!("r/{n:02}").into()).collect(),
        ..Commit::default()
    };
    engine.submit(commit, Urgency::Lazy).await.unwrap();
    let page = engine.range(Scan::prefix(b"r/", 5)).await.unwrap();
    assert_eq!(page.rows.len(), 5);
    assert_eq!(page.rows[0].0, "r/20");
    assert!(page.more);
}

pub(super) async fn lazy_writes_become_durable_with_the_next_awaited_one(engine: E) {
    let lazy = engine
        .submit(put("lazy", "1"), Urgency::Lazy)
        .await
        .unwrap();
    engine.commit(put("urgent", "1")).await.unwrap();
    lazy.await.unwrap();
    // And without one, soon.
    let alone = engine
        .submit(put("alone", "1"), Urgency::Lazy)
        .await
        .unwrap();
    let soon = tokio::time::timeout(Duration::from_secs(90), alone).await;
    soon.unwrap().unwrap();
}

pub(super) async fn order_is_the_order_of_submission(engine: E) {
    let mut receipts = Vec::new();
    for n in 0..200 {
        let n = n.to_string();
        let commit = match n.len() % 2 {
            0 => put("k", &n),
            _ => expecting("never", Expectation::Absent, put("k", &n)),
        };
        let urgency = if n.ends_with('7') {
            Urgency::Durable
        } else {
            Urgency::Lazy
        };
        receipts.push(engine.submit(commit, urgency).await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(read(&engine, "k").await.as_deref(), Some("199"));
}

pub(super) async fn only_one_of_many_rivals_wins(engine: E) {
    for round in 0..10 {
        let key = format!("k{round}");
        let rivals: Vec<_> = (0..16)
            .map(|rival| {
                let (engine, key) = (Arc::clone(&engine), key.clone());
                tokio::spawn(async move {
                    let commit = put(&key, &rival.to_string());
                    let outcome = engine
                        .commit(expecting(&key, Expectation::Absent, commit))
                        .await;
                    outcome.is_ok().then_some(rival)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for rival in rivals {
            winners.extend(rival.await.unwrap());
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(read(&engine, &key).await, Some(winners[0].to_string()));
    }
}

pub(super) async fn counters_lose_nothing_under_concurrency(engine: E) {
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move {
                for _ in 0..25 {
                    let mut commit = Commit::default();
                    commit.append.push(entry("stream", "row"));
                    commit.update.push((
                        "sum".into(),
                        Box::new(|current| {
                            let text = std::str::from_utf8(current.unwrap_or(b"0")).unwrap();
                            let sum: u32 = text.parse().unwrap();
                            Ok(Some((sum + 1).to_string().into()))
                        }),
                    ));
                    engine.commit(commit).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(read(&engine, "sum").await.as_deref(), Some("400"));
    let rows = engine
        .range(Scan::prefix(b"row/", 1_000))
        .await
        .unwrap()
        .rows;
    assert_eq!(rows.len(), 400);
}

pub(super) async fn watchers_learn_of_every_revision(engine: E) {
    let append = || {
        let mut commit = Commit::default();
        commit.append.push(entry("s", "row"));
        commit
    };
    let mut early = engine.watch("s".into()).await.unwrap();
    assert_eq!(*early.borrow(), 0);
    for _ in 0..3 {
        engine.commit(append()).await.unwrap();
    }
    let seen = *early.wait_for(|revision| *revision >= 3).await.unwrap();
    assert_eq!(seen, 3);
    let late = engine.watch("s".into()).await.unwrap();
    assert_eq!(*late.borrow(), 3);
    drop((early, late));
    engine.commit(append()).await.unwrap();
    let mut again = engine.watch("s".into()).await.unwrap();
    assert_eq!(*again.borrow(), 4);
    let other = engine.watch("other".into()).await.unwrap();
    assert_eq!(*other.borrow(), 0);
    let waiting = tokio::spawn(async move { *again.wait_for(|at| *at > 4).await.unwrap() });
    engine.submit(append(), Urgency::Lazy).await.unwrap();
    let soon = tokio::time::timeout(Duration::from_secs(90), waiting).await;
    assert_eq!(soon.unwrap().unwrap(), 5);
}

pub(super) async fn a_closed_engine_says_so(engine: E) {
    engine.commit(put("k", "1")).await.unwrap();
    engine.close().await.unwrap();
    assert_eq!(engine.get(b"k").await, Err(EngineError::Closed));
    assert_eq!(
        engine.commit(put("k", "2")).await,
        Err(CommitError::Engine(EngineError::Closed))
    );
    assert!(engine.watch("s".into()).await.is_err());
    assert_eq!(engine.close().await, Err(EngineError::Closed));
}
