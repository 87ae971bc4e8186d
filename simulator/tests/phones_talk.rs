//! People and a real client in conversation: both names of a chat, own copies, several devices.

// The helpers are test code too; clippy only knows the functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Device, PATIENCE, person, simulator};
use wacore::types::events::Event;
use wacore_binary::Jid;

#[tokio::test(flavor = "multi_thread")]
async fn one_conversation_under_both_names_reaches_the_client_in_order() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let mut ids = Vec::new();
    for round in 0..10 {
        let text = format!("message {round}");
        let id = if round % 2 == 0 {
            customer.send_text(&owner.phone(), &text)
        } else {
            customer.send_text_by_lid(&owner.phone(), &text)
        };
        ids.push((id.unwrap(), text));
    }
    device.text("message 9").await;
    device.text("message 8").await;
    let mut seen = device.texts();
    assert_eq!(seen.len(), ids.len());
    seen.sort_by(|left, right| left.1.cmp(&right.1));
    assert_eq!(seen, ids);
    // One session: only the first message cost one of the client's prekeys.
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());

    for to in [Jid::pn(customer.phone()), Jid::lid(customer.lid())] {
        let text = format!("to {to}");
        device.client.send_text(to, text.as_str()).await.unwrap();
        let phone = customer.phone();
        simulator
            .wait_until(
                |truth| {
                    truth
                        .inbox(&phone)
                        .iter()
                        .any(|message| message.text == text)
                },
                PATIENCE,
            )
            .await
            .unwrap();
    }
    for message in customer.inbox() {
        assert_eq!(message.pn.unwrap().user, owner.phone());
        assert_eq!(message.lid.unwrap().user, owner.lid());
    }
    assert!(
        customer.violations().is_empty(),
        "{:#?}",
        customer.violations()
    );
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_writes_on_the_phone_reaches_the_client_as_its_own() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let id = owner
        .send_text(&customer.phone(), "from the phone")
        .unwrap();
    assert_eq!(device.text("from the phone").await, id);
    let (from_me, chat) = device
        .event(|event| match event {
            Event::Messages(batch) => batch
                .messages
                .iter()
                .find(|inbound| inbound.info.id == id)
                .map(|inbound| {
                    let source = &inbound.info.source;
                    (source.is_from_me, source.chat.user.to_string())
                }),
            _ => None,
        })
        .await;
    assert!(from_me);
    assert!(chat == customer.phone() || chat == customer.lid(), "{chat}");
    assert_eq!(customer.inbox()[0].text, "from the phone");
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_companions_of_one_account_both_hear_everything() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let first = Device::new(simulator.ws_url()).await;
    let second = Device::new(simulator.ws_url()).await;
    first.pair(&owner).await;
    second.pair(&owner).await;
    customer.send_text(&owner.phone(), "for both").unwrap();
    first.text("for both").await;
    second.text("for both").await;
    let to = Jid::pn(customer.phone());
    first.client.send_text(to, "by the first").await.unwrap();
    second.text("by the first").await;
    let phone = customer.phone();
    simulator
        .wait_until(
            |truth| truth.inbox(&phone).iter().any(|m| m.text == "by the first"),
            PATIENCE,
        )
        .await
        .unwrap();
    assert_eq!(customer.inbox().len(), 1);
    for account in [&owner, &customer] {
        assert!(
            account.violations().is_empty(),
            "{:#?}",
            account.violations()
        );
    }
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_receipts_go_both_ways() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    let mut ids = Vec::new();
    for text in ["a", "b", "c"] {
        ids.push(customer.send_text(&owner.phone(), text).unwrap());
        device.text(text).await;
    }
    let chat = Jid::pn(customer.phone());
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    device.client.mark_as_read(&chat, None, &ids).await.unwrap();
    let phone = customer.phone();
    simulator
        .wait_until(
            |truth| {
                truth
                    .sent(&phone)
                    .iter()
                    .all(|message| message.read.is_some())
            },
            PATIENCE,
        )
        .await
        .unwrap();
    // The owner's own phone knows that they were read elsewhere.
    let phone = owner.phone();
    simulator
        .wait_until(
            |truth| {
                truth
                    .inbox(&phone)
                    .iter()
                    .all(|message| message.read.is_some())
            },
            PATIENCE,
        )
        .await
        .unwrap();
    assert_eq!(owner.inbox().len(), 3);
    simulator.shutdown().await;
}
