//! zapo-js and pictures: with a person's phone both ways, and towards a number that Trunkline holds.

use sha2::{Digest as _, Sha256};
use trunkline_simulator::Attachment;

use crate::held::{Inbox, hold_number, subscribe};
use crate::support::core::download;
use crate::support::daemon::Daemon;
use crate::world::{World, image_to, photo};

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_passes_both_ways_with_a_phone() {
    let world = World::new().await;
    let mut customer = world.linked_zapo(&world.customer, "customer").await;
    let (shop_phone, customer_phone) = (world.shop.phone(), world.customer.phone());

    let theirs = photo(1);
    let sent = customer
        .ask("sendImage", image_to(&shop_phone, &theirs, "from afar"))
        .await;
    world
        .until("the phone shows the picture", |truth| {
            truth.inbox(&shop_phone).len() == 1
        })
        .await;
    let shown = world.shop.inbox().remove(0);
    assert_eq!(sent["key"]["id"], shown.id);
    assert_eq!(shown.text, "from afar");
    assert_eq!(world.shop.open_media(&shown.id).unwrap().unwrap(), theirs);

    let ours = photo(2);
    let id = world
        .shop
        .send_media(
            &customer_phone,
            &Attachment::jpeg(ours.clone(), "from the shop"),
        )
        .unwrap();
    let image = customer
        .event("image", |image| image["key"]["id"] == id)
        .await;
    assert_eq!(image["caption"], "from the shop");
    assert_eq!(image["size"], ours.len());
    assert_eq!(image["sha256"], hex::encode(Sha256::digest(&ours)));
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_picture_reaches_a_number_held_by_trunkline() {
    let world = World::new().await;
    let trust = format!("tls_root = \"{}\"\n", world.tls_root().display());
    let mut daemon = Daemon::prepare(&world.simulator.ws_url(), &trust);
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    hold_number(&channel, &world).await;
    subscribe(&channel).await;
    let mut inbox = Inbox::open(&channel).await;
    let mut customer = world.linked_zapo(&world.customer, "customer").await;

    let picture = photo(3);
    customer
        .ask("sendImage", image_to(&world.shop.phone(), &picture, "look"))
        .await;
    let said = inbox.file("look").await;
    assert_eq!(said.mime_type, "image/jpeg");
    assert_eq!(said.size, picture.len() as u64);
    assert_eq!(said.sha256, hex::encode(Sha256::digest(&picture)));
    let (info, data) = download(&channel, &said.name).await.unwrap();
    assert_eq!(info, said);
    assert_eq!(data, picture);
    world.assert_clean();
}
