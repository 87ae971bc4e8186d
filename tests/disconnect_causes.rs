//! Every way WhatsApp ends a connection, ordered from the simulator, ends in the right
//! state, the causes that the protocol library hides included.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "helpers of tests may stop the test, and real processes need real time"
)]

#[path = "support/world.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared by several tests")]
mod world;

use tonic::transport::Channel;
use trunkline::pb::{CauseKind, ConnectionState, LoginState, event};
use trunkline_simulator::{Account, Fault, FaultSpec, FaultTarget, Simulator};
use world::{Daemon, eventually};

const OWNER: &str = "+15550000001";
/// Silence is noticed while the test watches, and a busy machine is not taken for it. A login that begins
/// in silence ends soon.
const WATCHFUL: &str =
    "[session]\nlogin_timeout = \"20s\"\n[stall]\nsilence = \"2s\"\npatience = \"20s\"\n";

struct Line {
    sim: Simulator,
    daemon: Daemon,
    channel: Channel,
    owner: Account,
}

async fn line(seed: u64) -> Line {
    line_with(seed, "").await
}

async fn line_with(seed: u64, config: &str) -> Line {
    let sim = world::simulator(seed).await;
    let owner = world::person(&sim, OWNER, "Shop");
    let mut daemon = Daemon::prepare(&sim, config);
    let channel = daemon.start().await;
    world::create_session(&channel, "line").await;
    world::pair(&channel, "line", &owner).await;
    world::wait_for_state(&channel, "line", ConnectionState::Online).await;
    Line {
        sim,
        daemon,
        channel,
        owner,
    }
}

impl Line {
    fn order(&self, fault: Fault, times: Option<u32>) {
        let target = FaultTarget::Account(OWNER.into());
        self.sim
            .fault(FaultSpec {
                target,
                fault,
                times,
            })
            .expect("the simulator takes the order");
    }

    fn connects(&self) -> u64 {
        self.sim.look(|truth| truth.connections().accepted)
    }

    /// The causes of all ends of connection so far, in order.
    async fn causes(&self) -> Vec<CauseKind> {
        let events = world::events_from(&self.channel, 1).await;
        let states = events.iter().filter_map(|event| match &event.payload {
            Some(event::Payload::SessionState(state)) => state.cause.as_ref(),
            _ => None,
        });
        states.map(trunkline::pb::Cause::kind).collect()
    }

    /// Orders `fault` on the open connection and waits until the line is online again because of one of `expected`.
    async fn recovers_from(&self, fault: Fault, expected: &[CauseKind]) {
        let (connects, before) = (self.connects(), self.causes().await.len());
        let what = format!("{fault:?} is over");
        self.order(fault, None);
        eventually(&what, async || (self.connects() > connects).then_some(())).await;
        self.sim.clear_faults();
        world::wait_for_state(&self.channel, "line", ConnectionState::Online).await;
        let causes = self.causes().await;
        assert!(
            causes[before..]
                .iter()
                .any(|cause| expected.contains(cause)),
            "{what}: expected {expected:?} among {:?}",
            &causes[before..]
        );
    }

    /// Waits until the journal tells of an end for this cause, whatever the line does by now.
    async fn ended_because(&self, cause: CauseKind) {
        let what = format!("an end because of {cause:?}");
        eventually(&what, async || {
            self.causes().await.contains(&cause).then_some(())
        })
        .await;
    }

    /// Orders `fault` and waits until the line rests in `state`, for good.
    async fn ends_in(&self, fault: Fault, state: ConnectionState) {
        self.order(fault, Some(1));
        world::wait_for_state(&self.channel, "line", state).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_recovered_from() {
    let line = line(21).await;
    // What was still on its way when the server closed makes the kernel send a reset.
    line.recovers_from(Fault::Close, &[CauseKind::Recycled, CauseKind::Transient])
        .await;
    line.recovers_from(
        Fault::StreamError { code: 515 },
        &[CauseKind::RestartRequired],
    )
    .await;
    line.recovers_from(Fault::StreamError { code: 503 }, &[CauseKind::Transient])
        .await;
    line.recovers_from(Fault::XmlNotWellFormed, &[CauseKind::Transient])
        .await;
    // Its text went both ways afterwards: the connection is not only called online.
    let customer = world::person(&line.sim, "+15550000002", "Customer");
    customer
        .send_text(OWNER, "still there?")
        .expect("people can write");
    eventually("the message is an event", async || {
        let events = world::events_from(&line.channel, 1).await;
        events
            .iter()
            .any(|event| world::text_of(event).is_some())
            .then_some(())
    })
    .await;
    assert_eq!(line.owner.violations(), []);
    drop(line.daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stall_is_noticed() {
    let line = line_with(22, WATCHFUL).await;
    line.order(Fault::Silence, None);
    line.ended_because(CauseKind::Stalled).await;
    line.sim.clear_faults();
    world::wait_for_state(&line.channel, "line", ConnectionState::Online).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn being_slowed_down_shows_as_backoff() {
    let line = line(23).await;
    line.order(Fault::StreamError { code: 429 }, Some(1));
    line.ended_because(CauseKind::RateLimited).await;
    let events = world::events_from(&line.channel, 1).await;
    let slowed = events.iter().find_map(|event| match &event.payload {
        Some(event::Payload::SessionState(state)) => {
            let cause = state.cause.as_ref()?.kind();
            (cause == CauseKind::RateLimited).then(|| state.connection.clone())
        }
        _ => None,
    });
    let slowed = slowed.flatten().expect("a state");
    assert_eq!(slowed.state(), ConnectionState::Backoff);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_connection_of_the_same_device_is_not_fought_over() {
    let line = line(24).await;
    line.ends_in(Fault::Replaced, ConnectionState::Replaced)
        .await;
    let session = world::get_session(&line.channel, "line").await;
    assert_eq!(session.login(), LoginState::Paired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_was_ended_is_logged_out_and_keeps_its_credentials() {
    for code in [401, 516] {
        let line = line(25 + u64::from(code)).await;
        line.ends_in(Fault::StreamError { code }, ConnectionState::LoggedOut)
            .await;
        let session = world::get_session(&line.channel, "line").await;
        assert_eq!(session.login(), LoginState::LoggedOut, "{code}");
        assert!(session.account.is_some(), "{code}: the account stays known");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_at_login_end_where_they_must() {
    for (reason, code, expire, state) in [
        (401, None, None, ConnectionState::LoggedOut),
        (403, None, None, ConnectionState::LoggedOut),
        (406, None, None, ConnectionState::LoggedOut),
        (402, Some(104), Some(3_600), ConnectionState::Banned),
        (405, None, None, ConnectionState::Outdated),
        (500, None, None, ConnectionState::Backoff),
        (503, None, None, ConnectionState::Backoff),
    ] {
        let line = line(1_000 + u64::from(reason)).await;
        line.order(
            Fault::ConnectFailure {
                reason,
                code,
                expire,
            },
            None,
        );
        line.order(Fault::Close, None);
        world::wait_for_state(&line.channel, "line", state).await;
        if state == ConnectionState::Banned {
            let session = world::get_session(&line.channel, "line").await;
            let connection = session.connection.expect("a connection");
            assert!(connection.until.is_some(), "the ban has an end");
        }
        line.sim.clear_faults();
        if state == ConnectionState::Outdated {
            // The fleet waits long before it asks again; an operator who upgraded need not.
            world::restart(&line.channel, "line").await;
        }
        if matches!(state, ConnectionState::Backoff | ConnectionState::Outdated) {
            world::wait_for_state(&line.channel, "line", ConnectionState::Online).await;
        }
    }
}
