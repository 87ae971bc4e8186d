//! Which requests are answered here, and which are left to the library.

use wacore::types::message::MessageSource;
use wacore_binary::OwnedNodeRef;
use wacore_binary::builder::NodeBuilder;
use whatsapp_rust::wacore::chrono::DateTime;

use super::*;

const ANA: &str = "15551234567:2@s.whatsapp.net";
const BEN: &str = "999:0@lid";
/// Of the account itself, under both of its names.
const OWN: [&str; 2] = ["15550000000:3@s.whatsapp.net", "5550:3@lid"];
const GROUP: &str = "12036302@g.us";

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

    fn settle(&self) {
        self.pass(SETTLE * 3);
    }

    fn told(&self, node: NodeBuilder) {
        let wire = wacore_binary::marshal::marshal(&node.build()).unwrap();
        // The first byte says whether what follows is compressed.
        let node = OwnedNodeRef::new(wire[1..].to_vec()).unwrap();
        let account = || Person {
            pn_jid: Some("15550000000@s.whatsapp.net".into()),
            lid: Some("5550@lid".into()),
            ..Person::default()
        };
        self.retries.stanza(node.get(), account, self.now.get());
    }

    fn asks(&self, from: &str, id: &str, count: u8) {
        self.told(retry(id, count).attr("from", from));
    }

    fn asks_in_group(&self, from: &str, id: &str, count: u8) {
        let request = retry(id, count).attr("from", GROUP);
        self.told(request.attr("participant", from));
    }

    fn has(&self, from: &str, ids: &[&str], kind: ReceiptType) {
        let from: Jid = from.parse().unwrap();
        let receipt = Receipt::builder()
            .source(MessageSource {
                chat: from.to_non_ad(),
                sender: from,
                ..MessageSource::default()
            })
            .message_ids(ids.iter().map(|id| (*id).into()).collect())
            .timestamp(DateTime::from_timestamp(1_700_000_000, 0).unwrap())
            .r#type(kind)
            .offline(false)
            .build();
        self.retries.receipt(&receipt);
    }

    fn due(&self) -> Vec<Request> {
        self.retries.due(self.now.get())
    }

    /// What is due, as (device, message, attempt).
    fn told_due(&self) -> Vec<(Jid, String, u8)> {
        let mut due: Vec<_> = self
            .due()
            .into_iter()
            .map(|it| (it.asker, it.stanza_id, it.count))
            .collect();
        due.sort_by_key(|(asker, id, _)| (id.clone(), asker.to_string()));
        due
    }
}

fn jid(text: &str) -> Jid {
    text.parse().unwrap()
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

#[test]
fn what_the_library_takes_up_is_left_to_it() {
    let noted = Noted::default();
    noted.asks(ANA, "A", 1);
    noted.retries.taken("A");
    noted.asks(ANA, "A", 2);
    noted.retries.taken("A");
    noted.settle();
    assert_eq!(noted.due(), []);
}

#[test]
fn a_repeated_request_that_was_passed_over_is_answered_once() {
    let noted = Noted::default();
    noted.asks(ANA, "A", 1);
    noted.asks(ANA, "A", 2);
    noted.retries.taken("A");
    assert_eq!(noted.due(), [], "the library gets its time");
    noted.settle();
    let request = noted.due().pop().unwrap();
    assert_eq!((request.stanza_id.as_str(), request.count), ("A", 2));
    assert_eq!(request.asker, jid(ANA));
    assert_eq!(request.chat, jid("15551234567@s.whatsapp.net"));
    noted.retries.answered(&request);
    noted.settle();
    assert_eq!(noted.due(), []);
}

#[test]
fn an_answer_that_fails_is_tried_again_and_not_for_ever() {
    let noted = Noted::default();
    noted.asks(ANA, "A", 1);
    noted.asks(ANA, "A", 2);
    noted.retries.taken("A");
    let mut tries = 0;
    for _ in 0..10 {
        noted.settle();
        tries += noted.due().len();
    }
    assert_eq!(tries, usize::from(MAX_TRIES));
    for _ in 0..3 {
        noted.retries.interrupted();
        noted.retries.resumed(noted.now.get());
        noted.settle();
        assert_eq!(noted.due(), [], "another connection is no new beginning");
    }
    noted.pass(FORGET_AFTER);
    assert_eq!(noted.due(), []);
    assert!(noted.retries.asked().is_empty());
}

#[test]
fn a_delivery_settles_a_request_of_that_device_alone() {
    let noted = Noted::default();
    for id in ["A", "B", "C"] {
        for count in [1, 2] {
            noted.asks(ANA, id, count);
            noted.asks(BEN, id, count);
        }
    }
    noted.has(ANA, &["A", "B"], ReceiptType::Delivered);
    noted.has(BEN, &["C"], ReceiptType::Read);
    // It went as far as the server, no further.
    noted.has(BEN, &["A"], ReceiptType::Sent);
    noted.settle();
    let (ana, ben) = (jid(ANA), jid(BEN));
    assert_eq!(
        noted.told_due(),
        [
            (ben.clone(), "A".into(), 2),
            (ben, "B".into(), 2),
            (ana, "C".into(), 2)
        ]
    );
}

#[test]
fn what_was_settled_is_not_held_against_others() {
    let noted = Noted::default();
    noted.asks_in_group(ANA, "A", 1);
    noted.retries.taken("A");
    noted.asks_in_group(BEN, "A", 1);
    noted.retries.taken("A");
    // Passed over, and settled by the first answer all the same.
    noted.asks_in_group(ANA, "A", 2);
    noted.has(ANA, &["A"], ReceiptType::Delivered);
    noted.asks_in_group(BEN, "A", 2);
    noted.retries.taken("A");
    noted.settle();
    assert_eq!(noted.due(), []);
}

#[test]
fn the_same_words_twice_need_no_second_answer() {
    let noted = Noted::default();
    noted.asks(ANA, "A", 1);
    noted.asks(ANA, "A", 1);
    noted.retries.taken("A");
    noted.settle();
    assert_eq!(noted.due(), []);
}

#[test]
fn in_a_group_the_one_that_repeated_itself_is_answered_there() {
    let noted = Noted::default();
    noted.asks_in_group(ANA, "A", 1);
    noted.asks_in_group(BEN, "A", 1);
    noted.asks_in_group(BEN, "A", 2);
    noted.retries.taken("A");
    noted.retries.taken("A");
    noted.settle();
    let request = noted.due().pop().unwrap();
    assert_eq!(request.asker, jid(BEN));
    assert_eq!(request.chat, jid(GROUP));
    assert_eq!(noted.due(), []);
}

#[test]
fn what_a_connection_left_open_is_answered_once_the_next_has_settled() {
    let noted = Noted::default();
    noted.asks(ANA, "A", 1);
    noted.retries.taken("A");
    noted.asks(BEN, "B", 1);
    noted.has(BEN, &["B"], ReceiptType::Delivered);
    noted.asks(BEN, "C", 1);
    noted.settle();
    assert_eq!(noted.due(), [], "nothing says that it was not answered");
    noted.retries.interrupted();
    // However long the next one takes to come, and if another is needed.
    noted.pass(FORGET_AFTER / 2);
    assert_eq!(noted.due(), [], "there is no connection");
    noted.retries.interrupted();
    noted.retries.resumed(noted.now.get());
    assert_eq!(noted.due(), [], "deliveries may be waiting at the server");
    noted.has(BEN, &["C"], ReceiptType::Delivered);
    noted.settle();
    assert_eq!(noted.told_due(), [(jid(ANA), "A".into(), 1)]);
}

#[test]
fn a_few_are_answered_at_a_time_and_all_in_the_end() {
    const MEMBERS: usize = MAX_AT_ONCE * 2 + 3;
    let noted = Noted::default();
    for member in 0..MEMBERS {
        noted.asks_in_group(&format!("{member}@lid"), "A", 1);
    }
    noted.retries.interrupted();
    noted.retries.resumed(noted.now.get());
    noted.settle();
    let mut answered = HashSet::new();
    for expected in [MAX_AT_ONCE, MAX_AT_ONCE, 3, 0] {
        let due = noted.due();
        assert_eq!(due.len(), expected);
        for request in due {
            noted.retries.answered(&request);
            answered.insert(request.asker);
        }
    }
    assert_eq!(answered.len(), MEMBERS);
}

#[test]
fn requests_are_forgotten_and_their_number_is_bounded() {
    let noted = Noted::default();
    noted.asks(ANA, "A", 1);
    noted.pass(FORGET_AFTER);
    assert_eq!(noted.due(), []);
    assert!(noted.retries.asked().is_empty());
    noted.asks(ANA, "A", 1);
    for n in 0..2 * MAX_REQUESTS {
        noted.pass(Duration::from_millis(1));
        noted.asks(BEN, &format!("invented {n}"), 1);
    }
    assert_eq!(noted.retries.asked().len(), MAX_REQUESTS);
    let noted = Noted::default();
    for n in 0..2 * MAX_REQUESTS {
        noted.asks_in_group(&format!("{n}@lid"), "A", 1);
    }
    let open = noted.retries.asked()["A"].open.len();
    assert!((1..=MAX_REQUESTS).contains(&open), "{open}");
}

#[test]
fn rubbish_is_no_request() {
    let noted = Noted::default();
    noted.asks(ANA, "A", MAX_RETRY_COUNT);
    noted.asks(ANA, "A", 0);
    noted.asks(ANA, &"x".repeat(MAX_ID + 1), 1);
    noted.told(NodeBuilder::new("receipt").attr("type", "retry"));
    noted.told(retry("A", 1));
    // Somebody who names whom the message went to is no device of the account for that.
    noted.told(retry("A", 1).attr("from", BEN).attr("recipient", ANA));
    assert!(noted.retries.asked().is_empty());
}

#[test]
fn own_devices_are_left_to_the_library() {
    let noted = Noted::default();
    for (own, id) in OWN.into_iter().zip(["A", "B"]) {
        for count in [1, 2] {
            noted.asks_in_group(own, id, count);
            let direct = retry("C", count).attr("from", own);
            noted.told(direct.attr("recipient", ANA));
        }
    }
    noted.settle();
    assert_eq!(noted.due(), []);
    noted.retries.interrupted();
    noted.retries.resumed(noted.now.get());
    noted.settle();
    assert_eq!(noted.due(), []);
}

#[test]
fn the_phone_is_answered_at_once_and_the_library_is_not_given_its_message() {
    const PHONE: &str = "5550:0@lid";
    let noted = Noted::default();
    let asks_for_its_copy = |count| {
        let request = retry("A", count).attr("from", PHONE);
        noted.told(request.attr("recipient", ANA));
    };
    let (phone, chat) = (jid(PHONE), jid(ANA).to_non_ad());
    let withholds = |id: &str| noted.retries.withholds(id, noted.now.get());
    // Somebody whom the library has answered, and somebody it is about to.
    noted.asks(ANA, "A", 1);
    noted.retries.taken("A");
    assert!(!withholds("A"));
    noted.asks(BEN, "A", 1);
    asks_for_its_copy(1);
    let companion = retry("A", 1).attr("from", OWN[1]);
    noted.told(companion.attr("recipient", ANA));
    assert!(withholds("A") && !withholds("B"));
    let request = noted.due().pop().unwrap();
    assert_eq!((&request.asker, &request.chat), (&phone, &chat));
    assert_eq!(noted.due(), []);
    asks_for_its_copy(2);
    let request = noted.due().pop().unwrap();
    assert_eq!((&request.asker, request.count), (&phone, 2));
    noted.retries.answered(&request);
    assert!(withholds("A"), "the library may be on its way");
    noted.pass(SETTLE);
    assert!(!withholds("A"));
    // Which of the others the library had answered before is not known: a copy too many does no harm. It
    // could not answer the companion either.
    noted.has(ANA, &["A"], ReceiptType::Delivered);
    let own = (jid(OWN[1]), "A".into(), 1);
    assert_eq!(noted.told_due(), [own, (jid(BEN), "A".into(), 1)]);

    // In vain: it is not withheld for ever.
    asks_for_its_copy(3);
    for _ in 0..MAX_TRIES {
        noted.settle();
        noted.due();
    }
    noted.settle();
    assert!(!withholds("A"));
    // In groups the library knows who asks.
    noted.asks_in_group(PHONE, "G", 1);
    assert!(!withholds("G"));
}

#[test]
fn what_the_library_took_up_for_an_own_device_hides_nobody_elses_request() {
    let noted = Noted::default();
    noted.asks(ANA, "A", 1);
    noted.retries.taken("A");
    // Passed over.
    noted.asks(ANA, "A", 2);
    noted.told(retry("A", 1).attr("from", OWN[1]).attr("recipient", ANA));
    noted.retries.taken("A");
    noted.settle();
    assert_eq!(noted.told_due(), [(jid(ANA), "A".into(), 2)]);
}

#[test]
fn notes_of_a_number_that_is_away_are_kept_for_a_day() {
    let noted = Noted::default();
    let forgotten = || noted.retries.is_forgotten(noted.now.get());
    assert!(forgotten());
    noted.asks(ANA, "A", 1);
    noted.retries.interrupted();
    noted.pass(FORGET_AWAY / 2);
    assert!(!forgotten());
    noted.pass(FORGET_AWAY / 2);
    assert!(forgotten());
}

#[test]
fn one_answers_at_a_time() {
    let retries = Arc::new(Retries::default());
    assert!(!retries.answering.swap(true, Ordering::SeqCst));
    drop(Turn(Arc::clone(&retries)));
    assert!(!retries.answering.load(Ordering::SeqCst));
}
