//! Snapshots of an engine that is being written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;

use super::E;
use crate::store::engine::{Commit, Scan, Snapshot, Urgency};

type Rows = BTreeMap<Bytes, Bytes>;

/// What a snapshot holds once all of it was applied; `between` runs before each piece.
async fn collect(
    mut snapshot: Box<dyn Snapshot>,
    mut between: impl FnMut() + Send + 'static,
) -> Rows {
    let reading = tokio::task::spawn_blocking(move || {
        let mut rows = Rows::new();
        between();
        while let Some(piece) = snapshot.next().unwrap() {
            for (key, value) in piece {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
            between();
        }
        rows
    });
    reading.await.unwrap()
}

async fn all(engine: &E) -> Rows {
    let mut rows = Rows::new();
    let mut scan = Scan {
        start: Bytes::new(),
        end: vec![0xff].into(),
        limit: 1_000,
        reverse: false,
    };
    loop {
        let page = engine.range(scan.clone()).await.unwrap();
        if let Some((last, _)) = page.rows.last() {
            scan = scan.after(last);
        }
        rows.extend(page.rows);
        if !page.more {
            return rows;
        }
    }
}

pub(in crate::store) async fn a_snapshot_holds_everything(engine: E) {
    assert!(
        collect(engine.snapshot().await.unwrap(), || {})
            .await
            .is_empty()
    );
    for n in 0..40_u8 {
        let put = (0..60_u8).map(|m| {
            let len = if m == 7 { 50_000 } else { 400 };
            (Bytes::from(vec![n, m]), Bytes::from(vec![n; len]))
        });
        let commit = Commit {
            put: put.collect(),
            ..Commit::default()
        };
        engine.submit(commit, Urgency::Lazy).await.unwrap();
    }
    let snapshot = engine.snapshot().await.unwrap();
    let found = collect(snapshot, || {}).await;
    assert_eq!(found.len(), 2_400);
    assert_eq!(found, all(&engine).await);
    // The place is free again, also after one that was given up.
    drop(engine.snapshot().await.unwrap());
    let again = collect(engine.snapshot().await.unwrap(), || {}).await;
    assert_eq!(again, found);
}

/// Pairs of rows at both ends of the key space are written, rewritten and removed together while the
/// snapshot is read: it must never show half of a commit.
pub(in crate::store) async fn a_snapshot_shows_one_moment(engine: E) {
    const PAIRS: u32 = 300;
    let pair = |n: u32| {
        let key = |side: char| Bytes::from(format!("{side}/{n:04}"));
        [key('a'), key('z')]
    };
    let write = move |n: u32, round: u32| {
        let mut commit = Commit::default();
        if (n + round).is_multiple_of(5) {
            commit.delete = pair(n).to_vec();
        } else {
            let len = if n.is_multiple_of(50) { 20_000 } else { 900 };
            let fill = u8::try_from(round % 251).unwrap();
            let value = Bytes::from(vec![fill; len]);
            commit.put = pair(n).map(|key| (key, value.clone())).to_vec();
        }
        commit.put.push((
            Bytes::from_static(b"m/round"),
            round.to_be_bytes().to_vec().into(),
        ));
        commit
    };
    for n in 0..PAIRS {
        engine.submit(write(n, 1), Urgency::Lazy).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU32::new(0));
    let writer = tokio::spawn({
        let (engine, stop, written) = (Arc::clone(&engine), stop.clone(), written.clone());
        async move {
            for round in 2_u32.. {
                for n in 0..PAIRS {
                    let urgency = match n % 40 {
                        0 => Urgency::Durable,
                        _ => Urgency::Lazy,
                    };
                    let receipt = engine.submit(write(n, round), urgency).await.unwrap();
                    if urgency == Urgency::Durable {
                        // Few are under way: what is queued delays whoever snapshots.
                        receipt.await.unwrap();
                    }
                    written.fetch_add(1, Ordering::SeqCst);
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // Leaves room for the reader.
                    if n.is_multiple_of(10) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    });
    for _ in 0..3 {
        let before = written.load(Ordering::SeqCst);
        let snapshot = engine.snapshot().await.unwrap();
        // Something is written between any two pieces.
        let progress = written.clone();
        let mut seen = before;
        let between = move || {
            let wait_until = seen + 3;
            while progress.load(Ordering::SeqCst) < wait_until {
                std::thread::yield_now();
            }
            seen = progress.load(Ordering::SeqCst);
        };
        let rows = collect(snapshot, between).await;
        for n in 0..PAIRS {
            let [a, z] = pair(n).map(|key| rows.get(&key));
            assert_eq!(a, z, "half of a commit of pair {n}");
        }
        // Two neighbouring rounds, with one step between them.
        let newest = rows.get(&b"m/round"[..]).unwrap()[..].try_into().unwrap();
        let newest = u32::from_be_bytes(newest);
        let fill = |n: u32| rows.get(&pair(n)[0]).map(|value| u32::from(value[0]));
        let is_of = |n: u32, round: u32| match fill(n) {
            None => (n + round).is_multiple_of(5),
            Some(fill) => !(n + round).is_multiple_of(5) && fill == round % 251,
        };
        let boundary = (0..PAIRS).find(|n| !is_of(*n, newest)).unwrap_or(PAIRS);
        assert!(boundary > 0);
        for n in boundary..PAIRS {
            assert!(is_of(n, newest - 1), "pair {n} is of no moment");
        }
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
}
