//! What a new companion is told of the time before it.

use wacore::download::{DownloadUtils, MediaType};
use waproto::whatsapp as wa;

use super::world::World;
use crate::phone::Net as _;
use crate::phone::stanza::attr;

#[test]
fn the_app_state_key_and_history_reach_a_new_companion() {
    let mut world = World::new(1, 13);
    world.link(0, 1, 90);
    let (phone, net) = world.phone_mut(0);
    let key = phone.app_state_key().1.to_vec();
    let (_, share) = phone.share_app_state_key(1, net).expect("share");
    let history = phone.initial_history(1, net);
    assert!(phone.share_app_state_key(2, net).is_none(), "not linked");
    assert!(phone.initial_history(2, net).is_empty(), "not linked");
    assert_eq!(attr(&share, "category").as_deref(), Some("peer"));
    world.post((0, 0), &share);
    for (_, stanza) in history {
        world.post((0, 0), &stanza);
    }
    world.settle();
    let (companion, _) = world.companion((0, 1));
    assert_eq!(companion.opened.len(), 3);
    let protocol = companion.opened[0]
        .1
        .protocol_message
        .as_option()
        .expect("protocol");
    let share = protocol
        .app_state_sync_key_share
        .as_option()
        .expect("share");
    let data = share.keys[0].key_data.as_option().expect("data");
    assert_eq!(data.key_data, Some(key));
    let bootstrap = chunk(&companion.opened[1].1, None);
    assert_eq!(bootstrap.pushnames[0].pushname.as_deref(), Some("Person 0"));
    assert!(bootstrap.conversations.is_empty());
}

/// The chunk of history that a message announces: within it, or `blob` from the media host.
fn chunk(message: &wa::Message, blob: Option<&[u8]>) -> wa::HistorySync {
    let protocol = message.protocol_message.as_option().expect("protocol");
    let notification = protocol
        .history_sync_notification
        .as_option()
        .expect("history");
    let zlib = match blob {
        None => notification
            .initial_hist_bootstrap_inline_payload
            .clone()
            .expect("inline"),
        Some(blob) => {
            let key = notification.media_key.as_deref().expect("key");
            DownloadUtils::verify_and_decrypt(blob, key, MediaType::History).expect("a blob")
        }
    };
    // One stored block: 2 bytes of header, 5 of block header, 4 of checksum.
    let inner = &zlib[7..zlib.len() - 4];
    waproto::codec::history_sync_decode(inner).expect("history")
}

#[test]
fn what_was_said_before_a_companion_was_linked_is_in_its_history() {
    let mut world = World::new(2, 13);
    let mut said = Vec::new();
    for n in 0..13 {
        let (from, to) = if n % 3 == 0 { (0, 1) } else { (1, 0) };
        said.push((from == 0, format!("text {n}")));
        world.text(from, &world.pn(to), &format!("text {n}"));
        world.settle();
    }
    world.link(0, 1, 90);
    let (phone, net) = world.phone_mut(0);
    let history = phone.initial_history(1, net);
    for (_, stanza) in history {
        world.post((0, 0), &stanza);
    }
    world.settle();
    let opened: Vec<wa::Message> = {
        let (companion, _) = world.companion((0, 1));
        companion.opened.iter().map(|(_, m)| m.clone()).collect()
    };
    let [bootstrap, recent] = &opened[..] else {
        panic!("{} chunks", opened.len());
    };
    let path = {
        let protocol = recent.protocol_message.as_option().expect("protocol");
        let notification = protocol.history_sync_notification.as_option();
        notification
            .and_then(|it| it.direct_path.clone())
            .expect("a path")
    };
    let (_, net) = world.phone_mut(0);
    let blob = net.media(&path).expect("on the media host");
    let chunks = [chunk(bootstrap, None), chunk(recent, Some(&blob))];
    let read: Vec<(bool, String)> = chunks
        .iter()
        .flat_map(|chunk| {
            let [chat] = &chunk.conversations[..] else {
                panic!("one chat");
            };
            chat.messages.iter()
        })
        .map(|message| {
            let message = message.message.as_option().expect("message");
            let key = message.key.as_option().expect("key");
            let text = message
                .message
                .as_option()
                .and_then(|m| m.conversation.clone());
            (key.from_me.expect("whose"), text.expect("text"))
        })
        .collect();
    said.reverse();
    assert_eq!(read, said, "the newest first");
    assert_eq!(chunks[0].conversations[0].messages.len(), 10);
}

#[test]
fn a_group_is_in_the_history_by_its_subject_and_with_its_members() {
    let mut world = World::new(3, 13);
    world.net.group = vec![0, 1, 2];
    world.group_text(1, "hello all");
    world.settle();
    world.link(0, 1, 90);
    let (phone, net) = world.phone_mut(0);
    let history = phone.initial_history(1, net);
    for (_, stanza) in history {
        world.post((0, 0), &stanza);
    }
    world.settle();
    let (companion, _) = world.companion((0, 1));
    let bootstrap = chunk(&companion.opened[0].1, None);
    let [chat] = &bootstrap.conversations[..] else {
        panic!("{} chats", bootstrap.conversations.len());
    };
    assert_eq!(chat.name.as_deref(), Some("Everybody"));
    assert_eq!(chat.participant.len(), 3);
}
