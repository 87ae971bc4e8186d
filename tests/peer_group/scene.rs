//! The group and everybody in it.

use serde_json::json;
use tonic::transport::Channel;
use trunkline_simulator::{Account, Group, NewAccount};

use crate::held::{Inbox, hold_number, subscribe};
use crate::peer::Peer;
use crate::support::daemon::Daemon;
use crate::world::World;

/// The shop's number is held by Trunkline, the customer writes with Baileys, the friend with zapo-js.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) friend: Account,
    pub(crate) group: Group,
    pub(crate) channel: Channel,
    pub(crate) inbox: Inbox,
    pub(crate) baileys: Peer,
    pub(crate) zapo: Peer,
    /// Holds the number until the scene is over.
    _daemon: Daemon,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let friend = world
            .simulator
            .create_account(NewAccount::new("+15550100003", "Ben Friend"))
            .unwrap();
        let mut daemon = Daemon::prepare(&world.simulator.ws_url(), "");
        daemon.start().await;
        let channel = daemon.channel().await.unwrap();
        hold_number(&channel, &world).await;
        subscribe(&channel).await;
        let inbox = Inbox::open(&channel).await;
        let baileys = world.linked_baileys(&world.customer, "customer").await;
        let zapo = world.linked_zapo(&friend, "friend").await;
        let group = world
            .customer
            .create_group("Regulars", &[&world.shop.phone(), &friend.phone()])
            .unwrap();
        Self {
            world,
            friend,
            group,
            channel,
            inbox,
            baileys,
            zapo,
            _daemon: daemon,
        }
    }

    /// The phones of all three people have shown this, or list it as their own.
    pub(crate) async fn on_every_phone(&self, id: &str) {
        let phones = [&self.world.shop, &self.world.customer, &self.friend].map(Account::phone);
        self.world
            .until("every phone has it", |truth| {
                phones.iter().all(|phone| {
                    truth.inbox(phone).iter().any(|m| m.id == id)
                        || truth.sent(phone).iter().any(|m| m.id == id)
                })
            })
            .await;
    }
}

/// Writes to a chat with one of the peers; returns the stanza id.
pub(crate) async fn write(peer: &mut Peer, jid: &str, text: &str) -> String {
    let sent = peer
        .ask("sendText", json!({ "jid": jid, "text": text }))
        .await;
    sent["key"]["id"].as_str().unwrap().to_owned()
}
