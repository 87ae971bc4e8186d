//! Disconnects of every kind, driven from the simulator, seen by the library.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use support::{Device, PATIENCE, person, simulator};
use trunkline_simulator::{Account, Fact, Fault, FaultSpec, FaultTarget, Ledger, Simulator};
use wacore::types::events::Event;
use wacore_binary::Jid;

async fn paired() -> (Simulator, Account, Account, Device) {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let customer = person(&simulator, 2);
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    (simulator, owner, customer, device)
}

fn to_owner(owner: &Account, fault: Fault, times: Option<u32>) -> FaultSpec {
    FaultSpec {
        target: FaultTarget::Account(owner.phone()),
        fault,
        times,
    }
}

/// Ledger numbers of the times a message left for the owner's first device.
fn deliveries<'a>(ledger: &'a Ledger, message: &'a str) -> impl Iterator<Item = u64> + 'a {
    ledger.entries().iter().filter_map(move |entry| {
        let Fact::Delivered { id, to, .. } = &entry.fact else {
            return None;
        };
        (id == message && to.ends_with(":1")).then_some(entry.seq)
    })
}

async fn offline(simulator: &Simulator, owner: &Account) {
    let phone = owner.phone();
    simulator
        .wait_until(|truth| !truth.is_online(&phone, 1), PATIENCE)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_arrives_once_and_in_order_after_reconnect() {
    let (simulator, owner, customer, device) = paired().await;
    // A first message live, so that the session exists.
    customer.send_text(&owner.phone(), "live").unwrap();
    device.text("live").await;
    simulator
        .fault(to_owner(&owner, Fault::Close, None))
        .unwrap();
    device.ended().await;
    offline(&simulator, &owner).await;

    let wanted: Vec<(String, String)> = (0..12)
        .map(|n| {
            let text = format!("missed {n}");
            (customer.send_text(&owner.phone(), &text).unwrap(), text)
        })
        .collect();
    device.connect().await;
    device.text("missed 11").await;
    let got: Vec<(String, String)> = device.texts().into_iter().skip(1).collect();
    assert_eq!(got, wanted);
    let phone = owner.phone();
    simulator
        .wait_until(|truth| truth.backlog(&phone, 1) == 0, PATIENCE)
        .await
        .unwrap();
    let ledger = simulator.ledger();
    let previews = ledger
        .facts()
        .filter(|fact| matches!(fact, Fact::Active { backlog, .. } if *backlog >= 12));
    assert_eq!(previews.count(), 1);
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_reads_as_replaced() {
    let (simulator, owner, _, device) = paired().await;
    simulator
        .fault(to_owner(&owner, Fault::Replaced, None))
        .unwrap();
    device
        .event(|event| matches!(event, Event::StreamReplaced(_)).then_some(()))
        .await;
    device.ended().await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_errors_515_and_401_end_the_attempt() {
    let (simulator, owner, _, device) = paired().await;
    simulator
        .fault(to_owner(&owner, Fault::StreamError { code: 515 }, None))
        .unwrap();
    device.ended().await;
    device.connect().await;
    simulator
        .fault(to_owner(&owner, Fault::StreamError { code: 401 }, None))
        .unwrap();
    device
        .event(|event| matches!(event, Event::LoggedOut(_)).then_some(()))
        .await;
    device.ended().await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_errors_503_and_429_leave_a_dead_socket_open() {
    for code in [503, 429] {
        let (simulator, owner, customer, device) = paired().await;
        simulator
            .fault(to_owner(&owner, Fault::StreamError { code }, None))
            .unwrap();
        offline(&simulator, &owner).await;
        let held = customer.send_text(&owner.phone(), "into the void").unwrap();
        let phone = owner.phone();
        // The sockets of the pairing may still be saying goodbye; the dead one stays.
        while simulator.connections().open > 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(simulator.connections().open, 1);
        // What the pairing left unconfirmed may wait beside it.
        assert!(simulator.look(|truth| truth.backlog(&phone, 1)) >= 1);
        assert_eq!(deliveries(&simulator.ledger(), &held).count(), 0);
        assert!(device.is_running());
        device.client.disconnect().await;
        device.ended().await;
        simulator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_failures_reach_the_client_as_ordered() {
    let (simulator, owner, _, device) = paired().await;
    simulator
        .fault(to_owner(&owner, Fault::Close, None))
        .unwrap();
    device.ended().await;
    offline(&simulator, &owner).await;
    let refuse = |reason, code, expire| {
        let fault = Fault::ConnectFailure {
            reason,
            code,
            expire,
        };
        simulator.fault(to_owner(&owner, fault, Some(1))).unwrap();
        device.run();
    };
    refuse(503, None, None);
    device
        .event(|event| matches!(event, Event::ConnectFailure(_)).then_some(()))
        .await;
    device.ended().await;
    refuse(405, None, None);
    device
        .event(|event| matches!(event, Event::ClientOutdated(_)).then_some(()))
        .await;
    device.ended().await;
    refuse(402, Some(101), Some(3600));
    let ban = device
        .event(|event| match event {
            Event::TemporaryBan(ban) => Some(format!("{ban:?}")),
            _ => None,
        })
        .await;
    assert!(ban.contains("3600"), "{ban}");
    device.ended().await;
    refuse(403, None, None);
    device
        .event(|event| matches!(event, Event::LoggedOut(_)).then_some(()))
        .await;
    device.ended().await;
    let refused: Vec<u16> = simulator
        .ledger()
        .facts()
        .filter_map(|fact| match fact {
            Fact::LoginRefused { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [503, 405, 402, 403]);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_tells_the_device_and_later_logins_fail_401() {
    let (simulator, owner, _, device) = paired().await;
    owner.unlink(1).unwrap();
    device
        .event(|event| matches!(event, Event::LoggedOut(_)).then_some(()))
        .await;
    device.ended().await;
    assert!(owner.devices().is_empty());
    device.run();
    device.ended().await;
    let refused = simulator
        .ledger()
        .facts()
        .any(|fact| matches!(fact, Fact::LoginRefused { reason: 401, .. }));
    assert!(refused);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_acks_and_nacks() {
    let (simulator, owner, customer, device) = paired().await;
    let to = || Jid::pn(customer.phone());
    simulator
        .fault(to_owner(&owner, Fault::Nack { error: 463 }, Some(1)))
        .unwrap();
    device.client.send_text(to(), "refused").await.unwrap();
    let error = device
        .event(|event| match event {
            Event::ServerAck(ack) => ack.error.clone(),
            _ => None,
        })
        .await;
    assert_eq!(error, "463");
    assert!(customer.inbox().is_empty());

    simulator
        .fault(to_owner(&owner, Fault::WithholdAcks, Some(1)))
        .unwrap();
    device.client.send_text(to(), "unacked").await.unwrap();
    device.client.send_text(to(), "acked").await.unwrap();
    device
        .event(|event| match event {
            Event::ServerAck(ack) if ack.class.as_deref() == Some("message") => {
                ack.error.is_none().then_some(())
            }
            _ => None,
        })
        .await;
    let phone = customer.phone();
    simulator
        .wait_until(|truth| truth.inbox(&phone).len() == 2, PATIENCE)
        .await
        .unwrap();
    let sender = format!("{}:1", owner.phone());
    let acked = simulator
        .ledger()
        .facts()
        .filter(|fact| matches!(fact, Fact::MessageAcked { to, .. } if *to == sender))
        .count();
    assert_eq!(acked, 1);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicated_and_reordered_delivery() {
    let (simulator, owner, customer, device) = paired().await;
    customer.send_text(&owner.phone(), "first").unwrap();
    device.text("first").await;
    simulator
        .fault(to_owner(&owner, Fault::Duplicate, Some(1)))
        .unwrap();
    let twice = customer.send_text(&owner.phone(), "twice").unwrap();
    device.text("twice").await;
    // The second copy has left too, so that the next order strikes what is sent next.
    simulator
        .wait_until(
            |truth| deliveries(truth.ledger(), &twice).count() == 2,
            PATIENCE,
        )
        .await
        .unwrap();
    simulator
        .fault(to_owner(&owner, Fault::Reorder, Some(1)))
        .unwrap();
    let late = customer.send_text(&owner.phone(), "late").unwrap();
    let early = customer.send_text(&owner.phone(), "early").unwrap();
    device.text("late").await;
    device.text("early").await;
    // The order on the wire: a client may undo the swap by itself.
    let ledger = simulator.ledger();
    let left: Vec<u64> = [&early, &late]
        .into_iter()
        .map(|id| deliveries(&ledger, id).next().unwrap())
        .collect();
    assert!(left.is_sorted(), "{:?}", ledger.entries());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_holds_deliveries_back_until_it_is_lifted() {
    let (simulator, owner, customer, device) = paired().await;
    customer.send_text(&owner.phone(), "before").unwrap();
    device.text("before").await;
    simulator
        .fault(to_owner(&owner, Fault::Silence, None))
        .unwrap();
    let held = customer.send_text(&owner.phone(), "held").unwrap();
    let phone = owner.phone();
    assert!(simulator.look(|truth| truth.backlog(&phone, 1)) >= 1);
    assert_eq!(deliveries(&simulator.ledger(), &held).count(), 0);
    simulator.clear_faults();
    assert_eq!(deliveries(&simulator.ledger(), &held).count(), 1);
    device.text("held").await;
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_tcp_and_recovery() {
    let (simulator, owner, _, device) = paired().await;
    simulator
        .fault(to_owner(&owner, Fault::Close, None))
        .unwrap();
    device.ended().await;
    simulator
        .fault(FaultSpec {
            target: FaultTarget::All,
            fault: Fault::RefuseTcp,
            times: Some(1),
        })
        .unwrap();
    device.run();
    device.ended().await;
    device.connect().await;
    let refused = simulator
        .ledger()
        .facts()
        .filter(|fact| matches!(fact, Fact::Refused))
        .count();
    assert_eq!(refused, 1);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stanza_that_nothing_overtakes_still_arrives() {
    let (simulator, owner, customer, device) = paired().await;
    for round in 0..3 {
        simulator
            .fault(to_owner(&owner, Fault::Reorder, Some(1)))
            .unwrap();
        let text = format!("alone {round}");
        customer.send_text(&owner.phone(), &text).unwrap();
        device.text(&text).await;
    }
    let phone = owner.phone();
    simulator
        .wait_until(|truth| truth.backlog(&phone, 1) == 0, PATIENCE)
        .await
        .unwrap();
    simulator.shutdown().await;
}
