use super::*;
use crate::domain::event::ReceiptKind;
use crate::domain::ids::MessageId;
use crate::domain::message::{FailureReason, MessageState};

fn bob() -> Person {
    person("15550002", Some("88"))
}

async fn statuses(world: &World) -> Vec<MessageState> {
    let journal = world.default().await.journal();
    let page = journal
        .read(0, 1_000, &CompiledFilter::default())
        .await
        .unwrap();
    let state = |payload| match payload {
        Payload::MessageStatus { state, .. } => Some(state),
        _ => None,
    };
    page.events
        .into_iter()
        .filter_map(|event| state(event.payload))
        .collect()
}

async fn step(outbox: &Outbox, id: MessageId, to: MessageState) {
    outbox.transition(id, Step::to(to, NOW)).await.unwrap();
}

#[tokio::test]
async fn ok_means_stored() {
    let world = World::new().await;
    let session = world.session("line").await;
    let mut new = outbound(1, &bob(), "hello");
    new.send_after = Some(NOW);
    new.expire_at = Some(NOW.plus(std::time::Duration::from_mins(1)));
    let enqueued = session.outbox().enqueue(new.clone()).await.unwrap();
    assert!(!enqueued.replayed);
    let world = world.restarted().await;
    let outbox = world.session("line").await.outbox();
    let read = outbox.get(enqueued.message.id).await.unwrap();
    assert_eq!(read, enqueued.message);
    assert_eq!(
        (read.encoded, read.stanza_id),
        (new.encoded, new.stanza_id.clone())
    );
    assert_eq!((read.state, read.attempts), (MessageState::Queued, 0));
    let found = outbox
        .find_by_stanza(&new.stanza_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.id, enqueued.message.id);
    assert_eq!(outbox.find_by_stanza("other").await.unwrap(), None);
    let missing = outbox.get(MessageId(uuid::Uuid::from_u128(5))).await;
    assert!(matches!(missing, Err(LookupError::NotFound { .. })));
}

#[tokio::test]
async fn the_same_request_is_one_message_and_another_body_is_refused() {
    let world = World::new().await;
    let session = world.session("line").await;
    let outbox = session.outbox();
    let first = outbox.enqueue(outbound(1, &bob(), "hello")).await.unwrap();
    let mut repeated = outbound(1, &bob(), "hello");
    repeated.stanza_id = "another".into();
    let again = outbox.enqueue(repeated).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.message, first.message);
    let refused = outbox.enqueue(outbound(1, &bob(), "other text")).await;
    assert!(matches!(
        refused,
        Err(EnqueueError::IdempotencyConflict { .. })
    ));
    let other = world.session("other").await.outbox();
    let refused = other.enqueue(outbound(1, &bob(), "hello")).await;
    assert!(matches!(
        refused,
        Err(EnqueueError::IdempotencyConflict { .. })
    ));
    assert_eq!(
        outbox
            .list(&PageRequest::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );

    // The answer is what the message has become meanwhile.
    step(&outbox, first.message.id, MessageState::Sending).await;
    let again = outbox.enqueue(outbound(1, &bob(), "hello")).await.unwrap();
    assert_eq!(again.message.state, MessageState::Sending);
}

#[tokio::test]
async fn racing_repeats_are_one_message() {
    let world = World::new().await;
    let session = world.session("line").await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let outbox = session.outbox();
            tokio::spawn(async move { outbox.enqueue(outbound(1, &bob(), "x")).await.unwrap() })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for task in tasks {
        ids.insert(task.await.unwrap().message.id);
    }
    assert_eq!(ids.len(), 1);
    let all = session.outbox().queue(0, 1_000).await.unwrap();
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn states_move_one_way_and_each_step_is_an_event() {
    use MessageState::{Canceled, Delivered, Queued, Read, Sending, Sent};
    let world = World::new().await;
    let outbox = world.session("line").await.outbox();
    let id = outbox
        .enqueue(outbound(1, &bob(), "x"))
        .await
        .unwrap()
        .message
        .id;
    for state in [Sending, Sent, Delivered, Read] {
        step(&outbox, id, state).await;
    }
    for back in [Queued, Sending, Sent, Delivered, Read, Canceled] {
        let refused = outbox.transition(id, Step::to(back, NOW)).await;
        assert_eq!(
            refused.unwrap_err(),
            TransitionError::Illegal {
                from: Read,
                to: back
            }
        );
    }
    assert_eq!(statuses(&world).await, [Sending, Sent, Delivered, Read]);
    let message = outbox.get(id).await.unwrap();
    let history: Vec<_> = message.history.iter().map(|(state, _)| *state).collect();
    assert_eq!(history, [Queued, Sending, Sent, Delivered, Read]);
    assert_eq!(message.attempts, 1);
    let missing = MessageId(uuid::Uuid::from_u128(5));
    let missing = outbox.transition(missing, Step::to(Sending, NOW)).await;
    assert!(matches!(missing, Err(TransitionError::NotFound { .. })));
}

#[tokio::test]
async fn a_failure_keeps_its_reason() {
    let world = World::new().await;
    let outbox = world.session("line").await.outbox();
    let id = outbox
        .enqueue(outbound(1, &bob(), "x"))
        .await
        .unwrap()
        .message
        .id;
    step(&outbox, id, MessageState::Sending).await;
    let failure = FailureReason {
        reason: "REACHOUT_TIMELOCK".into(),
        code: Some(463),
    };
    let failed = Step {
        to: MessageState::Failed,
        failure: Some(failure.clone()),
        at: NOW,
    };
    let (message, _) = outbox.transition(id, failed).await.unwrap();
    assert_eq!(message.failure, Some(failure));
    assert_eq!(outbox.get(id).await.unwrap(), message);
    assert!(outbox.queue(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_queue_is_what_has_work_to_do_in_order() {
    let world = World::new().await;
    let session = world.session("line").await;
    let outbox = session.outbox();
    let carol = person("15550003", None);
    let mut ids = Vec::new();
    for n in 1..=6 {
        let to = if n % 2 == 0 { bob() } else { carol.clone() };
        let mut new = outbound(n, &to, "x");
        new.priority = Priority::Reply;
        ids.push(outbox.enqueue(new).await.unwrap().message.id);
    }
    step(&outbox, ids[1], MessageState::Sending).await;
    step(&outbox, ids[1], MessageState::Sent).await;
    step(&outbox, ids[2], MessageState::Sending).await;
    step(&outbox, ids[4], MessageState::Canceled).await;
    outbox.count_attempt(ids[2]).await.unwrap();
    let world = world.restarted().await;
    let outbox = world.session("line").await.outbox();
    let queue = outbox.queue(0, 100).await.unwrap();
    let order: Vec<_> = queue.iter().map(|entry| entry.id).collect();
    assert_eq!(order, [ids[0], ids[2], ids[3], ids[5]]);
    assert_eq!(queue[2].chat, queue[3].chat);
    assert_ne!(queue[0].chat, queue[2].chat);
    assert_eq!(queue[0].priority, Priority::Reply);
    let rest = outbox.queue(queue[1].seq, 1).await.unwrap();
    assert_eq!(rest[0].id, ids[3]);
    let sending = outbox.sending().await.unwrap();
    assert_eq!(
        sending.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [ids[2]]
    );
    assert_eq!(outbox.get(ids[2]).await.unwrap().attempts, 2);
    let depth = outbox.depth(1_000).await.unwrap();
    assert_eq!((depth["QUEUED"], depth["SENDING"]), (3, 1));
}

#[tokio::test]
async fn a_receipt_moves_what_it_covers_and_tells() {
    use MessageState::{Delivered, Read, Sending, Sent};
    let world = World::new().await;
    let session = world.session("line").await;
    let outbox = session.outbox();
    let one = outbox
        .enqueue(outbound(1, &bob(), "one"))
        .await
        .unwrap()
        .message;
    let two = outbox
        .enqueue(outbound(2, &bob(), "two"))
        .await
        .unwrap()
        .message;
    for message in [&one, &two] {
        step(&outbox, message.id, Sending).await;
    }
    step(&outbox, two.id, Sent).await;
    step(&outbox, two.id, Read).await;
    let receipt = |kind, name: &str| {
        Change::Receipt(ReceiptArrival {
            chat: bob(),
            from: bob(),
            stanza_ids: vec![
                "unknown".into(),
                one.stanza_id.clone(),
                two.stanza_id.clone(),
            ],
            kind,
            at: NOW,
            dedup: Some(DedupKey {
                chat: "88@lid".into(),
                sender: "88@lid".into(),
                stanza_id: one.stanza_id.clone(),
                kind: name.to_owned(),
            }),
            received_at: NOW,
        })
    };
    let both = vec![
        receipt(ReceiptKind::Delivered, "receipt/delivered"),
        receipt(ReceiptKind::Read, "receipt/read"),
    ];
    let applied = session.apply(both).await.unwrap();
    let moved: Vec<Vec<_>> = applied
        .iter()
        .map(|applied| match applied {
            Applied::Receipt { moved, .. } => moved
                .iter()
                .map(|(message, _)| (message.id, message.state))
                .collect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(moved, [vec![(one.id, Delivered)], vec![(one.id, Read)]]);
    assert_eq!(outbox.get(one.id).await.unwrap().state, Read);
    let before = statuses(&world).await;
    let again = vec![receipt(ReceiptKind::Read, "receipt/read")];
    session.apply(again).await.unwrap();
    assert_eq!(statuses(&world).await, before);
}

#[tokio::test]
async fn messages_list_in_the_order_of_acceptance() {
    let world = World::new().await;
    let outbox = world.session("line").await.outbox();
    let mut ids = Vec::new();
    for n in 1..=7 {
        world.clock.advance(std::time::Duration::from_millis(3));
        ids.push(
            outbox
                .enqueue(outbound(n, &bob(), "x"))
                .await
                .unwrap()
                .message
                .id,
        );
    }
    let mut seen = Vec::new();
    let mut request = PageRequest::first(3);
    loop {
        let page = outbox.list(&request).await.unwrap();
        seen.extend(page.items.into_iter().map(|message| message.id));
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn usage_counts_each_thing_once() {
    let world = World::new().await;
    let session = world.session("line").await;
    let outbox = session.outbox();
    for _ in 0..2 {
        outbox.enqueue(outbound(1, &bob(), "x")).await.unwrap();
        append(&session, inbound(&bob(), "A", "x", NOW)).await;
    }
    let id = outbox
        .enqueue(outbound(2, &bob(), "y"))
        .await
        .unwrap()
        .message
        .id;
    step(&outbox, id, MessageState::Sending).await;
    step(&outbox, id, MessageState::Sent).await;
    step(&outbox, id, MessageState::Delivered).await;
    let id = outbox
        .enqueue(outbound(3, &bob(), "z"))
        .await
        .unwrap()
        .message
        .id;
    step(&outbox, id, MessageState::Canceled).await;
    let usage = world.default().await.usage();
    let line = SessionId::new("line").unwrap();
    let today = Day::of(NOW);
    let counted = usage.of_session(&line, today).await.unwrap();
    let expected = Counters {
        enqueued: 3,
        sent: 1,
        failed: 1,
        received: 1,
        new_contacts: 0,
    };
    assert_eq!(counted, expected);
    assert_eq!(usage.of_workspace(today).await.unwrap(), expected);
    assert_eq!(
        usage.of_workspace(Day(today.0 + 1)).await.unwrap(),
        Counters::default()
    );
}

#[tokio::test]
async fn messages_of_one_millisecond_are_listed_in_the_order_of_acceptance() {
    let world = World::new().await;
    let session = world.session("line").await;
    let outbox = session.outbox();
    let mut accepted = Vec::new();
    for n in 0..200 {
        let enqueued = outbox.enqueue(outbound(n, &bob(), "x")).await.unwrap();
        assert_eq!(enqueued.message.created_at, NOW);
        accepted.push(enqueued.message.id);
    }
    let listed = outbox.list(&PageRequest::first(1_000)).await.unwrap();
    let listed: Vec<_> = listed.items.into_iter().map(|message| message.id).collect();
    assert_eq!(listed, accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_changes_meanwhile_takes_messages_all_the_same() {
    let world = World::new().await;
    let session = world.session("line").await;
    let changing = session.clone();
    let changes = tokio::spawn(async move {
        for n in 0..300 {
            let rename = move |record: &mut SessionRecord| record.display_name = n.to_string();
            let rename = Change::Session(Box::new(rename));
            changing.apply(vec![rename]).await.unwrap();
        }
    });
    for n in 1..=300 {
        let new = outbound(n, &bob(), "hello");
        let enqueued = session.outbox().enqueue(new).await.unwrap();
        assert!(!enqueued.replayed);
    }
    changes.await.unwrap();
}
