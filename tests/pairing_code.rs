//! A number is linked by a code that is typed on the phone, through the API of a daemon that runs as a
//! process of its own.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline_simulator::{
    Account, Clock as _, CodeFailure, Fact, Fault, FaultSpec, FaultTarget, ManualClock, NewAccount,
    Simulator, SimulatorConfig, SystemClock,
};

const NUMBER: &str = "+2348030000001";
const CUSTOMER: &str = "+2348030000002";
const SESSION: &str = "main";
const PATIENCE: Duration = Duration::from_mins(3);

struct World {
    simulator: Simulator,
    phone: Account,
    customer: Account,
    daemon: Daemon,
    channel: Channel,
}

impl World {
    async fn new(config: SimulatorConfig) -> Self {
        let simulator = Simulator::bind(config).await.unwrap();
        let account = |number, name| {
            simulator
                .create_account(NewAccount::new(number, name))
                .unwrap()
        };
        let (phone, customer) = (account(NUMBER, "Shop"), account(CUSTOMER, "Ada"));
        let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        core::create_session(&channel, SESSION).await;
        Self {
            simulator,
            phone,
            customer,
            daemon,
            channel,
        }
    }

    async fn pair(&self, enter: impl FnMut(&str)) -> Paired {
        core::pair_by_code(&self.channel, SESSION, NUMBER, enter).await
    }

    /// The linked number is online and carries messages both ways.
    async fn talks(&self) {
        eventually("the session is online", PATIENCE, async || {
            core::is_online(&self.channel, SESSION).await
        })
        .await;
        let request = core::text_to(SESSION, CUSTOMER, "good morning");
        // Right after the link the store may be busy with the initial synchronisation.
        let mut stanza_id = String::new();
        eventually("the message is stored", PATIENCE, async || {
            match core::send(&self.channel, &request).await {
                Ok(sent) => stanza_id = sent.stanza_id,
                Err(status) => assert!(core::is_passing(&status), "{status}"),
            }
            !stanza_id.is_empty()
        })
        .await;
        eventually("the customer sees it", PATIENCE, async || {
            self.customer.inbox().iter().any(|m| m.id == stanza_id)
        })
        .await;
        let id = self.customer.send_text(NUMBER, "thank you").unwrap();
        eventually("the answer is in the journal", PATIENCE, async || {
            let journal = core::journal(&self.channel).await.unwrap();
            core::arrivals(&journal).contains_key(&id)
        })
        .await;
    }

    fn refusals(&self) -> usize {
        let ledger = self.simulator.ledger();
        let refused = ledger
            .facts()
            .filter(|fact| matches!(fact, Fact::CodeRefused { .. }));
        refused.count()
    }

    async fn end(mut self) {
        let violations = self.simulator.ledger();
        assert!(
            violations.violations().is_empty(),
            "{:#?}",
            violations.violations()
        );
        assert_eq!(self.daemon.stop().await, Some(0));
        self.simulator.shutdown().await;
    }
}

/// A code that is not this one.
fn another(code: &str) -> String {
    let last = if code.ends_with('Z') { 'Y' } else { 'Z' };
    format!("{}{last}", &code[..code.len() - 1])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_code_links_the_number_and_messages_flow() {
    let world = World::new(SimulatorConfig::default()).await;
    let mut codes = 0;
    let paired = world
        .pair(|code| {
            codes += 1;
            world.phone.enter_code(code).unwrap();
        })
        .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    assert_eq!(codes, 1);
    let session = core::session(&world.channel, SESSION).await.unwrap();
    assert_eq!(session.login(), pb::LoginState::Paired);
    assert_eq!(session.account.unwrap().phone.as_deref(), Some(NUMBER));
    world.talks().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_code_can_be_typed_again() {
    let world = World::new(SimulatorConfig::default()).await;
    let (shown, mut codes) = tokio::sync::mpsc::unbounded_channel();
    let person = async {
        let code: String = codes.recv().await.unwrap();
        world.phone.enter_code(&another(&code)).unwrap();
        eventually("the phone says that it was wrong", PATIENCE, async || {
            world.refusals() == 1
        })
        .await;
        assert!(world.phone.devices().is_empty());
        world.phone.enter_code(&code).unwrap();
    };
    let pairing = world.pair(|code| shown.send(code.to_owned()).unwrap());
    let (paired, ()) = tokio::join!(pairing, person);
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_code_is_replaced_by_another() {
    let clock = Arc::new(ManualClock::at(SystemClock.now_millis()));
    let world = World::new(SimulatorConfig {
        clock: clock.clone(),
        ..SimulatorConfig::default()
    })
    .await;
    let mut codes = Vec::new();
    let paired = world
        .pair(|code| {
            codes.push(code.to_owned());
            if codes.len() == 1 {
                clock.advance(180_000);
                assert_eq!(world.phone.enter_code(code), Err(CodeFailure::Expired));
            } else {
                world.phone.enter_code(code).unwrap();
            }
        })
        .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    assert_eq!(codes.len(), 2);
    assert_ne!(codes[0], codes[1]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_that_keep_expiring_end_the_pairing() {
    let clock = Arc::new(ManualClock::at(SystemClock.now_millis()));
    let world = World::new(SimulatorConfig {
        clock: clock.clone(),
        ..SimulatorConfig::default()
    })
    .await;
    let mut codes = 0;
    let paired = world
        .pair(|code| {
            codes += 1;
            clock.advance(180_000);
            assert_eq!(world.phone.enter_code(code), Err(CodeFailure::Expired));
        })
        .await;
    let Paired::Failed(failed) = paired else {
        panic!("{paired:?}");
    };
    assert_eq!(failed.reason(), pb::PairingFailureReason::Expired);
    assert_eq!(codes, 3);
    let session = core::session(&world.channel, SESSION).await.unwrap();
    assert_eq!(session.login(), pb::LoginState::Unpaired);
    // Nothing is left over: the next pairing succeeds.
    let paired = world
        .pair(|code| world.phone.enter_code(code).unwrap())
        .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_for_a_code_ends_the_pairing_with_the_reason() {
    let world = World::new(SimulatorConfig::default()).await;
    for (error, detail) in [(429, "CODE_RATE_LIMITED"), (452, "CODE_REFUSED")] {
        world
            .simulator
            .fault(FaultSpec {
                target: FaultTarget::All,
                fault: Fault::RefuseCode { error },
                times: Some(1),
            })
            .unwrap();
        let paired = world.pair(|code| panic!("a code was shown: {code}")).await;
        let Paired::Failed(failed) = paired else {
            panic!("{paired:?}");
        };
        assert_eq!(failed.reason(), pb::PairingFailureReason::Refused);
        assert_eq!(failed.detail, detail);
    }
    world.end().await;
}
