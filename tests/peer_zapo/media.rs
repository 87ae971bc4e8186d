//! zapo-js and pictures.

use crate::pictures::{Held, with_a_held_number, with_a_phone};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_passes_both_ways_with_a_phone() {
    let world = World::new().await;
    let customer = world.linked_zapo(&world.customer, "customer").await;
    with_a_phone(&world, customer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_passes_both_ways_with_a_number_held_by_trunkline() {
    let world = World::new().await;
    let held = Held::of(&world).await;
    let customer = world.linked_zapo(&world.customer, "customer").await;
    with_a_held_number(&world, held, customer).await;
}
