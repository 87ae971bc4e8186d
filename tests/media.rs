//! Files that customers send: described in the event, fetched on demand, checked, and refused in words when
//! they cannot be had.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use trunkline::pb;
use trunkline_simulator::{
    Account, Attachment, Fault, FaultSpec, FaultTarget, MediaKind, NewAccount, Simulator,
    SimulatorConfig,
};

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const PATIENCE: Duration = Duration::from_mins(3);

/// A number that the daemon holds, and its customer.
struct World {
    simulator: Simulator,
    customer: Account,
    daemon: Daemon,
    channel: Channel,
    _root: tempfile::NamedTempFile,
}

impl World {
    async fn new() -> Self {
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let person = |number, name| {
            let person = NewAccount::new(number, name);
            simulator.create_account(person).unwrap()
        };
        let owner = person(NUMBER, "Shop");
        let customer = person(CUSTOMER, "Ada");
        let root = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(root.path(), simulator.tls_root_pem()).unwrap();
        let trust = format!("tls_root = \"{}\"\n", root.path().display());
        let mut daemon = Daemon::prepare(&simulator.ws_url(), &trust);
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        core::create_session(&channel, "main").await;
        let paired = core::pair(&channel, "main", |qr| {
            owner.scan_qr(qr).unwrap();
        })
        .await;
        assert!(matches!(paired, Paired::Linked), "{paired:?}");
        let world = Self {
            simulator,
            customer,
            daemon,
            channel,
            _root: root,
        };
        world.online().await;
        world
    }

    async fn online(&self) {
        eventually("the line is online", PATIENCE, async || {
            core::is_online(&self.channel, "main").await
        })
        .await;
    }

    /// Has the customer send a file; what the event says of it.
    async fn receive(&self, file: &Attachment) -> pb::MediaContent {
        let id = self.customer.send_media(NUMBER, file).unwrap();
        let mut found = None;
        eventually("the file is announced", PATIENCE, async || {
            let journal = core::journal(&self.channel).await.unwrap();
            found = journal.iter().find_map(|event| announced(event, &id));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    fn refuse_downloads(&self, status: u16) {
        let spec = FaultSpec {
            target: FaultTarget::All,
            fault: Fault::RefuseDownload { status },
            times: None,
        };
        self.simulator.fault(spec).unwrap();
    }
}

fn announced(event: &pb::Event, id: &str) -> Option<pb::MediaContent> {
    let Some(pb::event::Payload::Message(message)) = &event.payload else {
        return None;
    };
    let content = message.content.as_ref()?.content.as_ref()?;
    match content {
        pb::content::Content::Media(media) if message.stanza_id == id => Some(media.clone()),
        _ => None,
    }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has its reason");
    info.reason.clone()
}

/// Bytes in which no two chunks are alike.
fn data(length: u32) -> Vec<u8> {
    (0..length / 4).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_described_in_its_event_and_fetched_on_demand() {
    let mut world = World::new().await;
    let contract = data(3 << 20);
    let file = Attachment {
        caption: "please sign".to_owned(),
        ..Attachment::document(contract.clone(), "application/pdf", "contract.pdf")
    };
    let said = world.receive(&file).await;
    assert_eq!(said.kind(), pb::MediaKind::Document);
    assert_eq!(said.mime_type, "application/pdf");
    assert_eq!(said.size, contract.len() as u64);
    assert_eq!(said.sha256, hex::encode(Sha256::digest(&contract)));
    assert_eq!(said.file_name.as_deref(), Some("contract.pdf"));
    assert_eq!(said.caption.as_deref(), Some("please sign"));
    let (info, fetched) = core::download(&world.channel, &said.name).await.unwrap();
    assert_eq!(info, said);
    assert!(fetched == contract, "the file differs");

    let voice = Attachment {
        kind: MediaKind::Voice,
        ..Attachment::document(data(64), "audio/ogg", "")
    };
    let said_voice = world.receive(&voice).await;
    assert_eq!(said_voice.kind(), pb::MediaKind::Voice);

    // What is journaled can be fetched by the next process too.
    world.daemon.kill().await;
    world.daemon.start().await;
    world.channel = world.daemon.channel().await.unwrap();
    world.online().await;
    for (said, data) in [(said, contract), (said_voice, data(64))] {
        let (_, fetched) = core::download(&world.channel, &said.name).await.unwrap();
        assert!(fetched == data, "{} differs", said.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_had_is_refused_with_its_reason() {
    let world = World::new().await;
    let file = Attachment::jpeg(data(1000), "look");
    let said = world.receive(&file).await;
    for (status, code, why) in [
        (410, Code::NotFound, "MEDIA_GONE"),
        (404, Code::NotFound, "MEDIA_GONE"),
        (503, Code::Unavailable, "MEDIA_UNAVAILABLE"),
    ] {
        world.refuse_downloads(status);
        let refused = core::download(&world.channel, &said.name).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (code, why),
            "{refused}"
        );
        world.simulator.clear_faults();
    }
    let stop = pb::StopSessionRequest {
        name: core::session_name("main"),
        request_id: core::request_id(),
        ..Default::default()
    };
    pb::session_service_client::SessionServiceClient::new(world.channel.clone())
        .stop_session(stop)
        .await
        .unwrap();
    eventually("the line is offline", PATIENCE, async || {
        !core::is_online(&world.channel, "main").await
    })
    .await;
    let refused = core::download(&world.channel, &said.name).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "SESSION_OFFLINE")
    );
    assert!(refused.get_error_details().retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_fetches_a_file_and_overwrites_none() {
    let world = World::new().await;
    let photo = data(300_000);
    let said = world
        .receive(&Attachment::jpeg(photo.clone(), "look"))
        .await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("photo.jpg");
    let get = async || {
        let mut command = tokio::process::Command::from(world.daemon.trunkline());
        command
            .args(["media", "get", &said.name, "-o"])
            .arg(&target);
        command.output().await.unwrap()
    };
    let got = get().await;
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    assert!(std::fs::read(&target).unwrap() == photo, "the file differs");
    let again = get().await;
    assert_eq!(again.status.code(), Some(74));
    let entries = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 1, "nothing else is left");
}
