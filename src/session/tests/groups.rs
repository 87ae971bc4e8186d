//! Groups: asked of the provider sparingly, and never answered from before a change.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::domain::clock::{Clock as _, ManualClock, Timestamp};
use crate::domain::event::{DedupKey, NewEvent, Payload};
use crate::domain::group::Group;
use crate::domain::media::MediaKind;
use crate::domain::message::OutboundMessage;
use crate::domain::person::Person;
use crate::domain::session::{Cause, Traffic};
use crate::provider::contract::{
    Arrival, FetchError, Fetched, GroupsError, Line, Mode, ProbeError, SendError, UploadError,
};
use crate::session::Verb;
use crate::session::groups::{GroupBook, PAUSE, REUSE};
use crate::session::testing::*;
use crate::store::media::MediaFile;

fn group(subject: &str) -> Group {
    Group {
        id: format!("{subject}@g.us"),
        subject: subject.to_owned(),
        members: Vec::new(),
    }
}

/// A line that is asked for nothing but groups.
struct Asked {
    clock: ManualClock,
    /// When it was asked, by the clock.
    at: Mutex<Vec<Duration>>,
    /// What it answers, before it has nothing but one group to tell of.
    answers: Mutex<VecDeque<GroupsError>>,
    /// A change of a group that arrives while it is asked.
    meanwhile: Option<Arc<AtomicU64>>,
}

#[async_trait]
impl Line for Asked {
    async fn groups(&self) -> Result<Vec<Group>, GroupsError> {
        self.at.lock().unwrap().push(self.clock.elapsed());
        // Time for whoever else asks.
        tokio::task::yield_now().await;
        if let Some(changes) = &self.meanwhile {
            changes.fetch_add(1, Ordering::SeqCst);
        }
        match self.answers.lock().unwrap().pop_front() {
            Some(error) => Err(error),
            None => Ok(vec![group("b"), group("a")]),
        }
    }

    async fn run(&self, _: Mode, _: CancellationToken) -> Cause {
        unreachable!("it is asked for groups")
    }

    async fn send(&self, _: &OutboundMessage) -> Result<(), SendError> {
        unreachable!("it is asked for groups")
    }

    async fn probe(&self, _: Duration) -> Result<(), ProbeError> {
        unreachable!("it is asked for groups")
    }

    async fn mark_read(&self, _: &Person, _: &Person, _: &[String]) -> Result<(), SendError> {
        unreachable!("it is asked for groups")
    }

    async fn fetch(&self, _: &[u8]) -> Result<Fetched, FetchError> {
        unreachable!("it is asked for groups")
    }

    async fn upload(&self, _: MediaFile, _: MediaKind) -> Result<Vec<u8>, UploadError> {
        unreachable!("it is asked for groups")
    }

    fn attach(&self, _: &[u8], _: &[u8]) -> Result<Vec<u8>, UploadError> {
        unreachable!("it is asked for groups")
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    async fn logout(&self) -> Result<(), SendError> {
        unreachable!("it is asked for groups")
    }
}

struct Scene {
    clock: ManualClock,
    changes: Arc<AtomicU64>,
    book: Arc<GroupBook>,
    line: Asked,
}

impl Scene {
    fn new() -> Self {
        let clock = ManualClock::at(Timestamp(1_700_000_000_000));
        let changes = Arc::default();
        Self {
            book: GroupBook::new(Arc::new(clock.clone()), Arc::clone(&changes)),
            line: Asked {
                clock: clock.clone(),
                at: Mutex::default(),
                answers: Mutex::default(),
                meanwhile: None,
            },
            changes,
            clock,
        }
    }

    fn asked(&self) -> usize {
        self.line.at.lock().unwrap().len()
    }
}

#[tokio::test]
async fn one_answer_serves_everybody_for_a_while() {
    let scene = Scene::new();
    let ask = || scene.book.ask(&scene.line);
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let one = one.unwrap();
    assert_eq!(one.groups, [group("a"), group("b")], "in order");
    assert_eq!(two.unwrap(), one);
    assert_eq!(three.unwrap(), one);
    assert_eq!(scene.asked(), 1);

    scene.clock.advance(REUSE / 2);
    assert_eq!(ask().await.unwrap(), one);
    assert_eq!(scene.asked(), 1);
    scene.clock.advance(REUSE / 2);
    assert_ne!(ask().await.unwrap().at, one.at);
    assert_eq!(scene.asked(), 2);
}

#[tokio::test]
async fn a_change_makes_the_answer_void_and_questions_keep_their_distance() {
    let scene = Scene::new();
    scene.book.ask(&scene.line).await.unwrap();
    scene.changes.fetch_add(1, Ordering::SeqCst);
    let before = tokio::time::Instant::now();
    scene.book.ask(&scene.line).await.unwrap();
    assert_eq!(scene.asked(), 2);
    assert!(
        before.elapsed() >= PAUSE,
        "not sooner, however much changes"
    );

    // One that arrives while the provider is asked may or may not be in the answer.
    let mut scene = Scene::new();
    scene.line.meanwhile = Some(Arc::clone(&scene.changes));
    scene.book.ask(&scene.line).await.unwrap();
    scene.clock.advance(PAUSE);
    scene.book.ask(&scene.line).await.unwrap();
    assert_eq!(scene.asked(), 2);
}

#[tokio::test]
async fn a_provider_that_was_asked_too_often_is_left_alone() {
    let scene = Scene::new();
    let wait = Duration::from_secs(20);
    let refusal = GroupsError::TooOften { wait: Some(wait) };
    scene
        .line
        .answers
        .lock()
        .unwrap()
        .push_back(refusal.clone());
    let refused = scene.book.ask(&scene.line).await;
    assert_eq!(refused.unwrap_err(), refusal);
    scene.clock.advance(Duration::from_secs(5));
    let refused = scene.book.ask(&scene.line).await;
    let left = Some(Duration::from_secs(15));
    assert_eq!(refused.unwrap_err(), GroupsError::TooOften { wait: left });
    assert_eq!(scene.asked(), 1);
    scene.clock.advance(Duration::from_secs(15));
    scene.book.ask(&scene.line).await.unwrap();

    // Without a word about how long: for a minute. Other errors are not remembered.
    let scene = Scene::new();
    let mut answers = VecDeque::from([
        GroupsError::Temporary("later".to_owned()),
        GroupsError::TooOften { wait: None },
    ]);
    scene.line.answers.lock().unwrap().append(&mut answers);
    let error = scene.book.ask(&scene.line).await.unwrap_err();
    assert_eq!(error, GroupsError::Temporary("later".to_owned()));
    let wait = Some(Duration::from_mins(1));
    let error = scene.book.ask(&scene.line).await.unwrap_err();
    assert_eq!(error, GroupsError::TooOften { wait });
}

#[tokio::test]
async fn groups_come_over_the_line_while_it_is_online_and_show_every_change_that_was_journaled() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    h.world
        .peer(&name, |peer| peer.groups = vec![group("team")]);
    let known = h.supervisor.groups(&name).await.unwrap();
    assert_eq!(known.groups, [group("team")]);

    let sink = h.world.peer(&name, |peer| {
        peer.groups.push(group("zoo"));
        peer.sink.clone().unwrap()
    });
    let team = Person {
        provider_id: Some("zoo@g.us".to_owned()),
        ..Person::default()
    };
    let change = Arrival::Event(NewEvent {
        at: Timestamp(1),
        payload: Payload::GroupChange {
            group: team,
            actor: None,
            change: "create".to_owned(),
            participants: Vec::new(),
            subject: None,
        },
        dedup: Some(DedupKey {
            chat: "zoo@g.us".to_owned(),
            sender: String::new(),
            stanza_id: "1".to_owned(),
            kind: "group/create".to_owned(),
        }),
    });
    sink.commit(vec![change]).await.unwrap();
    let known = h.supervisor.groups(&name).await.unwrap();
    assert_eq!(known.groups, [group("team"), group("zoo")]);

    h.supervisor.command(&name, Verb::Stop, None).await.unwrap();
    h.reach(&name, "STOPPED").await;
    let refused = h.supervisor.groups(&name).await;
    assert_eq!(refused.unwrap_err(), GroupsError::NotConnected);
}
