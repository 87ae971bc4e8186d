//! Lines under traffic, struck by one fault after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::ConnectionState;
use trunkline::pb::session_service_client::SessionServiceClient;
use trunkline_simulator::{
    Account, Fault, FaultSpec, FaultTarget, NewAccount, Simulator, SimulatorConfig,
};

use crate::script::Step;
use crate::support::core::{
    self, Paired, arrivals, create_session, journal, pair, request_id, session_name, text_to,
};
use crate::support::daemon::Daemon;
use crate::support::eventually;

pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
const LINES: usize = 5;
/// Silence is noticed soon, acks are missed soon, nothing is paced; waits are short, as in an hour there is
/// no time for fifteen minutes of backoff.
const CONFIG: &str = "\
[session]\nlogin_timeout = \"20s\"\n
[stall]\nsilence = \"2s\"\npatience = \"10s\"\n
[backoff]\nmax = \"5s\"\n
[pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000\n";

/// A number that the daemon holds.
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) owner: Account,
    /// Its device on the phone's list.
    pub(crate) device: u16,
    /// Where it must be now.
    pub(crate) expected: ConnectionState,
}

pub(crate) struct Fleet {
    pub(crate) simulator: Simulator,
    pub(crate) daemon: Daemon,
    pub(crate) channel: Channel,
    pub(crate) lines: Vec<Line>,
    customer: Account,
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
        for n in 0..LINES {
            let owner = person(&format!("+23480300000{n:02}"), "Shop");
            let id = format!("line-{n}");
            create_session(&channel, &id).await;
            let device = link(&channel, &id, &owner).await;
            lines.push(Line {
                id,
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
        fleet.compare().await;
        fleet
    }

    pub(crate) fn written(&self) -> usize {
        self.written.len()
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Strikes, compares while the fault is in force, makes good, and compares again.
    pub(crate) async fn take(&mut self, step: Step, line: usize) {
        self.talk().await;
        self.strike(step, line).await;
        if let Some(state) = step.rests_in() {
            self.lines[line].expected = state;
        }
        // Traffic of the others goes on; what is for a line that is away has to wait or is not written.
        self.talk().await;
        if step.rests_in().is_some() {
            self.compare().await;
        }
        self.make_good(step, line).await;
        self.compare().await;
        self.settle().await;
    }

    async fn strike(&mut self, step: Step, line: usize) {
        let target = match step {
            Step::CloseAll => FaultTarget::All,
            _ => FaultTarget::Account(self.lines[line].owner.phone()),
        };
        // What is ended for good must have delivered what it had: a new device gets nothing of the old.
        if step == Step::Unlinked {
            self.settle().await;
            let Line { owner, device, .. } = &self.lines[line];
            owner.unlink(*device).unwrap();
        }
        for (fault, times) in step.orders() {
            self.order(target.clone(), fault, times);
        }
        match step {
            Step::Unreachable => {
                self.order(FaultTarget::All, Fault::RefuseTcp, Some(4));
                self.order(FaultTarget::All, Fault::Close, None);
            }
            Step::Killed => {
                self.daemon.kill().await;
                let line = &self.lines[line];
                let id = self.customer.send_text(&line.owner.phone(), "while away");
                self.written.push(id.unwrap());
                self.daemon.start().await;
                self.channel = self.daemon.channel().await.unwrap();
            }
            Step::Silence => {
                let (phone, device) = (self.lines[line].owner.phone(), self.lines[line].device);
                self.until("the silent line was given up", |fleet| {
                    fleet
                        .simulator
                        .look(|truth| !truth.is_online(&phone, device))
                })
                .await;
            }
            _ => {}
        }
    }

    async fn make_good(&mut self, step: Step, line: usize) {
        if !matches!(
            step,
            Step::Late | Step::Muddled | Step::NoAcks | Step::Unreachable
        ) {
            self.simulator.clear_faults();
        }
        let Some(_) = step.rests_in() else { return };
        let name = session_name(&self.lines[line].id);
        if step == Step::Unlinked {
            let request = pb::LogoutSessionRequest {
                name,
                request_id: request_id(),
                ..pb::LogoutSessionRequest::default()
            };
            let mut sessions = SessionServiceClient::new(self.channel.clone());
            sessions.logout_session(request).await.unwrap();
            let Line { id, owner, .. } = &self.lines[line];
            self.lines[line].device = link(&self.channel, id, owner).await;
        } else {
            let request = pb::RestartSessionRequest {
                name,
                request_id: request_id(),
                ..pb::RestartSessionRequest::default()
            };
            let mut sessions = SessionServiceClient::new(self.channel.clone());
            sessions.restart_session(request).await.unwrap();
        }
        self.lines[line].expected = ConnectionState::Online;
    }

    fn order(&self, target: FaultTarget, fault: Fault, times: Option<u32>) {
        let spec = FaultSpec {
            target,
            fault,
            times,
        };
        self.simulator.fault(spec).unwrap();
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
            let request = text_to(&line.id, &format!("+{}", self.customer.phone()), "we are");
            let message = core::send(&self.channel, &request).await.unwrap();
            self.sent.insert(message.stanza_id, message.name);
        }
    }

    /// Waits until everything written has arrived and everything accepted is on the customer's phone.
    async fn settle(&self) {
        eventually("everything has arrived", PATIENCE, async || {
            let here = arrivals(&journal(&self.channel).await.unwrap());
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

    /// Each message once: one event per arrival, one display per accepted message, and a final state.
    pub(crate) async fn account_for_everything(&self) {
        self.settle().await;
        let here = arrivals(&journal(&self.channel).await.unwrap());
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
async fn link(channel: &Channel, id: &str, owner: &Account) -> u16 {
    let mut device = None;
    let paired = pair(channel, id, |qr| device = Some(owner.scan_qr(qr).unwrap())).await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    device.unwrap()
}
