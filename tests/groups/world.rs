//! A number held by Trunkline among people, and what they are seen to do.

use std::time::Duration;

use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::event::Payload;
use trunkline_simulator::{Account, Group, NewAccount, Simulator, SimulatorConfig};

use crate::support::core::{self, Paired};
use crate::support::daemon::Daemon;
use crate::support::eventually;

pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
/// Sending as fast as the test does is not what pacing is for.
const UNPACED: &str = "[pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000\n";

/// A shop whose number Trunkline holds as session `shop`, and two people.
pub(crate) struct World {
    pub(crate) simulator: Simulator,
    pub(crate) daemon: Daemon,
    pub(crate) shop: Account,
    pub(crate) ana: Account,
    pub(crate) ben: Account,
}

impl World {
    pub(crate) async fn new() -> Self {
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let [shop, ana, ben] = [
            ("+2348030000001", "Shop"),
            ("+2348030000002", "Ana"),
            ("+2348030000003", "Ben"),
        ]
        .map(|(phone, name)| {
            simulator
                .create_account(NewAccount::new(phone, name))
                .unwrap()
        });
        let mut daemon = Daemon::prepare(&simulator.ws_url(), UNPACED);
        daemon.start().await;
        let world = Self {
            simulator,
            daemon,
            shop,
            ana,
            ben,
        };
        world.hold("shop", &world.shop).await;
        world
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.daemon.channel().await.unwrap()
    }

    /// Links a session to somebody's phone.
    pub(crate) async fn hold(&self, session: &str, owner: &Account) {
        let channel = self.channel().await;
        core::create_session(&channel, session).await;
        let paired = core::pair(&channel, session, |qr| {
            owner.scan_qr(qr).unwrap();
        })
        .await;
        assert!(matches!(paired, Paired::Linked), "{paired:?}");
        eventually("the session is online", PATIENCE, async || {
            core::is_online(&channel, session).await
        })
        .await;
    }

    /// A group of all three, made by Ben.
    pub(crate) fn group(&self) -> Group {
        self.ben
            .create_group("Team", &[&self.shop.phone(), &self.ana.phone()])
            .unwrap()
    }

    /// Puts a text for the group into the outbox.
    pub(crate) async fn send(&self, group: &Group, text: &str) -> pb::Message {
        core::send(&self.channel().await, &text_to_group(group, text))
            .await
            .unwrap()
    }

    pub(crate) async fn journal(&self) -> Vec<pb::Event> {
        core::journal(&self.channel().await).await.unwrap()
    }

    /// Waits for an event of this session that `wanted` accepts.
    pub(crate) async fn event(
        &self,
        what: &str,
        session: &str,
        wanted: impl Fn(&Payload) -> bool,
    ) -> pb::Event {
        let session = core::session_name(session);
        let mut found = None;
        eventually(what, PATIENCE, async || {
            let journal = self.journal().await;
            found = journal.into_iter().find(|event| {
                event.session == session && event.payload.as_ref().is_some_and(&wanted)
            });
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn text(&self, session: &str, text: &str) -> (pb::Event, pb::MessageEvent) {
        let event = self
            .event(text, session, |payload| is_text(payload, text))
            .await;
        match &event.payload {
            Some(Payload::Message(message)) => (event.clone(), message.clone()),
            _ => unreachable!("a text is a message"),
        }
    }

    pub(crate) async fn reaches(&self, message: &pb::Message, state: pb::MessageState) {
        let channel = self.channel().await;
        eventually(&format!("{state:?}"), PATIENCE, async || {
            core::message(&channel, &message.name)
                .await
                .unwrap()
                .state()
                == state
        })
        .await;
    }

    /// Waits until a person's phone has shown a text, and checks that it did so once.
    pub(crate) async fn shown(&self, by: &Account, text: &str) {
        let phone = by.phone();
        let wait = self.simulator.wait_until(
            |truth| truth.inbox(&phone).iter().any(|m| m.text == text),
            PATIENCE,
        );
        assert!(
            wait.await.is_ok(),
            "{text:?} was not shown to {}: inbox {:#?}, undecryptable {:#?}",
            by.name(),
            by.inbox(),
            by.undecryptable()
        );
        let inbox = by.inbox();
        assert_eq!(inbox.iter().filter(|m| m.text == text).count(), 1);
    }

    pub(crate) fn assert_clean(&self) {
        let ledger = self.simulator.ledger();
        assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
        for person in [&self.shop, &self.ana, &self.ben] {
            assert_eq!(person.violations(), []);
        }
    }
}

pub(crate) fn text_to_group(group: &Group, text: &str) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        to: Some(pb::Recipient {
            recipient: Some(pb::recipient::Recipient::Jid(group.jid())),
        }),
        ..core::text_to("shop", "+10000000", text)
    }
}

pub(crate) fn is_text(payload: &Payload, text: &str) -> bool {
    let Payload::Message(message) = payload else {
        return false;
    };
    let content = message.content.as_ref().and_then(|c| c.content.as_ref());
    matches!(content, Some(pb::content::Content::Text(it)) if it.text == text)
}

pub(crate) fn is_change(payload: &Payload, change: &str) -> bool {
    matches!(payload, Payload::GroupChange(it) if it.change == change)
}

pub(crate) fn phone_of(person: Option<&pb::Person>) -> String {
    person.and_then(|p| p.phone.clone()).unwrap_or_default()
}

pub(crate) fn e164(account: &Account) -> String {
    format!("+{}", account.phone())
}
