//! Which requests are answered here, and which are left to the library.

use wacore_binary::OwnedNodeRef;
use wacore_binary::builder::NodeBuilder;

use super::*;

const ANA: &str = "15551234567:2@s.whatsapp.net";
const BEN: &str = "999:0@lid";
const GROUP: &str = "12036302@g.us";

fn told(retries: &Noted, node: NodeBuilder) {
    let wire = wacore_binary::marshal::marshal(&node.build()).unwrap();
    // The first byte says whether what follows is compressed.
    let node = OwnedNodeRef::new(wire[1..].to_vec()).unwrap();
    retries.retries.receipt(node.get(), retries.now.get());
}

fn retry(id: &str, count: u8) -> NodeBuilder {
    NodeBuilder::new("receipt")
        .attr("id", id)
        .attr("type", "retry")
        .children([NodeBuilder::new("retry")
            .attr("id", id)
            .attr("count", count)
            .build()])
}

fn asks(retries: &Noted, from: &str, id: &str, count: u8) {
    told(retries, retry(id, count).attr("from", from));
}

fn asks_in_group(retries: &Noted, from: &str, id: &str, count: u8) {
    let request = retry(id, count).attr("from", GROUP);
    told(retries, request.attr("participant", from));
}

fn received(retries: &Noted, from: &str, ids: &[&str]) {
    let items = ids[1..]
        .iter()
        .map(|id| NodeBuilder::new("item").attr("id", *id).build());
    let receipt = NodeBuilder::new("receipt")
        .attr("id", ids[0])
        .attr("from", from);
    let list = NodeBuilder::new("list").children(items).build();
    told(retries, receipt.children([list]));
}

/// The notes under a clock that a test moves.
#[derive(Default)]
struct Noted {
    retries: Retries,
    now: std::cell::Cell<Duration>,
}

impl Noted {
    fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }

    fn settled(&self) {
        self.pass(SETTLE * 3);
    }

    fn due(&self) -> Vec<Request> {
        self.retries.due(self.now.get())
    }
}

/// What is due, told as (device, attempt).
fn due(retries: &Noted) -> Vec<(String, u8)> {
    let due = retries.due().into_iter();
    due.map(|it| (it.asker.to_string(), it.count)).collect()
}

#[test]
fn what_the_library_takes_up_is_left_to_it() {
    let retries = Noted::default();
    asks(&retries, ANA, "A", 1);
    retries.retries.taken("A");
    asks(&retries, ANA, "A", 2);
    retries.retries.taken("A");
    retries.settled();
    assert_eq!(due(&retries), []);
}

#[test]
fn a_repeated_request_that_was_passed_over_is_answered_once() {
    let retries = Noted::default();
    asks(&retries, ANA, "A", 1);
    asks(&retries, ANA, "A", 2);
    retries.retries.taken("A");
    assert_eq!(due(&retries), [], "the library gets its time");
    retries.settled();
    let request = retries.due().pop().unwrap();
    assert_eq!((request.stanza_id.as_str(), request.count), ("A", 2));
    assert_eq!(request.asker, ANA.parse::<Jid>().unwrap());
    assert_eq!(
        request.chat,
        "15551234567@s.whatsapp.net".parse::<Jid>().unwrap()
    );
    retries.retries.answered(&request);
    retries.settled();
    assert_eq!(due(&retries), []);
}

#[test]
fn an_answer_that_fails_is_tried_again_and_not_for_ever() {
    let retries = Noted::default();
    asks(&retries, ANA, "A", 1);
    asks(&retries, ANA, "A", 2);
    retries.retries.taken("A");
    let mut tries = 0;
    for _ in 0..10 {
        retries.settled();
        tries += due(&retries).len();
    }
    assert_eq!(tries, usize::from(MAX_TRIES));
}

#[test]
fn a_delivery_settles_a_request_of_that_device_alone() {
    let retries = Noted::default();
    for id in ["A", "B", "C"] {
        for count in [1, 2] {
            asks(&retries, ANA, id, count);
            asks(&retries, BEN, id, count);
        }
    }
    received(&retries, ANA, &["A", "B"]);
    received(&retries, BEN, &["C"]);
    retries.settled();
    let mut due: Vec<_> = retries
        .due()
        .into_iter()
        .map(|it| (it.stanza_id, it.asker))
        .collect();
    due.sort_by(|a, b| a.0.cmp(&b.0));
    let (ana, ben): (Jid, Jid) = (ANA.parse().unwrap(), BEN.parse().unwrap());
    assert_eq!(
        due,
        [
            ("A".into(), ben.clone()),
            ("B".into(), ben),
            ("C".into(), ana)
        ]
    );
}

#[test]
fn the_same_words_twice_need_no_second_answer() {
    let retries = Noted::default();
    asks(&retries, ANA, "A", 1);
    asks(&retries, ANA, "A", 1);
    retries.retries.taken("A");
    retries.settled();
    assert_eq!(due(&retries), []);
}

#[test]
fn in_a_group_the_one_that_repeated_itself_is_answered_there() {
    let retries = Noted::default();
    asks_in_group(&retries, ANA, "A", 1);
    asks_in_group(&retries, BEN, "A", 1);
    asks_in_group(&retries, BEN, "A", 2);
    retries.retries.taken("A");
    retries.retries.taken("A");
    retries.settled();
    let request = retries.due().pop().unwrap();
    assert_eq!(request.asker, BEN.parse::<Jid>().unwrap());
    assert_eq!(request.chat, GROUP.parse::<Jid>().unwrap());
    assert_eq!(due(&retries), []);
}

#[test]
fn an_own_device_asks_about_the_chat_it_names() {
    let retries = Noted::default();
    for count in [1, 2] {
        let request = retry("A", count).attr("from", BEN);
        told(&retries, request.attr("recipient", ANA));
    }
    retries.settled();
    let request = retries.due().pop().unwrap();
    assert_eq!(request.chat, ANA.parse::<Jid>().unwrap().to_non_ad());
    assert_eq!(request.recipient, Some(ANA.parse().unwrap()));
}

#[test]
fn what_a_connection_left_open_is_answered_on_the_next() {
    let retries = Noted::default();
    asks(&retries, ANA, "A", 1);
    retries.retries.taken("A");
    asks(&retries, BEN, "B", 1);
    received(&retries, BEN, &["B"]);
    retries.settled();
    assert_eq!(due(&retries), [], "nothing says that it was not answered");
    retries.retries.interrupted(retries.now.get());
    assert_eq!(
        due(&retries),
        [],
        "its delivery may be waiting at the server"
    );
    retries.settled();
    assert_eq!(
        due(&retries),
        [(ANA.parse::<Jid>().unwrap().to_string(), 1)]
    );
}

#[test]
fn requests_are_forgotten_and_their_number_is_bounded() {
    let retries = Noted::default();
    asks(&retries, ANA, "A", 1);
    retries.retries.interrupted(retries.now.get());
    retries.pass(FORGET_AFTER);
    assert_eq!(
        due(&retries).len(),
        1,
        "looked at late, answered all the same"
    );
    assert!(retries.retries.asked().is_empty());
    for n in 0..=MAX_MESSAGES {
        asks(&retries, ANA, &n.to_string(), 1);
    }
    assert_eq!(retries.retries.asked().len(), 1);
}

#[test]
fn rubbish_is_no_request() {
    let retries = Noted::default();
    asks(&retries, ANA, "A", MAX_RETRY_COUNT);
    asks(&retries, ANA, "A", 0);
    told(&retries, NodeBuilder::new("receipt").attr("type", "retry"));
    told(&retries, retry("A", 1));
    assert!(retries.retries.asked().is_empty());
}
