//! Calls of people, heard by a peer. The same for every peer.

use trunkline_simulator::CallEnd;

use crate::peer::Peer;
use crate::world::{World, is_text};

/// A call to the shop rings and ends; messages go on.
pub(crate) async fn rings_and_ends(world: &World, shop: &mut Peer) {
    let number = world.shop.phone();
    let id = ring(world, shop).await;
    world.customer.end_call(&id, CallEnd::HangUp).unwrap();
    shop.event("call", |call| {
        call["id"] == id && call["status"] == "terminate"
    })
    .await;
    world.customer.send_text(&number, "call me back").unwrap();
    shop.event("message", is_text("call me back")).await;
}

/// Calls the shop; the id of the call that rings.
pub(crate) async fn ring(world: &World, shop: &mut Peer) -> String {
    let id = world.customer.call(&world.shop.phone(), true).unwrap();
    let rang = shop
        .event("call", |call| call["id"] == id && call["status"] == "offer")
        .await;
    let from = rang["from"].as_str().unwrap();
    assert!(from.starts_with(&world.customer.phone()), "{rang}");
    id
}
