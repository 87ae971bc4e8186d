//! How each fault begins and how it is made good.

use trunkline::pb;
use trunkline::pb::ConnectionState;
use trunkline::pb::session_service_client::SessionServiceClient;
use trunkline_simulator::{Fault, FaultSpec, FaultTarget};

use crate::fleet::{Fleet, Line, link};
use crate::script::{Reach, Step};
use crate::support::core::request_id;

impl Fleet {
    pub(crate) async fn strike(&mut self, step: Step, line: usize) {
        let reach = step.during().map(|during| during.reach);
        let target = match reach {
            Some(Reach::Fleet) => FaultTarget::All,
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
        if step == Step::Silence {
            let (phone, device) = (self.lines[line].owner.phone(), self.lines[line].device);
            self.until("the silent line was given up", |fleet| {
                fleet
                    .simulator
                    .look(|truth| !truth.is_online(&phone, device))
            })
            .await;
        }
    }

    pub(crate) async fn make_good(&mut self, step: Step, line: usize) {
        // Duplicates and swaps are spent on the messages to come.
        if step != Step::Muddled {
            self.simulator.clear_faults();
        }
        let Some(_) = step.rests_in() else { return };
        let name = self.lines[line].name.clone();
        let mut sessions = SessionServiceClient::new(self.channel.clone());
        if step == Step::Unlinked {
            let request = pb::LogoutSessionRequest {
                name,
                request_id: request_id(),
                ..pb::LogoutSessionRequest::default()
            };
            sessions.logout_session(request).await.unwrap();
            let Line { name, owner, .. } = &self.lines[line];
            self.lines[line].device = link(&self.channel, name, owner).await;
        } else {
            let request = pb::RestartSessionRequest {
                name,
                request_id: request_id(),
                ..pb::RestartSessionRequest::default()
            };
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
}
