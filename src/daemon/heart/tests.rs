use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Heart;
use crate::daemon::health;
use crate::domain::clock::{Clock, Entropy, SystemClock};
use crate::domain::ids::{SessionId, SessionName, WorkspaceId};
use crate::ops::{Vitals, VitalsParts};
use crate::session::{SessionConfig, Supervisor, SupervisorOptions};
use crate::store::engine::{
    Commit, CommitError, Engine, EngineError, Health, Receipt, Revision, Rows, Scan, Snapshot,
    SnapshotError, Urgency,
};
use crate::store::keyring::Keks;
use crate::store::memory::MemoryEngine;
use crate::store::{Store, StoreOptions};

const STUCK_AFTER: Duration = Duration::from_secs(20);
/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// An engine that says of itself what it is told to.
#[derive(Debug)]
struct Reporting {
    engine: MemoryEngine,
    stuck_for: Arc<Mutex<Duration>>,
}

#[async_trait]
impl Engine for Reporting {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(key).await
    }

    async fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.engine.get_many(keys).await
    }

    async fn range(&self, scan: Scan) -> Result<Rows, EngineError> {
        self.engine.range(scan).await
    }

    async fn submit(&self, commit: Commit, urgency: Urgency) -> Result<Receipt, CommitError> {
        self.engine.submit(commit, urgency).await
    }

    async fn watch(&self, stream: Bytes) -> Result<watch::Receiver<Revision>, EngineError> {
        self.engine.watch(stream).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, SnapshotError> {
        self.engine.snapshot().await
    }

    fn health(&self) -> Health {
        Health {
            stuck_for: *self.stuck_for.lock().unwrap(),
            ..self.engine.health()
        }
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.engine.close().await
    }
}

/// A daemon's vital parts, and what its store says.
struct Parts {
    vitals: Vitals,
    supervisor: Supervisor,
    stuck_for: Arc<Mutex<Duration>>,
    draining: CancellationToken,
    serving: CancellationToken,
    broken: CancellationToken,
}

impl Parts {
    fn store_is_stuck_for(&self, time: Duration) {
        *self.stuck_for.lock().unwrap() = time;
    }

    /// What readiness complains about.
    fn problems(&self) -> Vec<&'static str> {
        let checks = self.vitals.checks().into_iter();
        let problems: Vec<_> = checks
            .filter(|check| check.problem.is_some())
            .map(|check| {
                assert!(check.to_string().starts_with("[-] "), "{check}");
                check.name
            })
            .collect();
        assert_eq!(self.vitals.is_ready(), problems.is_empty());
        problems
    }
}

async fn parts() -> Parts {
    let stuck_for = Arc::<Mutex<Duration>>::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let engine = Reporting {
        engine: MemoryEngine::new(),
        stuck_for: Arc::clone(&stuck_for),
    };
    let store = Store::open(StoreOptions {
        engine: Arc::new(engine),
        keks: Keks::ephemeral([7; 32]),
        clock: Arc::clone(&clock),
        entropy: Entropy::seeded(1),
        release: "0.0.0".to_owned(),
        media: None,
    });
    let store = store.await.unwrap();
    let supervisor = Supervisor::new(SupervisorOptions {
        store: store.clone(),
        providers: Vec::new(),
        config: SessionConfig::default(),
        clock,
        entropy: Entropy::seeded(2),
    });
    let [draining, serving, broken] = [(); 3].map(|()| CancellationToken::new());
    let vitals = Vitals::new(VitalsParts {
        store,
        stuck_after: STUCK_AFTER,
        draining: draining.clone(),
        serving: serving.clone(),
        broken: broken.clone(),
        state_dir: "/nowhere".into(),
        supervisor: supervisor.clone(),
    });
    Parts {
        vitals,
        supervisor,
        stuck_for,
        draining,
        serving,
        broken,
    }
}

/// A heart, and the parts it listens to.
async fn heart() -> (Heart, Parts) {
    let parts = parts().await;
    let heart = Heart::new(parts.vitals.clone(), parts.supervisor.clone());
    (heart, parts)
}

#[tokio::test]
async fn readiness_names_what_is_wrong() {
    let parts = parts().await;
    assert_eq!(parts.problems(), ["listeners"], "nothing answers yet");
    parts.serving.cancel();
    assert!(parts.problems().is_empty());
    parts.store_is_stuck_for(STUCK_AFTER);
    assert_eq!(parts.problems(), ["store"]);
    parts.store_is_stuck_for(Duration::ZERO);
    assert!(parts.problems().is_empty());
    parts.broken.cancel();
    assert_eq!(parts.problems(), ["listeners"]);
    parts.draining.cancel();
    assert_eq!(parts.problems(), ["listeners", "accepting"]);
}

#[tokio::test]
async fn health_on_the_api_follows_readiness() {
    let parts = parts().await;
    parts.serving.cancel();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let following = tokio::spawn(health::follow(
        parts.vitals.clone(),
        Duration::from_millis(1),
        async move |ready| tell.send(ready).unwrap(),
        stop.clone(),
    ));
    let mut next = async || {
        let told = tokio::time::timeout(PATIENCE, told.recv()).await;
        told.unwrap().unwrap()
    };
    for waited in [STUCK_AFTER, Duration::ZERO, STUCK_AFTER * 2, Duration::ZERO] {
        parts.store_is_stuck_for(waited);
        assert_eq!(next().await, waited.is_zero());
    }
    parts.draining.cancel();
    assert!(!next().await);
    stop.cancel();
    tokio::time::timeout(PATIENCE, following)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_with_a_store_that_writes_nothing_any_more() {
    let (heart, parts) = heart().await;
    assert!(heart.beats().await);
    for (waited, beats) in [
        (STUCK_AFTER.saturating_sub(Duration::from_millis(1)), true),
        (STUCK_AFTER, false),
        (STUCK_AFTER * 10, false),
        (Duration::ZERO, true),
    ] {
        parts.store_is_stuck_for(waited);
        assert_eq!(heart.beats().await, beats, "{waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nothing_comes_from_it_while_the_registry_of_sessions_is_locked() {
    let (heart, parts) = heart().await;
    let supervisor = parts.supervisor.clone();
    let (release, released) = mpsc::channel::<()>();
    let (locked, is_locked) = mpsc::channel();
    let holder = std::thread::spawn(move || {
        let workspace = WorkspaceId::default_workspace();
        let name = SessionName::new(workspace, SessionId::new("s").unwrap());
        let held = supervisor.hold(name);
        locked.send(()).unwrap();
        let _ = released.recv();
        drop(held);
    });
    is_locked.recv().unwrap();
    let mut beat = tokio::spawn(async move { heart.beats().await });
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut beat).await;
    assert!(waited.is_err(), "an answer although nobody can look");
    release.send(()).unwrap();
    assert!(tokio::time::timeout(PATIENCE, beat).await.unwrap().unwrap());
    holder.join().unwrap();
}
