//! Groups of people and real clients: sender keys both ways, membership, a second device, lost state,
//! and what waits for whoever is away.

// The helpers are test code too; clippy only knows the functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Device, PATIENCE, person, simulator};
use trunkline_simulator::{Account, Fact, Fault, FaultSpec, FaultTarget, Group, Simulator};
use wacore_binary::Jid;

fn jid(group: &Group) -> Jid {
    group.jid().parse().unwrap()
}

/// Waits until a person's phone has shown `text`, and checks that it did so once.
async fn shown(simulator: &Simulator, by: &Account, text: &str) {
    let phone = by.phone();
    let wait = simulator.wait_until(
        |truth| truth.inbox(&phone).iter().any(|m| m.text == text),
        PATIENCE,
    );
    assert!(
        wait.await.is_ok(),
        "{text:?} was not shown; inbox {:#?}, undecryptable {:#?}, violations {:#?}",
        by.inbox(),
        by.undecryptable(),
        by.violations()
    );
    let inbox = by.inbox();
    let matching: Vec<_> = inbox.iter().filter(|m| m.text == text).collect();
    assert_eq!(matching.len(), 1);
    assert_eq!(matching[0].duplicates, 0);
}

fn no_violations(simulator: &Simulator) {
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_phones_talk_in_a_group_with_two_devices_of_one_member() {
    let simulator = simulator().await;
    let [owner, ana, ben] = [1, 2, 3].map(|n| person(&simulator, n));
    let first = Device::new(simulator.ws_url()).await;
    let second = Device::new(simulator.ws_url()).await;
    first.pair(&owner).await;
    second.pair(&owner).await;
    let members = [ana.phone(), ben.phone()];
    let group = owner
        .create_group("Friends", &[&members[0], &members[1]])
        .unwrap();
    for round in 0..3 {
        let greeting = format!("from ana {round}");
        ana.send_to_group(&group, &greeting).unwrap();
        first.text(&greeting).await;
        second.text(&greeting).await;
        shown(&simulator, &ben, &greeting).await;
        shown(&simulator, &owner, &greeting).await;

        let answer = format!("from the client {round}");
        first
            .client
            .send_text(jid(&group), answer.as_str())
            .await
            .unwrap();
        shown(&simulator, &ana, &answer).await;
        shown(&simulator, &ben, &answer).await;
        second.text(&answer).await;
    }
    let phone = owner.phone();
    simulator
        .wait_until(|truth| truth.sent(&phone).len() == 3, PATIENCE)
        .await
        .unwrap();
    assert!(
        owner
            .sent()
            .iter()
            .all(|m| m.to == jid(&group) && m.via == 1)
    );
    // Every reader of ana's last message is known to her.
    let reader = ana.phone();
    simulator
        .wait_until(
            |truth| {
                let last = truth.sent(&reader).last().map(|m| m.receipts.len());
                last >= Some(4)
            },
            PATIENCE,
        )
        .await
        .unwrap();
    no_violations(&simulator);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn membership_decides_who_reads_and_writes() {
    let simulator = simulator().await;
    let [owner, ana, ben] = [1, 2, 3].map(|n| person(&simulator, n));
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let (ana_phone, ben_phone) = (ana.phone(), ben.phone());
    let group = ana
        .create_group("Shop", &[&owner.phone(), &ben_phone])
        .unwrap();
    device
        .client
        .send_text(jid(&group), "for both")
        .await
        .unwrap();
    shown(&simulator, &ana, "for both").await;
    shown(&simulator, &ben, "for both").await;

    ana.remove_from_group(&group, &[&ben_phone]).unwrap();
    device
        .event(|event| match event {
            wacore::types::events::Event::GroupUpdate(update) => {
                let update = format!("{update:?}");
                update.contains("Remove").then_some(())
            }
            _ => None,
        })
        .await;
    device
        .client
        .send_text(jid(&group), "for ana alone")
        .await
        .unwrap();
    shown(&simulator, &ana, "for ana alone").await;
    assert_eq!(ben.inbox().len(), 1);
    let keys: Vec<Option<u32>> = ana.inbox().iter().map(|m| m.sender_key).collect();
    assert!(keys.iter().all(Option::is_some), "{keys:?}");
    assert_ne!(keys[0], keys[1], "Ben holds the first");
    assert!(ben.send_to_group(&group, "still here?").is_err());

    ana.remove_from_group(&group, &[&owner.phone()]).unwrap();
    let id = ana.send_to_group(&group, "alone now").unwrap();
    simulator
        .wait_until(
            |truth| {
                truth
                    .sent(&ana_phone)
                    .iter()
                    .any(|m| m.id == id && m.server_acked.is_some())
            },
            PATIENCE,
        )
        .await
        .unwrap();
    assert!(!device.texts().iter().any(|(_, text)| text == "alone now"));
    let ledger = simulator.ledger();
    let reached = ledger.facts().any(
        |fact| matches!(fact, Fact::Delivered { id: delivered, to, .. } if *delivered == id && to.ends_with(":1")),
    );
    assert!(!reached, "nothing left for the removed member's device");
    no_violations(&simulator);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_state_is_mended_and_the_absent_catch_up() {
    let simulator = simulator().await;
    let [owner, ana, ben] = [1, 2, 3].map(|n| person(&simulator, n));
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let group = owner
        .create_group("Friends", &[&ana.phone(), &ben.phone()])
        .unwrap();
    let to = jid(&group);
    device.client.send_text(to.clone(), "one").await.unwrap();
    shown(&simulator, &ana, "one").await;
    ana.lose_sessions();
    device.client.send_text(to.clone(), "two").await.unwrap();
    shown(&simulator, &ana, "two").await;
    shown(&simulator, &ben, "two").await;
    device.client.send_text(to, "three").await.unwrap();
    shown(&simulator, &ana, "three").await;
    assert!(ana.undecryptable().is_empty());

    ana.send_to_group(&group, "before").unwrap();
    device.text("before").await;
    simulator
        .fault(FaultSpec {
            target: FaultTarget::Account(owner.phone()),
            fault: Fault::Close,
            times: None,
        })
        .unwrap();
    device.ended().await;
    let mut waiting = Vec::new();
    for n in 0..5 {
        for by in [&ana, &ben] {
            let text = format!("{n} from {}", by.name());
            by.send_to_group(&group, &text).unwrap();
            waiting.push(text);
        }
    }
    device.connect().await;
    for text in &waiting {
        device.text(text).await;
    }
    let phone = owner.phone();
    simulator
        .wait_until(|truth| truth.backlog(&phone, 1) == 0, PATIENCE)
        .await
        .unwrap();
    let texts = device.texts();
    for text in &waiting {
        assert_eq!(texts.iter().filter(|(_, seen)| seen == text).count(), 1);
    }
    no_violations(&simulator);
    simulator.shutdown().await;
}
