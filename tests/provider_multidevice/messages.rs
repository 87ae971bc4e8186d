//! Messages both ways, receipts, retries, and what is not sent.

use trunkline::domain::event::ReceiptKind;
use trunkline::domain::message::Content;
use trunkline::domain::session::Cause;
use trunkline::provider::contract::SendError;
use trunkline_simulator::{Fact, Fault, Truth};

use crate::world::{CUSTOMER, SHOP, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_and_receipts_cross_both_ways() {
    let (world, run) = World::online(|_| {}).await;
    let stanza = world.send(CUSTOMER, "hello").await.unwrap();
    let sink = &world.sink;
    sink.wait("the server's ack", |seen| seen.has_ack(&stanza, None))
        .await;
    sink.wait("delivered", |seen| {
        seen.has_receipt(&stanza, ReceiptKind::Delivered)
    })
    .await;
    let inbox = world.customer.inbox();
    assert_eq!((inbox.len(), inbox[0].text.as_str()), (1, "hello"));
    assert_eq!(inbox[0].id, stanza);
    world.customer.mark_read(std::slice::from_ref(&stanza));
    sink.wait("read", |seen| seen.has_receipt(&stanza, ReceiptKind::Read))
        .await;

    let by_number = world.customer.send_text(SHOP, "by number").unwrap();
    // The library has a lane for each address form: order between them is not its promise.
    sink.wait("the first message", |seen| seen.messages().count() == 1)
        .await;
    let by_lid = world.customer.send_text_by_lid(SHOP, "by LID").unwrap();
    sink.wait("two messages", |seen| seen.messages().count() == 2)
        .await;
    let (chat, sender) = sink.look(|seen| {
        let messages: Vec<_> = seen.messages().collect();
        assert_eq!(messages[0].stanza_id, by_number);
        assert_eq!(messages[1].stanza_id, by_lid);
        let text = |text: &str| Content::Text { text: text.into() };
        assert_eq!(messages[0].content, text("by number"));
        assert_eq!(messages[1].content, text("by LID"));
        assert_eq!(
            messages[0].chat.canonical(),
            messages[1].chat.canonical(),
            "one conversation under either address"
        );
        assert_eq!(messages[0].chat.phone.as_deref(), Some(CUSTOMER));
        (messages[0].chat.clone(), messages[0].sender.clone())
    });
    world
        .line
        .mark_read(&chat, &sender, &[by_number.clone(), by_lid])
        .await
        .unwrap();
    world
        .until("the customer sees it read", move |truth| {
            truth.ledger().facts().any(|fact| {
                matches!(fact, Fact::Receipt { kind, ids, .. }
                    if kind == "read" && ids.contains(&by_number))
            })
        })
        .await;
    // Counted as the library reports them, a little after they are stored.
    world
        .until_traffic(|traffic| traffic.decrypted >= 2 && traffic.last_ack.is_some())
        .await;
    assert_eq!(run.stop().await, Cause::Requested);
    assert!(world.simulator.ledger().violations().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_while_away_is_delivered_after_the_next_login_in_order() {
    let (mut world, run) = World::online(|_| {}).await;
    assert_eq!(run.stop().await, Cause::Requested);
    let sent: Vec<_> = (0..20)
        .map(|n| world.customer.send_text(SHOP, &n.to_string()).unwrap())
        .collect();
    world.reopen().await;
    let run = world.login();
    world
        .sink
        .wait("the backlog", |seen| seen.messages().count() == sent.len())
        .await;
    world.sink.look(|seen| {
        let got: Vec<_> = seen.messages().map(|m| m.stanza_id.clone()).collect();
        assert_eq!(got, sent);
        assert_eq!(seen.repeated, 0);
    });
    let device = world.device();
    world
        .until("the backlog is confirmed", move |truth| {
            truth.backlog(SHOP, device) == 0
        })
        .await;
    assert_eq!(run.stop().await, Cause::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_stanza_sent_twice_is_shown_once() {
    let (world, run) = World::online(|_| {}).await;
    world.fault(Fault::WithholdAcks, None);
    let message = world.message(CUSTOMER, "once");
    world.line.send(&message).await.unwrap();
    let stanza = message.stanza_id.clone();
    world
        .until("accepted", move |truth| {
            truth
                .ledger()
                .facts()
                .any(|fact| matches!(fact, Fact::MessageAccepted { id, .. } if *id == stanza))
        })
        .await;
    world.fault(Fault::Close, None);
    // What was still on its way when the server closed makes the kernel send a reset.
    assert!(matches!(
        run.ended().await,
        Cause::Recycled | Cause::Transient { code: None, .. }
    ));
    assert_eq!(
        world.line.send(&message).await,
        Err(SendError::NotConnected)
    );
    world.simulator.clear_faults();

    let run = world.login();
    world.sink.online().await;
    world.line.send(&message).await.unwrap();
    let stanza = &message.stanza_id;
    world
        .sink
        .wait("acknowledged", |seen| seen.has_ack(stanza, None))
        .await;
    let inbox = world.customer.inbox();
    assert_eq!(inbox.len(), 1);
    assert_eq!(inbox[0].displays, 1);
    assert_eq!(run.stop().await, Cause::Requested);
    assert!(world.customer.violations().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phone_that_lost_its_sessions_gets_the_message_again_from_the_outbox() {
    let (world, run) = World::online(|_| {}).await;
    let first = world.send(CUSTOMER, "first").await.unwrap();
    world
        .sink
        .wait("delivered", |seen| {
            seen.has_receipt(&first, ReceiptKind::Delivered)
        })
        .await;
    world.customer.lose_sessions();
    let second = world.send(CUSTOMER, "second").await.unwrap();
    world
        .sink
        .wait("delivered after a retry", |seen| {
            seen.has_receipt(&second, ReceiptKind::Delivered)
        })
        .await;
    let texts: Vec<_> = world.customer.inbox().into_iter().map(|m| m.text).collect();
    assert_eq!(texts, ["first", "second"]);
    assert_eq!(run.stop().await, Cause::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_told_apart() {
    let (world, run) = World::online(|_| {}).await;
    assert_eq!(
        world.send("+15559999999", "anybody there?").await,
        Err(SendError::NotOnProvider)
    );
    world.fault(Fault::Nack { error: 463 }, Some(1));
    let refused = world.send(CUSTOMER, "too soon").await.unwrap();
    world
        .sink
        .wait("refused", |seen| seen.has_ack(&refused, Some(463)))
        .await;
    assert_eq!(run.stop().await, Cause::Requested);
    assert_eq!(
        world.send(CUSTOMER, "too late").await,
        Err(SendError::NotConnected)
    );
}

/// The library takes an account's phone that asks for its copy for the person the message went to, and
/// makes the phone's session theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_phone_gets_its_copy_again_and_nobodys_session_suffers() {
    let (world, run) = World::online(|_| {}).await;
    let (shop, customer) = (world.shop.phone(), world.customer.phone());
    let copied = async |text: &str| {
        let what = format!("the phone has its copy of {text:?}");
        let has = |truth: &Truth<'_>| truth.sent(&shop).iter().any(|sent| sent.text == text);
        world.until(&what, has).await;
    };
    let shown = async |text: &str| {
        let what = format!("{text:?} is shown");
        let has = |truth: &Truth<'_>| truth.inbox(&customer).iter().any(|it| it.text == text);
        world.until(&what, has).await;
    };
    world.send(CUSTOMER, "one").await.unwrap();
    shown("one").await;
    copied("one").await;
    for (lost, after) in [("two", "three"), ("four", "five")] {
        world.shop.lose_sessions();
        world.send(CUSTOMER, lost).await.unwrap();
        shown(lost).await;
        copied(lost).await;
        world.send(CUSTOMER, after).await.unwrap();
        shown(after).await;
        copied(after).await;
    }
    let ledger = world.simulator.ledger();
    let asked = |phone: &str| {
        let device = format!("{phone}:0");
        let retries = ledger.facts().filter(
            |fact| matches!(fact, Fact::Receipt { from, kind, .. } if *from == device && kind == "retry"),
        );
        retries.count()
    };
    assert!(asked(&shop) >= 2, "{ledger:#?}");
    assert_eq!(
        asked(&customer),
        0,
        "their session was touched: {ledger:#?}"
    );
    let own = world.shop.sent();
    assert!(own.iter().all(|copy| copy.wrapped), "{own:#?}");
    for account in [&world.shop, &world.customer] {
        let violations = account.violations();
        assert!(violations.is_empty(), "{violations:#?}");
    }
    assert_eq!(run.stop().await, Cause::Requested);
}
