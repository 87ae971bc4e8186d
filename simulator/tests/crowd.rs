//! Many devices at once. What they cost is measured by `simulator/benches/crowd.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;

use support::{Device, PATIENCE, person, simulator};
use tokio::sync::Semaphore;
use wacore_binary::Jid;

const PREKEYS: usize = 20;
/// Pairings under way at once; the devices are online together all the same.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn forty_devices_each_send_and_receive_exactly_once() {
    const CROWD: u32 = 40;
    let simulator = Arc::new(simulator().await);
    let customer = person(&simulator, 9999);
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut pairing = tokio::task::JoinSet::new();
    for number in 1..=CROWD {
        let owner = person(&simulator, number);
        let (url, at_once) = (simulator.ws_url(), Arc::clone(&at_once));
        pairing.spawn(async move {
            let _permit = at_once.acquire_owned().await.unwrap();
            let device = Device::with_prekeys(url, PREKEYS).await;
            device.pair(&owner).await;
            (owner, device)
        });
    }
    let crowd = pairing.join_all().await;
    assert_eq!(simulator.connections().online, CROWD as usize);
    for (owner, device) in &crowd {
        let text = format!("to {}", owner.phone());
        customer.send_text(&owner.phone(), &text).unwrap();
        let to = Jid::pn(customer.phone());
        device.client.send_text(to, owner.phone()).await.unwrap();
    }
    for (owner, device) in &crowd {
        device.text(&format!("to {}", owner.phone())).await;
        assert_eq!(device.texts().len(), 1);
    }
    let phone = customer.phone();
    simulator
        .wait_until(
            |truth| truth.inbox(&phone).len() == CROWD as usize,
            PATIENCE,
        )
        .await
        .unwrap();
    let ledger = simulator.ledger();
    assert!(ledger.displayed_by(&phone).values().all(|&n| n == 1));
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
}
