//! SIGTERM in the middle of everything: nobody is left without an answer, and nothing is lost or doubled.

use std::process::Command;
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline::pb::group_service_client::GroupServiceClient;
use trunkline::pb::pull_request::Request as Say;
use trunkline::pb::pull_response::Response as Said;
use trunkline::pb::subscription_service_client::SubscriptionServiceClient;
use trunkline_simulator::{
    Account, Fault, FaultSpec, FaultTarget, NewAccount, Simulator, SimulatorConfig,
};

use crate::support::core::{
    self, Paired, WORKSPACE, create_session, is_online, pair, session_name, text_to,
};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::support::http::get;

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const SUBSCRIPTION: &str = "workspaces/default/subscriptions/default";
const PATIENCE: Duration = Duration::from_mins(3);

/// A number that a daemon holds, and its customer.
struct World {
    simulator: Simulator,
    shop: Account,
    customer: Account,
    daemon: Daemon,
    channel: Channel,
}

impl World {
    async fn new() -> Self {
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let person = |phone, name| {
            simulator
                .create_account(NewAccount::new(phone, name))
                .unwrap()
        };
        let (shop, customer) = (person(NUMBER, "Shop"), person(CUSTOMER, "Ada"));
        let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        create_session(&channel, "main").await;
        let paired = pair(&channel, "main", |qr| {
            shop.scan_qr(qr).unwrap();
        })
        .await;
        assert!(matches!(paired, Paired::Linked), "{paired:?}");
        let world = Self {
            simulator,
            shop,
            customer,
            daemon,
            channel,
        };
        world.online().await;
        world
    }

    async fn online(&self) {
        eventually("the number is online", PATIENCE, async || {
            is_online(&self.channel, "main").await
        })
        .await;
    }

    fn fault(&self, fault: Fault) {
        let spec = FaultSpec {
            target: FaultTarget::All,
            fault,
            times: None,
        };
        self.simulator.fault(spec).unwrap();
    }

    fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    /// A message that the server has and did not acknowledge. The customer's phone is off: its receipt would
    /// say as much as an ack.
    async fn send_without_ack(&self) -> pb::Message {
        self.customer.set_reachable(false);
        self.fault(Fault::WithholdAcks);
        let request = text_to("main", CUSTOMER, "on the wire");
        let sent = core::send(&self.channel, &request).await.unwrap();
        let sent_id = sent.stanza_id.as_str();
        eventually("the server has it", PATIENCE, async || {
            let sent = self.shop.sent();
            sent.iter().any(|accepted| accepted.id == sent_id)
        })
        .await;
        let message = core::message(&self.channel, &sent.name).await.unwrap();
        assert_eq!(message.state(), pb::MessageState::Sending);
        message
    }

    /// A call that WhatsApp keeps waiting, once it has begun.
    async fn call_that_lasts(&self) -> tokio::task::JoinHandle<()> {
        self.fault(Fault::Silence);
        let before = self.calls_under_way().await;
        let mut groups = GroupServiceClient::new(self.channel.clone());
        let call = tokio::spawn(async move {
            let request = pb::ListGroupsRequest {
                parent: session_name("main"),
                ..pb::ListGroupsRequest::default()
            };
            // Its answer is nobody's business here.
            let _ = groups.list_groups(request).await;
        });
        eventually("the call is under way", PATIENCE, async || {
            self.calls_under_way().await > before
        })
        .await;
        call
    }

    async fn calls_under_way(&self) -> u64 {
        let (_, metrics) = self.ops("/metrics").await.expect("metrics");
        let name = "trunkline_api_requests_in_flight ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.parse().unwrap())
    }

    async fn ops(&self, path: &str) -> Option<(u16, String)> {
        get(&self.daemon.address("ops"), path).await
    }

    /// What health says to somebody who connects now.
    async fn health(&self, service: &str) -> Option<ServingStatus> {
        let channel = self.daemon.channel().await.ok()?;
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(channel).check(request).await.ok()?;
        Some(HealthCheckResponse::status(&answer.into_inner()))
    }
}

/// A stream on the default subscription, and what it leased up to the event that is meant.
struct Pulled {
    say: tokio::sync::mpsc::Sender<pb::PullRequest>,
    frames: Streaming<pb::PullResponse>,
    leases: Vec<pb::Lease>,
}

impl Pulled {
    async fn open(world: &World, is_meant: impl Fn(&pb::Event) -> bool) -> Self {
        let (say, said) = tokio::sync::mpsc::channel(4);
        let open = pb::PullOpen {
            subscription: SUBSCRIPTION.to_owned(),
            max_events: 1_000,
            max_bytes: 1 << 20,
        };
        let open = pb::PullRequest {
            request: Some(Say::Open(open)),
        };
        say.send(open).await.unwrap();
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let mut frames = world.events().pull(said).await.unwrap().into_inner();
        let mut leases = Vec::new();
        let found = async {
            while let Some(frame) = frames.message().await.unwrap() {
                let Some(Said::Leases(batch)) = frame.response else {
                    continue;
                };
                for lease in batch.leases {
                    let is_last = lease.event.as_ref().is_some_and(&is_meant);
                    leases.push(lease);
                    if is_last {
                        return;
                    }
                }
            }
            panic!("the stream ended")
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap();
        Self {
            say,
            frames,
            leases,
        }
    }

    fn meant(&self) -> &pb::Lease {
        self.leases.last().unwrap()
    }

    /// Acknowledges everything, and waits until that is durable for what is meant.
    async fn ack(&mut self) {
        let meant = self.meant().ack_id.clone();
        let ack_ids = self.leases.iter().map(|lease| lease.ack_id.clone());
        let ack = pb::PullAck {
            ack_ids: ack_ids.collect(),
        };
        let ack = pb::PullRequest {
            request: Some(Say::Ack(ack)),
        };
        self.say.send(ack).await.unwrap();
        let confirmed = async {
            while let Some(frame) = self.frames.message().await.unwrap() {
                let Some(Said::Results(results)) = frame.response else {
                    continue;
                };
                let mut results = results.results.iter();
                if let Some(result) = results.find(|result| result.ack_id == meant) {
                    return result.outcome();
                }
            }
            panic!("the stream ended")
        };
        let outcome = tokio::time::timeout(PATIENCE, confirmed).await.unwrap();
        assert_eq!(outcome, pb::PullOutcome::Confirmed);
    }
}

fn event(lease: &pb::Lease) -> &pb::Event {
    lease.event.as_ref().unwrap()
}

fn is_text(event: &pb::Event, id: &str) -> bool {
    match &event.payload {
        Some(pb::event::Payload::Message(message)) => message.stanza_id == id,
        _ => false,
    }
}

/// How a stream ends.
async fn end_of<T>(frames: &mut Streaming<T>) -> Status {
    let ended = async {
        loop {
            match frames.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return status,
                None => panic!("ended without a reason"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap()
}

#[track_caller]
fn says_draining(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "DRAINING");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sigterm_in_the_middle_of_everything_loses_and_doubles_nothing() {
    let mut world = World::new().await;
    let asked = world.customer.send_text(NUMBER, "are you there?").unwrap();
    let mut pulled = Pulled::open(&world, |event| is_text(event, &asked)).await;
    let watch = pb::WatchRequest {
        parent: WORKSPACE.to_owned(),
        from_revision: Some(0),
        ..pb::WatchRequest::default()
    };
    let mut watch = world.events().watch(watch).await.unwrap().into_inner();
    let on_the_wire = world.send_without_ack().await;
    let lasting = world.call_that_lasts().await;
    assert_eq!(world.health("").await, Some(ServingStatus::Serving));
    assert_eq!(world.ops("/readyz").await.unwrap().0, 200);

    let pid = world.daemon.pid().unwrap().to_string();
    let signalled = Command::new("kill").args(["-s", "TERM", &pid]).status();
    assert!(signalled.unwrap().success());

    // What is held may still be settled. Who listens is told, and so is who comes: in gRPC, over a
    // connection of before and a new one, and in JSON. The call that had begun goes on meanwhile.
    let settled = pulled.meant().clone();
    let unsettled = pulled.leases.remove(0);
    pulled.ack().await;
    says_draining(&end_of(&mut watch).await);
    let late = text_to("main", CUSTOMER, "too late");
    says_draining(&core::send(&world.channel, &late).await.unwrap_err());
    let channel = world.daemon.channel().await.unwrap();
    says_draining(&core::send(&channel, &late).await.unwrap_err());
    let sessions = format!("/v1/{WORKSPACE}/sessions");
    let (status, body) = get(&world.daemon.address("grpc"), &sessions).await.unwrap();
    assert!(
        status == 503 && body.contains("DRAINING"),
        "{status} {body}"
    );
    for service in ["", "trunkline.v1.MessageService"] {
        let health = world.health(service).await;
        assert_eq!(health, Some(ServingStatus::NotServing), "{service}");
    }
    let (status, body) = world.ops("/readyz?verbose").await.unwrap();
    assert!(
        status == 503 && body.contains("draining"),
        "{status} {body}"
    );
    assert_eq!(world.ops("/livez").await.unwrap().0, 200);
    assert!(!lasting.is_finished(), "what had begun was cut off");
    // Nobody is waited for much longer.
    says_draining(&end_of(&mut pulled.frames).await);

    // With it gone nothing is left to wait for.
    lasting.abort();
    assert_eq!(world.daemon.wait().await, Some(0), "{}", world.daemon.log());
    let log = world.daemon.log();
    assert!(log.contains("\"stopped\""), "not in good order:\n{log}");

    world.simulator.clear_faults();
    world.customer.set_reachable(true);
    world.daemon.start().await;
    world.channel = world.daemon.channel().await.unwrap();
    world.online().await;
    // What was settled while it drained is done; a lease that was not died with the daemon, its event did not.
    let request = pb::GetDeliveryRequest {
        name: format!("{SUBSCRIPTION}/deliveries/{}", event(&settled).revision),
    };
    let mut subscriptions = SubscriptionServiceClient::new(world.channel.clone());
    let delivery = subscriptions.get_delivery(request).await.unwrap();
    let delivery = delivery.into_inner().delivery.unwrap();
    assert_eq!(delivery.state(), pb::DeliveryState::Acknowledged);
    let of_before = event(&unsettled);
    let mut again = Pulled::open(&world, |event| event.event_id == of_before.event_id).await;
    assert_ne!(again.meant().ack_id, unsettled.ack_id);
    again.ack().await;
    // The message goes out again as what it was, and what was refused only when asked again.
    let repeated = core::send(&world.channel, &late).await.unwrap();
    for name in [&on_the_wire.name, &repeated.name] {
        eventually("it is delivered", PATIENCE, async || {
            let message = core::message(&world.channel, name).await.unwrap();
            message.state() == pb::MessageState::Delivered
        })
        .await;
    }
    let shown = world.customer.inbox();
    let texts: Vec<_> = shown.iter().map(|seen| seen.text.as_str()).collect();
    assert_eq!(texts, ["on the wire", "too late"]);
    assert_eq!(shown[0].id, on_the_wire.stanza_id);
    let ledger = world.simulator.ledger();
    let displayed = ledger.displayed_by(CUSTOMER.trim_start_matches('+'));
    assert!(displayed.values().all(|times| *times == 1), "{displayed:?}");
    assert!(ledger.violations().is_empty());
    let journal = core::journal(&world.channel).await.unwrap();
    let arrived = journal.iter().filter(|event| is_text(event, &asked));
    assert_eq!(arrived.count(), 1);
    assert_eq!(world.daemon.stop().await, Some(0));
    world.simulator.shutdown().await;
}
