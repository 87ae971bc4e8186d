//! The engine suite on sled, and what only sled has to show.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::domain::clock::SystemClock;
use crate::store::conformance;

fn open(path: &Path) -> Result<SledEngine, OpenError> {
    let fatal: OnFatal = Box::new(|what| panic!("fatal in a test: {what}"));
    SledEngine::open_with(path, CACHE_BYTES, Arc::new(SystemClock::new()), fatal)
}

conformance::suite!(|| {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir.path().join("store")).unwrap();
    (Arc::new(engine) as Arc<dyn Engine>, Some(dir))
});

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Commit {
    Commit {
        put: vec![(key.into(), value.into())],
        ..Commit::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    let large = vec![7; 200_000];
    engine.commit(put("small", "1")).await.unwrap();
    engine.commit(put("large", large.clone())).await.unwrap();
    let lazy = engine
        .submit(put("lazy", "2"), Urgency::Lazy)
        .await
        .unwrap();
    engine.close().await.unwrap();
    lazy.await.unwrap();
    assert_eq!(engine.get(b"small").await, Err(EngineError::Closed));
    drop(engine);
    let engine = open(dir.path()).unwrap();
    assert_eq!(engine.get(b"small").await.unwrap().unwrap(), "1");
    assert_eq!(engine.get(b"lazy").await.unwrap().unwrap(), "2");
    assert_eq!(engine.get(b"large").await.unwrap().unwrap(), large);
    assert!(engine.health().open_time > Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_told_who_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let _engine = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    assert!(
        refused
            .to_string()
            .contains(&dir.path().display().to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_said_plainly_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = open(&path).unwrap();
    for n in 0..200 {
        engine
            .commit(put(format!("k{n}"), vec![n; 3_000]))
            .await
            .unwrap();
    }
    engine.close().await.unwrap();
    drop(engine);
    drop(open(&path).unwrap());
    let snapshot = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("snap."))
        .unwrap();
    fs::write(&snapshot, b"rubbish that is no snapshot").unwrap();
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("restore from a backup"));
}

/// sled opens these without a word, emptier than they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_the_end_of_its_log_is_refused() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 5] = [
        ("emptied", |log| fs::write(log, b"").unwrap()),
        ("removed", |log| fs::remove_file(log).unwrap()),
        ("all rubbish", |log| {
            let len = usize::try_from(fs::metadata(log).unwrap().len()).unwrap();
            fs::write(log, vec![0xa5; len]).unwrap();
        }),
        ("cut in half", |log| {
            let bytes = fs::read(log).unwrap();
            fs::write(log, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("an older one", |log| {
            fs::copy(log.with_extension("old"), log).unwrap();
        }),
    ];
    for (harm, inflict) in harms {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        for round in 0_u8..2 {
            let engine = open(&path).unwrap();
            for n in 0..200 {
                let commit = put(format!("k{round}.{n}"), vec![round; 3_000]);
                engine.commit(commit).await.unwrap();
            }
            engine.close().await.unwrap();
            drop(engine);
            if round == 0 {
                fs::copy(path.join("db"), path.join("db.old")).unwrap();
            }
        }
        inflict(&path.join("db"));
        for _ in 0..2 {
            let refused = open(&path).expect_err(harm);
            assert!(
                matches!(refused, OpenError::Damaged { .. }),
                "{harm}: {refused}"
            );
            assert!(refused.to_string().contains("restore from a backup"));
        }
    }
}

/// Whether the harm hits what is still in use depends on where sled has moved it by then. Either way a row
/// is there, or an error is: never a store that knows less.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_damaged_inside_is_refused_or_whole() {
    for at in [2_000_usize, 100_000, 600_000] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let engine = open(&path).unwrap();
        for n in 0..400 {
            let commit = put(format!("k{n}"), vec![7; 3_000]);
            engine.commit(commit).await.unwrap();
        }
        engine.close().await.unwrap();
        drop(engine);
        let log = path.join("db");
        let mut bytes = fs::read(&log).unwrap();
        bytes[at..at + 4_000].fill(0x5a);
        fs::write(&log, bytes).unwrap();
        let engine = match open(&path) {
            Err(refused) => {
                assert!(
                    matches!(refused, OpenError::Damaged { .. }),
                    "{at}: {refused}"
                );
                continue;
            }
            Ok(engine) => engine,
        };
        for n in 0..400 {
            match engine.get(format!("k{n}").as_bytes()).await {
                Ok(Some(value)) => assert_eq!(value, vec![7; 3_000], "{at}: k{n}"),
                Ok(None) => panic!("{at}: k{n} is gone without a word"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_killed_opening_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    engine.commit(put("k", "v")).await.unwrap();
    engine.close().await.unwrap();
    drop(engine);
    fs::write(dir.path().join("snap.FFFFFFFFFFFFFFFF.generating"), b"half").unwrap();
    let engine = open(dir.path()).unwrap();
    assert_eq!(engine.get(b"k").await.unwrap().unwrap(), "v");

    let fresh = tempfile::tempdir().unwrap();
    fs::write(fresh.path().join("conf"), b"segment_size: 5242").unwrap();
    open(fresh.path()).unwrap();
}

/// What goes to a file beside the log is not covered by our sync of the log.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_ever_leaves_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).unwrap();
    for round in 0_u8..6 {
        for n in 0_u16..120 {
            let len = 1 + usize::from(n) * 997 * (1 + usize::from(round % 3)) / 2;
            let commit = put(
                format!("key{:03}", (n * 7 + u16::from(round)) % 120),
                vec![round; len],
            );
            engine.submit(commit, Urgency::Lazy).await.unwrap();
        }
        let delete = (0..120).step_by(usize::from(round) + 2);
        let delete = delete.map(|n| Bytes::from(format!("key{n:03}"))).collect();
        engine
            .commit(Commit {
                delete,
                ..Commit::default()
            })
            .await
            .unwrap();
        assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
    }
}

/// A table whose disk fails.
struct Failing {
    syncs_left: AtomicUsize,
}

impl Table for Failing {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }

    fn scan(
        &self,
        _range: (&[u8], &[u8]),
        _reverse: bool,
        _visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    fn apply(&self, _writes: HashMap<Bytes, Option<Bytes>>) -> Result<(), EngineError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let left = self.syncs_left.fetch_sub(1, Ordering::SeqCst);
        if left == 0 {
            return Err(EngineError::Io("no space left on device".into()));
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_is_fatal_and_acknowledges_nothing() {
    let (tx, rx) = std::sync::mpsc::channel();
    let fatal: OnFatal = Box::new(move |what| tx.send(what.to_owned()).unwrap());
    let table = Failing {
        syncs_left: AtomicUsize::new(1),
    };
    let clock = Arc::new(SystemClock::new());
    let engine = WriterEngine::start(table, clock, Duration::ZERO, fatal).unwrap();
    engine.commit(put("a", "1")).await.unwrap();
    let refused = engine.commit(put("b", "2")).await;
    assert_eq!(refused, Err(CommitError::Engine(EngineError::Closed)));
    assert!(rx.recv().unwrap().contains("no space left"));
    assert_eq!(engine.get(b"a").await, Err(EngineError::Closed));
}

/// A table whose sync hangs until told.
struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

impl Table for Stuck {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(None)
    }

    fn scan(
        &self,
        _range: (&[u8], &[u8]),
        _reverse: bool,
        _visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), EngineError> {
        Ok(())
    }

    fn apply(&self, _writes: HashMap<Bytes, Option<Bytes>>) -> Result<(), EngineError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.0.lock().unwrap().recv().unwrap();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// Whatever comes while the disk is busy waits for one sync, not for one each.
#[tokio::test(flavor = "multi_thread")]
async fn many_waiters_share_few_syncs() {
    let (go, wait) = std::sync::mpsc::channel();
    let fatal: OnFatal = Box::new(|what| panic!("{what}"));
    let table = Stuck(Mutex::new(wait));
    let clock = Arc::new(SystemClock::new());
    let engine = WriterEngine::start(table, clock, Duration::ZERO, fatal).unwrap();
    let mut receipts = Vec::new();
    for n in 0..1_280 {
        let commit = put(format!("{n}"), "v");
        receipts.push(engine.submit(commit, Urgency::Durable).await.unwrap());
    }
    for _ in 0..1_280 {
        go.send(()).unwrap();
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let health = engine.health();
    assert_eq!(health.durable, 1_280);
    // Those that came before the first sync began, and two batches of at most 1,000 keys.
    assert!(health.syncs <= 3, "{} syncs", health.syncs);
    conformance::until(|| engine.health().in_flight == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_shows_a_stuck_writer() {
    let clock = crate::domain::clock::ManualClock::default();
    let (go, wait) = std::sync::mpsc::channel();
    let fatal: OnFatal = Box::new(|what| panic!("{what}"));
    let table = Stuck(Mutex::new(wait));
    let shared = Arc::new(clock.clone());
    let engine = WriterEngine::start(table, shared, Duration::ZERO, fatal).unwrap();
    clock.advance(Duration::from_secs(100));
    assert_eq!(engine.health().stuck_for, Duration::ZERO);
    let receipt = engine
        .submit(put("a", "1"), Urgency::Durable)
        .await
        .unwrap();
    clock.advance(Duration::from_secs(40));
    let health = engine.health();
    assert_eq!(
        (health.in_flight, health.stuck_for),
        (1, Duration::from_secs(40))
    );
    go.send(()).unwrap();
    receipt.await.unwrap();
    conformance::until(|| engine.health().in_flight == 0).await;
    assert_eq!(engine.health().stuck_for, Duration::ZERO);
}
