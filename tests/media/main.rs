//! Files, both ways: what customers send, and what is sent to them.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod receiving;
mod sending;

use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use trunkline::pb;
use trunkline_simulator::{
    Account, Attachment, Fault, FaultSpec, FaultTarget, NewAccount, Simulator, SimulatorConfig,
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
