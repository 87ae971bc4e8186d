//! Sessions break and mend: a real client and simulated phones ask each other for messages again.

// The helpers are test code too; clippy only knows the functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Device, PATIENCE, person, simulator};
use trunkline_simulator::{Account, Fact, Fault, FaultSpec, FaultTarget, Outbound, Simulator};
use wacore_binary::Jid;

/// Waits until a person's phone has shown `text`, and checks that it did so once.
async fn shown(simulator: &Simulator, by: &Account, text: &str) {
    let phone = by.phone();
    let wait = simulator.wait_until(
        |truth| {
            truth
                .inbox(&phone)
                .iter()
                .any(|message| message.text == text)
        },
        PATIENCE,
    );
    assert!(
        wait.await.is_ok(),
        "{text:?} was not shown; inbox {:#?}, undecryptable {:#?}, violations {:#?}",
        by.inbox(),
        by.undecryptable(),
        by.violations()
    );
    let matching: Vec<_> = by
        .inbox()
        .into_iter()
        .filter(|message| message.text == text)
        .collect();
    assert_eq!(matching.len(), 1);
    assert_eq!(matching[0].displays, 1);
}

/// Waits until the account's own phone lists `text` as sent by a companion.
async fn copied(simulator: &Simulator, owner: &Account, text: &str) {
    let phone = owner.phone();
    let wait = simulator.wait_until(
        |truth| {
            truth
                .sent(&phone)
                .iter()
                .any(|message| message.text == text)
        },
        PATIENCE,
    );
    assert!(
        wait.await.is_ok(),
        "no copy of {text:?}; undecryptable {:#?}, violations {:#?}",
        owner.undecryptable(),
        owner.violations()
    );
}

/// Keeps the client a network away from its phone and from other people's. One that is asked again before
/// it has put its first answer away passes the second request over.
fn from_a_distance(simulator: &Simulator) {
    let order = FaultSpec {
        target: FaultTarget::All,
        fault: Fault::Delay { millis: 400 },
        times: None,
    };
    simulator.fault(order).unwrap();
}

/// How many retry receipts a person's phone has sent.
fn retries(simulator: &Simulator, by: &Account) -> usize {
    let phone = format!("{}:0", by.phone());
    let ledger = simulator.ledger();
    let asked = ledger.facts().filter(
        |fact| matches!(fact, Fact::Receipt { from, kind, .. } if *from == phone && kind == "retry"),
    );
    asked.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_lost_its_sessions_gets_the_clients_message_once() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let to = Jid::pn(customer.phone());

    device.client.send_text(to.clone(), "one").await.unwrap();
    shown(&simulator, &customer, "one").await;
    // An answer acknowledges the session: from now on the client sends plain `msg`.
    customer.send_text(&owner.phone(), "answer").unwrap();
    device.text("answer").await;

    from_a_distance(&simulator);
    customer.lose_sessions();
    device.client.send_text(to.clone(), "two").await.unwrap();
    shown(&simulator, &customer, "two").await;
    assert!(customer.undecryptable().is_empty());
    assert!(retries(&simulator, &customer) > 0);
    device.client.send_text(to, "three").await.unwrap();
    shown(&simulator, &customer, "three").await;

    assert!(
        customer.violations().is_empty(),
        "{:#?}",
        customer.violations()
    );
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_phone_gets_its_copy_again_with_the_chat_it_belongs_to() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    let number = device.pair(&owner).await;
    // By LID. A library that learns a number's LID between sending and being asked finds the message under
    // its other name, and then seals the copy for the chat instead of for the device that asks.
    let to = Jid::lid(customer.lid());

    device.client.send_text(to.clone(), "one").await.unwrap();
    copied(&simulator, &owner, "one").await;
    from_a_distance(&simulator);
    owner.lose_sessions();
    device.client.send_text(to.clone(), "two").await.unwrap();
    shown(&simulator, &customer, "two").await;
    copied(&simulator, &owner, "two").await;
    assert!(retries(&simulator, &owner) > 0);
    let copy = owner.sent().into_iter().find(|sent| sent.text == "two");
    let copy = copy.unwrap();
    assert_eq!(copy.via, number);
    assert!(copy.to.user == customer.phone() || copy.to.user == customer.lid());

    assert!(owner.violations().is_empty(), "{:#?}", owner.violations());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_lost_its_sessions_starts_new_ones_the_client_accepts() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;

    customer.send_text(&owner.phone(), "before").unwrap();
    device.text("before").await;
    customer.lose_sessions();
    customer.send_text(&owner.phone(), "after").unwrap();
    device.text("after").await;
    let to = Jid::pn(customer.phone());
    device.client.send_text(to, "back").await.unwrap();
    shown(&simulator, &customer, "back").await;
    assert!(
        customer.violations().is_empty(),
        "{:#?}",
        customer.violations()
    );
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_its_session_gets_the_message_from_the_sender_or_its_phone() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    let number = device.pair(&owner).await;
    let to = Jid::pn(customer.phone());

    customer.send_text(&owner.phone(), "before").unwrap();
    device.text("before").await;
    device
        .client
        .send_text(to.clone(), "settled")
        .await
        .unwrap();
    shown(&simulator, &customer, "settled").await;

    let lost = [to.clone(), Jid::lid(customer.lid())];
    device.client.signal().delete_sessions(&lost).await.unwrap();
    let id = customer.send_text(&owner.phone(), "unreadable").unwrap();
    assert_eq!(device.text("unreadable").await, id);
    // The client asked the sender, who answered, and its own phone with a peer message.
    let (from, own) = (customer.phone(), format!("{}:0", owner.phone()));
    let client = format!("{}:{number}", owner.phone());
    let asked_sender = |fact: &Fact| matches!(fact, Fact::Receipt { from, kind, .. } if *from == client && kind == "retry");
    let asked_phone = |fact: &Fact| {
        matches!(fact, Fact::Delivered { class, from, to, .. }
            if class == "message" && *from == client && *to == own)
    };
    simulator
        .wait_until(
            |truth| {
                let resent = |sent: &Outbound| sent.id == id && sent.resends > 0;
                truth.sent(&from).iter().any(resent)
                    && truth.ledger().facts().any(asked_sender)
                    && truth.ledger().facts().any(asked_phone)
            },
            PATIENCE,
        )
        .await
        .unwrap();
    device.client.send_text(to, "goes on").await.unwrap();
    shown(&simulator, &customer, "goes on").await;
    for account in [&owner, &customer] {
        assert!(
            account.violations().is_empty(),
            "{:#?}",
            account.violations()
        );
    }
    simulator.shutdown().await;
}
