//! A message sent from here: queued → sending → sent → delivered → read, or why not.

use super::Story;
use crate::cli::exit::Failure;
use crate::cli::target::Daemon;
use crate::cli::{session, words};
use crate::pb;

/// The story of an outbound message.
pub(super) async fn tell(daemon: &Daemon, message: &pb::Message) -> Result<Story, Failure> {
    let parent = message.name.split("/messages/").next().unwrap_or_default();
    Ok(story(message, &session::get(daemon, parent).await?))
}

/// The same, from what was read.
fn story(message: &pb::Message, session: &pb::Session) -> Story {
    let mut story = Story::default();
    let to = words::person(message.to.as_ref());
    story.add(
        words::moment(message.create_time.as_ref()),
        "accepted",
        format!("stored for {to}, stanza id {}", message.stanza_id),
    );
    for reached in &message.history {
        story.add(
            words::moment(reached.time.as_ref()),
            words::message_state(reached.state()).to_lowercase(),
            match reached.state() {
                pb::MessageState::Sending => "handed to the connection",
                pb::MessageState::Sent => "WhatsApp's server accepted it",
                pb::MessageState::Delivered => "on a device of the recipient",
                pb::MessageState::Read => "the recipient opened it",
                pb::MessageState::Played => "the recipient played it",
                _ => "",
            },
        );
    }
    story.verdict = verdict(message, session);
    story
}

/// Where the message is and why it is not further.
fn verdict(message: &pb::Message, session: &pb::Session) -> String {
    use pb::MessageState as State;
    match message.state() {
        State::Queued => format!("It is waiting to be sent: {}.", waiting(message, session)),
        State::Sending => format!(
            "It was handed to WhatsApp {} time(s) and the server has not answered; the same message is sent again when the connection is renewed. The session is {}.",
            message.attempts,
            connection(session)
        ),
        State::Sent => "WhatsApp accepted it, and no device of the recipient has confirmed it: their phone is off, without network, or they blocked this number.".to_owned(),
        State::Delivered => "It is on the recipient's phone; they have not opened it, or do not send read receipts.".to_owned(),
        State::Read | State::Played => "The recipient has seen it.".to_owned(),
        State::Failed => format!("It was refused: {}.", refusal(message.failure.as_ref())),
        State::Expired => "It was not sent in time (expire_at) and is not sent any more.".to_owned(),
        State::Canceled => "It was cancelled before it was sent.".to_owned(),
        State::Unknown => "It was on its way when the connection broke, and may not be sent again: it may or may not have arrived. Ask the recipient.".to_owned(),
        State::Unspecified => "The daemon names a state that this program does not know; it may be older than the daemon.".to_owned(),
    }
}

/// What a queued message waits for.
fn waiting(message: &pb::Message, session: &pb::Session) -> String {
    let state = session.connection.as_ref().map(pb::Connection::state);
    if state != Some(pb::ConnectionState::Online) {
        return format!("the session is {}", connection(session));
    }
    match &message.send_after {
        Some(after) => format!(
            "not before {}; after that in its turn",
            words::moment(Some(after))
        ),
        None => "the session is online; earlier messages, the pace of [pacing] or a limit of WhatsApp come first (trunkline events --type signal)".to_owned(),
    }
}

/// A session's connection in words, with its reason.
pub(super) fn connection(session: &pb::Session) -> String {
    let detail = words::connection_detail(session);
    let state = words::connection(session);
    if detail.is_empty() {
        state
    } else {
        format!("{state} ({detail})")
    }
}

fn refusal(failure: Option<&pb::MessageFailure>) -> String {
    let Some(failure) = failure else {
        return "no reason was given".to_owned();
    };
    let meaning = match failure.reason.as_str() {
        "REACHOUT_TIMELOCK" => {
            "WhatsApp does not let this number open new conversations for a while"
        }
        "NOT_ON_WHATSAPP" => "the recipient is not on WhatsApp",
        "NOT_IN_GROUP" => "this number is not a member of the group",
        "RATE_LIMITED" => "WhatsApp limits how much this number may send now",
        "ACCOUNT_CHANGED" => {
            "it was accepted while another number was linked to this session, and goes out from no other"
        }
        "SERVER_REFUSED" => "WhatsApp's server refused it",
        _ => "",
    };
    let code = failure
        .code
        .map(|code| format!(" {code}"))
        .unwrap_or_default();
    if meaning.is_empty() {
        format!("{}{code}", failure.reason)
    } else {
        format!("{meaning} ({}{code})", failure.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(state: pb::ConnectionState) -> pb::Session {
        pb::Session {
            connection: Some(pb::Connection {
                state: state.into(),
                ..pb::Connection::default()
            }),
            ..pb::Session::default()
        }
    }

    fn message(state: pb::MessageState) -> pb::Message {
        pb::Message {
            state: state.into(),
            ..pb::Message::default()
        }
    }

    #[test]
    fn a_queued_message_says_what_it_waits_for() {
        let queued = message(pb::MessageState::Queued);
        let offline = verdict(&queued, &session(pb::ConnectionState::LoggedOut));
        assert!(offline.contains("the session is LOGGED_OUT"), "{offline}");
        let online = verdict(&queued, &session(pb::ConnectionState::Online));
        assert!(online.contains("pace"), "{online}");
    }

    #[test]
    fn a_refusal_is_said_in_words_and_with_its_code() {
        let mut failed = message(pb::MessageState::Failed);
        failed.failure = Some(pb::MessageFailure {
            reason: "REACHOUT_TIMELOCK".into(),
            code: Some(463),
        });
        let said = verdict(&failed, &session(pb::ConnectionState::Online));
        assert!(said.contains("new conversations"), "{said}");
        assert!(said.contains("REACHOUT_TIMELOCK 463"), "{said}");
    }

    #[test]
    fn every_state_has_a_verdict_of_its_own() {
        let session = session(pb::ConnectionState::Online);
        let said: std::collections::BTreeSet<String> = (0..=10)
            .filter_map(|number| pb::MessageState::try_from(number).ok())
            .map(|state| verdict(&message(state), &session))
            .collect();
        // READ and PLAYED share one.
        assert_eq!(said.len(), 10);
    }
}
