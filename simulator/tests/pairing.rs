//! A client nobody here wrote pairs by QR, opens and talks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use support::{Device, PATIENCE, person, simulator};
use trunkline_simulator::Fact;
use wacore_binary::Jid;

#[tokio::test(flavor = "multi_thread")]
async fn pair_open_and_talk_both_ways() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let customer = person(&simulator, 2);
    let device = Device::new(simulator.ws_url()).await;

    let number = device.pair(&owner).await;
    assert_eq!(owner.devices().len(), 1);
    assert_eq!(owner.devices()[0].device, number);
    assert!(owner.devices()[0].online);
    simulator
        .wait_until(
            |truth| {
                truth.ledger().facts().any(
                    |fact| matches!(fact, Fact::PrekeysUploaded { count, .. } if *count >= 800),
                )
            },
            PATIENCE,
        )
        .await
        .unwrap();

    // Customer to client.
    let id = customer.send_text(&owner.phone(), "hello").unwrap();
    assert_eq!(device.text("hello").await, id);
    let from_customer = customer.phone();
    simulator
        .wait_until(
            |truth| {
                let sent = truth.sent(&from_customer);
                sent.iter().any(|m| m.id == id && m.delivered.is_some())
            },
            PATIENCE,
        )
        .await
        .unwrap();

    // Client to customer.
    let to = Jid::pn(customer.phone());
    let sent = device.client.send_text(to, "hi there").await.unwrap();
    simulator
        .wait_until(
            |truth| {
                truth
                    .inbox(&from_customer)
                    .iter()
                    .any(|m| m.text == "hi there")
            },
            PATIENCE,
        )
        .await
        .unwrap();
    let shown = customer.inbox();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].displays, 1);
    // The owner's phone has its copy.
    assert!(owner.sent().iter().any(|m| m.text == "hi there"));
    customer.mark_read(&[shown[0].id.clone()]);
    device
        .event(|event| match event {
            wacore::types::events::Event::Receipt(receipt) => {
                (receipt.r#type == wacore::types::presence::ReceiptType::Read).then_some(())
            }
            _ => None,
        })
        .await;
    drop(sent);
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
    simulator.shutdown().await;
}
