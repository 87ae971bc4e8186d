//! Backups, from the operator's side: made of a running daemon, put back elsewhere, and what becomes of the
//! sessions. The simulator's phones refuse a message counter that was used before, so they judge whether
//! two copies of one store ever use the same key.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use age::secrecy::ExposeSecret;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tempfile::TempDir;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::workspace_service_client::WorkspaceServiceClient;
use trunkline_simulator::{Account, NewAccount, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const CUSTOMERS: [&str; 2] = ["+2348030000002", "+2348030000003"];
const PATIENCE: Duration = Duration::from_mins(2);
/// Nobody listens there.
const NOWHERE: &str = "ws://127.0.0.1:9/ws";

/// Keys and files of an operator.
struct Operator {
    folder: TempDir,
    recipient: String,
}

impl Operator {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = age::x25519::Identity::generate();
        let text = format!("# an identity\n{}\n", identity.to_string().expose_secret());
        std::fs::write(folder.path().join("backup.key"), text).unwrap();
        Self {
            folder,
            recipient: identity.to_public().to_string(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn identity(&self) -> PathBuf {
        self.path("backup.key")
    }

    /// Makes a backup of a daemon; `more` are further options.
    fn back_up(&self, daemon: &Daemon, name: &str, more: &[&str]) -> PathBuf {
        let file = self.path(name);
        let mut command = daemon.trunkline();
        command.arg("backup").arg(&file);
        command.args(["--recipient", &self.recipient]).args(more);
        succeeds(&run(command));
        file
    }

    fn restore(&self, daemon: &Daemon, file: &Path, more: &[&str]) -> Output {
        let mut command = daemon.trunkline();
        command.arg("restore").arg(file).arg("--identity");
        command.arg(self.identity()).args(more);
        run(command)
    }
}

fn run(mut command: std::process::Command) -> Output {
    tokio::task::block_in_place(|| command.output().unwrap())
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refuses(output: &Output, code: i32, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(part), "{part:?} is missing in: {text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// A number, held by a daemon, and its customers.
struct World {
    simulator: Simulator,
    customers: Vec<Account>,
    operator: Operator,
    /// Stanza ids that the customers sent.
    sent: BTreeSet<String>,
    /// Stanza ids that a daemon confirmed.
    confirmed: BTreeSet<String>,
    words: u32,
}

impl World {
    async fn new() -> (Self, Daemon) {
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let account = |number: &str, name: &str| {
            let new = NewAccount::new(number, name);
            simulator.create_account(new).unwrap()
        };
        let phone = account(NUMBER, "Shop");
        let customers = CUSTOMERS.iter().map(|number| account(number, "Ada"));
        let customers = customers.collect();
        let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        core::create_session(&channel, "main").await;
        let scan = |qr: &str| {
            phone.scan_qr(qr).unwrap();
        };
        let paired = core::pair(&channel, "main", scan).await;
        assert!(matches!(paired, Paired::Linked), "{paired:?}");
        let mut world = Self {
            simulator,
            customers,
            operator: Operator::new(),
            sent: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            words: 0,
        };
        online(&channel).await;
        world.talk(&channel).await;
        (world, daemon)
    }

    /// A daemon of its own machine that speaks to the same server.
    fn machine(&self) -> Daemon {
        Daemon::prepare(&self.simulator.ws_url(), "")
    }

    fn text(&mut self) -> String {
        self.words += 1;
        format!("text {}", self.words)
    }

    async fn send(&mut self, channel: &Channel, to: &str) -> pb::Message {
        let request = core::text_to("main", to, &self.text());
        let message = core::send(channel, &request).await.unwrap();
        self.confirmed.insert(message.stanza_id.clone());
        message
    }

    /// The customers write to the number.
    fn customers_write(&mut self) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for at in 0..self.customers.len() {
            let text = self.text();
            ids.insert(self.customers[at].send_text(NUMBER, &text).unwrap());
        }
        self.sent.extend(ids.clone());
        ids
    }

    /// Messages both ways, two each, all of which arrive.
    async fn talk(&mut self, channel: &Channel) {
        for _ in 0..2 {
            let mut out = BTreeSet::new();
            for to in CUSTOMERS {
                out.insert(self.send(channel, to).await.stanza_id);
            }
            let inn = self.customers_write();
            self.shown(&out).await;
            arrived(channel, &inn).await;
        }
    }

    async fn shown(&self, ids: &BTreeSet<String>) {
        eventually("they are on the customers' screens", PATIENCE, async || {
            let shown = self.displayed();
            ids.iter().all(|id| shown.contains_key(id))
        })
        .await;
    }

    fn displayed(&self) -> BTreeMap<String, u32> {
        let ledger = self.simulator.ledger();
        let mut displayed = BTreeMap::new();
        for customer in CUSTOMERS {
            for (id, times) in ledger.displayed_by(customer.trim_start_matches('+')) {
                *displayed.entry(id.to_owned()).or_default() += times;
            }
        }
        displayed
    }

    /// Nothing was shown twice, and nothing was done that WhatsApp would refuse: no message counter and
    /// no prekey was used twice.
    fn reckon(&self) {
        let displayed = self.displayed();
        let twice: Vec<_> = displayed.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "displayed more than once: {twice:?}");
        assert!(displayed.keys().all(|id| self.confirmed.contains(id)));
        let ledger = self.simulator.ledger();
        assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
        for customer in &self.customers {
            assert_eq!(customer.violations(), []);
        }
    }
}

async fn online(channel: &Channel) {
    eventually("the session is online", PATIENCE, async || {
        core::is_online(channel, "main").await
    })
    .await;
}

async fn arrived(channel: &Channel, ids: &BTreeSet<String>) {
    eventually("they are in the journal, once", PATIENCE, async || {
        let journal = core::journal(channel).await.unwrap();
        let arrivals = core::arrivals(&journal);
        assert!(arrivals.values().all(|events| events.len() == 1));
        ids.iter().all(|id| arrivals.contains_key(id))
    })
    .await;
}

async fn state(channel: &Channel) -> pb::ConnectionState {
    let session = core::session(channel, "main").await.unwrap();
    session.connection.unwrap_or_default().state()
}

fn session(daemon: &Daemon, verb: &str) {
    let mut command = daemon.trunkline();
    command.args(["session", verb, "main"]);
    succeeds(&run(command));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_daemon_takes_over_and_the_old_one_stays_out() {
    let (mut world, mut old) = World::new().await;
    let channel = old.channel().await.unwrap();
    // Accepted and not sent when the backup is made; sent by both.
    session(&old, "stop");
    let waiting = world.send(&channel, CUSTOMERS[0]).await;
    let file = world.operator.back_up(&old, "a.age", &[]);
    session(&old, "start");
    online(&channel).await;
    world.shown(&[waiting.stanza_id.clone()].into()).await;
    // The ratchets go on, and the journal.
    world.talk(&channel).await;
    let before = core::journal(&channel).await.unwrap();

    let mut new = world.machine();
    succeeds(&world.operator.restore(&new, &file, &[]));
    new.start().await;
    session(&new, "start");
    let restored = new.channel().await.unwrap();
    online(&restored).await;
    eventually("the old owner is told", PATIENCE, async || {
        state(&channel).await == pb::ConnectionState::Replaced
    })
    .await;
    eventually(
        "what both sent is SENT for the new one too",
        PATIENCE,
        async || {
            let message = core::message(&restored, &waiting.name).await.unwrap();
            !matches!(
                message.state(),
                pb::MessageState::Queued | pb::MessageState::Sending
            )
        },
    )
    .await;
    world.talk(&restored).await;

    // Numbers that the old one gave out are not given out again, and readers are told.
    let journal = core::journal(&restored).await.unwrap();
    let highest = before.iter().map(|event| event.revision).max().unwrap();
    let known: BTreeSet<_> = before.iter().map(|event| &event.event_id).collect();
    let fresh = journal
        .iter()
        .filter(|event| !known.contains(&event.event_id));
    assert!(fresh.clone().all(|event| event.revision > highest));
    let told = fresh.filter(|event| {
        matches!(&event.payload, Some(pb::event::Payload::Gap(gap)) if gap.reason == "RESTORED")
    });
    assert_eq!(told.count(), 1);

    // It does not come back by itself, nor when it is started again.
    assert_eq!(old.stop().await, Some(0));
    old.start().await;
    let channel = old.channel().await.unwrap();
    eventually("it knows that it was replaced", PATIENCE, async || {
        state(&channel).await == pb::ConnectionState::Replaced
    })
    .await;
    world.talk(&restored).await;
    assert_eq!(state(&channel).await, pb::ConnectionState::Replaced);
    assert_eq!(state(&restored).await, pb::ConnectionState::Online);
    world.reckon();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_at_the_server_arrives_at_the_restored_daemon() {
    let (mut world, mut old) = World::new().await;
    let file = world.operator.back_up(&old, "a.age", &[]);
    let channel = old.channel().await.unwrap();
    world.talk(&channel).await;
    old.kill().await;
    let waiting = world.customers_write();

    let mut new = world.machine();
    succeeds(&world.operator.restore(&new, &file, &[]));
    new.start().await;
    let channel = new.channel().await.unwrap();
    online(&channel).await;
    arrived(&channel, &waiting).await;
    world.talk(&channel).await;
    // A second restore of the same backup is another owner again.
    new.kill().await;
    let mut third = world.machine();
    succeeds(&world.operator.restore(&third, &file, &[]));
    third.start().await;
    let channel = third.channel().await.unwrap();
    online(&channel).await;
    world.talk(&channel).await;
    world.reckon();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_handed_over_is_run_by_whoever_restores_it() {
    let (mut world, mut old) = World::new().await;
    let mut running = old.trunkline();
    running.arg("backup").arg(world.operator.path("no.age"));
    running.args(["--hand-over", "--recipient", &world.operator.recipient]);
    refuses(&run(running), 75, "in use by another trunkline process");
    assert_eq!(old.stop().await, Some(0));
    let file = world.operator.back_up(&old, "a.age", &["--hand-over"]);
    let mut serve = old.trunkline();
    serve.arg("serve");
    refuses(&run(serve), 78, "handed over");

    let mut new = world.machine();
    let told = succeeds(&world.operator.restore(&new, &file, &["--output", "json"]));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["handedOver"], true);
    assert_eq!(told["generation"], 1);
    new.start().await;
    let channel = new.channel().await.unwrap();
    online(&channel).await;
    world.talk(&channel).await;
    world.reckon();

    let take_back = || {
        let mut command = old.trunkline();
        command.args(["restore", "--take-back"]);
        run(command)
    };
    succeeds(&take_back());
    refuses(&take_back(), 1, "nothing to take back");
}

/// A daemon with something in its store and nobody to talk to.
async fn lonely() -> Daemon {
    let mut daemon = Daemon::prepare(NOWHERE, "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    let mut workspaces = WorkspaceServiceClient::new(channel.clone());
    for n in 0..40 {
        let request = pb::CreateWorkspaceRequest {
            workspace_id: format!("w{n}"),
            display_name: "x".repeat(150),
            request_id: core::request_id(),
        };
        workspaces.create_workspace(request).await.unwrap();
    }
    core::create_session(&channel, "main").await;
    daemon
}

async fn count_workspaces(daemon: &Daemon) -> usize {
    let channel = daemon.channel().await.unwrap();
    let request = pb::ListWorkspacesRequest {
        page_size: 1000,
        ..Default::default()
    };
    let mut workspaces = WorkspaceServiceClient::new(channel);
    let answer = workspaces.list_workspaces(request).await.unwrap();
    answer.into_inner().workspaces.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_leaves_what_can_be_gone_on_from() {
    let mut random = ChaCha20Rng::seed_from_u64(5);
    let operator = Operator::new();
    let mut daemon = lonely().await;
    // Whoever makes the backup is killed: no file appears, and the daemon minds nothing.
    for round in 0..8 {
        let file = operator.path("killed.age");
        let mut command = daemon.trunkline();
        command.arg("backup").arg(&file);
        command.args(["--recipient", &operator.recipient]);
        let mut child = command.spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        child.kill().unwrap();
        tokio::task::block_in_place(|| child.wait()).unwrap();
        if file.exists() {
            succeeds(&operator.restore(&daemon, &file, &["--check"]));
            std::fs::remove_file(&file).unwrap();
        }
        println!("backup {round} killed");
    }
    eventually(
        "the place of the killed is free again",
        PATIENCE,
        async || {
            let mut command = daemon.trunkline();
            command.arg("backup").arg(operator.path("good.age"));
            command.args(["--recipient", &operator.recipient]);
            run(command).status.success()
        },
    )
    .await;
    let file = operator.path("good.age");
    succeeds(&operator.restore(&daemon, &file, &["--check"]));
    daemon.kill().await;

    let mut new = Daemon::prepare(NOWHERE, "");
    let mut interrupted = 0;
    for _ in 0..12 {
        let mut command = new.trunkline();
        command.arg("restore").arg(&file).arg("--identity");
        let mut child = command.arg(operator.identity()).spawn().unwrap();
        let moment = Duration::from_millis(random.random_range(0..250));
        tokio::time::sleep(moment).await;
        child.kill().unwrap();
        tokio::task::block_in_place(|| child.wait()).unwrap();
        if new.state_dir().join("store").exists() {
            break;
        }
        if new.state_dir().join("store.restoring").exists() {
            interrupted += 1;
            let mut serve = new.trunkline();
            serve.arg("serve");
            refuses(&run(serve), 78, "interrupted");
        }
    }
    println!("{interrupted} restores were interrupted");
    if !new.state_dir().join("store").exists() {
        succeeds(&operator.restore(&new, &file, &[]));
    }
    assert!(!new.state_dir().join("store.restoring").exists());
    new.start().await;
    assert_eq!(count_workspaces(&new).await, 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_refused_with_the_reason_and_leaves_nothing() {
    let operator = Operator::new();
    let daemon = lonely().await;
    let file = operator.back_up(&daemon, "a.age", &[]);
    let new = Daemon::prepare(NOWHERE, "");

    let bytes = std::fs::read(&file).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = operator.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (name, content, part) in [
        ("empty", &b""[..], "cut off"),
        (
            "text",
            b"not a backup at all, however long it goes on",
            "not a backup",
        ),
        ("half", &bytes[..bytes.len() / 2], "end is missing"),
        ("almost", &bytes[..bytes.len() - 1], "backup is"),
    ] {
        let path = write(name, content);
        for more in [&["--check"][..], &[]] {
            refuses(&operator.restore(&new, &path, more), 1, part);
        }
    }
    let mut altered = bytes.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 4;
    let altered = write("altered", &altered);
    refuses(&operator.restore(&new, &altered, &[]), 1, "damaged");
    refuses(
        &operator.restore(&new, &operator.path("none"), &[]),
        74,
        "none",
    );
    let stranger = Operator::new();
    refuses(&stranger.restore(&new, &file, &[]), 1, "other recipients");
    let mut plain = age::Encryptor::with_recipients(std::iter::once(
        &operator
            .recipient
            .parse::<age::x25519::Recipient>()
            .unwrap() as &dyn age::Recipient,
    ))
    .unwrap()
    .wrap_output(Vec::new())
    .unwrap();
    std::io::Write::write_all(&mut plain, &[b'x'; 500]).unwrap();
    let foreign = write("foreign", &plain.finish().unwrap());
    refuses(&operator.restore(&new, &foreign, &[]), 1, "not a backup");
    for name in ["store", "store.restoring"] {
        assert!(!new.state_dir().join(name).exists(), "{name} was left");
    }

    // Where something is, nothing is restored; what exists is not overwritten.
    refuses(&operator.restore(&daemon, &file, &[]), 1, "exists already");
    let backup = |arguments: &[&str]| {
        let mut command = daemon.trunkline();
        command.arg("backup").args(arguments);
        run(command)
    };
    let (file, fresh) = (file.to_str().unwrap(), operator.path("fresh.age"));
    let fresh = fresh.to_str().unwrap();
    refuses(
        &backup(&[file, "-r", &operator.recipient]),
        1,
        "not overwritten",
    );
    refuses(&backup(&[fresh]), 2, "--recipient");
    refuses(
        &backup(&[fresh, "-r", "age1nonsense"]),
        2,
        "not an age recipient",
    );
    refuses(
        &backup(&["/nowhere/x.age", "-r", &operator.recipient]),
        74,
        "/nowhere",
    );
    assert!(!operator.path("fresh.age").exists());
    assert!(!operator.path("fresh.age.partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_opens_what_it_closed() {
    let operator = Operator::new();
    let daemon = lonely().await;
    let secret = operator.path("passphrase");
    std::fs::write(&secret, "correct horse\n").unwrap();
    let other = operator.path("other");
    std::fs::write(&other, "battery staple\n").unwrap();
    let file = operator.path("a.age");
    let mut command = daemon.trunkline();
    command.arg("backup").arg(&file).arg("--passphrase-file");
    succeeds(&run({
        command.arg(&secret);
        command
    }));
    let mut new = Daemon::prepare(NOWHERE, "");
    let restore = |passphrase: &Path| {
        let mut command = new.trunkline();
        command.arg("restore").arg(&file).arg("--passphrase-file");
        command.arg(passphrase);
        run(command)
    };
    refuses(&restore(&other), 1, "passphrase is wrong");
    refuses(&operator.restore(&new, &file, &[]), 1, "--passphrase-file");
    succeeds(&restore(&secret));
    new.start().await;
    assert_eq!(count_workspaces(&new).await, 41);
}
