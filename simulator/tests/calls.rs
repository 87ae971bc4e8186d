//! Calls ring on companions, are acknowledged by them, and end for all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod support;

use serde_json::json;
use support::{Device, PATIENCE, http, person, simulator, simulator_with};
use trunkline_simulator::{
    Account, CallEnd, Fact, Fault, FaultSpec, FaultTarget, Simulator, SimulatorConfig,
};
use wacore::stanza::call::build_reject;
use wacore::types::call::{CallAction, IncomingCall};
use wacore::types::events::Event;

struct World {
    simulator: Simulator,
    owner: Account,
    caller: Account,
    device: Device,
    number: u16,
}

async fn world() -> World {
    let simulator = simulator_with(SimulatorConfig {
        control: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    })
    .await;
    let (owner, caller) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::new(simulator.ws_url()).await;
    let number = device.pair(&owner).await;
    World {
        simulator,
        owner,
        caller,
        device,
        number,
    }
}

impl World {
    async fn nothing_waits(&self) {
        let phone = self.owner.phone();
        self.simulator
            .wait_until(|truth| truth.backlog(&phone, self.number) == 0, PATIENCE)
            .await
            .unwrap();
    }
}

/// The stanza of a call, by what it says.
async fn heard(device: &Device, id: &str, action: &str) -> IncomingCall {
    device
        .event(|event| match event {
            Event::IncomingCall(call)
                if call.action.call_id() == id && call.action.wire_tag() == action =>
            {
                Some(call.clone())
            }
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_rings_is_acknowledged_and_ends() {
    let world = world().await;
    let base = world.simulator.control_url().unwrap();
    let calls = format!("/accounts/{}/calls", world.caller.phone());
    let call = json!({ "to": world.owner.phone(), "video": true });
    let (status, begun) = http::json(&base, "POST", &calls, Some(call)).await;
    assert_eq!(status, 200);
    let id = begun["id"].as_str().unwrap();
    let offer = heard(&world.device, id, "offer").await;
    assert_eq!(offer.from.user, world.caller.lid());
    assert_eq!(offer.notify.as_deref(), Some("Person 2"));
    assert!(!offer.offline);
    let CallAction::Offer {
        caller_pn,
        is_video,
        audio,
        ..
    } = &offer.action
    else {
        panic!("{offer:?}");
    };
    assert_eq!(caller_pn.as_ref().unwrap().user, world.caller.phone());
    assert!(is_video);
    assert_eq!(audio.len(), 2);

    let end = json!({ "end": "hang_up" });
    let path = format!("{calls}/{id}");
    assert_eq!(
        http::json(&base, "POST", &path, Some(end.clone())).await.0,
        200
    );
    heard(&world.device, id, "terminate").await;
    assert_eq!(
        http::json(&base, "POST", &path, Some(end)).await.0,
        404,
        "over"
    );
    world.nothing_waits().await;
    let ledger = world.simulator.ledger();
    let rang = |fact: &&Fact| matches!(fact, Fact::Receipt { kind, .. } if kind == "offer");
    assert_eq!(ledger.facts().filter(rang).count(), 1);
    let confirmed = |fact: &&Fact| matches!(fact, Fact::Confirmed { class, .. } if class == "call");
    assert_eq!(ledger.facts().filter(confirmed).count(), 2);
    assert!(ledger.violations().is_empty());
    world.simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_came_while_away_is_missed() {
    let world = world().await;
    let close = FaultSpec {
        target: FaultTarget::All,
        fault: Fault::Close,
        times: None,
    };
    world.simulator.fault(close).unwrap();
    world.device.ended().await;
    let id = world.caller.call(&world.owner.phone(), false).unwrap();
    world.caller.end_call(&id, CallEnd::HangUp).unwrap();
    world.device.connect().await;
    let missed = world
        .device
        .event(|event| match event {
            Event::MissedCall(call) if call.call_id == id => Some(call.from.user.to_string()),
            _ => None,
        })
        .await;
    assert_eq!(missed, world.caller.lid());
    assert!(heard(&world.device, &id, "terminate").await.offline);
    world.nothing_waits().await;
    world.simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_or_refuses_a_call_ends_it_for_the_others() {
    let world = world().await;
    let other = Device::new(world.simulator.ws_url()).await;
    other.pair(&world.owner).await;
    let ring = || world.caller.call(&world.owner.phone(), false).unwrap();

    let taken = ring();
    heard(&world.device, &taken, "offer").await;
    world.owner.end_call(&taken, CallEnd::Accept).unwrap();
    let ended = heard(&other, &taken, "terminate").await;
    let CallAction::Terminate { reason, .. } = &ended.action else {
        panic!("{ended:?}");
    };
    assert_eq!(reason.as_deref(), Some("accepted_elsewhere"));
    // Nobody but the people in it can end a call.
    let refused = ring();
    assert!(world.caller.end_call(&refused, CallEnd::Accept).is_err());
    assert!(world.owner.end_call(&refused, CallEnd::HangUp).is_err());

    let offer = heard(&world.device, &refused, "offer").await;
    let creator = offer.action.call_creator();
    let reject = build_reject(&refused, &offer.from, creator, "R1");
    world.device.client.send_node(reject).await.unwrap();
    heard(&other, &refused, "terminate").await;
    let terminated = |event: &Event| {
        matches!(event, Event::IncomingCall(call)
        if call.action.call_id() == refused && call.action.wire_tag() == "terminate")
    };
    assert_eq!(
        world.device.count(terminated),
        0,
        "it knows that it refused"
    );
    world.nothing_waits().await;
    world.simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_person_calls_in_vain() {
    let simulator = simulator().await;
    let (owner, caller, friend) = (
        person(&simulator, 1),
        person(&simulator, 2),
        person(&simulator, 3),
    );
    let device = Device::new(simulator.ws_url()).await;
    device.pair(&owner).await;
    // Blocking names number and LID: a message tells both.
    caller.send_text(&owner.phone(), "hello").unwrap();
    device.text("hello").await;
    let lid = format!("{}@lid", caller.lid()).parse().unwrap();
    device.client.blocking().block(&lid).await.unwrap();
    let unheard = caller.call(&owner.phone(), false).unwrap();
    caller.end_call(&unheard, CallEnd::HangUp).unwrap();
    let heard_of = friend.call(&owner.phone(), false).unwrap();
    heard(&device, &heard_of, "offer").await;
    let blocked = |event: &Event| matches!(event, Event::IncomingCall(call) if call.action.call_id() == unheard);
    assert_eq!(device.count(blocked), 0);
    assert!(caller.call(&caller.phone(), false).is_err());
    simulator.shutdown().await;
}
