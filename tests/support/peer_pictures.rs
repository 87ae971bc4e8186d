//! Pictures between a peer and the two others it can write with: a person's phone, and a number that
//! Trunkline holds. The same for every peer.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use trunkline::pb;
use trunkline_simulator::Attachment;

use crate::held::{Inbox, hold_number, send_picture, subscribe};
use crate::peer::Peer;
use crate::support::core::download;
use crate::support::daemon::Daemon;
use crate::world::{World, image_to, photo};

/// The picture that `customer` shows under this id.
async fn shown(customer: &mut Peer, id: &str) -> Value {
    customer
        .event("image", |image| image["key"]["id"] == id)
        .await
}

fn assert_is(image: &Value, picture: &[u8], caption: &str) {
    assert_eq!(image["caption"], caption);
    assert_eq!(image["size"], picture.len());
    assert_eq!(image["sha256"], hex::encode(Sha256::digest(picture)));
}

/// Between `customer` and the shop's phone.
pub(crate) async fn with_a_phone(world: &World, mut customer: Peer) {
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
    let shown_here = world.shop.inbox().remove(0);
    assert_eq!(sent["key"]["id"], shown_here.id);
    assert_eq!(shown_here.text, "from afar");
    let opened = world.shop.open_media(&shown_here.id).unwrap();
    assert_eq!(opened.unwrap(), theirs);

    let ours = photo(2);
    let picture = Attachment::jpeg(ours.clone(), "from the shop");
    let id = world.shop.send_media(&customer_phone, &picture).unwrap();
    assert_is(&shown(&mut customer, &id).await, &ours, "from the shop");
    world.assert_clean();
}

/// A daemon that holds the shop's number, and its inbox.
pub(crate) struct Held {
    _daemon: Daemon,
    channel: tonic::transport::Channel,
    inbox: Inbox,
}

impl Held {
    pub(crate) async fn of(world: &World) -> Self {
        let trust = format!("tls_root = \"{}\"\n", world.tls_root().display());
        let mut daemon = Daemon::prepare(&world.simulator.ws_url(), &trust);
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        hold_number(&channel, world).await;
        subscribe(&channel).await;
        let inbox = Inbox::open(&channel).await;
        Self {
            _daemon: daemon,
            channel,
            inbox,
        }
    }
}

/// Between `customer` and the number that Trunkline holds.
pub(crate) async fn with_a_held_number(world: &World, mut held: Held, mut customer: Peer) {
    let theirs = photo(3);
    customer
        .ask("sendImage", image_to(&world.shop.phone(), &theirs, "look"))
        .await;
    let said = held.inbox.file("look").await;
    assert_eq!(said.mime_type, "image/jpeg");
    assert_eq!(said.size, theirs.len() as u64);
    assert_eq!(said.sha256, hex::encode(Sha256::digest(&theirs)));
    let (info, data) = download(&held.channel, &said.name).await.unwrap();
    assert_eq!(info, said);
    assert_eq!(data, theirs);

    let ours = photo(4);
    let phone = world.customer.phone();
    let stored = send_picture(&held.channel, &phone, &ours, "here you are").await;
    let image = shown(&mut customer, &stored.stanza_id).await;
    assert_is(&image, &ours, "here you are");
    held.inbox
        .status(&stored, pb::MessageState::Delivered)
        .await;
    world.assert_clean();
}
