//! Everybody writes and everybody else reads, round after round, while members go and come back: each
//! departure makes the others throw away the keys that whoever left still holds.

use std::collections::{BTreeMap, BTreeSet};

use trunkline_simulator::{Account, Entry, Fact, Group, NewAccount, Simulator, Truth};

use crate::held::send_to_group;
use crate::peer::Peer;
use crate::scene::{Scene, write};
use crate::world::is_text;

/// Messages each of them writes when all write at once.
const BURST: usize = 4;

/// Somebody in the group, by what they write with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    /// The shop's number, held by Trunkline.
    Trunkline,
    Baileys,
    Zapo,
    /// A simulated phone without companions. Founded the group and never leaves it.
    Phone,
}

use Member::{Baileys, Phone, Trunkline, Zapo};

const EVERYBODY: [Member; 4] = [Trunkline, Baileys, Zapo, Phone];

/// A message that the group was sent, and who was in it then.
struct Written {
    by: Member,
    id: String,
    text: String,
    present: Vec<Member>,
}

/// The group, who is in it, and what was written.
struct Circle {
    scene: Scene,
    founder: Account,
    group: Group,
    present: Vec<Member>,
    written: Vec<Written>,
}

impl Circle {
    async fn new() -> Self {
        let scene = Scene::new().await;
        let new = NewAccount::new("+15550100004", "Cleo Founder");
        let founder = scene.world.simulator.create_account(new).unwrap();
        let members = [&scene.world.shop, &scene.world.customer, &scene.friend].map(Account::phone);
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let group = founder.create_group("All ways", &members).unwrap();
        let circle = Self {
            scene,
            founder,
            group,
            present: EVERYBODY.to_vec(),
            written: Vec::new(),
        };
        circle.quiet().await;
        circle
    }

    fn account(&self, member: Member) -> &Account {
        match member {
            Trunkline => &self.scene.world.shop,
            Baileys => &self.scene.world.customer,
            Zapo => &self.scene.friend,
            Phone => &self.founder,
        }
    }

    /// Waits until every client has confirmed everything that was sent to it. Whatever it was about to
    /// store with that is stored then: a Baileys that writes sooner may use a counter twice (see
    /// `tests/peers/README.md`).
    async fn quiet(&self) {
        let phones = [Trunkline, Baileys, Zapo].map(|member| self.account(member).phone());
        self.scene
            .world
            .until("every client has confirmed everything", |truth| {
                phones.iter().all(|phone| truth.backlog(phone, 1) == 0)
            })
            .await;
    }

    /// Throws somebody out; everybody has heard of it when this returns.
    async fn remove(&mut self, member: Member) {
        let phone = self.account(member).phone();
        self.founder
            .remove_from_group(&self.group, &[&phone])
            .unwrap();
        self.present.retain(|present| *present != member);
        self.quiet().await;
    }

    /// Takes somebody back in; everybody has heard of it when this returns.
    async fn add(&mut self, member: Member) {
        let phone = self.account(member).phone();
        self.founder.add_to_group(&self.group, &[&phone]).unwrap();
        self.present.push(member);
        self.quiet().await;
    }

    /// Has a member write. What it wrote is on its way when this returns, and may not have arrived.
    async fn write(&mut self, by: Member, text: &str) {
        let jid = self.group.jid();
        let id = match by {
            Trunkline => {
                send_to_group(&self.scene.channel, &jid, text)
                    .await
                    .stanza_id
            }
            Baileys => write(&mut self.scene.baileys, &jid, text).await,
            Zapo => write(&mut self.scene.zapo, &jid, text).await,
            Phone => self.founder.send_to_group(&self.group, text).unwrap(),
        };
        self.written.push(Written {
            by,
            id,
            text: text.to_owned(),
            present: self.present.clone(),
        });
    }

    /// Waits until everybody has read what was written from this position on, and is done with it.
    async fn read(&mut self, from: usize) {
        for Written {
            by,
            id,
            text,
            present,
        } in &self.written[from..]
        {
            let _told = Told::of(&self.scene.world.simulator, id, text);
            for reader in present.iter().filter(|reader| *reader != by) {
                match reader {
                    Trunkline => assert_eq!(self.scene.inbox.text(text).await.stanza_id, *id),
                    Baileys => hears(&mut self.scene.baileys, text, id).await,
                    Zapo => hears(&mut self.scene.zapo, text, id).await,
                    Phone => {}
                }
            }
            let phones: Vec<String> = present.iter().map(|m| self.account(*m).phone()).collect();
            self.scene
                .world
                .until("every phone has it", |truth| {
                    phones.iter().all(|phone| is_on_phone(truth, phone, id))
                })
                .await;
        }
        self.quiet().await;
    }

    /// One after the other, everybody in the group writes, and everybody else reads it.
    async fn round(&mut self, round: &str) {
        for by in self.present.clone() {
            let from = self.written.len();
            self.write(by, &format!("{round}: {by:?} writes")).await;
            self.read(from).await;
        }
    }

    /// Everybody but Baileys writes several messages at once; they cross each other on the way. Baileys,
    /// which cannot write while it reads, follows when it has read them.
    async fn crossfire(&mut self, round: &str) {
        let from = self.written.len();
        for n in 0..BURST {
            for by in [Trunkline, Zapo, Phone] {
                self.write(by, &format!("{round}: {by:?} writes {n}")).await;
            }
        }
        self.read(from).await;
        let from = self.written.len();
        for n in 0..BURST {
            self.write(Baileys, &format!("{round}, then Baileys writes {n}"))
                .await;
        }
        self.read(from).await;
    }

    /// Nobody was shown anything twice, or anything that was written while they were not in the group.
    fn assert_read_once(&self) {
        let ledger = self.scene.world.simulator.ledger();
        let displayed: BTreeMap<Member, BTreeMap<&str, u32>> = EVERYBODY
            .iter()
            .map(|reader| (*reader, self.account(*reader).phone()))
            .map(|(reader, phone)| (reader, ledger.displayed_by(&phone)))
            .collect();
        for Written {
            by,
            id,
            text,
            present,
        } in &self.written
        {
            let _told = Told::of(&self.scene.world.simulator, id, text);
            for reader in EVERYBODY.iter().filter(|reader| *reader != by) {
                let times = usize::from(present.contains(reader));
                let heard = match reader {
                    Trunkline => self.scene.inbox.events_with(text),
                    Baileys => self.scene.baileys.count("message", is_text(text)),
                    Zapo => self.scene.zapo.count("message", is_text(text)),
                    Phone => times,
                };
                assert_eq!(heard, times, "{reader:?} and {text:?}");
                let shown = displayed[reader].get(id.as_str()).copied();
                assert_eq!(
                    shown,
                    (times > 0).then_some(1),
                    "{reader:?}'s phone and {text:?}"
                );
            }
        }
    }

    /// The keys under which each of them wrote, in the order of their first use, by what the founder's
    /// phone opened.
    fn keys_used(&self, by: Member) -> Vec<u32> {
        let inbox = self.founder.inbox();
        let mut seen = BTreeSet::new();
        self.written
            .iter()
            .filter(|written| written.by == by)
            .filter_map(|written| inbox.iter().find(|shown| shown.id == written.id))
            .filter_map(|shown| shown.sender_key)
            .filter(|key| seen.insert(*key))
            .collect()
    }
}

async fn hears(peer: &mut Peer, text: &str, id: &str) {
    let heard = peer.event("message", is_text(text)).await;
    assert_eq!(heard["key"]["id"], id);
}

/// The phone has shown this, or lists it as its account's own.
fn is_on_phone(truth: &Truth<'_>, phone: &str, id: &str) -> bool {
    truth.inbox(phone).iter().any(|m| m.id == id) || truth.sent(phone).iter().any(|m| m.id == id)
}

/// While a test waits for a message: if it fails, what the server knows of that message is printed.
struct Told<'a> {
    simulator: &'a Simulator,
    id: &'a str,
    text: &'a str,
}

impl<'a> Told<'a> {
    fn of(simulator: &'a Simulator, id: &'a str, text: &'a str) -> Self {
        Self {
            simulator,
            id,
            text,
        }
    }

    fn concerns(&self, entry: &Entry) -> bool {
        matches!(
            entry.fact,
            Fact::Violation { .. }
                | Fact::Unknown { .. }
                | Fact::ProtocolError { .. }
                | Fact::GroupChanged { .. }
                | Fact::Login { .. }
                | Fact::Closed { .. }
        ) || format!("{entry:?}").contains(self.id)
    }
}

impl Drop for Told<'_> {
    #[allow(
        clippy::print_stderr,
        reason = "it is what a failed test says of itself"
    )]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("what the simulator knows of {:?} ({}):", self.text, self.id);
        let ledger = self.simulator.ledger();
        for entry in ledger.entries().iter().filter(|it| self.concerns(it)) {
            eprintln!("  {entry:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_implementations_and_a_phone_read_each_other_while_members_go_and_come_back() {
    let mut circle = Circle::new().await;
    circle.round("all here").await;
    for leaver in [Zapo, Baileys, Trunkline] {
        circle.remove(leaver).await;
        circle.round(&format!("without {leaver:?}")).await;
        circle.add(leaver).await;
        circle.round(&format!("{leaver:?} is back")).await;
    }
    circle.crossfire("at once").await;

    circle.assert_read_once();
    circle.scene.world.assert_clean();
    for account in EVERYBODY.map(|member| circle.account(member)) {
        assert_eq!(account.violations(), []);
        assert!(account.undecryptable().is_empty());
    }
    // Whoever leaves holds keys that must not open what follows: Trunkline made another one whenever one
    // of the others left. (Baileys and zapo-js go on under theirs: see `tests/peers/README.md`.)
    assert!(circle.keys_used(Trunkline).len() >= 3);
}
