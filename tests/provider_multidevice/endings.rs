//! Every way a connection ends has its cause.

use std::time::Duration;

use trunkline::domain::session::Cause;
use trunkline::provider::contract::ProbeError;
use trunkline::provider::multidevice::MultideviceConfig;
use trunkline_simulator::{Fact, Fault, NoisePattern};

use crate::world::World;

fn code_of(cause: &Cause) -> Option<u32> {
    match cause {
        Cause::Transient { code, .. } => *code,
        other => panic!("not transient: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_of_an_open_connection_have_their_causes() {
    let (mut world, mut run) = World::online(|_| {}).await;
    let stream_error = |code| Fault::StreamError { code };
    let harmless = [
        (Fault::Close, Cause::Recycled),
        (stream_error(515), Cause::RestartRequired),
        (stream_error(429), Cause::RateLimited),
        (Fault::Replaced, Cause::Replaced),
        (stream_error(409), Cause::Replaced),
        (stream_error(440), Cause::Replaced),
        (stream_error(405), Cause::Outdated),
        (
            stream_error(402),
            Cause::Banned {
                code: 402,
                until: None,
            },
        ),
        (stream_error(403), Cause::LoggedOut { code: 403 }),
        (stream_error(406), Cause::LoggedOut { code: 406 }),
    ];
    for (fault, cause) in harmless {
        world.fault(fault.clone(), None);
        match run.ended().await {
            // What was still on its way when the server closed makes the kernel send a reset.
            Cause::Transient { code: None, .. } if fault == Fault::Close => {}
            ended => assert_eq!(ended, cause, "{fault:?}"),
        }
        world.reopen().await;
        run = world.login();
        world.sink.online().await;
    }
    for (fault, code) in [
        (stream_error(503), Some(503)),
        (stream_error(500), Some(500)),
        (stream_error(408), Some(408)),
        (stream_error(411), Some(411)),
        (Fault::XmlNotWellFormed, None),
    ] {
        world.fault(fault.clone(), None);
        assert_eq!(code_of(&run.ended().await), code, "{fault:?}");
        world.reopen().await;
        run = world.login();
        world.sink.online().await;
    }
    world.fault(stream_error(401), None);
    assert_eq!(run.ended().await, Cause::LoggedOut { code: 401 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_logins_have_their_causes() {
    let (world, run) = World::online(|_| {}).await;
    assert_eq!(run.stop().await, Cause::Requested);
    let refuse = |reason, code, expire| {
        let fault = Fault::ConnectFailure {
            reason,
            code,
            expire,
        };
        world.fault(fault, Some(1));
        world.login().ended()
    };
    for reason in [401, 403, 406] {
        let cause = refuse(reason, None, None).await;
        assert_eq!(
            cause,
            Cause::LoggedOut {
                code: u32::from(reason)
            }
        );
    }
    assert_eq!(refuse(405, None, None).await, Cause::Outdated);
    assert_eq!(refuse(429, None, None).await, Cause::RateLimited);
    for reason in [500, 503, 408, 409, 411] {
        let cause = refuse(reason, None, None).await;
        assert_eq!(code_of(&cause), Some(u32::from(reason)));
    }
    match refuse(402, Some(104), Some(3600)).await {
        Cause::Banned {
            code: 104,
            until: Some(_),
        } => {}
        other => panic!("{other:?}"),
    }
    let run = world.login();
    world.sink.online().await;
    assert_eq!(run.stop().await, Cause::Requested, "credentials survived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_ik_is_only_another_handshake() {
    let (mut world, mut run) = World::online(|_| {}).await;
    let pattern = |world: &World| {
        let ledger = world.simulator.ledger();
        let last = ledger.facts().rev().find_map(|fact| match fact {
            Fact::Handshake { pattern, .. } => Some(*pattern),
            _ => None,
        });
        last.unwrap()
    };
    for wanted in [NoisePattern::Ik, NoisePattern::XxFallback, NoisePattern::Ik] {
        assert_eq!(run.stop().await, Cause::Requested);
        if wanted == NoisePattern::XxFallback {
            world.fault(Fault::DeclineIk, Some(1));
        }
        world.reopen().await;
        run = world.login();
        world.sink.online().await;
        assert_eq!(pattern(&world), wanted);
    }
    // The channel that came of it is as good as another.
    let customer = world.customer.phone();
    let id = world.send(&format!("+{customer}"), "hello").await.unwrap();
    world
        .until("the message is on the phone", |truth| {
            truth.inbox(&customer).iter().any(|shown| shown.id == id)
        })
        .await;
    assert_eq!(run.stop().await, Cause::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_noticed_before_and_after_login() {
    // Short where silence is noticed, but not so short that a busy machine is taken for it.
    let watchful = |config: &mut MultideviceConfig| {
        config.silence = Duration::from_secs(2);
        config.probe_patience = Duration::from_secs(10);
    };
    let (mut world, run) = World::online(watchful).await;
    assert_eq!(world.line.probe(Duration::from_mins(1)).await, Ok(()));
    world.fault(Fault::Silence, None);
    assert_eq!(
        world.line.probe(Duration::from_millis(300)).await,
        Err(ProbeError::Silent)
    );
    assert_eq!(run.ended().await, Cause::Stalled);
    let usual = MultideviceConfig::default().login_timeout;
    world
        .reopen_with(|config| config.login_timeout = Duration::from_secs(2))
        .await;
    assert_eq!(world.login().ended().await, Cause::LoginTimeout);
    world.simulator.clear_faults();
    world
        .reopen_with(|config| config.login_timeout = usual)
        .await;
    let run = world.login();
    world.sink.online().await;
    assert_eq!(run.stop().await, Cause::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_reached_is_transient_and_says_why() {
    let (world, run) = World::online(|_| {}).await;
    assert_eq!(run.stop().await, Cause::Requested);
    world.fault(Fault::RefuseTcp, Some(1));
    match world.login().ended().await {
        Cause::Transient { code: None, detail } => {
            assert!(detail.contains("cannot connect"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        world.line.probe(Duration::from_secs(1)).await,
        Err(ProbeError::NotConnected)
    );
}
