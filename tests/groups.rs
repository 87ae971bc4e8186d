//! Groups, end to end: a number held by Trunkline among people with real sender keys, who judge what it
//! sends: a sender-key iteration used twice, a device that was not told the key, or a message shown twice
//! is an objection of theirs.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use trunkline::pb;
use trunkline::pb::event::Payload;
use trunkline::pb::group_service_client::GroupServiceClient;
use trunkline::pb::session_service_client::SessionServiceClient;
use trunkline_simulator::{
    Account, Fact, Fault, FaultSpec, FaultTarget, Group, NewAccount, Simulator, SimulatorConfig,
};

const PATIENCE: Duration = Duration::from_mins(3);
/// Sending as fast as the test does is not what pacing is for.
const UNPACED: &str = "[pacing]\nper_minute = 60000\nburst = 1000\nrecipient_per_minute = 60000\nrecipient_burst = 1000\n";

/// A shop whose number Trunkline holds as session `shop`, and two people.
struct World {
    simulator: Simulator,
    daemon: Daemon,
    shop: Account,
    ana: Account,
    ben: Account,
}

impl World {
    async fn new() -> Self {
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

    async fn channel(&self) -> Channel {
        self.daemon.channel().await.unwrap()
    }

    /// Links a session to somebody's phone.
    async fn hold(&self, session: &str, owner: &Account) {
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
    fn group(&self) -> Group {
        self.ben
            .create_group("Team", &[&self.shop.phone(), &self.ana.phone()])
            .unwrap()
    }

    /// Puts a text for the group into the outbox.
    async fn send(&self, group: &Group, text: &str) -> pb::Message {
        core::send(&self.channel().await, &text_to_group(group, text))
            .await
            .unwrap()
    }

    async fn journal(&self) -> Vec<pb::Event> {
        core::journal(&self.channel().await).await.unwrap()
    }

    /// Waits for an event of this session that `wanted` accepts.
    async fn event(
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

    async fn text(&self, session: &str, text: &str) -> (pb::Event, pb::MessageEvent) {
        let event = self
            .event(text, session, |payload| is_text(payload, text))
            .await;
        match &event.payload {
            Some(Payload::Message(message)) => (event.clone(), message.clone()),
            _ => unreachable!("a text is a message"),
        }
    }

    async fn reaches(&self, message: &pb::Message, state: pb::MessageState) {
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
    async fn shown(&self, by: &Account, text: &str) {
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

    fn assert_clean(&self) {
        let ledger = self.simulator.ledger();
        assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
        for person in [&self.shop, &self.ana, &self.ben] {
            assert_eq!(person.violations(), []);
        }
    }
}

fn text_to_group(group: &Group, text: &str) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        to: Some(pb::Recipient {
            recipient: Some(pb::recipient::Recipient::Jid(group.jid())),
        }),
        ..core::text_to("shop", "+10000000", text)
    }
}

fn is_text(payload: &Payload, text: &str) -> bool {
    let Payload::Message(message) = payload else {
        return false;
    };
    let content = message.content.as_ref().and_then(|c| c.content.as_ref());
    matches!(content, Some(pb::content::Content::Text(it)) if it.text == text)
}

fn is_change(payload: &Payload, change: &str) -> bool {
    matches!(payload, Payload::GroupChange(it) if it.change == change)
}

fn phone_of(person: Option<&pb::Person>) -> String {
    person.and_then(|p| p.phone.clone()).unwrap_or_default()
}

fn e164(account: &Account) -> String {
    format!("+{}", account.phone())
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_go_both_ways_and_reach_every_device_of_a_member() {
    let world = World::new().await;
    // Ana's second device is held by the same daemon.
    world.hold("ana", &world.ana).await;
    let group = world.group();
    let created = world
        .event("the group is announced", "shop", |p| is_change(p, "create"))
        .await;
    let Some(Payload::GroupChange(change)) = &created.payload else {
        unreachable!();
    };
    assert_eq!(change.subject.as_deref(), Some("Team"));
    assert_eq!(phone_of(change.actor.as_ref()), e164(&world.ben));
    assert_eq!(change.participants.len(), 3);

    // In: the same chat for everybody's messages, the sender under every name.
    world.ben.send_to_group(&group, "from ben").unwrap();
    let (event, message) = world.text("shop", "from ben").await;
    assert_eq!(
        message.chat.as_ref().unwrap().provider_id,
        Some(group.jid())
    );
    let sender = message.sender.as_ref();
    assert_eq!(phone_of(sender), e164(&world.ben));
    assert_eq!(
        sender.and_then(|s| s.lid.clone()),
        Some(format!("{}@lid", world.ben.lid()))
    );
    assert!(!message.from_me);
    world.ana.send_to_group(&group, "from ana").unwrap();
    let (other, message) = world.text("shop", "from ana").await;
    assert_eq!(phone_of(message.sender.as_ref()), e164(&world.ana));
    assert_eq!(other.ordering_key, event.ordering_key);
    assert_eq!(created.ordering_key, event.ordering_key);
    let (_, own) = world.text("ana", "from ana").await;
    assert!(own.from_me, "written on ana's phone");

    // Out: every member's phone, Ana's other device, and the shop's own phone.
    let sent = world.send(&group, "from the shop").await;
    world.shown(&world.ana, "from the shop").await;
    world.shown(&world.ben, "from the shop").await;
    let (_, received) = world.text("ana", "from the shop").await;
    assert_eq!(received.stanza_id, sent.stanza_id);
    assert_eq!(phone_of(received.sender.as_ref()), e164(&world.shop));
    let shop = world.shop.phone();
    world
        .simulator
        .wait_until(
            |truth| truth.sent(&shop).iter().any(|m| m.id == sent.stanza_id),
            PATIENCE,
        )
        .await
        .unwrap();

    // The first member's receipt moves the message; each member's is an event.
    world.reaches(&sent, pb::MessageState::Delivered).await;
    for member in [&world.ana, &world.ben] {
        let phone = e164(member);
        world
            .event("each member's delivery", "shop", |payload| {
                matches!(payload, Payload::Receipt(receipt)
                    if receipt.kind() == pb::ReceiptKind::Delivered
                        && receipt.stanza_ids.contains(&sent.stanza_id)
                        && phone_of(receipt.from.as_ref()) == phone)
            })
            .await;
    }
    world.ben.mark_read(std::slice::from_ref(&sent.stanza_id));
    world.reaches(&sent, pb::MessageState::Read).await;
    let read = world
        .event("who read it", "shop", |payload| {
            matches!(payload, Payload::Receipt(receipt)
                if receipt.kind() == pb::ReceiptKind::Read
                    && receipt.stanza_ids.contains(&sent.stanza_id))
        })
        .await;
    let Some(Payload::Receipt(receipt)) = read.payload else {
        unreachable!();
    };
    assert_eq!(phone_of(receipt.from.as_ref()), e164(&world.ben));
    assert_eq!(receipt.chat.unwrap().provider_id, Some(group.jid()));

    world.ben.set_group_subject(&group, "The team").unwrap();
    world
        .event("the new name", "shop", |payload| {
            matches!(payload, Payload::GroupChange(it)
                if it.change == "subject" && it.subject.as_deref() == Some("The team"))
        })
        .await;
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_nothing_is_lost_or_doubled_and_no_iteration_is_used_twice() {
    const ROUNDS: usize = 8;
    const BURST: usize = 4;
    let mut world = World::new().await;
    let group = world.group();
    let (mut sent, mut received) = (Vec::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        for n in 0..BURST {
            let text = format!("in {round}.{n}");
            received.insert(world.ben.send_to_group(&group, &text).unwrap());
            sent.push(world.send(&group, &format!("out {round}.{n}")).await);
        }
        // At another moment each round: before anything left, or after some of it did.
        let before = world.simulator.ledger().entries().len();
        world
            .simulator
            .wait_until(
                |truth| truth.ledger().entries().len() >= before + round * 2,
                PATIENCE,
            )
            .await
            .ok();
        world.daemon.kill().await;
        world.daemon.start().await;
    }
    for message in &sent {
        for member in [&world.ana, &world.ben] {
            let phone = member.phone();
            world
                .simulator
                .wait_until(
                    |truth| {
                        truth
                            .inbox(&phone)
                            .iter()
                            .any(|m| m.id == message.stanza_id)
                    },
                    PATIENCE,
                )
                .await
                .unwrap_or_else(|_| panic!("{} was not shown", message.stanza_id));
        }
    }
    eventually("everything is in the journal", PATIENCE, async || {
        let arrivals = core::arrivals(&world.journal().await);
        received.iter().all(|id| arrivals.contains_key(id))
    })
    .await;
    let arrivals = core::arrivals(&world.journal().await);
    assert!(arrivals.values().all(|events| events.len() == 1));
    let ledger = world.simulator.ledger();
    for member in [&world.ana, &world.ben] {
        let phone = member.phone();
        let shown = ledger.displayed_by(&phone);
        for message in &sent {
            assert_eq!(shown.get(message.stanza_id.as_str()), Some(&1));
        }
    }
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lost_its_state_is_answered_from_the_outbox_even_after_a_kill() {
    let mut world = World::new().await;
    let group = world.group();
    world.send(&group, "one").await;
    world.shown(&world.ana, "one").await;
    world.shown(&world.ben, "one").await;

    world.ana.lose_sessions();
    let sent = world.send(&group, "two").await;
    world.shown(&world.ana, "two").await;
    world.shown(&world.ben, "two").await;
    let device = format!("{}:1", world.shop.phone());
    let ledger = world.simulator.ledger();
    let times = ledger.accepted_from(&device)[sent.stanza_id.as_str()];
    assert!(times > 1, "the same id again, for the one that asked");
    let ana = format!("{}:0", world.ana.phone());
    let asked = ledger.facts().any(|fact| {
        matches!(fact, Fact::Receipt { kind, from, ids, .. }
            if kind == "retry" && *from == ana && ids.contains(&sent.stanza_id))
    });
    assert!(asked);
    let to_ben = ledger.facts().filter(|fact| {
        matches!(fact, Fact::Delivered { id, to, .. }
            if *id == sent.stanza_id && *to == format!("{}:0", world.ben.phone()))
    });
    assert_eq!(to_ben.count(), 1, "nobody else gets it again");

    // Killed before the request has reached it, it answers when it is back.
    world.ana.lose_sessions();
    world
        .simulator
        .fault(FaultSpec {
            target: FaultTarget::Account(world.shop.phone()),
            fault: Fault::Delay { millis: 3_600_000 },
            times: None,
        })
        .unwrap();
    let sent = world.send(&group, "three").await;
    world
        .simulator
        .wait_until(
            |truth| {
                truth.ledger().facts().any(|fact| {
                    matches!(fact, Fact::Receipt { kind, from, ids, .. }
                        if kind == "retry" && *from == ana && ids.contains(&sent.stanza_id))
                })
            },
            PATIENCE,
        )
        .await
        .unwrap();
    world.daemon.kill().await;
    world.simulator.clear_faults();
    world.daemon.start().await;
    world.shown(&world.ana, "three").await;
    world.shown(&world.ben, "three").await;
    world.send(&group, "four").await;
    world.shown(&world.ana, "four").await;
    world.shown(&world.ben, "four").await;
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_meanwhile_arrives_once_and_in_order() {
    const WAITING: usize = 12;
    let mut world = World::new().await;
    let group = world.group();
    world.ben.send_to_group(&group, "before").unwrap();
    world.text("shop", "before").await;
    assert_eq!(world.daemon.stop().await, Some(0));
    let mut expected = Vec::new();
    for n in 0..WAITING {
        let by = if n % 2 == 0 { &world.ana } else { &world.ben };
        expected.push(by.send_to_group(&group, &format!("waiting {n}")).unwrap());
    }
    world.daemon.start().await;
    let last = expected.last().unwrap().clone();
    world
        .event(
            "the last of them",
            "shop",
            |payload| matches!(payload, Payload::Message(message) if message.stanza_id == last),
        )
        .await;
    let journal = world.journal().await;
    let order: Vec<String> = journal
        .iter()
        .filter_map(|event| match &event.payload {
            Some(Payload::Message(message)) => Some(message.stanza_id.clone()),
            _ => None,
        })
        .filter(|id| expected.contains(id))
        .collect();
    assert_eq!(order, expected);
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_removed_gets_nothing_further() {
    let world = World::new().await;
    let group = world.group();
    world.send(&group, "for all").await;
    world.shown(&world.ana, "for all").await;

    // Ana goes: what follows is under a key she was never given.
    world
        .ben
        .remove_from_group(&group, &[&world.ana.phone()])
        .unwrap();
    let ana = e164(&world.ana);
    world
        .event("she is gone", "shop", |payload| {
            matches!(payload, Payload::GroupChange(it) if it.change == "remove"
                && it.participants.iter().any(|p| phone_of(Some(p)) == ana))
        })
        .await;
    let sent = world.send(&group, "without ana").await;
    world.shown(&world.ben, "without ana").await;
    let ledger = world.simulator.ledger();
    let recipients = ledger.facts().find_map(|fact| match fact {
        Fact::MessageAccepted { id, recipients, .. } if *id == sent.stanza_id => Some(recipients),
        _ => None,
    });
    let hers = format!("{}:", world.ana.phone());
    assert!(
        recipients
            .unwrap()
            .iter()
            .all(|device| !device.starts_with(&hers))
    );

    // The shop goes: nothing reaches it, and what it sends is refused, once and for all.
    world
        .ben
        .remove_from_group(&group, &[&world.shop.phone()])
        .unwrap();
    let shop = e164(&world.shop);
    world
        .event("so is the shop", "shop", |payload| {
            matches!(payload, Payload::GroupChange(it) if it.change == "remove"
                && it.participants.iter().any(|p| phone_of(Some(p)) == shop))
        })
        .await;
    let unheard = world.ben.send_to_group(&group, "alone at last").unwrap();
    let refused = world.send(&group, "still there?").await;
    world.reaches(&refused, pb::MessageState::Failed).await;
    let refused = core::message(&world.channel().await, &refused.name)
        .await
        .unwrap();
    assert_eq!(refused.failure.unwrap().reason, "NOT_IN_GROUP");
    // A message between two is behind whatever was sent to the group.
    world.ben.send_text(&world.shop.phone(), "goodbye").unwrap();
    world.text("shop", "goodbye").await;
    let arrivals = core::arrivals(&world.journal().await);
    assert!(!arrivals.contains_key(&unheard));
    world.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_of_a_number_are_asked_of_whatsapp_and_no_change_is_missed() {
    let world = World::new().await;
    let mut groups = GroupServiceClient::new(world.channel().await);
    let parent = core::session_name("shop");
    let list = pb::ListGroupsRequest {
        parent: parent.clone(),
        ..Default::default()
    };
    let get = |group: &Group| pb::GetGroupRequest {
        name: format!("{parent}/groups/{}", group.jid()),
    };
    let none = groups.list_groups(list.clone()).await.unwrap();
    assert_eq!(none.into_inner(), pb::ListGroupsResponse::default());

    // One it is in, one it is not.
    let group = world.group();
    let strangers = world
        .ben
        .create_group("Strangers", &[&world.ana.phone()])
        .unwrap();
    world
        .event("the group is announced", "shop", |p| is_change(p, "create"))
        .await;
    let listed = groups.list_groups(list.clone()).await.unwrap().into_inner();
    let [team] = &listed.groups[..] else {
        panic!("not one group: {listed:?}");
    };
    assert_eq!(
        (team.jid.clone(), team.subject.as_str()),
        (group.jid(), "Team")
    );
    let roles: BTreeMap<String, pb::GroupRole> = team
        .members
        .iter()
        .map(|member| (phone_of(member.person.as_ref()), member.role()))
        .collect();
    let expected = [
        (e164(&world.shop), pb::GroupRole::Member),
        (e164(&world.ana), pb::GroupRole::Member),
        (e164(&world.ben), pb::GroupRole::Superadmin),
    ];
    assert_eq!(roles, expected.into());
    let lids = team
        .members
        .iter()
        .filter_map(|m| m.person.as_ref()?.lid.clone());
    assert_eq!(lids.count(), 3, "under every name");
    for unknown in [
        get(&strangers),
        pb::GetGroupRequest {
            name: format!("{parent}/groups/120363000000000000@g.us"),
        },
    ] {
        let refused = groups.get_group(unknown.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!(
            refused.message(),
            format!("{} does not exist", unknown.name)
        );
    }

    // Whoever has read of a change is shown the group after it.
    for (change, done) in [("promote", true), ("demote", false)] {
        world
            .ben
            .set_group_admins(&group, &[&world.ana.phone()], done)
            .unwrap();
        world.event(change, "shop", |p| is_change(p, change)).await;
        let shown = groups.get_group(get(&group)).await.unwrap().into_inner();
        let members = shown.group.unwrap().members;
        let admins: Vec<String> = members
            .iter()
            .filter(|member| member.role() == pb::GroupRole::Admin)
            .map(|member| phone_of(member.person.as_ref()))
            .collect();
        let expected: Vec<String> = done.then(|| e164(&world.ana)).into_iter().collect();
        assert_eq!(admins, expected, "after {change}");
    }
    world.ben.set_group_subject(&group, "The team").unwrap();
    world
        .event("the new name", "shop", |p| is_change(p, "subject"))
        .await;
    let shown = groups.get_group(get(&group)).await.unwrap().into_inner();
    assert_eq!(shown.group.unwrap().subject, "The team");

    let stop = pb::StopSessionRequest {
        name: parent.clone(),
        request_id: core::request_id(),
        ..Default::default()
    };
    let mut sessions = SessionServiceClient::new(world.channel().await);
    sessions.stop_session(stop).await.unwrap();
    let mut refusal = None;
    eventually("it is offline", PATIENCE, async || {
        refusal = groups.list_groups(list.clone()).await.err();
        refusal.is_some()
    })
    .await;
    let refusal = refusal.unwrap();
    assert_eq!(refusal.code(), Code::Unavailable);
    let details = refusal.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "SESSION_OFFLINE");
    assert!(details.retry_info().is_some());
    world.assert_clean();
}
