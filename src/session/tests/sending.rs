//! From the outbox to the wire: once, in order, honestly accounted for.

use std::time::Duration;

use crate::provider::contract::SentMessage;

use crate::domain::clock::Clock as _;
use crate::domain::event::Payload;
use crate::domain::ids::RequestId;
use crate::domain::message::{Content, MessageState, Priority};
use crate::domain::person::Person;
use crate::domain::session::Cause;
use crate::session::testing::*;
use crate::session::{CancelError, SubmitError};
use crate::store::{BodyHash, NewMessage};

/// Further away than any test takes: comes only when the clock is stepped.
const FAR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn only_the_servers_ack_makes_a_message_sent() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    h.world
        .peer(&name, |peer| peer.ack = Some(AckMode::Withhold));
    let sent = h.submit(&name, "1", "hi").await.message;
    h.settled(&name, sent.id, MessageState::Sending).await;
    eventually(|| async {
        match h.world.peer(&name, |peer| peer.wire.len()) {
            1 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    assert_eq!(h.message(&name, sent.id).await.state, MessageState::Sending);
    // A reconnect sends the same bytes under the same id.
    h.world.peer(&name, |peer| peer.ack = None);
    h.world.control(&name, Control::End(Cause::Recycled));
    let sent = h.settled(&name, sent.id, MessageState::Sent).await;
    let wire = h.world.peer(&name, |peer| peer.wire.clone());
    let expected = (sent.stanza_id.clone(), sent.encoded.clone());
    assert_eq!(wire, [expected.clone(), expected]);
    assert_eq!(sent.attempts, 2);
}

/// The caller of the first request went away before the sender was told.
#[tokio::test]
async fn repeating_a_request_wakes_the_sender() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let request = RequestId(uuid::Uuid::from_u128(7));
    let body = BodyHash::of("Send", b"hi");
    let encoded = h.submit(&name, "1", "before").await.message.encoded;
    let accepted = h
        .session(&name)
        .await
        .outbox()
        .enqueue(NewMessage {
            request_id: request,
            body,
            to: person("1"),
            content: Content::Text { text: "hi".into() },
            stanza_id: "FORGOTTEN".into(),
            encoded,
            media: None,
            priority: Priority::default(),
            send_after: None,
            expire_at: None,
        })
        .await
        .unwrap();
    let again = h
        .submit_with(&name, "1", "hi", |s| s.request_id = request)
        .await;
    assert!(again.replayed);
    assert_eq!(again.message.id, accepted.message.id);
    h.settled(&name, again.message.id, MessageState::Sent).await;
}

/// Linked anew with another number: its recipients have never heard of that one.
#[tokio::test]
async fn a_message_accepted_for_one_account_goes_out_from_no_other() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    h.supervisor.stop(&name).await.unwrap();
    let link = async |account: Option<Person>| {
        let sessions = h.workspace.sessions();
        let edit = sessions.update(&name.session, None, |record| {
            record.account.clone_from(&account);
        });
        edit.await.unwrap();
    };
    let other = Person {
        phone: Some("+15559999999".into()),
        ..Person::default()
    };
    link(Some(other)).await;
    let foreign = h.submit(&name, "1", "from another number").await.message;
    link(None).await;
    let unlinked = h.submit(&name, "1", "from whoever is linked").await.message;
    h.supervisor.start(&name).await.unwrap();
    h.settled(&name, unlinked.id, MessageState::Sent).await;
    let foreign = h.settled(&name, foreign.id, MessageState::Failed).await;
    assert_eq!(foreign.failure.unwrap().reason, "ACCOUNT_CHANGED");
    let own = h.submit(&name, "1", "from this one").await.message;
    assert!(own.from.is_some());
    h.settled(&name, own.id, MessageState::Sent).await;
    let wire = h.world.peer(&name, |peer| peer.wire.clone());
    let ids: Vec<_> = wire.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [unlinked.stanza_id, own.stanza_id]);
}

#[tokio::test]
async fn a_missing_ack_renews_the_connection_and_resends() {
    let mut config = quick();
    config.outbound.ack_timeout = Duration::from_millis(50);
    let h = Harness::new(config).await;
    let name = h.online("a").await;
    h.world
        .peer(&name, |peer| peer.ack = Some(AckMode::Withhold));
    let sent = h.submit(&name, "1", "hi").await.message;
    h.until(&name, |s| s.last_cause == Some(Cause::Stalled))
        .await;
    h.world.peer(&name, |peer| peer.ack = None);
    h.settled(&name, sent.id, MessageState::Sent).await;
    let wire = h.world.peer(&name, |peer| peer.wire.clone());
    assert!(wire.len() >= 2 && wire.iter().all(|(id, _)| *id == sent.stanza_id));
}

#[tokio::test]
async fn what_was_on_the_wire_when_the_daemon_stopped_is_resent_or_unknown() {
    let mut h = Harness::new(quick()).await;
    let name = h.online("a").await;
    h.world
        .peer(&name, |peer| peer.ack = Some(AckMode::Withhold));
    let lasting = h.submit(&name, "1", "hi").await.message;
    let soon = h.clock.now().plus(FAR);
    let short = h
        .submit_with(&name, "2", "hi", |s| s.expire_at = Some(soon))
        .await
        .message;
    h.settled(&name, lasting.id, MessageState::Sending).await;
    h.settled(&name, short.id, MessageState::Sending).await;
    h.supervisor.shutdown(PATIENCE).await;
    h.clock.step(FAR * 2);
    h.world.peer(&name, |peer| {
        peer.ack = None;
        peer.wire.clear();
    });
    h.restart(quick()).await;
    h.settled(&name, lasting.id, MessageState::Sent).await;
    h.settled(&name, short.id, MessageState::Unknown).await;
    let wire = h.world.peer(&name, |peer| peer.wire.clone());
    assert_eq!(wire, [(lasting.stanza_id, lasting.encoded)]);
}

#[tokio::test]
async fn a_time_lock_fails_the_message_tells_and_holds_new_conversations_only() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let known = h.submit(&name, "1", "hi").await.message;
    h.settled(&name, known.id, MessageState::Sent).await;
    h.world
        .peer(&name, |peer| peer.ack = Some(AckMode::Refuse(463)));
    let locked = h.submit(&name, "2", "hi").await.message;
    let failed = h.settled(&name, locked.id, MessageState::Failed).await;
    let failure = failed.failure.unwrap();
    assert_eq!(
        (failure.reason.as_str(), failure.code),
        ("REACHOUT_TIMELOCK", Some(463))
    );
    assert!(h.events().await.iter().any(|event| matches!(
        &event.payload,
        Payload::Signal { signal, code: Some(463), until: Some(_) } if signal == "REACHOUT_TIMELOCK"
    )));
    h.world.peer(&name, |peer| peer.ack = None);
    let again = h.submit(&name, "1", "again").await.message;
    h.settled(&name, again.id, MessageState::Sent).await;
    // The refused recipient counts as met; a stranger does not.
    let session = h.session(&name).await;
    let outcome = h
        .supervisor
        .submit(
            &session,
            crate::session::Submission {
                request_id: crate::domain::ids::RequestId(uuid::Uuid::from_u128(9)),
                body: crate::store::BodyHash::of("Send", b"x"),
                to: person("3"),
                content: crate::domain::message::Content::Text { text: "x".into() },
                media: None,
                priority: crate::domain::message::Priority::default(),
                send_after: None,
                expire_at: None,
            },
        )
        .await;
    match outcome {
        Err(SubmitError::Pacing(refused)) => assert_eq!(refused.reason, "REACHOUT_TIMELOCK"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refusals_before_the_wire_and_by_the_server_are_told_apart() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    for (ack, reason) in [
        (AckMode::NotOnProvider, "NOT_ON_WHATSAPP"),
        (AckMode::Refuse(479), "SERVER_REFUSED"),
        // Of a person this code says nothing about groups.
        (AckMode::Refuse(403), "SERVER_REFUSED"),
    ] {
        h.world.peer(&name, |peer| peer.ack = Some(ack));
        let sent = h.submit(&name, "1", "hi").await.message;
        let failed = h.settled(&name, sent.id, MessageState::Failed).await;
        assert_eq!(failed.failure.unwrap().reason, reason);
    }
}

#[tokio::test]
async fn each_chat_keeps_its_order_across_connections() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let mut accepted = Vec::new();
    for n in 0..60 {
        let chat = ["1", "2", "3"][n % 3];
        let message = h.submit(&name, chat, &format!("{n:02}")).await.message;
        accepted.push((chat, message.stanza_id));
        if n == 20 || n == 40 {
            h.world.control(&name, Control::End(Cause::Recycled));
            h.until(&name, |s| s.last_cause.is_some()).await;
            h.reach(&name, "ONLINE").await;
        }
    }
    eventually(|| async {
        match h
            .session(&name)
            .await
            .outbox()
            .queue(0, 100)
            .await
            .unwrap()
            .len()
        {
            0 => Ok(()),
            n => Err(format!("{n} left")),
        }
    })
    .await;
    let wire = h.world.peer(&name, |peer| peer.wire.clone());
    for chat in ["1", "2", "3"] {
        let of_chat = |(to, id): &(&str, String)| (*to == chat).then(|| id.clone());
        let accepted: Vec<_> = accepted.iter().filter_map(of_chat).collect();
        let ids = wire.iter().map(|(id, _)| id.clone());
        let mut sent: Vec<_> = ids.filter(|id| accepted.contains(id)).collect();
        sent.dedup();
        assert_eq!(sent, accepted, "{chat}");
    }
}

#[tokio::test]
async fn schedules_deadlines_and_cancellations_are_kept() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let now = h.clock.now();
    let later = now.plus(FAR);
    let scheduled = h
        .submit_with(&name, "1", "later", |s| s.send_after = Some(later))
        .await
        .message;
    let canceled = h
        .submit_with(&name, "2", "never", |s| s.send_after = Some(far_future()))
        .await
        .message;
    let expired = h
        .submit_with(&name, "3", "late", |s| {
            s.send_after = Some(far_future());
            s.expire_at = Some(later);
        })
        .await
        .message;
    let prompt = h.submit(&name, "1", "now").await.message;
    h.settled(&name, prompt.id, MessageState::Sent).await;
    let session = h.session(&name).await;
    h.supervisor.cancel(&session, canceled.id).await.unwrap();
    assert_eq!(
        h.supervisor.cancel(&session, prompt.id).await,
        Err(CancelError::TooLate {
            state: MessageState::Sent
        })
    );
    assert_eq!(h.world.peer(&name, |peer| peer.wire.len()), 1);
    // A timer may be asleep until then by the old time: another message makes the sender look.
    h.clock.step(FAR);
    let another = h.submit(&name, "4", "wake up").await.message;
    h.settled(&name, another.id, MessageState::Sent).await;
    let sent = h.settled(&name, scheduled.id, MessageState::Sent).await;
    assert!(
        sent.history
            .iter()
            .any(|(state, at)| *state == MessageState::Sending && *at >= later)
    );
    h.settled(&name, expired.id, MessageState::Expired).await;
    let wire = h.world.peer(&name, |peer| peer.wire.len());
    assert_eq!(wire, 3);
}

#[tokio::test]
async fn a_repeated_request_sends_once() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let request_id = crate::domain::ids::RequestId(uuid::Uuid::from_u128(5));
    let first = h
        .submit_with(&name, "1", "hi", |s| s.request_id = request_id)
        .await;
    let second = h
        .submit_with(&name, "1", "hi", |s| s.request_id = request_id)
        .await;
    assert!(!first.replayed && second.replayed);
    assert_eq!(first.message.id, second.message.id);
    h.settled(&name, first.message.id, MessageState::Sent).await;
    assert_eq!(h.world.peer(&name, |peer| peer.wire.len()), 1);
}

#[tokio::test]
async fn a_retry_receipt_is_answered_from_the_outbox() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let sent = h.submit(&name, "1", "hi").await.message;
    h.settled(&name, sent.id, MessageState::Sent).await;
    let sink = h.world.peer(&name, |peer| peer.sink.clone()).unwrap();
    assert_eq!(
        sink.sent_message(&sent.stanza_id).await,
        Ok(Some(SentMessage {
            to: sent.to,
            encoded: sent.encoded
        }))
    );
    assert_eq!(sink.sent_message("stranger").await, Ok(None));
}

#[tokio::test]
async fn something_passing_delays_a_message_and_does_not_use_up_its_attempts() {
    let mut config = quick();
    config.outbound.max_attempts = 2;
    let h = Harness::new(config).await;
    let name = h.online("a").await;
    h.world
        .peer(&name, |peer| peer.ack = Some(AckMode::Temporary));
    let first = h.submit(&name, "1", "first").await.message;
    let second = h.submit(&name, "1", "second").await.message;
    eventually(|| async {
        match h.world.peer(&name, |peer| peer.wire.len()) {
            n if n >= 4 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    h.world.peer(&name, |peer| peer.ack = None);
    h.settled(&name, second.id, MessageState::Sent).await;
    let wire = h.world.peer(&name, |peer| peer.wire.clone());
    let (last, before) = wire.split_last().unwrap();
    assert_eq!(last.0, second.stanza_id);
    assert!(before.iter().all(|(id, _)| *id == first.stanza_id));
    assert_eq!(h.message(&name, first.id).await.state, MessageState::Sent);
}

#[tokio::test]
async fn a_message_nobody_ever_acknowledges_ends_as_unknown() {
    let mut config = quick();
    config.outbound.ack_timeout = Duration::from_millis(20);
    config.outbound.max_attempts = 3;
    let mut h = Harness::new(config).await;
    let name = h.online("a").await;
    h.world
        .peer(&name, |peer| peer.ack = Some(AckMode::Withhold));
    let poison = h.submit(&name, "1", "hi").await.message;
    h.settled(&name, poison.id, MessageState::Unknown).await;
    assert_eq!(h.world.peer(&name, |peer| peer.wire.len()), 3);
    // The session sends on, with a patience that a slow machine cannot exhaust.
    h.world.peer(&name, |peer| peer.ack = None);
    h.restart(quick()).await;
    h.reach(&name, "ONLINE").await;
    let next = h.submit(&name, "1", "next").await.message;
    h.settled(&name, next.id, MessageState::Sent).await;
}

#[tokio::test]
async fn deadlines_pass_while_nothing_can_be_sent() {
    let mut h = Harness::new(quick()).await;
    let name = h.online("a").await;
    h.supervisor.stop(&name).await.unwrap();
    h.reach(&name, "STOPPED").await;
    let now = h.clock.now();
    let short = h
        .submit_with(&name, "1", "hi", |s| s.expire_at = Some(now))
        .await
        .message;
    h.submit(&name, "2", "hi").await;
    h.restart(quick()).await;
    h.settled(&name, short.id, MessageState::Expired).await;
    let waiting = || async {
        match h
            .supervisor
            .status(&name)
            .map(|status| status.queue.waiting)
        {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    eventually(waiting).await;
}

#[tokio::test]
async fn what_the_server_locked_stays_locked_after_a_restart_and_not_after_a_new_link() {
    let mut h = Harness::new(quick()).await;
    let name = h.online("a").await;
    h.world
        .peer(&name, |peer| peer.ack = Some(AckMode::Refuse(463)));
    let locked = h.submit(&name, "2", "hi").await.message;
    h.settled(&name, locked.id, MessageState::Failed).await;
    h.restart(quick()).await;
    h.reach(&name, "ONLINE").await;
    assert!(h.supervisor.status(&name).unwrap().holds.1.is_some());
    h.supervisor.logout(&name).await.unwrap();
    h.reach(&name, "UNPAIRED").await;
    assert_eq!(h.supervisor.status(&name).unwrap().holds, (None, None));
}
