//! The programs in `examples/` at work: each answers a customer's texts, is killed together with the
//! daemon, and answers what came meanwhile; nothing is left out and nothing is answered twice.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::core::{Paired, create_session, is_online, pair};
use support::daemon::Daemon;
use support::eventually;
use trunkline_simulator::{Account, NewAccount, Simulator, SimulatorConfig};

const PATIENCE: Duration = Duration::from_mins(2);
const UNPACED: &str = "[pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000";
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A shop whose number the daemon holds, and a customer.
struct World {
    _simulator: Simulator,
    shop: Account,
    customer: Account,
    daemon: Daemon,
    token: String,
}

impl World {
    async fn new() -> Self {
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let person = |phone, name| {
            let new = NewAccount::new(phone, name);
            simulator.create_account(new).unwrap()
        };
        let (shop, customer) = (
            person("+2348030000001", "Shop"),
            person("+2348030000002", "Ada"),
        );
        let mut daemon = Daemon::prepare(&simulator.ws_url(), UNPACED);
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        create_session(&channel, "main").await;
        let paired = pair(&channel, "main", |qr| {
            shop.scan_qr(qr).unwrap();
        })
        .await;
        assert!(matches!(paired, Paired::Linked), "{paired:?}");
        let created = daemon
            .trunkline()
            .args(["token", "create", "--output", "json"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&created.stderr);
        assert!(created.status.success(), "{said}");
        let created: Value = serde_json::from_slice(&created.stdout).unwrap();
        Self {
            _simulator: simulator,
            shop,
            customer,
            daemon,
            token: created["secret"].as_str().unwrap().to_owned(),
        }
    }

    /// The customer writes; nobody has to be there.
    fn write(&self, texts: std::ops::Range<usize>) {
        for n in texts {
            let text = format!("hello {n}");
            self.customer.send_text(&self.shop.phone(), &text).unwrap();
        }
    }

    /// Waits until the customer was shown the answers to the first `count` texts, each once.
    async fn answered(&self, example: &mut Example, count: usize) {
        let mut wanted: Vec<_> = (0..count).map(|n| format!("echo: hello {n}")).collect();
        wanted.sort();
        let shown = || {
            let inbox = self.customer.inbox();
            let mut shown: Vec<_> = inbox.into_iter().map(|message| message.text).collect();
            shown.sort();
            shown
        };
        eventually("every text is answered", PATIENCE, async || {
            if let Some(status) = example.0.try_wait().unwrap() {
                panic!("the example ended: {status}, {}", example.said());
            }
            shown().len() >= count
        })
        .await;
        assert_eq!(shown(), wanted);
    }
}

/// A running example.
struct Example(std::process::Child, std::path::PathBuf);

impl Example {
    /// Starts it as its page says, with its errors in a file under `home`.
    fn start(world: &World, mut command: Command, home: &Path) -> Self {
        let path = home.join("example.log");
        let log = std::fs::File::create(&path).unwrap();
        let child = command
            .env(
                "TRUNKLINE_URL",
                format!("http://{}", world.daemon.address("grpc")),
            )
            .env("TRUNKLINE_ADDRESS", world.daemon.address("grpc"))
            .env("TRUNKLINE_TOKEN", &world.token)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child, path)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.1).unwrap_or_default()
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn answers_and_survives(command: impl Fn() -> Command) {
    let mut world = World::new().await;
    let home = tempfile::tempdir().unwrap();
    let mut example = Example::start(&world, command(), home.path());
    world.write(0..5);
    world.answered(&mut example, 5).await;
    // Killed in the middle, the daemon too; more is written while nobody is there.
    world.write(5..10);
    example.kill();
    world.daemon.kill().await;
    world.write(10..15);
    world.daemon.start().await;
    let channel = world.daemon.channel().await.unwrap();
    eventually("the session is online", PATIENCE, async || {
        is_online(&channel, "main").await
    })
    .await;
    let mut example = Example::start(&world, command(), home.path());
    world.answered(&mut example, 15).await;
    example.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_core_in_rust() {
    let trunkline = Path::new(env!("CARGO_BIN_EXE_trunkline"));
    let example = trunkline.with_file_name("trunkline-example");
    let missing = format!(
        "{} is missing: build the whole workspace",
        example.display()
    );
    assert!(example.exists(), "{missing}");
    answers_and_survives(|| Command::new(&example)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_core_in_python() {
    let script = Path::new(ROOT).join("scripts/python-client");
    let made = Command::new(script).output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let made = String::from_utf8(made.stdout).unwrap();
    let (python, client) = made.trim_end().split_once('\n').unwrap();
    answers_and_survives(|| {
        let mut command = Command::new(python);
        command.arg(Path::new(ROOT).join("examples/python/core.py"));
        command.env("PYTHONPATH", client);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_core_in_node() {
    answers_and_survives(|| {
        let mut command = Command::new("node");
        command.arg(Path::new(ROOT).join("examples/node/core.mjs"));
        command
    })
    .await;
}
