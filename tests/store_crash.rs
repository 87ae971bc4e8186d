//! Promise 1 and 2, at the store: what was acknowledged survives SIGKILL.
//!
//! The test runs itself again as a child that writes as fast as it can and prints one line for each
//! acknowledgement. The parent kills it at a random moment, opens the same directory and checks that
//! everything acknowledged is there, that nothing is there twice, and that order was kept.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says so by failing"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use trunkline::domain::clock::{Clock, Entropy, SystemClock, Timestamp};
use trunkline::domain::event::{DedupKey, NewEvent, Payload};
use trunkline::domain::ids::{RequestId, SessionId, WorkspaceId};
use trunkline::domain::message::{Content, InboundMessage, MessageState, Priority};
use trunkline::domain::person::Person;
use trunkline::domain::session::Desired;
use trunkline::store::keyring::Keks;
use trunkline::store::sled::SledEngine;
use trunkline::store::{
    Applied, BodyHash, Change, CompiledFilter, Durability, KeyBatch, KeyId, KeyKind, NewMessage,
    NewSession, SessionStore, Step, Store, StoreOptions,
};

const CHILD: &str = "TRUNKLINE_STORE_CRASH_CHILD";
const SEED: &str = "TRUNKLINE_STORE_CRASH_SEED";
const ROUNDS: u32 = 30;
const WRITERS: u64 = 4;

async fn open(path: &Path) -> Store {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let engine = SledEngine::open(path, Arc::clone(&clock)).expect("the store opens after a kill");
    let options = StoreOptions {
        engine: Arc::new(engine),
        keks: Keks::ephemeral([3; 32]),
        clock,
        entropy: Entropy::from_system().unwrap(),
        release: "test".to_owned(),
        media: None,
    };
    Store::open(options)
        .await
        .expect("the store is whole after a kill")
}

async fn session(store: &Store) -> SessionStore {
    let workspace = store
        .workspace(&WorkspaceId::default_workspace())
        .await
        .unwrap();
    let id = SessionId::new("line").unwrap();
    let new = NewSession {
        id: id.clone(),
        display_name: String::new(),
        labels: BTreeMap::new(),
        provider: "multidevice".to_owned(),
        desired: Desired::Running,
    };
    // It exists already from the second round on.
    let _ = workspace.sessions().create(new).await;
    workspace.session(&id).await.unwrap()
}

fn someone() -> Person {
    Person {
        lid: Some("77@lid".to_owned()),
        ..Person::default()
    }
}

fn arrival(stanza_id: &str) -> NewEvent {
    let message = InboundMessage {
        chat: someone(),
        sender: someone(),
        from_me: false,
        stanza_id: stanza_id.to_owned(),
        sent_at: SystemClock::new().now(),
        push_name: None,
        content: Content::Text {
            text: "x".repeat(200),
        },
        quoted: None,
    };
    NewEvent {
        at: Timestamp(1),
        payload: Payload::Message {
            message,
            recovers: None,
        },
        dedup: Some(DedupKey {
            chat: "77@lid".to_owned(),
            sender: "77@lid".to_owned(),
            stanza_id: stanza_id.to_owned(),
            kind: "message".to_owned(),
        }),
    }
}

fn message(request: u128) -> NewMessage {
    NewMessage {
        request_id: RequestId(uuid::Uuid::from_u128(request)),
        body: BodyHash::of("send", &request.to_be_bytes()),
        to: someone(),
        content: Content::Text { text: "y".into() },
        stanza_id: format!("OUT{request}"),
        encoded: vec![9; 300],
        media: None,
        priority: Priority::Reply,
        send_after: None,
        expire_at: None,
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ack {line}").unwrap();
    out.flush().unwrap();
}

/// Does all kinds of writes until killed; the line is printed after the store said that it is durable.
async fn write_for_ever(session: SessionStore, round: u32, writer: u64) {
    let keys = session.keys();
    for n in 0_u64.. {
        let name = format!("{round}-{writer}-{n}");
        let applied = session
            .apply(vec![Change::Event(arrival(&name))])
            .await
            .unwrap();
        if let Applied::Event(event) = &applied[0] {
            say(&format!("event {name} {}", event.revision));
        }
        // Ordered and deferred writes, then one that is awaited: all of them, or a prefix.
        let counter = |which: u32| KeyId::number(u32::try_from(writer).unwrap()).and_number(which);
        let value = n.to_be_bytes().to_vec();
        let size = 10 + usize::try_from(n * 1_999 % 30_000).unwrap();
        let mut large = value.clone();
        large.resize(size, 7);
        keys.put(
            KeyKind::Meta,
            counter(1),
            value.clone(),
            Durability::Deferred,
        )
        .await
        .unwrap();
        keys.put(KeyKind::Meta, counter(2), large, Durability::Ordered)
            .await
            .unwrap();
        let batch = KeyBatch::new().put(KeyKind::Meta, counter(3), value);
        keys.commit(batch, Durability::Durable).await.unwrap();
        say(&format!("keys {writer} {n}"));

        let request = u128::from(round) << 64 | u128::from(writer) << 32 | u128::from(n);
        let sent = session
            .outbox()
            .enqueue(message(request))
            .await
            .unwrap()
            .message;
        say(&format!("out {request} {} QUEUED", sent.id));
        let step = Step::to(MessageState::Sending, Timestamp(2));
        session.outbox().transition(sent.id, step).await.unwrap();
        say(&format!("out {request} {} SENDING", sent.id));
    }
}

/// The child's side; does nothing when the tests run normally.
#[test]
fn child() {
    let Ok(argument) = std::env::var(CHILD) else {
        return;
    };
    let (round, path) = argument.split_once(' ').unwrap();
    let round: u32 = round.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!("{OPENING}");
    runtime.block_on(async {
        let store = open(Path::new(path)).await;
        let session = session(&store).await;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write_for_ever(session.clone(), round, writer)))
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// The child has come to the point of opening the store.
const OPENING: &str = "opening";

/// When to kill, from a seed that a failure shows and a run can be given.
fn chance() -> Entropy {
    let seed = std::env::var(SEED).map_or(1, |seed| seed.parse().expect(SEED));
    eprintln!("{SEED}={seed}");
    Entropy::seeded(seed)
}

fn start_child(path: &Path, round: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, format!("{round} {}", path.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

#[derive(Default)]
struct Acknowledged {
    events: BTreeMap<String, u64>,
    keys: BTreeMap<u64, u64>,
    out: BTreeMap<u128, (String, String)>,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        // The test harness may print on the same line before the first acknowledgement.
        let Some(at) = line.find("ack ") else { return };
        let words: Vec<_> = line[at..].split(' ').collect();
        match words[..] {
            ["ack", "event", name, revision] => {
                self.events
                    .insert(name.to_owned(), revision.parse().unwrap());
            }
            ["ack", "keys", writer, n] => {
                self.keys
                    .insert(writer.parse().unwrap(), n.parse().unwrap());
            }
            ["ack", "out", request, id, state] => {
                let message = (id.to_owned(), state.to_owned());
                self.out.insert(request.parse().unwrap(), message);
            }
            _ => panic!("unexpected line {line}"),
        }
    }
}

/// Lets the child run until it has acknowledged `count` things, then kills it without warning.
fn run_and_kill(path: &Path, round: u32, count: u64, acknowledged: &mut Acknowledged) {
    let mut child = start_child(path, round);
    let out = BufReader::new(child.stdout.take().unwrap());
    acknowledged.keys.clear();
    let mut seen = 0;
    for line in out.lines() {
        // After the kill the rest of the pipe is still read: it was acknowledged, too. The last line
        // may be cut off.
        let Ok(line) = line else { break };
        if !line.contains("ack ") || line.split(' ').count() < 4 {
            continue;
        }
        acknowledged.note(&line);
        seen += 1;
        if seen == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(
        seen >= count,
        "the child ended by itself after {seen} acknowledgements"
    );
}

async fn check(path: &Path, acknowledged: &Acknowledged) {
    let store = open(path).await;
    let session = session(&store).await;
    let journal = session.workspace().journal();

    let mut stored: BTreeMap<String, u64> = BTreeMap::new();
    let mut from = 0;
    loop {
        let page = journal
            .read(from, 1_000, &CompiledFilter::default())
            .await
            .unwrap();
        if page.events.is_empty() {
            break;
        }
        from = page.next;
        for event in page.events {
            if let Payload::Message { message, .. } = event.payload {
                let twice = stored.insert(message.stanza_id.clone(), event.revision);
                assert_eq!(twice, None, "{} is there twice", message.stanza_id);
            }
        }
    }
    for (name, revision) in &acknowledged.events {
        assert_eq!(stored.get(name), Some(revision), "event {name}");
    }
    // What was acknowledged is recognised when it is delivered again.
    if let Some((name, revision)) = acknowledged.events.last_key_value() {
        let again = session
            .apply(vec![Change::Event(arrival(name))])
            .await
            .unwrap();
        assert!(
            matches!(again[0], Applied::Event(event) if event.duplicate && event.revision == *revision)
        );
    }
    for (request, (id, state)) in &acknowledged.out {
        let message = session.outbox().get(id.parse().unwrap()).await;
        let message = message.unwrap_or_else(|error| panic!("message {request}: {error}"));
        if state == "SENDING" {
            assert_eq!(message.state, MessageState::Sending);
        }
    }
    if let Some((request, (id, _))) = acknowledged.out.last_key_value() {
        let again = session.outbox().enqueue(message(*request)).await.unwrap();
        assert!(again.replayed && again.message.id.to_string() == *id);
    }
    for (writer, n) in &acknowledged.keys {
        let number = u32::try_from(*writer).unwrap();
        let mut found = Vec::new();
        for which in 1..=3 {
            let id = KeyId::number(number).and_number(which);
            let value = session.keys().get(KeyKind::Meta, &id).await.unwrap();
            let value = value.unwrap_or_else(|| panic!("key {which} of writer {writer}"));
            found.push(u64::from_be_bytes(value[..8].try_into().unwrap()));
        }
        // Written in this order, so a later one is never ahead of an earlier one.
        assert!(found[0] >= found[1] && found[1] >= found[2], "{found:?}");
        assert!(
            found[2] >= *n,
            "writer {writer}: {n} acknowledged, {found:?} stored"
        );
        assert!(found[0] <= found[2] + 1, "{found:?}");
    }
    store.close().await.unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_to_sigkill() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let entropy = chance();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        let count = 1 + entropy.up_to(120);
        run_and_kill(&path, round, count, &mut acknowledged);
        let check = check(&path, &acknowledged);
        let checked =
            runtime.block_on(async { tokio::time::timeout(Duration::from_mins(1), check).await });
        checked.unwrap_or_else(|_| panic!("round {round}: checking took too long"));
    }
    assert!(acknowledged.events.len() > 100);
}

/// A kill while the files are being opened or made must not keep the next opening from succeeding.
#[test]
fn a_kill_while_opening_leaves_a_store_that_opens() {
    if std::env::var(CHILD).is_ok() {
        return;
    }
    let entropy = chance();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let used = tempfile::tempdir().unwrap();
    let used = used.path().join("store");
    run_and_kill(&used, 0, 200, &mut Acknowledged::default());
    for round in 1..=ROUNDS {
        let fresh = tempfile::tempdir().unwrap();
        let fresh = fresh.path().join("store");
        for path in [&fresh, &used] {
            let mut child = start_child(path, round);
            let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(said.any(|line| line.unwrap().ends_with(OPENING)));
            let patience = Duration::from_micros(entropy.up_to(60_000));
            let _ = runtime.block_on(async {
                let never = std::future::pending::<()>();
                tokio::time::timeout(patience, never).await
            });
            child.kill().unwrap();
            child.wait().unwrap();
            runtime.block_on(async { open(path).await.close().await.unwrap() });
        }
    }
}
