//! A store that cannot be used: said in one line with the way out, and nothing is written over it.

use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use trunkline::domain::clock::SystemClock;
use trunkline::store::engine::{Commit, Engine as _, Scan};
use trunkline::store::sled::SledEngine;

use super::support::core;
use super::support::daemon::Daemon;

/// Runs `serve` on a daemon's state, which must refuse; what it said.
fn refusal(daemon: &Daemon) -> String {
    let output = daemon
        .trunkline()
        .args(["serve", "--stop-on-stdin-eof"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(74), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_refused_and_works_again_once_it_is_restored() {
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    core::create_session(&channel, "shop").await;
    daemon.stop().await;
    let store = daemon.state_dir().join("store");
    let backup = daemon.state_dir().join("backup");
    let log = store.join("db");
    std::fs::create_dir(&backup).unwrap();
    for entry in std::fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, backup.join(path.file_name().unwrap())).unwrap();
        }
    }

    std::fs::write(&log, b"").unwrap();
    for _ in 0..2 {
        let said = refusal(&daemon);
        for part in ["damaged", "restore from a backup", "store"] {
            assert!(said.contains(part), "{part} is missing in: {said}");
        }
    }
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "left as it was");

    for entry in std::fs::read_dir(&backup).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, store.join(path.file_name().unwrap())).unwrap();
    }
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    assert!(core::session(&channel, "shop").await.is_ok());
}

/// What every store begins with, as its format demands: `trunkline::store`'s own type is private.
#[derive(Clone, PartialEq, prost::Message)]
struct FormatMark {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    release: String,
}

/// Rewrites the format in the mark of a stopped daemon's store.
async fn change_format(store: &Path, change: impl FnOnce(u32) -> u32) {
    let path = store.to_owned();
    let opened =
        tokio::task::spawn_blocking(move || SledEngine::open(&path, Arc::new(SystemClock::new())));
    let engine = opened.await.unwrap().unwrap();
    let front = engine.range(Scan::prefix(&[], 1)).await.unwrap();
    let (key, value) = front.rows.into_iter().next().unwrap();
    let mut mark = FormatMark::decode(value).unwrap();
    assert_eq!(mark.release, env!("CARGO_PKG_VERSION"));
    mark.format = change(mark.format);
    let commit = Commit {
        put: vec![(key, mark.encode_to_vec().into())],
        ..Commit::default()
    };
    engine.commit(commit).await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_release_is_refused_and_left_as_it_is() {
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    core::create_session(&channel, "shop").await;
    daemon.stop().await;
    let store = daemon.state_dir().join("store");
    change_format(&store, |format| format + 1).await;
    for _ in 0..2 {
        let said = refusal(&daemon);
        for part in ["newer release", "upgrade", "store"] {
            assert!(said.contains(part), "{part} is missing in: {said}");
        }
    }
    change_format(&store, |format| format - 1).await;
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    assert!(core::session(&channel, "shop").await.is_ok());
}
