//! Random commits, against the simplest thing that could be right.

use super::E;
use crate::store::engine::{Append, Commit, Expectation, Scan, Urgency, Version};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Op {
    Put(u8, usize),
    Delete(u8),
    PutIfAbsent(u8),
    Append(u8),
    Move(u8, u8),
    Lazy(u8),
    Scan(u8, u8, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0_u8..12;
    let op = prop_oneof![
        (key.clone(), prop_oneof![0_usize..64, 6_000_usize..30_000])
            .prop_map(|(k, n)| Op::Put(k, n)),
        key.clone().prop_map(Op::Delete),
        key.clone().prop_map(Op::PutIfAbsent),
        (0_u8..3).prop_map(Op::Append),
        (key.clone(), key.clone()).prop_map(|(a, b)| Op::Move(a, b)),
        key.clone().prop_map(Op::Lazy),
        (key.clone(), key, any::<bool>()).prop_map(|(a, b, r)| Op::Scan(a, b, r)),
    ];
    prop::collection::vec(op, 1..120)
}

type Model = BTreeMap<Bytes, Bytes>;

fn name(key: u8) -> Bytes {
    format!("k{key:02}").into()
}

/// Random commits, against the simplest thing that could be right.
pub(in crate::store) async fn behaves_like_the_model(engine: E) {
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::default()
    });
    let mut model = Model::new();
    let mut last = [0_u64; 3];
    for round in 0..8 {
        let ops = ops().new_tree(&mut runner).unwrap().current();
        for (step, op) in ops.iter().enumerate() {
            check(&engine, &mut model, &mut last, op, step).await;
        }
        let all = engine.range(Scan::prefix(b"", 1_000)).await.unwrap();
        let stored: Model = all.rows.into_iter().collect();
        assert_eq!(stored, model, "round {round}: {ops:?}");
    }
}

async fn check(engine: &E, model: &mut Model, last: &mut [u64; 3], op: &Op, step: usize) {
    let fill = u8::try_from(step % 251).unwrap();
    match *op {
        Op::Put(key, len) => {
            let value = Bytes::from(vec![fill; len]);
            model.insert(name(key), value.clone());
            let commit = Commit {
                put: vec![(name(key), value)],
                ..Commit::default()
            };
            engine.commit(commit).await.unwrap();
        }
        Op::Delete(key) => {
            model.remove(&name(key));
            let commit = Commit {
                delete: vec![name(key)],
                ..Commit::default()
            };
            engine.commit(commit).await.unwrap();
        }
        Op::PutIfAbsent(key) => {
            let commit = Commit {
                expect: vec![(name(key), Expectation::Absent)],
                put: vec![(name(key), Bytes::from_static(b"first"))],
                ..Commit::default()
            };
            let outcome = engine.commit(commit).await;
            assert_eq!(outcome.is_ok(), !model.contains_key(&name(key)));
            model
                .entry(name(key))
                .or_insert(Bytes::from_static(b"first"));
        }
        Op::Append(stream) => {
            let counter = Bytes::from(format!("s{stream}"));
            let mut commit = Commit::default();
            commit.append.push(Append {
                stream: counter.clone(),
                rows: Box::new(move |revision| {
                    Ok(vec![(name(stream), revision.to_string().into())])
                }),
            });
            let revision = engine.commit(commit).await.unwrap().revisions[0];
            last[usize::from(stream)] += 1;
            assert_eq!(revision, last[usize::from(stream)]);
            model.insert(counter, Bytes::copy_from_slice(&revision.to_be_bytes()));
            model.insert(name(stream), revision.to_string().into());
        }
        Op::Move(from, to) => {
            let Some(value) = engine.get(&name(from)).await.unwrap() else {
                assert!(!model.contains_key(&name(from)));
                return;
            };
            let commit = Commit {
                expect: vec![(name(from), Expectation::Version(Version::of(&value)))],
                delete: vec![name(from)],
                put: vec![(name(to), value.clone())],
                ..Commit::default()
            };
            engine.commit(commit).await.unwrap();
            model.remove(&name(from));
            model.insert(name(to), value);
        }
        Op::Lazy(key) => {
            let value = Bytes::from(vec![fill; 9]);
            model.insert(name(key), value.clone());
            let commit = Commit {
                put: vec![(name(key), value)],
                ..Commit::default()
            };
            engine.submit(commit, Urgency::Lazy).await.unwrap();
        }
        Op::Scan(from, to, reverse) => {
            let scan = Scan {
                start: name(from),
                end: name(to),
                limit: 3,
                reverse,
            };
            let page = engine.range(scan).await.unwrap();
            let inside = model
                .iter()
                .filter(|(key, _)| **key >= name(from) && **key < name(to))
                .map(|(key, value)| (key.clone(), value.clone()));
            let mut expected: Vec<_> = inside.collect();
            if reverse {
                expected.reverse();
            }
            assert_eq!(page.more, expected.len() > 3);
            expected.truncate(3);
            assert_eq!(page.rows, expected);
        }
    }
}
