//! Everything that is neither a message nor a receipt: calls, groups, presence, account data.

use serde::Serialize;
use sha2::{Digest, Sha256};
use wacore::types::call::{CallEndedElsewhere, IncomingCall, MissedCall};
use wacore::types::events::{ChatPresenceUpdate, Event, GroupUpdate, PresenceUpdate};
use wacore::types::presence::{ChatPresence, ChatPresenceMedia};
use wacore_binary::{Jid, Node, NodeValue};

use super::super::mappings::Mappings;
use super::person::person;
use super::time;
use crate::domain::clock::Timestamp;
use crate::domain::event::{DedupKey, NewEvent, Payload};
use crate::domain::person::Person;
use crate::provider::contract::Arrival;

fn arrival(at: Timestamp, payload: Payload, dedup: DedupKey) -> Arrival {
    Arrival::Event(NewEvent {
        at,
        payload,
        dedup: Some(dedup),
    })
}

fn call_arrival(
    from: &Jid,
    call_id: &str,
    action: &str,
    at: Timestamp,
    now: Timestamp,
    mappings: &Mappings,
) -> Arrival {
    let from = person(from, None, mappings);
    let dedup = DedupKey {
        chat: from.canonical().to_owned(),
        sender: from.canonical().to_owned(),
        stanza_id: call_id.to_owned(),
        kind: format!("call/{action}"),
    };
    let payload = Payload::Call {
        from,
        call_id: call_id.to_owned(),
        action: action.to_owned(),
        at,
    };
    arrival(now, payload, dedup)
}

/// A call; `None` for signalling that happens within one.
pub(in super::super) fn call(
    call: &IncomingCall,
    mappings: &Mappings,
    now: Timestamp,
) -> Option<Arrival> {
    let action = call.action.wire_tag();
    let told = matches!(
        action,
        "offer" | "offer_notice" | "preaccept" | "accept" | "reject" | "terminate"
    );
    told.then(|| {
        let creator = call.action.call_creator();
        let caller = if creator.user.is_empty() {
            &call.from
        } else {
            creator
        };
        let at = time(call.timestamp);
        call_arrival(caller, call.action.call_id(), action, at, now, mappings)
    })
}

/// A call that came while we were away.
pub(in super::super) fn missed_call(
    call: &MissedCall,
    mappings: &Mappings,
    now: Timestamp,
) -> Arrival {
    let at = time(call.timestamp);
    call_arrival(&call.from, &call.call_id, "missed", at, now, mappings)
}

/// A call that another of the account's devices took or refused.
pub(in super::super) fn call_elsewhere(
    call: &CallEndedElsewhere,
    mappings: &Mappings,
    now: Timestamp,
) -> Arrival {
    let at = time(call.timestamp);
    call_arrival(&call.from, &call.call_id, "elsewhere", at, now, mappings)
}

/// A change of a group.
pub(in super::super) fn group(
    update: &GroupUpdate,
    mappings: &Mappings,
    now: Timestamp,
) -> Arrival {
    use wacore::stanza::groups::GroupNotificationAction as Action;
    let group = person(&update.group_jid, None, mappings);
    let actor = update
        .participant
        .as_ref()
        .map(|jid| person(jid, update.participant_pn.as_ref(), mappings));
    let participants = match &update.action {
        Action::Add { participants, .. }
        | Action::Remove { participants, .. }
        | Action::Promote { participants }
        | Action::Demote { participants }
        | Action::Modify { participants } => participants
            .iter()
            .map(|p| person(&p.jid, p.phone_number.as_ref(), mappings))
            .collect(),
        Action::Create { raw } => members(raw, mappings),
        _ => Vec::new(),
    };
    let subject = match &update.action {
        Action::Subject { subject, .. } => Some(subject.clone()),
        Action::Create { raw } => raw
            .get_optional_child("group")
            .and_then(|group| group.attrs.get("subject"))
            .map(|subject| subject.as_str().into_owned()),
        _ => None,
    };
    let change = update.action.wire_tag().to_string();
    let stanza = match &update.notification_id {
        Some(id) => format!("{id}/{}", update.action_index),
        None => format!("{}/{}", time(update.timestamp).0, update.action_index),
    };
    let dedup = DedupKey {
        chat: group.canonical().to_owned(),
        sender: actor
            .as_ref()
            .map(|actor| actor.canonical().to_owned())
            .unwrap_or_default(),
        stanza_id: stanza,
        kind: format!("group/{change}"),
    };
    let payload = Payload::GroupChange {
        group,
        actor,
        change,
        participants,
        subject,
    };
    arrival(now, payload, dedup)
}

/// Everybody in a group that was created, or that this account was taken into.
fn members(create: &Node, mappings: &Mappings) -> Vec<Person> {
    let group = create.get_optional_child("group");
    let listed = group
        .into_iter()
        .flat_map(|group| group.get_children_by_tag("participant"));
    listed
        .filter_map(|member| {
            let jid = |key| member.attrs.get(key).and_then(NodeValue::to_jid);
            let number = jid("phone_number");
            Some(person(&jid("jid")?, number.as_ref(), mappings))
        })
        .collect()
}

/// Somebody came or went. Not repeated by the server, hence no dedup.
pub(in super::super) fn presence(
    update: &PresenceUpdate,
    mappings: &Mappings,
    now: Timestamp,
) -> Arrival {
    let state = if update.unavailable {
        "unavailable"
    } else {
        "available"
    };
    let payload = Payload::Presence {
        from: person(&update.from, None, mappings),
        chat: None,
        state: state.into(),
    };
    Arrival::Event(NewEvent {
        at: now,
        payload,
        dedup: None,
    })
}

/// Somebody types, or stopped.
pub(in super::super) fn typing(
    update: &ChatPresenceUpdate,
    mappings: &Mappings,
    now: Timestamp,
) -> Arrival {
    let state = match (&update.state, &update.media) {
        (ChatPresence::Composing, ChatPresenceMedia::Audio) => "recording",
        (ChatPresence::Composing, ChatPresenceMedia::Text) => "composing",
        (ChatPresence::Paused, _) => "paused",
    };
    let source = &update.source;
    let payload = Payload::Presence {
        from: person(&source.sender, source.sender_alt.as_ref(), mappings),
        chat: Some(person(&source.chat, None, mappings)),
        state: state.into(),
    };
    Arrival::Event(NewEvent {
        at: now,
        payload,
        dedup: None,
    })
}

/// A phone number and a LID turned out to be the same person.
pub(in crate::provider::multidevice) fn mapping(known: Person, now: Timestamp) -> Arrival {
    let dedup = DedupKey {
        chat: known.lid.clone().unwrap_or_default(),
        sender: known.pn_jid.clone().unwrap_or_default(),
        stanza_id: String::new(),
        kind: "contact-mapping".into(),
    };
    arrival(now, Payload::ContactMapping { person: known }, dedup)
}

/// Account data that changed elsewhere, as JSON in the provider's words.
///
/// Recognised by its content, time included: when everything is synchronised again after an unclean
/// stop, only what was not journalled before becomes an event.
fn account_data<T: Serialize>(kind: &str, value: &T, now: Timestamp) -> Option<Arrival> {
    account_data_of("", kind, value, now)
}

/// The same for data without a time of its own, told apart by the stanza that brought it: a name can
/// change back and forth.
fn account_data_of<T: Serialize>(
    stanza_id: &str,
    kind: &str,
    value: &T,
    now: Timestamp,
) -> Option<Arrival> {
    let mut json = serde_json::to_value(value).ok()?;
    if let Some(object) = json.as_object_mut() {
        // How it came is not part of what changed.
        object.remove("from_full_sync");
        object.remove("message");
    }
    let json = json.to_string();
    let dedup = DedupKey {
        chat: String::new(),
        sender: stanza_id.to_owned(),
        stanza_id: hex::encode(Sha256::digest(json.as_bytes())),
        kind: format!("account-data/{kind}"),
    };
    let payload = Payload::AccountData {
        kind: kind.to_owned(),
        json,
    };
    Some(arrival(now, payload, dedup))
}

/// A contact's keys changed. It carries neither a time nor an id, and the second change matters as much
/// as the first: told twice is better than not told.
fn identity_change<T: Serialize>(value: &T, now: Timestamp) -> Option<Arrival> {
    let mut arrival = account_data("identity_change", value, now);
    if let Some(Arrival::Event(event)) = &mut arrival {
        event.dedup = None;
    }
    arrival
}

/// Events that report account data or a contact's profile, by name.
pub(in super::super) fn data(event: &Event, now: Timestamp) -> Option<Arrival> {
    match event {
        Event::ContactUpdate(it) => account_data("contact", it, now),
        Event::PinUpdate(it) => account_data("pin", it, now),
        Event::MuteUpdate(it) => account_data("mute", it, now),
        Event::ArchiveUpdate(it) => account_data("archive", it, now),
        Event::StarUpdate(it) => account_data("star", it, now),
        Event::MarkChatAsReadUpdate(it) => account_data("mark_chat_as_read", it, now),
        Event::DeleteChatUpdate(it) => account_data("delete_chat", it, now),
        Event::ClearChatUpdate(it) => account_data("clear_chat", it, now),
        Event::UserStatusMuteUpdate(it) => account_data("user_status_mute", it, now),
        Event::DeleteMessageForMeUpdate(it) => account_data("delete_message_for_me", it, now),
        Event::LabelEditUpdate(it) => account_data("label_edit", it, now),
        Event::LabelAssociationUpdate(it) => account_data("label_association", it, now),
        Event::PushNameUpdate(it) => account_data_of(&it.message.id, "push_name", it, now),
        Event::SelfPushNameUpdated(it) => account_data("self_push_name", it, now),
        Event::PictureUpdate(it) => account_data("picture", it, now),
        Event::UserAboutUpdate(it) => account_data("about", it, now),
        Event::ContactUpdated(it) => account_data("contact_profile", it, now),
        Event::ContactNumberChanged(it) => account_data("contact_number", it, now),
        Event::IdentityChange(it) => identity_change(it, now),
        Event::BusinessStatusUpdate(it) => account_data("business_status", it, now),
        Event::DisappearingModeChanged(it) => account_data("disappearing_mode", it, now),
        Event::NewsletterLiveUpdate(it) => account_data("newsletter_live_update", it, now),
        Event::MexNotification(it) => account_data("mex", it, now),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use wacore::types::events::{MuteUpdate, SelfPushNameUpdated};
    use whatsapp_rust::wacore::chrono::DateTime;

    use super::*;

    fn mute(seconds: i64, from_full_sync: bool) -> Event {
        Event::MuteUpdate(
            MuteUpdate::builder()
                .jid("15551234567@s.whatsapp.net".parse().unwrap())
                .timestamp(DateTime::from_timestamp(seconds, 0).unwrap())
                .action(Box::default())
                .from_full_sync(from_full_sync)
                .build(),
        )
    }

    fn key(event: &Event) -> DedupKey {
        match data(event, Timestamp(1)).unwrap() {
            Arrival::Event(event) => event.dedup.unwrap(),
            Arrival::Receipt { .. } => panic!("a receipt"),
        }
    }

    #[test]
    fn a_resync_repeats_what_is_known_under_the_same_key() {
        assert_eq!(key(&mute(100, false)), key(&mute(100, true)));
        assert_ne!(
            key(&mute(100, false)),
            key(&mute(200, false)),
            "muted again later is another event"
        );
    }

    #[test]
    fn each_kind_is_named() {
        let name = Event::SelfPushNameUpdated(
            SelfPushNameUpdated::builder()
                .from_server(true)
                .old_name("a".into())
                .new_name("b".into())
                .build(),
        );
        let Some(Arrival::Event(event)) = data(&name, Timestamp(1)) else {
            panic!("nothing");
        };
        let Payload::AccountData { kind, json } = event.payload else {
            panic!("not account data");
        };
        assert_eq!(kind, "self_push_name");
        assert!(json.contains("\"new_name\":\"b\""), "{json}");
    }

    #[test]
    fn calls_are_recognised_by_id_and_action() {
        let call = MissedCall::new(
            "15551234567@s.whatsapp.net".parse().unwrap(),
            "CALL1".into(),
            DateTime::from_timestamp(100, 0).unwrap(),
            wacore::types::call::MissedReason::Offline,
        );
        let Arrival::Event(event) = missed_call(&call, &Mappings::new(16), Timestamp(1)) else {
            panic!("not an event");
        };
        assert_eq!(event.dedup.unwrap().kind, "call/missed");
    }
}
