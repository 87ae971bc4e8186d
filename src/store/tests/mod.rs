//! Tests of the handles, on the memory engine unless durability is the point.

mod backup;
mod journal;
mod keyspace;
mod media;
mod outbox;
mod requests;
mod room;
mod sessions;
mod subscriptions;
mod upkeep;
mod workspaces;
mod writer;

use std::sync::Arc;

use super::engine::Engine;
use super::keyring::Keks;
use super::memory::MemoryEngine;
use super::*;
use crate::domain::clock::{Entropy, ManualClock, Timestamp};
use crate::domain::event::{DedupKey, NewEvent, Payload};
use crate::domain::ids::{RequestId, SessionId, WorkspaceId};
use crate::domain::message::{Content, InboundMessage, Priority};
use crate::domain::person::Person;
use crate::domain::session::Desired;

/// A Saturday in November 2026.
pub(super) const NOW: Timestamp = Timestamp(1_795_262_400_000);

/// A store whose engine and clock the test holds.
pub(super) struct World {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: ManualClock,
    pub(super) store: Store,
}

pub(super) fn options(engine: &Arc<dyn Engine>, clock: &ManualClock, seed: u64) -> StoreOptions {
    StoreOptions {
        engine: Arc::clone(engine),
        keks: Keks::ephemeral([7; 32]),
        clock: Arc::new(clock.clone()),
        entropy: Entropy::seeded(seed),
        release: "test".to_owned(),
        media: None,
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::on(Arc::new(MemoryEngine::new())).await
    }

    pub(super) async fn on(engine: Arc<dyn Engine>) -> Self {
        let clock = ManualClock::at(NOW);
        let store = Store::open(options(&engine, &clock, 1)).await.unwrap();
        Self {
            engine,
            clock,
            store,
        }
    }

    /// The same rows, as another run of the daemon finds them.
    pub(super) async fn restarted(self) -> Self {
        let store = Store::open(options(&self.engine, &self.clock, 2))
            .await
            .unwrap();
        Self { store, ..self }
    }

    pub(super) async fn default(&self) -> WorkspaceStore {
        let id = WorkspaceId::default_workspace();
        self.store.workspace(&id).await.unwrap()
    }

    pub(super) async fn session(&self, id: &str) -> SessionStore {
        let workspace = self.default().await;
        let id = SessionId::new(id).unwrap();
        match workspace.sessions().create(new_session(id.as_str())).await {
            Ok(_) | Err(CreateError::AlreadyExists { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        workspace.session(&id).await.unwrap()
    }
}

pub(super) fn new_session(id: &str) -> NewSession {
    NewSession {
        id: SessionId::new(id).unwrap(),
        display_name: String::new(),
        labels: std::collections::BTreeMap::new(),
        provider: "multidevice".to_owned(),
        desired: Desired::Running,
    }
}

/// Somebody known by phone number and, with `lid`, by LID.
pub(super) fn person(phone: &str, lid: Option<&str>) -> Person {
    Person {
        phone: Some(format!("+{phone}")),
        pn_jid: Some(format!("{phone}@s.whatsapp.net")),
        lid: lid.map(|lid| format!("{lid}@lid")),
        provider_id: None,
    }
}

pub(super) fn inbound(from: &Person, stanza_id: &str, text: &str, at: Timestamp) -> NewEvent {
    NewEvent {
        at: NOW,
        payload: Payload::Message {
            message: InboundMessage {
                chat: from.clone(),
                sender: from.clone(),
                from_me: false,
                stanza_id: stanza_id.to_owned(),
                sent_at: at,
                push_name: None,
                content: Content::Text {
                    text: text.to_owned(),
                },
                quoted: None,
            },
            recovers: None,
        },
        dedup: Some(DedupKey {
            chat: from.canonical().to_owned(),
            sender: from.canonical().to_owned(),
            stanza_id: stanza_id.to_owned(),
            kind: "message".to_owned(),
        }),
    }
}

pub(super) fn outbound(request: u128, to: &Person, text: &str) -> NewMessage {
    NewMessage {
        request_id: RequestId(uuid::Uuid::from_u128(request)),
        body: BodyHash::of("send", text.as_bytes()),
        to: to.clone(),
        content: Content::Text {
            text: text.to_owned(),
        },
        stanza_id: format!("3EB0{request:016X}"),
        encoded: text.as_bytes().to_vec(),
        media: None,
        priority: Priority::Transactional,
        send_after: None,
        expire_at: None,
    }
}

/// Acks of these events, of which nothing is known.
pub(super) fn acks(revisions: &[u64]) -> Vec<Acknowledged> {
    let ack = |revision: &u64| Acknowledged {
        revision: *revision,
        first_leased: None,
        failed_before: true,
    };
    revisions.iter().map(ack).collect()
}

/// Deliveries of these events that were refused.
pub(super) fn failures(revisions: &[u64]) -> Vec<FailedDelivery> {
    let failed = |revision: &u64| FailedDelivery {
        revision: *revision,
        first_leased: Some(NOW),
        failure: DeliveryFailure::Refused,
        at: NOW.plus(std::time::Duration::from_secs(1)),
    };
    revisions.iter().map(failed).collect()
}

pub(super) async fn append(session: &SessionStore, event: NewEvent) -> Appended {
    let applied = session.apply(vec![Change::Event(event)]).await.unwrap();
    match applied[..] {
        [Applied::Event(appended)] => appended,
        _ => panic!("{applied:?}"),
    }
}
