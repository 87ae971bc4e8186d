//! A simulated WhatsApp with two people, and the clients of others that are linked to them.

#![allow(
    dead_code,
    reason = "each test binary takes what it needs from this module"
)]

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use trunkline_simulator::{Account, Fact, NewAccount, Simulator, SimulatorConfig, Truth};

use crate::peer::Peer;

const PATIENCE: Duration = Duration::from_mins(3);

/// Worlds at the same time: each may run three Node processes and a daemon.
static TURNS: Semaphore = Semaphore::const_new(2);

/// A simulator, a shop and its customer.
pub(crate) struct World {
    pub(crate) simulator: Simulator,
    pub(crate) shop: Account,
    pub(crate) customer: Account,
    pub(crate) files: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let turn = TURNS.acquire().await.unwrap();
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let shop = simulator
            .create_account(NewAccount::new("+15550100001", "Corner Shop"))
            .unwrap();
        let customer = simulator
            .create_account(NewAccount::new("+15550100002", "Ada Customer"))
            .unwrap();
        Self {
            simulator,
            shop,
            customer,
            files: tempfile::tempdir().unwrap(),
            _turn: turn,
        }
    }

    pub(crate) fn root_key(&self) -> String {
        hex::encode(self.simulator.root_public_key())
    }

    /// A file with the root certificate of the media host.
    pub(crate) fn tls_root(&self) -> PathBuf {
        let path = self.files.path().join("root.pem");
        std::fs::write(&path, self.simulator.tls_root_pem()).unwrap();
        path
    }

    /// A client of this kind that connects with the credentials kept under `name`, if there are any.
    pub(crate) async fn peer(&self, kind: &str, name: &str) -> Peer {
        // Media comes over TLS, under the simulator's root.
        let root = self.tls_root();
        let media = self.simulator.media_url();
        let media = media.trim_start_matches("https://");
        let mut peer = Peer::spawn_trusting(kind, name, Some((&root, media))).await;
        let url = self.simulator.ws_url();
        peer.start(&url, &self.root_key(), self.files.path()).await;
        peer
    }

    /// A Baileys that connects with the credentials kept under `name`, if there are any.
    pub(crate) async fn baileys(&self, name: &str) -> Peer {
        self.peer("baileys", name).await
    }

    /// A zapo-js that was linked to this account by QR and is open.
    pub(crate) async fn linked_zapo(&self, account: &Account, name: &str) -> Peer {
        let mut peer = self.peer("zapo", name).await;
        let qr = peer.event("qr", |_| true).await;
        account.scan_qr(qr["payload"].as_str().unwrap()).unwrap();
        peer.event("open", |_| true).await;
        peer
    }

    /// A Baileys that was linked to this account by QR and is open.
    pub(crate) async fn linked_baileys(&self, account: &Account, name: &str) -> Peer {
        let mut peer = self.baileys(name).await;
        let qr = peer.event("qr", |_| true).await;
        account.scan_qr(qr["payload"].as_str().unwrap()).unwrap();
        self.opened(account, &mut peer).await;
        peer
    }

    /// A Baileys that was linked to this account by the code it shows and is open.
    pub(crate) async fn baileys_linked_by_code(&self, account: &Account, name: &str) -> Peer {
        let mut peer = self.baileys(name).await;
        peer.event("qr", |_| true).await;
        self.type_code(account, &mut peer).await;
        self.opened(account, &mut peer).await;
        peer
    }

    /// Has the client show a code for this account, and types it on its phone.
    pub(crate) async fn type_code(&self, account: &Account, peer: &mut Peer) {
        let phone = account.phone();
        let shown = peer.ask("requestCode", json!({ "phone": phone })).await;
        // Baileys does not wait for the server's answer.
        self.until("the code is known to the server", |truth| {
            truth
                .ledger()
                .facts()
                .any(|fact| matches!(fact, Fact::CodeRequested { phone: of, .. } if *of == phone))
        })
        .await;
        account.enter_code(shown["code"].as_str().unwrap()).unwrap();
    }

    async fn opened(&self, account: &Account, peer: &mut Peer) {
        let restart = peer.event("close", |_| true).await;
        assert_eq!(restart["code"], 515, "after pairing: {restart}");
        peer.event("open", |_| true).await;
        // It holds messages back until its phone has sent history, or for 20 s.
        peer.event("history", |e| e["type"] == "INITIAL_BOOTSTRAP")
            .await;
        peer.event("synced", |_| true).await;
        self.quiet(account).await;
    }

    /// Waits until every device of the account has confirmed what its phone sent it. A Baileys that writes
    /// sooner may use a counter twice (see `tests/peers/README.md`).
    async fn quiet(&self, account: &Account) {
        let phone = account.phone();
        let devices = account.devices();
        self.until("it has confirmed what its phone sent", |truth| {
            devices
                .iter()
                .all(|device| truth.backlog(&phone, device.device) == 0)
        })
        .await;
    }

    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Truth<'_>) -> bool) {
        if self
            .simulator
            .wait_until(condition, PATIENCE)
            .await
            .is_err()
        {
            self.fail(&format!("not true in time: {what}"));
        }
    }

    /// Nothing any client did may be something that WhatsApp would refuse, or that the simulator
    /// does not know: an unknown request is a gap of the simulator, and fails here first.
    pub(crate) fn assert_clean(&self) {
        self.assert_without(|fact| {
            matches!(
                fact,
                Fact::Violation { .. } | Fact::Unknown { .. } | Fact::ProtocolError { .. }
            )
        });
    }

    /// The same where a client was killed: its last connection may end within a handshake or frame.
    pub(crate) fn assert_clean_but_cut(&self) {
        self.assert_without(|fact| matches!(fact, Fact::Violation { .. } | Fact::Unknown { .. }));
    }

    fn assert_without(&self, odd: impl Fn(&Fact) -> bool) {
        let ledger = self.simulator.ledger();
        let found: Vec<&Fact> = ledger.facts().filter(|fact| odd(fact)).collect();
        if !found.is_empty() {
            self.fail(&format!("the simulator objected: {found:#?}"));
        }
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        let ledger = self.simulator.ledger();
        let facts: Vec<String> = ledger
            .entries()
            .iter()
            .map(|entry| format!("{entry:?}"))
            .collect();
        let tail = &facts[facts.len().saturating_sub(80)..];
        panic!("{what}\nthe simulator's ledger:\n  {}", tail.join("\n  "));
    }
}

pub(crate) fn jid(phone: &str) -> String {
    format!("{phone}@s.whatsapp.net")
}

/// Bytes that stand for a photo; no client looks into them.
pub(crate) fn photo(seed: u32) -> Vec<u8> {
    (0..50_000_u32)
        .flat_map(|n| {
            n.wrapping_mul(2_654_435_761)
                .wrapping_add(seed)
                .to_le_bytes()
        })
        .collect()
}

/// The picture as a harness is told to send it.
pub(crate) fn image_to(phone: &str, data: &[u8], caption: &str) -> Value {
    json!({ "jid": jid(phone), "data": BASE64_STANDARD.encode(data), "caption": caption })
}

pub(crate) fn is_text(text: &str) -> impl Fn(&Value) -> bool {
    move |event| event["text"] == text
}

pub(crate) fn is_status(id: &str, status: &str) -> impl Fn(&Value) -> bool {
    move |event| event["key"]["id"] == id && event["status"] == status
}
