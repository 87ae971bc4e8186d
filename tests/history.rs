//! What was said before a number was linked: never a new message. It is left alone, or, if that is
//! configured, journaled as history and as nothing else.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::time::Duration;

use support::core::{self, Paired};
use support::daemon::Daemon;
use support::eventually;
use tonic::transport::Channel;
use trunkline::pb;
use trunkline::pb::event::Payload;
use trunkline_simulator::{
    Account, Fact, Fault, FaultSpec, FaultTarget, NewAccount, Simulator, SimulatorConfig,
};

const PATIENCE: Duration = Duration::from_mins(3);
/// More than the first chunk has: the rest comes from the media host.
const SAID: usize = 14;

/// A shop and its customer, who have known each other for a while.
struct World {
    simulator: Simulator,
    daemon: Daemon,
    customer: Account,
    shop: Account,
    /// Holds the root that the media host is trusted by.
    _root: tempfile::NamedTempFile,
}

impl World {
    async fn new(config: &str) -> Self {
        let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
        let [shop, customer] =
            [("+2348030000001", "Shop"), ("+2348030000002", "Ada")].map(|(phone, name)| {
                simulator
                    .create_account(NewAccount::new(phone, name))
                    .unwrap()
            });
        for n in 0..SAID {
            let (by, to) = if n % 3 == 0 {
                (&shop, &customer)
            } else {
                (&customer, &shop)
            };
            by.send_text(&to.phone(), &old(n)).unwrap();
        }
        let group = customer
            .create_group("Old friends", &[&shop.phone()])
            .unwrap();
        customer.send_to_group(&group, "old words for all").unwrap();
        let phone = shop.phone();
        simulator
            .wait_until(
                |truth| truth.inbox(&phone).iter().any(|m| m.group.is_some()),
                PATIENCE,
            )
            .await
            .unwrap();
        let root = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(root.path(), simulator.tls_root_pem()).unwrap();
        let config = format!("tls_root = \"{}\"\n{config}", root.path().display());
        let mut daemon = Daemon::prepare(&simulator.ws_url(), &config);
        daemon.start().await;
        Self {
            simulator,
            daemon,
            customer,
            shop,
            _root: root,
        }
    }

    /// Links the shop's number; its phone has sent what it remembers when this returns.
    async fn link(&self) -> Channel {
        let channel = self.daemon.channel().await.unwrap();
        core::create_session(&channel, "shop").await;
        let paired = core::pair(&channel, "shop", |qr| {
            self.shop.scan_qr(qr).unwrap();
        })
        .await;
        assert!(matches!(paired, Paired::Linked), "{paired:?}");
        let device = format!("{}:1", self.shop.phone());
        let chunks = |truth: &trunkline_simulator::Truth<'_>| {
            let facts = truth.ledger().facts();
            let receipts = facts.filter(|fact| {
                matches!(fact, Fact::Receipt { from, kind, .. }
                    if *from == device && kind == "hist_sync")
            });
            receipts.count()
        };
        let confirmed = self
            .simulator
            .wait_until(|truth| chunks(truth) >= 3, PATIENCE);
        confirmed.await.expect("three chunks: newest, names, older");
        channel
    }

    /// A message of today arrives, as one.
    async fn hears_something_new(&self, channel: &Channel) -> Vec<pb::Event> {
        self.customer
            .send_text(&self.shop.phone(), "new words")
            .unwrap();
        let mut journal = Vec::new();
        eventually("it is in the journal", PATIENCE, async || {
            journal = core::journal(channel).await.unwrap();
            texts(&journal).contains(&"new words".to_owned())
        })
        .await;
        journal
    }
}

/// What was said long ago.
fn old(n: usize) -> String {
    format!("old words no {n:03}")
}

/// Everything that is a message, in the journal.
fn texts(journal: &[pb::Event]) -> Vec<String> {
    let messages = journal.iter().filter_map(|event| match &event.payload {
        Some(Payload::Message(message)) => message.content.as_ref()?.content.as_ref(),
        _ => None,
    });
    messages
        .map(|content| match content {
            pb::content::Content::Text(text) => text.text.clone(),
            other => format!("{other:?}"),
        })
        .collect()
}

fn chunks(journal: &[pb::Event]) -> Vec<&pb::HistoryEvent> {
    let chunks = journal.iter().filter_map(|event| match &event.payload {
        Some(Payload::History(chunk)) => Some(chunk),
        _ => None,
    });
    chunks.collect()
}

fn gaps(journal: &[pb::Event]) -> usize {
    let gaps = journal.iter().filter(
        |event| matches!(&event.payload, Some(Payload::Gap(gap)) if gap.reason == "HISTORY"),
    );
    gaps.count()
}

/// How often these words are in chunks of this kind.
fn times(journal: &[pb::Event], kind: &str, words: &str) -> usize {
    let raw = chunks(journal)
        .into_iter()
        .filter(|chunk| chunk.kind == kind)
        .map(|chunk| chunk.raw.windows(words.len()));
    raw.map(|mut windows| usize::from(windows.any(|window| window == words.as_bytes())))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_nothing_of_it_is_journaled() {
    let world = World::new("").await;
    let channel = world.link().await;
    let journal = world.hears_something_new(&channel).await;
    assert_eq!(texts(&journal), ["new words"]);
    assert_eq!(chunks(&journal), Vec::<&pb::HistoryEvent>::new());
    assert_eq!(gaps(&journal), 0);
    let ledger = world.simulator.ledger();
    let fetched = ledger
        .facts()
        .any(|fact| matches!(fact, Fact::MediaFetched { kind, .. } if kind == "md-msg-hist"));
    assert!(!fetched, "what nobody wants is not fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn wanted_history_is_history_and_never_a_message() {
    let world = World::new("history = true\n").await;
    let channel = world.link().await;
    eventually("the older chunk is journaled", PATIENCE, async || {
        let journal = core::journal(&channel).await.unwrap();
        times(&journal, "RECENT", &old(0)) > 0
    })
    .await;
    let journal = world.hears_something_new(&channel).await;
    assert_eq!(texts(&journal), ["new words"], "nothing old is a message");
    for n in 0..SAID {
        let newest = n >= SAID - 10;
        let words = old(n);
        let bootstrap = times(&journal, "INITIAL_BOOTSTRAP", &words);
        assert_eq!(bootstrap, usize::from(newest), "{words}");
        let recent = times(&journal, "RECENT", &words);
        assert_eq!(recent, usize::from(!newest), "{words}");
    }
    assert_eq!(times(&journal, "INITIAL_BOOTSTRAP", "old words for all"), 1);
    assert_eq!(times(&journal, "INITIAL_BOOTSTRAP", "Old friends"), 1);
    assert_eq!(times(&journal, "PUSH_NAME", "Ada"), 1);
    assert_eq!(gaps(&journal), 0);
    let violations = world.simulator.ledger();
    assert!(violations.violations().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_cannot_be_fetched_is_a_gap() {
    let world = World::new("history = true\n").await;
    world
        .simulator
        .fault(FaultSpec {
            target: FaultTarget::All,
            fault: Fault::RefuseDownload { status: 404 },
            times: None,
        })
        .unwrap();
    let channel = world.link().await;
    eventually("the gap is journaled", PATIENCE, async || {
        gaps(&core::journal(&channel).await.unwrap()) > 0
    })
    .await;
    let journal = world.hears_something_new(&channel).await;
    assert_eq!(texts(&journal), ["new words"]);
    assert_eq!(gaps(&journal), 1, "of one chunk");
    assert_eq!(times(&journal, "INITIAL_BOOTSTRAP", &old(SAID - 1)), 1);
    assert_eq!(times(&journal, "RECENT", &old(0)), 0);
}
