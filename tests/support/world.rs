//! A loopback WhatsApp in this process and a real daemon in another, to be killed at will.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline::pb::message_service_client::MessageServiceClient;
use trunkline::pb::session_service_client::SessionServiceClient;
use trunkline_simulator::{Account, NewAccount, Simulator, SimulatorConfig};
use uuid::Uuid;

/// Longest wait for anything; a condition that takes longer is a failure.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// The workspace of a fresh install.
pub const PARENT: &str = "workspaces/default";

/// The full name of a session in the default workspace.
pub fn session_name(id: &str) -> String {
    format!("{PARENT}/sessions/{id}")
}

/// A fresh idempotency key.
pub fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// A simulator with people in it.
pub async fn simulator(seed: u64) -> Simulator {
    Simulator::bind(SimulatorConfig {
        seed,
        ..SimulatorConfig::default()
    })
    .await
    .expect("the simulator binds a loopback port")
}

/// Adds a person.
pub fn person(sim: &Simulator, phone: &str, name: &str) -> Account {
    sim.create_account(NewAccount::new(phone, name))
        .expect("the phone number is free")
}

/// Asks again and again until `look` answers.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A daemon as an operator runs it: a process with a configuration file and a state directory.
pub struct Daemon {
    folder: TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// Writes the configuration; `extra` is TOML appended to it.
    pub fn prepare(sim: &Simulator, extra: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = format!(
            "[listen]\ngrpc = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n\n\
             [keys]\nsource = \"development\"\n\n\
             [multidevice]\nendpoint = \"{}\"\n\n\
             [pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000\n\n\
             {extra}\n",
            sim.ws_url()
        );
        std::fs::write(folder.path().join("trunkline.toml"), text).expect("a writable folder");
        Self {
            folder,
            child: None,
        }
    }

    /// Where its store, socket and log are.
    pub fn state(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("daemon.log"))
            .expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .args(["serve", "--stop-on-stdin-eof", "--config"])
            .arg(self.folder.path().join("trunkline.toml"))
            .arg("--state-dir")
            .arg(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        self.child = Some(child);
    }

    /// Starts the process and waits until it answers.
    pub async fn start(&mut self) -> Channel {
        self.spawn();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(channel) = self.connect().await {
                return channel;
            }
            let child = self.child.as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("a child to ask") {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "no answer:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn connect(&self) -> Option<Channel> {
        let socket = self.folder.path().join("trunkline.sock");
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://daemon")
            .connect_with_connector(connector)
            .await
            .ok()?;
        let request = pb::ListSessionsRequest {
            parent: PARENT.into(),
            ..Default::default()
        };
        SessionServiceClient::new(channel.clone())
            .list_sessions(request)
            .await
            .ok()?;
        Some(channel)
    }

    /// SIGKILL, without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child to kill");
            child.wait().expect("a child to reap");
        }
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("daemon.log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            eprintln!("--- the daemon's last words ---\n{}", tail.join("\n"));
        }
        self.kill();
    }
}

/// Creates a session.
pub async fn create_session(channel: &Channel, id: &str) {
    SessionServiceClient::new(channel.clone())
        .create_session(pb::CreateSessionRequest {
            parent: PARENT.into(),
            session_id: id.into(),
            request_id: request_id(),
            ..Default::default()
        })
        .await
        .expect("the session is created");
}

/// Reads a session.
pub async fn get_session(channel: &Channel, id: &str) -> pb::Session {
    SessionServiceClient::new(channel.clone())
        .get_session(pb::GetSessionRequest {
            name: session_name(id),
        })
        .await
        .expect("the session exists")
        .into_inner()
        .session
        .expect("a session in the answer")
}

/// Where a session's connection is.
pub async fn connection_state(channel: &Channel, id: &str) -> pb::ConnectionState {
    let session = get_session(channel, id).await;
    session.connection.unwrap_or_default().state()
}

/// Waits until the session's connection is in `wanted`.
pub async fn wait_for_state(channel: &Channel, id: &str, wanted: pb::ConnectionState) {
    eventually(&format!("{id} is {}", wanted.as_str_name()), async || {
        (connection_state(channel, id).await == wanted).then_some(())
    })
    .await;
}

/// Asks for a new connection at once.
pub async fn restart(channel: &Channel, id: &str) {
    SessionServiceClient::new(channel.clone())
        .restart_session(pb::RestartSessionRequest {
            name: session_name(id),
            request_id: request_id(),
            ..Default::default()
        })
        .await
        .expect("the session restarts");
}

/// Links a session to `owner`'s phone by QR.
pub async fn pair(channel: &Channel, id: &str, owner: &Account) {
    let mut steps = SessionServiceClient::new(channel.clone())
        .pair_session(pb::PairSessionRequest {
            name: session_name(id),
            request_id: request_id(),
            ..Default::default()
        })
        .await
        .expect("a pairing starts")
        .into_inner();
    let mut scanned = false;
    while let Some(step) = steps.message().await.expect("the pairing goes on") {
        match step.step {
            Some(pb::pair_session_response::Step::Qr(qr)) if !scanned => {
                owner.scan_qr(&qr.payload).expect("the phone takes the QR");
                scanned = true;
            }
            Some(pb::pair_session_response::Step::Succeeded(_)) => return,
            Some(pb::pair_session_response::Step::Failed(failed)) => {
                panic!("pairing failed: {failed:?}")
            }
            _ => {}
        }
    }
    panic!("the pairing ended without an outcome");
}

/// A request to send `text`; repeating it with the same `request_id` is safe.
pub fn text_to(session: &str, phone: &str, text: &str, request_id: &str) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        parent: session_name(session),
        request_id: request_id.into(),
        to: Some(pb::Recipient {
            recipient: Some(pb::recipient::Recipient::Phone(phone.into())),
        }),
        content: Some(pb::send_message_request::Content::Text(pb::TextContent {
            text: text.into(),
        })),
        ..Default::default()
    }
}

/// Sends a text and returns the stored message.
///
/// # Errors
/// What the daemon answered, or that it is gone.
pub async fn send(
    channel: &Channel,
    request: pb::SendMessageRequest,
) -> Result<pb::Message, tonic::Status> {
    let answer = MessageServiceClient::new(channel.clone())
        .send_message(request)
        .await?;
    Ok(answer.into_inner().message.unwrap_or_default())
}

/// Reads the journal from `from` (inclusive) to its present end.
pub async fn events_from(channel: &Channel, from: u64) -> Vec<pb::Event> {
    let mut frames = EventServiceClient::new(channel.clone())
        .watch(pb::WatchRequest {
            parent: PARENT.into(),
            from_revision: Some(from),
            ..Default::default()
        })
        .await
        .expect("the journal can be watched")
        .into_inner();
    let mut events = Vec::new();
    while let Some(frame) = frames.message().await.expect("the watch goes on") {
        match frame.frame {
            Some(pb::watch_response::Frame::Event(event)) => events.push(event),
            // Idle: everything committed so far was seen.
            Some(pb::watch_response::Frame::Progress(_)) => break,
            None => {}
        }
    }
    events
}

/// The text of an inbound message event.
pub fn text_of(event: &pb::Event) -> Option<(&pb::MessageEvent, &str)> {
    let Some(pb::event::Payload::Message(message)) = &event.payload else {
        return None;
    };
    match message.content.as_ref()?.content.as_ref()? {
        pb::content::Content::Text(text) => Some((message, &text.text)),
        _ => None,
    }
}
