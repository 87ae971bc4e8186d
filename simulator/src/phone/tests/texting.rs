use wacore_binary::Jid;
use waproto::buffa::MessageField;
use waproto::whatsapp as wa;

use super::world::World;
use crate::phone::content::{protocol_message, shown, text_message};
use crate::phone::stanza::{attr, receipt_ids};
use crate::phone::{ChatState, ContentKind, PhoneError, ReceiptKind};

#[test]
fn a_text_arrives_once_is_acked_delivered_and_read() {
    let mut world = World::new(2, 1);
    let id = world.text(0, &world.pn(1), "hello");
    world.settle();
    let shown = &world.phone(1).inbox()[0];
    assert_eq!((shown.text.as_str(), shown.displays), ("hello", 1));
    assert_eq!(shown.kind, ContentKind::Text);
    assert_eq!(shown.pn, Some(world.pn(0)));
    assert_eq!(shown.lid, Some(world.lid(0)));
    let sent = &world.phone(0).outbox()[0];
    assert!(sent.server_acked.is_some() && sent.delivered.is_some() && sent.read.is_none());

    let (phone, net) = world.phone_mut(1);
    let receipts = phone.mark_read(std::slice::from_ref(&id), net);
    assert_eq!(receipts.len(), 1);
    assert!(
        phone.mark_read(&[id], net).is_empty(),
        "reading twice sends nothing"
    );
    for receipt in receipts {
        world.post((1, 0), &receipt);
    }
    world.settle();
    assert!(world.phone(0).outbox()[0].read.is_some());
    world.no_violations();
}

#[test]
fn the_session_ratchets_both_ways_under_both_names() {
    let mut world = World::new(2, 2);
    for round in 0..40 {
        let (from, to) = (round % 2, 1 - round % 2);
        let name = if round % 3 == 0 {
            world.pn(to)
        } else {
            world.lid(to)
        };
        world.text(from, &name, &format!("message {round}"));
        if round % 5 != 0 {
            world.settle();
        }
    }
    world.settle();
    for account in 0..2 {
        assert_eq!(world.phone(account).inbox().len(), 20);
        assert!(world.phone(account).undecryptable().is_empty());
    }
    // One session per device however it is named: a second one would have cost another prekey.
    // The first two crossed, so each side started one.
    assert!(world.net.handed_out.len() <= 2);
    world.no_violations();
}

#[test]
fn reads_are_aggregated_per_chat_and_addressing() {
    let mut world = World::new(3, 3);
    let mut ids = Vec::new();
    for text in ["a", "b", "c"] {
        ids.push(world.text(0, &world.lid(2), text));
    }
    ids.push(world.text(0, &world.pn(2), "d"));
    ids.push(world.text(1, &world.pn(2), "e"));
    world.settle();
    let (phone, net) = world.phone_mut(2);
    let receipts = phone.mark_read(&ids, net);
    let sizes: Vec<usize> = receipts
        .iter()
        .map(|receipt| receipt_ids(receipt).len())
        .collect();
    assert_eq!(sizes, [3, 1, 1]);
    for receipt in receipts {
        world.post((2, 0), &receipt);
    }
    world.settle();
    assert!(
        world
            .phone(0)
            .outbox()
            .iter()
            .all(|sent| sent.read.is_some())
    );
    assert!(
        world
            .phone(1)
            .outbox()
            .iter()
            .all(|sent| sent.read.is_some())
    );
    world.no_violations();
}

#[test]
fn a_batch_is_answered_with_one_aggregated_receipt() {
    let mut world = World::new(2, 4);
    let ids: Vec<String> = (0..4)
        .map(|n| world.text(0, &world.pn(1), &format!("{n}")))
        .collect();
    let batch: Vec<_> = world
        .wire
        .drain(..)
        .filter(|delivery| delivery.to == (1, 0))
        .map(|delivery| delivery.stanza)
        .collect();
    let (phone, net) = world.phone_mut(1);
    let sent = phone.handle_batch(&batch, net);
    assert_eq!(sent.len(), 1);
    let mut acknowledged = receipt_ids(&sent[0]);
    acknowledged.sort();
    let mut wanted = ids;
    wanted.sort();
    assert_eq!(acknowledged, wanted);
    world.post((1, 0), &sent[0]);
    world.settle();
    assert!(
        world
            .phone(0)
            .outbox()
            .iter()
            .all(|sent| sent.delivered.is_some())
    );
}

#[test]
fn companions_get_what_the_phone_sends_and_receives() {
    let mut world = World::new(2, 5);
    world.link(1, 3, 50);
    world.link(0, 7, 51);
    let id = world.text(0, &world.lid(1), "for all devices");
    world.settle();
    let (companion, _) = world.companion((1, 3));
    assert_eq!(companion.opened.len(), 1);
    assert_eq!(shown(&companion.opened[0].1).text, "for all devices");
    let to = world.lid(1).to_string();
    let (own, _) = world.companion((0, 7));
    let copy = own.opened[0]
        .1
        .device_sent_message
        .as_option()
        .expect("copy");
    assert_eq!(copy.destination_jid, Some(to));
    assert_eq!(
        shown(copy.message.as_option().expect("inner")).text,
        "for all devices"
    );
    assert_eq!(own.opened[0].0, id);
    world.no_violations();
}

#[test]
fn what_a_companion_sends_is_in_the_phones_outbox_and_answered_as_sender() {
    let mut world = World::new(2, 6);
    world.link(1, 2, 60);
    let to = world.pn(0);
    let message = text_message("from the companion", &[9; 32]);
    let copy = wacore::messages::wrap_device_sent(message.clone(), to.to_string());
    world.companion_message((1, 2), "COMPANION1", &to, &message, &copy);
    world.settle();
    let sent = &world.phone(1).outbox()[0];
    assert_eq!(
        (sent.text.as_str(), sent.via, &sent.to),
        ("from the companion", 2, &to)
    );
    assert!(
        sent.delivered.is_some(),
        "the peer's receipt reaches the phone too"
    );
    assert_eq!(world.phone(0).inbox()[0].from, world.pn(1).with_device(2));
    let sender = world
        .sent
        .iter()
        .find(|node| attr(node, "type").as_deref() == Some("sender"));
    let recipient = sender
        .and_then(|node| attr(node, "recipient"))
        .expect("sender receipt");
    assert_eq!(recipient, to.to_string());
    world.no_violations();
}

#[test]
fn inactive_receipts_are_no_second_tick() {
    let mut world = World::new(2, 7);
    let id = world.text(0, &world.pn(1), "hello");
    world.wire.clear();
    let receipt = wacore_binary::builder::NodeBuilder::new("receipt")
        .attr("from", world.pn(1).with_device(4))
        .attr("id", id.as_str())
        .attr("type", "inactive")
        .build();
    let (phone, net) = world.phone_mut(0);
    phone.handle(&receipt, net);
    let sent = &phone.outbox()[0];
    assert_eq!(sent.delivered, None);
    assert_eq!(sent.receipts[0].kind, ReceiptKind::Inactive);
}

#[test]
fn refusals_are_recorded() {
    let mut world = World::new(2, 8);
    let id = world.text(0, &world.pn(1), "hello");
    let ack = wacore_binary::builder::NodeBuilder::new("ack")
        .attr("class", "message")
        .attr("id", id.as_str())
        .attr("error", "463")
        .build();
    let (phone, net) = world.phone_mut(0);
    phone.handle(&ack, net);
    assert_eq!(phone.outbox()[0].refused.as_deref(), Some("463"));
    assert_eq!(phone.outbox()[0].server_acked, None);
}

#[test]
fn unknown_and_impossible_addressees_are_typed_errors() {
    let mut world = World::new(1, 9);
    let (phone, net) = world.phone_mut(0);
    let stranger = Jid::pn("4900000");
    assert_eq!(
        phone.send_text(&stranger, "x", net).err(),
        Some(PhoneError::UnknownUser(stranger.to_string()))
    );
    let group = Jid::group("123-456");
    assert_eq!(
        phone.send_text(&group, "x", net).err(),
        Some(PhoneError::NotAUser(group.to_string()))
    );
    assert!(phone.outbox().is_empty());
}

#[test]
fn links_travel_as_extended_text_with_the_secret() {
    let message = text_message("see https://example.org now", &[5; 32]);
    let extended = message.extended_text_message.as_option().expect("extended");
    assert_eq!(
        extended.matched_text.as_deref(),
        Some("https://example.org")
    );
    assert_eq!(
        (shown(&message).kind, shown(&message).text),
        (ContentKind::Text, "see https://example.org now".to_owned())
    );
}

#[test]
fn presence_and_chat_state_are_seen() {
    let mut world = World::new(2, 10);
    let (phone, _) = world.phone_mut(0);
    assert_eq!(
        attr(&phone.set_presence(true)[0], "name").as_deref(),
        Some("Person 0")
    );
    let to = world.lid(1);
    let (phone, _) = world.phone_mut(0);
    for stanza in phone.chatstate(&to, ChatState::Recording) {
        world.post((0, 0), &stanza);
    }
    world.settle();
    let presence = wacore_binary::builder::NodeBuilder::new("presence")
        .attr("from", world.pn(0))
        .build();
    let from = world.pn(0);
    let (phone, net) = world.phone_mut(1);
    phone.handle(&presence, net);
    let seen = phone.presence_of(&from, net).expect("seen");
    assert!(seen.available);
    assert_eq!(seen.typing.as_deref(), Some("recording"));
}

#[test]
fn the_same_seed_and_calls_give_the_same_bytes() {
    let run = |seed| {
        let mut world = World::new(2, seed);
        world.link(0, 1, 77);
        for n in 0..5 {
            world.text(0, &world.pn(1), &format!("{n}"));
            world.settle();
            world.text(1, &world.lid(0), &format!("re {n}"));
            world.settle();
        }
        world
            .sent
            .iter()
            .map(|node| wacore_binary::marshal(node).expect("marshal"))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

/// What a companion sends when it could not open `id` of `chat`.
fn placeholder_request(chat: &Jid, id: &str) -> wa::Message {
    use wa::message::PeerDataOperationRequestMessage as Request;
    use wa::message::peer_data_operation_request_message::PlaceholderMessageResendRequest;
    protocol_message(wa::message::ProtocolMessage {
        r#type: Some(wa::message::protocol_message::Type::PEER_DATA_OPERATION_REQUEST_MESSAGE),
        peer_data_operation_request_message: MessageField::some(Request {
            peer_data_operation_request_type: Some(
                wa::message::PeerDataOperationRequestType::PLACEHOLDER_MESSAGE_RESEND,
            ),
            placeholder_message_resend_request: vec![PlaceholderMessageResendRequest {
                message_key: MessageField::some(wa::MessageKey {
                    remote_jid: Some(chat.to_string()),
                    from_me: Some(false),
                    id: Some(id.to_owned()),
                    participant: None,
                }),
            }],
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// Reads the phone's answer: the request it belongs to, the chat, the id and the text.
fn placeholder_answer(message: &wa::Message) -> (String, String, String, String) {
    let protocol = message.protocol_message.as_option().expect("protocol");
    let response = protocol
        .peer_data_operation_request_response_message
        .as_option()
        .expect("response");
    let bytes = response.peer_data_operation_result[0]
        .placeholder_message_resend_response
        .as_option()
        .and_then(|resend| resend.web_message_info_bytes.clone())
        .expect("bytes");
    let info = waproto::codec::web_message_info_decode(&bytes).expect("info");
    let key = info.key.as_option().expect("key");
    (
        response.stanza_id.clone().expect("request"),
        key.remote_jid.clone().expect("chat"),
        key.id.clone().expect("id"),
        shown(info.message.as_option().expect("message")).text,
    )
}

#[test]
fn a_companion_gets_messages_it_could_not_open_from_its_phone() {
    let mut world = World::new(2, 14);
    world.link(1, 1, 91);
    let id = world.text(0, &world.pn(1), "lost on the companion");
    world.settle();
    let request = placeholder_request(&world.lid(0), &id);
    world.peer_request((1, 1), "REQUEST1", &request);
    // Wrapped as some clients do.
    let wrapped = wacore::messages::wrap_device_sent(request, world.pn(1).to_string());
    world.peer_request((1, 1), "REQUEST2", &wrapped);
    world.settle();
    let chat = world.pn(0).to_string();
    let (companion, _) = world.companion((1, 1));
    for (position, request) in [(1, "REQUEST1"), (2, "REQUEST2")] {
        let answer = placeholder_answer(&companion.opened[position].1);
        let text = "lost on the companion".to_owned();
        assert_eq!(answer, (request.to_owned(), chat.clone(), id.clone(), text));
    }
    world.no_violations();
}

#[test]
fn a_request_for_a_message_under_way_is_answered_when_it_arrives() {
    let mut world = World::new(2, 15);
    world.link(1, 1, 92);
    let id = world.text(0, &world.pn(1), "late");
    let late: Vec<_> = world.wire.drain(..).collect();
    let request = placeholder_request(&world.lid(0), &id);
    world.peer_request((1, 1), "REQUEST", &request);
    world.settle();
    assert!(world.companion((1, 1)).0.opened.is_empty());
    for delivery in late.iter().filter(|delivery| delivery.to == (1, 0)) {
        world.deliver(delivery);
    }
    world.settle();
    let (companion, _) = world.companion((1, 1));
    assert_eq!(companion.opened.len(), 1);
    assert_eq!(placeholder_answer(&companion.opened[0].1).3, "late");
    world.no_violations();
}
