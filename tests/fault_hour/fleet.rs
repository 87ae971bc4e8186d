//! Lines under traffic, struck by one fault after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::ConnectionState;
use trunkline::pb::workspace_service_client::WorkspaceServiceClient;
use trunkline_simulator::{Account, NewAccount, Simulator, SimulatorConfig};

use crate::script::Step;
use crate::support::core::{
    self, Paired, WORKSPACE, arrivals, create_session, journal_of, pair, request_id, text_to,
};
use crate::support::daemon::Daemon;
use crate::support::eventually;

pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
/// Lines of the default workspace: the ones that are struck.
pub(crate) const LINES: usize = 5;
/// The workspace of a line that only a fault of the whole fleet may touch.
const BYSTANDER: &str = "workspaces/bystander";
/// Handshakes under way at once.
pub(crate) const SIMULTANEOUS: usize = 3;
/// Silence is noticed soon, acks are missed soon, nothing is paced; waits are short, as in an hour there is
/// no time for fifteen minutes of backoff.
const CONFIG: &str = "\
[session]\nlogin_timeout = \"20s\"\nack_timeout = \"15s\"\n
[admission]\nsimultaneous = 3\n
[stall]\nsilence = \"2s\"\npatience = \"20s\"\n
[backoff]\nmax = \"5s\"\n
[pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000\n";

/// A number that the daemon holds.
pub(crate) struct Line {
    /// The session: its full name.
    pub(crate) name: String,
    pub(crate) owner: Account,
    /// Its device on the phone's list.
    pub(crate) device: u16,
    /// Where it must be now.
    pub(crate) expected: ConnectionState,
}

impl Line {
    /// Its device as the ledger names it.
    pub(crate) fn label(&self) -> String {
        format!("{}:{}", self.owner.phone(), self.device)
    }
}

pub(crate) struct Fleet {
    pub(crate) simulator: Simulator,
    pub(crate) daemon: Daemon,
    pub(crate) channel: Channel,
    pub(crate) lines: Vec<Line>,
    pub(crate) customer: Account,
    /// What the customer wrote: stanza ids.
    written: Vec<String>,
    /// What was accepted for sending: stanza ids and resource names.
    sent: BTreeMap<String, String>,
}

impl Fleet {
    pub(crate) async fn new(seed: u64) -> Self {
        let simulator = Simulator::bind(SimulatorConfig {
            seed,
            ..SimulatorConfig::default()
        })
        .await
        .unwrap();
        let person = |phone: &str, name: &str| {
            let new = NewAccount::new(phone, name);
            simulator.create_account(new).unwrap()
        };
        let customer = person("+2348030009999", "Customer");
        let mut daemon = Daemon::prepare(&simulator.ws_url(), CONFIG);
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        let mut lines = Vec::new();
        let workspace = pb::CreateWorkspaceRequest {
            workspace_id: BYSTANDER.replace("workspaces/", ""),
            request_id: request_id(),
            ..pb::CreateWorkspaceRequest::default()
        };
        let mut workspaces = WorkspaceServiceClient::new(channel.clone());
        workspaces.create_workspace(workspace).await.unwrap();
        for n in 0..=LINES {
            let owner = person(&format!("+23480300000{n:02}"), "Shop");
            let workspace = if n == LINES { BYSTANDER } else { WORKSPACE };
            let name = format!("{workspace}/sessions/line-{n}");
            create_session(&channel, &name).await;
            let device = link(&channel, &name, &owner).await;
            lines.push(Line {
                name,
                owner,
                device,
                expected: ConnectionState::Online,
            });
        }
        let fleet = Self {
            simulator,
            daemon,
            channel,
            lines,
            customer,
            written: Vec::new(),
            sent: BTreeMap::new(),
        };
        fleet.compare(0).await;
        fleet
    }

    pub(crate) fn written(&self) -> usize {
        self.written.len()
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Strikes, looks while the fault lasts, makes good, and compares.
    pub(crate) async fn take(&mut self, step: Step, line: usize) {
        self.talk().await;
        let mark = self.mark();
        match step {
            Step::Killed => self.be_killed(line).await,
            Step::Drained => self.be_drained(line).await,
            _ => self.strike(step, line).await,
        }
        if let Some(state) = step.rests_in() {
            self.lines[line].expected = state;
        }
        // Traffic of the others goes on; what is for a line that is away has to wait or is not written.
        self.talk().await;
        if let Some(during) = step.during() {
            self.watch(step, line, during, &mark).await;
        }
        if step.rests_in().is_some() {
            self.compare(line).await;
        }
        self.make_good(step, line).await;
        self.compare(line).await;
        self.settle().await;
    }

    /// The customer writes to a line.
    pub(crate) fn write_to(&mut self, line: usize, text: &str) {
        let id = self
            .customer
            .send_text(&self.lines[line].owner.phone(), text);
        self.written.push(id.unwrap());
    }

    /// A text each way on every line that is to be online.
    async fn talk(&mut self) {
        for line in &self.lines {
            if line.expected != ConnectionState::Online {
                continue;
            }
            let id = self
                .customer
                .send_text(&line.owner.phone(), "are you there?");
            self.written.push(id.unwrap());
            let request = text_to(&line.name, &format!("+{}", self.customer.phone()), "we are");
            let message = core::send(&self.channel, &request).await.unwrap();
            self.sent.insert(message.stanza_id, message.name);
        }
    }

    /// Waits until everything written has arrived and everything accepted is on the customer's phone.
    pub(crate) async fn settle(&self) {
        eventually("everything has arrived", PATIENCE, async || {
            let here = self.arrivals().await;
            let shown: Vec<_> = self.customer.inbox().into_iter().map(|m| m.id).collect();
            self.written.iter().all(|id| here.contains_key(id))
                && self.sent.keys().all(|id| shown.contains(id))
        })
        .await;
        let lines = self.lines.iter();
        let online: Vec<&Line> = lines
            .filter(|line| line.expected == ConnectionState::Online)
            .collect();
        eventually("nothing waits on the server", PATIENCE, async || {
            online.iter().all(|line| {
                let phone = line.owner.phone();
                self.simulator
                    .look(|truth| truth.backlog(&phone, line.device))
                    == 0
            })
        })
        .await;
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        eventually(what, PATIENCE, async || holds(self)).await;
    }

    /// The events that report each message's arrival, in either workspace.
    async fn arrivals(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut here = BTreeMap::new();
        for workspace in [WORKSPACE, BYSTANDER] {
            let journal = journal_of(&self.channel, workspace).await.unwrap();
            here.extend(arrivals(&journal));
        }
        here
    }

    /// Each message once: one event per arrival, one display per accepted message, and a final state.
    pub(crate) async fn account_for_everything(&self) {
        self.settle().await;
        let here = self.arrivals().await;
        for id in &self.written {
            assert_eq!(here[id].len(), 1, "{id} is more than one event");
        }
        assert_eq!(here.len(), self.written.len(), "nothing that nobody wrote");
        let inbox = self.customer.inbox();
        assert_eq!(inbox.len(), self.sent.len(), "nothing that nobody sent");
        for shown in &inbox {
            assert_eq!(shown.displays, 1, "{shown:?}");
        }
        for name in self.sent.values() {
            eventually("the message is DELIVERED", PATIENCE, async || {
                let message = core::message(&self.channel, name).await.unwrap();
                message.state() == pb::MessageState::Delivered
            })
            .await;
        }
        let ledger = self.simulator.ledger();
        assert!(ledger.violations().is_empty(), "{:?}", ledger.violations());
    }
}

/// Links a session; the number of the device.
pub(crate) async fn link(channel: &Channel, name: &str, owner: &Account) -> u16 {
    let mut device = None;
    let paired = pair(channel, name, |qr| {
        device = Some(owner.scan_qr(qr).unwrap());
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    device.unwrap()
}
