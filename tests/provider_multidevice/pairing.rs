//! Linking, and everything that can go wrong while doing so.

use trunkline::domain::session::Cause;
use trunkline::provider::contract::{Mode, Signal};
use trunkline_simulator::Fact;

use crate::world::{SHOP, World};

fn failed(reason: &str) -> Cause {
    Cause::PairingFailed {
        reason: reason.into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_is_linked_by_qr_and_logs_in() {
    let mut world = World::new().await;
    world.pair().await;
    world.sink.look(|seen| {
        let told = |signal: &&Signal| matches!(signal, Signal::Paired { .. });
        assert_eq!(seen.signals.iter().filter(told).count(), 1);
    });

    let run = world.login();
    world.sink.online().await;
    world
        .sink
        .wait("the initial synchronisation", |seen| {
            seen.signals.contains(&Signal::InitialSyncDone)
        })
        .await;
    world.sink.look(|seen| {
        assert!(seen.signals.contains(&Signal::Confirmed));
        let online = seen.signals.iter().find_map(|signal| match signal {
            Signal::Online { account } => Some(account),
            _ => None,
        });
        let account = online.unwrap();
        assert_eq!(account.phone.as_deref(), Some(SHOP));
        assert!(account.lid.is_some());
    });
    assert_eq!(run.stop().await, Cause::Requested);
    assert!(world.simulator.ledger().violations().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_login_uses_what_the_first_left() {
    let (mut world, run) = World::online(|_| {}).await;
    assert_eq!(run.stop().await, Cause::Requested);
    world.reopen().await;
    let run = world.login();
    world.sink.online().await;
    world.sink.look(|seen| {
        assert!(
            !seen.signals.contains(&Signal::Confirmed),
            "only the first login confirms"
        );
    });
    assert_eq!(run.stop().await, Cause::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_the_phones_yes_and_the_first_login_loses_nothing() {
    let mut world = World::new().await;
    let run = world.run(Mode::PairByQr);
    let qr = world.sink.qr().await;
    world.shop.scan_qr(&qr).unwrap();
    world
        .until("the device exists", |truth| {
            truth
                .ledger()
                .facts()
                .any(|fact| matches!(fact, Fact::Paired { .. }))
        })
        .await;
    run.kill().await;

    world.reopen().await;
    let run = world.run(Mode::PairByQr);
    assert_eq!(run.ended().await, Cause::RestartRequired, "already linked");
    let run = world.login();
    world.sink.online().await;
    world
        .sink
        .look(|seen| assert!(seen.signals.contains(&Signal::Confirmed)));
    assert_eq!(run.stop().await, Cause::Requested);
    assert_eq!(world.shop.devices().len(), 1, "one device, not two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_refused_before_its_first_login_never_was() {
    let mut world = World::new().await;
    world.pair().await;
    world.shop.unlink(world.device()).unwrap();
    assert_eq!(world.login().ended().await, failed("LINK_REFUSED"));
    assert_eq!(world.login().ended().await, failed("NOT_PAIRED"));
    world.pair().await;
    let run = world.login();
    world.sink.online().await;
    assert_eq!(run.stop().await, Cause::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_without_credentials_ends_unconnected() {
    let world = World::new().await;
    assert_eq!(world.login().ended().await, failed("NOT_PAIRED"));
    assert!(world.simulator.ledger().entries().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linked_number_is_not_linked_again() {
    let (world, run) = World::online(|_| {}).await;
    assert_eq!(run.stop().await, Cause::Requested);
    let run = world.run(Mode::PairByQr);
    assert_eq!(run.ended().await, failed("ALREADY_PAIRED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pairing_can_be_called_off_and_begun_again() {
    let world = World::new().await;
    let run = world.run(Mode::PairByQr);
    let first = world.sink.qr().await;
    assert_eq!(run.stop().await, Cause::Requested);
    let run = world.run(Mode::PairByQr);
    let second = world.sink.qr().await;
    assert_ne!(first, second);
    world.shop.scan_qr(&second).unwrap();
    assert_eq!(run.ended().await, Cause::RestartRequired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explicit_logout_removes_the_device_from_the_phone() {
    let (world, run) = World::online(|_| {}).await;
    world.line.logout().await.unwrap();
    assert_eq!(run.ended().await, Cause::Requested);
    world
        .until("unlinked", |truth| {
            truth
                .ledger()
                .facts()
                .any(|fact| matches!(fact, Fact::Unlinked { .. }))
        })
        .await;
}
