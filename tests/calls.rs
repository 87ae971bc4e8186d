//! Calls become events, once, and disturb nothing: not the connection, not the messages beside them.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::event::Payload;
use trunkline_simulator::{Account, CallEnd, Fact, NewAccount, Simulator, SimulatorConfig};

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const SESSION: &str = "main";
const PATIENCE: Duration = Duration::from_mins(3);

struct World {
    simulator: Simulator,
    daemon: Daemon,
    channel: Channel,
    owner: Account,
    customer: Account,
    device: u16,
    /// The daemon has begun anew.
    restarted: bool,
}

impl World {
    async fn new() -> Self {
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let person = |number, name| {
            let person = NewAccount::new(number, name);
            simulator.create_account(person).unwrap()
        };
        let (owner, customer) = (person(NUMBER, "Shop"), person(CUSTOMER, "Ada"));
        let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        core::create_session(&channel, SESSION).await;
        let mut device = None;
        let paired = core::pair(&channel, SESSION, |qr| {
            device = Some(owner.scan_qr(qr).unwrap());
        })
        .await;
        assert!(matches!(paired, Paired::Linked), "{paired:?}");
        let world = Self {
            simulator,
            daemon,
            channel,
            owner,
            customer,
            device: device.unwrap(),
            restarted: false,
        };
        world.comes_online().await;
        world
    }

    async fn comes_online(&self) {
        eventually("the line is online", PATIENCE, async || {
            core::is_online(&self.channel, SESSION).await
        })
        .await;
    }

    /// What was journaled of a call, in order.
    async fn told(&self, id: &str) -> Vec<pb::CallEvent> {
        let journal = core::journal(&self.channel).await.unwrap();
        let calls = journal.into_iter().filter_map(|event| match event.payload {
            Some(Payload::Call(call)) if call.call_id == id => Some(call),
            _ => None,
        });
        calls.collect()
    }

    /// Waits until exactly these actions of a call are journaled, and everything is confirmed.
    async fn is_told(&self, id: &str, actions: &[&str]) {
        eventually(&format!("{actions:?} of the call"), PATIENCE, async || {
            let told = self.told(id).await;
            actions
                .iter()
                .all(|action| told.iter().any(|call| call.action == *action))
        })
        .await;
        let phone = self.owner.phone();
        self.simulator
            .wait_until(|truth| truth.backlog(&phone, self.device) == 0, PATIENCE)
            .await
            .unwrap();
        let told = self.told(id).await;
        // The library handles calls side by side, so that of two that came together either may be first.
        let mut said: Vec<_> = told.iter().map(|call| call.action.as_str()).collect();
        said.sort_unstable();
        assert_eq!(said, actions, "each once");
        for call in &told {
            let from = call.from.as_ref().unwrap();
            let lid = format!("{}@lid", self.customer.lid());
            assert_eq!(from.lid.as_deref(), Some(&*lid), "{call:?}");
            // The end of a call does not tell the number; who never wrote is known by it until a restart.
            if call.action != "terminate" || !self.restarted {
                assert_eq!(from.phone.as_deref(), Some(CUSTOMER), "{call:?}");
            }
            assert!(call.call_time.is_some());
        }
    }

    fn logins(&self) -> usize {
        let ledger = self.simulator.ledger();
        let facts = ledger.facts();
        facts
            .filter(|fact| matches!(fact, Fact::Login { .. }))
            .count()
    }

    async fn end(mut self) {
        assert_eq!(
            self.simulator.ledger().violations(),
            Vec::<&trunkline_simulator::Entry>::new()
        );
        assert_eq!(self.daemon.stop().await, Some(0));
        self.simulator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_told_while_messages_go_on() {
    let world = World::new().await;
    let logins = world.logins();
    let id = world.customer.call(NUMBER, false).unwrap();
    world.is_told(&id, &["offer"]).await;

    // It rings, and both sides write.
    let written = world.customer.send_text(NUMBER, "pick up!").unwrap();
    let request = core::text_to(SESSION, CUSTOMER, "please write");
    let sent = core::send(&world.channel, &request).await.unwrap();
    eventually("the texts arrive", PATIENCE, async || {
        let journal = core::journal(&world.channel).await.unwrap();
        let shown = world.customer.inbox();
        core::arrivals(&journal).contains_key(&written)
            && shown.iter().any(|shown| shown.id == sent.stanza_id)
    })
    .await;

    world.customer.end_call(&id, CallEnd::HangUp).unwrap();
    world.is_told(&id, &["offer", "terminate"]).await;
    // The owner takes another on the phone.
    let id = world.customer.call(NUMBER, true).unwrap();
    world.is_told(&id, &["offer"]).await;
    world.owner.end_call(&id, CallEnd::Accept).unwrap();
    world.is_told(&id, &["offer", "terminate"]).await;
    assert_eq!(world.logins(), logins, "on the same connection");
    assert!(core::is_online(&world.channel, SESSION).await);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_nobody_was_there_for_are_missed_and_a_crash_tells_none_twice() {
    let mut world = World::new().await;
    let rung = world.customer.call(NUMBER, false).unwrap();
    world.is_told(&rung, &["offer"]).await;
    world.daemon.kill().await;
    world.customer.end_call(&rung, CallEnd::HangUp).unwrap();
    let missed = world.customer.call(NUMBER, false).unwrap();
    world.customer.end_call(&missed, CallEnd::HangUp).unwrap();

    world.daemon.start().await;
    world.restarted = true;
    world.channel = world.daemon.channel().await.unwrap();
    world.comes_online().await;
    world.is_told(&rung, &["offer", "terminate"]).await;
    world.is_told(&missed, &["missed", "terminate"]).await;
    world.end().await;
}
