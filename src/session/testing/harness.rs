//! A daemon's worth of sessions over the memory engine, and ways to wait for what they do.

use std::sync::Arc;
use std::time::Duration;

use super::clock::SteppedClock;
use super::world::{FakeProvider, World};
use crate::domain::clock::{Clock, Entropy, SystemClock, Timestamp};
use crate::domain::event::{Event, Payload};
use crate::domain::ids::{MessageId, RequestId, SessionId, SessionName, WorkspaceId};
use crate::domain::message::{Content, MessageState, OutboundMessage, Priority};
use crate::domain::person::Person;
use crate::domain::session::{Cause, Desired, Login};
use crate::session::state::{Backoff, Rules};
use crate::session::{
    Restored, SessionConfig, SessionStatus, Submission, Supervisor, SupervisorOptions,
};
use crate::store::engine::Engine;
use crate::store::keyring::Keks;
use crate::store::media::MediaOptions;
use crate::store::memory::MemoryEngine;
use crate::store::{
    BodyHash, Durability, Enqueued, KeyId, KeyKind, NewSession, SessionStore, Store, StoreOptions,
    WorkspaceStore,
};

/// Numbers small enough for tests in real time, large enough for a slow machine.
pub(in crate::session) fn quick() -> SessionConfig {
    let millis = Duration::from_millis;
    let mut config = SessionConfig {
        rules: Rules {
            backoff: Backoff {
                base: millis(2),
                cap: millis(20),
            },
            slow: Backoff {
                base: millis(20),
                cap: millis(40),
            },
            ..Rules::default()
        },
        ..SessionConfig::default()
    };
    config.admission.per_second = 2_000;
    config.admission.burst = 2_000;
    config.admission.jitter = Duration::ZERO;
    config.breaker.failures = u32::MAX;
    config.breaker.fleet_refusals = u32::MAX;
    config.outbound.retry_cap = millis(20);
    config
}

/// A daemon's worth of sessions.
pub(in crate::session) struct Harness {
    pub(in crate::session) world: World,
    pub(in crate::session) store: Store,
    pub(in crate::session) engine: Arc<dyn Engine>,
    pub(in crate::session) workspace: WorkspaceStore,
    pub(in crate::session) supervisor: Supervisor,
    pub(in crate::session) clock: Arc<SteppedClock>,
    /// Where uploaded files lie.
    pub(in crate::session) files: tempfile::TempDir,
}

impl Harness {
    pub(in crate::session) async fn new(config: SessionConfig) -> Self {
        config.validate().unwrap();
        let files = tempfile::tempdir().unwrap();
        let clock = Arc::new(SteppedClock::new());
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let store = Store::open(StoreOptions {
            engine: Arc::clone(&engine),
            keks: Keks::ephemeral([7; 32]),
            clock: clock.clone(),
            entropy: Entropy::seeded(1),
            release: "0.0.0".into(),
            media: Some(MediaOptions {
                dir: files.path().join("media"),
                max_file: 1 << 20,
                max_workspace: 4 << 20,
                keep: Duration::from_hours(24),
            }),
        })
        .await
        .unwrap();
        let workspace = store
            .workspace(&WorkspaceId::default_workspace())
            .await
            .unwrap();
        let world = World::new(clock.clone());
        let supervisor = supervise(&store, &world, &clock, config);
        Self {
            world,
            store,
            engine,
            workspace,
            supervisor,
            clock,
            files,
        }
    }

    /// Stops the daemon in good order and starts it again on the same store.
    pub(in crate::session) async fn restart(&mut self, config: SessionConfig) -> Restored {
        assert_eq!(self.supervisor.shutdown(PATIENCE).await, 0);
        self.supervisor = supervise(&self.store, &self.world, &self.clock, config);
        self.supervisor.restore().await.unwrap()
    }

    pub(in crate::session) fn name(id: &str) -> SessionName {
        SessionName::new(
            WorkspaceId::default_workspace(),
            SessionId::new(id).unwrap(),
        )
    }

    fn new_session(id: &str) -> NewSession {
        NewSession {
            id: SessionId::new(id).unwrap(),
            display_name: String::new(),
            labels: std::collections::BTreeMap::new(),
            provider: "fake".into(),
            desired: Desired::Running,
        }
    }

    /// Creates an unpaired session.
    pub(in crate::session) async fn create(&self, id: &str) -> SessionName {
        self.supervisor
            .create(&self.workspace, Self::new_session(id))
            .await
            .unwrap();
        Self::name(id)
    }

    /// Puts a paired session into the store without telling the supervisor.
    pub(in crate::session) async fn store_paired(&self, id: &str) -> SessionName {
        let name = Self::name(id);
        let sessions = self.workspace.sessions();
        sessions.create(Self::new_session(id)).await.unwrap();
        sessions
            .update(&name.session, None, |record| record.login = Login::Paired)
            .await
            .unwrap();
        let keys = self.session(&name).await.keys();
        keys.put(
            KeyKind::Device,
            KeyId::single(),
            vec![1],
            Durability::Durable,
        )
        .await
        .unwrap();
        self.world.peer(&name, |peer| peer.confirmed = true);
        name
    }

    /// A paired session, online.
    pub(in crate::session) async fn online(&self, id: &str) -> SessionName {
        let name = self.store_paired(id).await;
        self.supervisor.restore().await.unwrap();
        self.reach(&name, "ONLINE").await;
        name
    }

    pub(in crate::session) async fn session(&self, name: &SessionName) -> SessionStore {
        self.workspace.session(&name.session).await.unwrap()
    }

    pub(in crate::session) async fn has_credentials(&self, name: &SessionName) -> bool {
        let keys = self.session(name).await.keys();
        keys.contains(KeyKind::Device, &KeyId::single())
            .await
            .unwrap()
    }

    /// Waits until the session's status satisfies `condition`.
    pub(in crate::session) async fn until(
        &self,
        name: &SessionName,
        condition: impl Fn(&SessionStatus) -> bool,
    ) -> SessionStatus {
        let mut watch = self.supervisor.watch(name).expect("no such session");
        let waited =
            tokio::time::timeout(PATIENCE, watch.wait_for(|status| condition(status))).await;
        let Ok(status) = waited else {
            panic!("still {:?}", self.supervisor.status(name));
        };
        status.unwrap().clone()
    }

    /// Waits until the connection is in this state.
    pub(in crate::session) async fn reach(&self, name: &SessionName, state: &str) -> SessionStatus {
        self.until(name, |status| status.connection.name() == state)
            .await
    }

    /// Submits a text.
    pub(in crate::session) async fn submit(
        &self,
        name: &SessionName,
        to: &str,
        text: &str,
    ) -> Enqueued {
        self.submit_with(name, to, text, |_| {}).await
    }

    pub(in crate::session) async fn submit_with(
        &self,
        name: &SessionName,
        to: &str,
        text: &str,
        change: impl FnOnce(&mut Submission),
    ) -> Enqueued {
        let id = Entropy::from_system().unwrap().uuid();
        let mut submission = Submission {
            request_id: RequestId(id),
            body: BodyHash::of("Send", text.as_bytes()),
            to: person(to),
            content: Content::Text { text: text.into() },
            media: None,
            priority: Priority::default(),
            send_after: None,
            expire_at: None,
        };
        change(&mut submission);
        let session = self.session(name).await;
        self.supervisor.submit(&session, submission).await.unwrap()
    }

    pub(in crate::session) async fn message(
        &self,
        name: &SessionName,
        id: MessageId,
    ) -> OutboundMessage {
        self.session(name).await.outbox().get(id).await.unwrap()
    }

    /// Waits until the message is in this state.
    pub(in crate::session) async fn settled(
        &self,
        name: &SessionName,
        id: MessageId,
        state: MessageState,
    ) -> OutboundMessage {
        eventually(|| async {
            let message = self.message(name, id).await;
            if message.state == state {
                Ok(message)
            } else {
                Err(format!("{:?} {:?}", message.state, message.failure))
            }
        })
        .await
    }

    /// All events of the workspace so far.
    pub(in crate::session) async fn events(&self) -> Vec<Event> {
        let journal = self.workspace.journal();
        let newest = *journal.watch().await.unwrap().borrow();
        let revisions: Vec<_> = (1..=newest).collect();
        let events = journal.get_many(&revisions).await.unwrap();
        events.into_iter().flatten().collect()
    }

    /// The session's states as journalled, in order.
    pub(in crate::session) async fn journalled_states(
        &self,
        name: &SessionName,
    ) -> Vec<&'static str> {
        let mut states = Vec::new();
        for event in self.events().await {
            if let Payload::SessionState { connection, .. } = &event.payload
                && event.session.as_ref() == Some(&name.session)
            {
                states.push(connection.name());
            }
        }
        states
    }
}

/// Waits longer than any machine should need.
pub(in crate::session) const PATIENCE: Duration = Duration::from_secs(90);

/// Repeats a check until it holds.
pub(in crate::session) async fn eventually<T, F, Fut>(mut check: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let clock = SystemClock::new();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(what) => assert!(clock.elapsed() < PATIENCE, "still {what}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(in crate::session) fn person(user: &str) -> Person {
    Person {
        pn_jid: Some(format!("{user}@s.whatsapp.net")),
        ..Person::default()
    }
}

pub(in crate::session) fn transient() -> Cause {
    Cause::Transient {
        code: Some(503),
        detail: "scripted".into(),
    }
}

pub(in crate::session) fn far_future() -> Timestamp {
    Timestamp::from_secs(10_000_000_000)
}

fn supervise(
    store: &Store,
    world: &World,
    clock: &Arc<SteppedClock>,
    config: SessionConfig,
) -> Supervisor {
    Supervisor::new(SupervisorOptions {
        store: store.clone(),
        providers: vec![Arc::new(FakeProvider(world.clone()))],
        config,
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        entropy: Entropy::seeded(2),
    })
}
