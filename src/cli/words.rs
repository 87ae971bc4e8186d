//! API values in words for tables.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::config::duration;
use crate::pb;

/// The last part of a resource name.
pub(crate) fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// An enum's value without its prefix: `CONNECTION_STATE_ONLINE` is `ONLINE`.
pub(crate) fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// A person by the most telling name known.
pub(crate) fn person(person: Option<&pb::Person>) -> String {
    person
        .and_then(|person| {
            person
                .phone
                .clone()
                .or_else(|| person.pn_jid.clone())
                .or_else(|| person.lid.clone())
                .or_else(|| person.provider_id.clone())
        })
        .unwrap_or_else(|| "-".to_owned())
}

/// How long ago a moment was, in its two largest units.
#[allow(
    clippy::disallowed_methods,
    reason = "ages are shown to a person at this terminal, nothing depends on them"
)]
pub(crate) fn ago(time: Option<&Timestamp>) -> String {
    let Some(then) = time.and_then(|time| SystemTime::try_from(*time).ok()) else {
        return "-".to_owned();
    };
    match SystemTime::now().duration_since(then) {
        Ok(age) if age < Duration::from_secs(1) => "now".to_owned(),
        Ok(age) => format!("{} ago", coarse(age)),
        Err(_) => "now".to_owned(),
    }
}

/// A moment as clocks show it, in UTC and to the second.
pub(crate) fn moment(time: Option<&Timestamp>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| {
            Timestamp {
                seconds: time.seconds,
                nanos: 0,
            }
            .to_string()
        },
    )
}

/// A duration without the units nobody wants to read.
fn coarse(age: Duration) -> String {
    let seconds = age.as_secs();
    let unit = match seconds {
        0..3_600 => 1,
        3_600..172_800 => 60,
        _ => 3_600,
    };
    duration::format(Duration::from_secs(seconds - seconds % unit))
}

/// The connection's state.
pub(crate) fn connection(session: &pb::Session) -> String {
    let state = session
        .connection
        .as_ref()
        .map(pb::Connection::state)
        .unwrap_or_default();
    short(state.as_str_name(), "CONNECTION_STATE_").to_owned()
}

/// Whether the credentials are good.
pub(crate) fn login(session: &pb::Session) -> String {
    short(session.login().as_str_name(), "LOGIN_STATE_").to_owned()
}

/// What else there is to know about the connection: when it goes on, why it ended.
pub(crate) fn connection_detail(session: &pb::Session) -> String {
    let Some(connection) = &session.connection else {
        return String::new();
    };
    let mut parts = Vec::new();
    if connection.attempt > 0 {
        parts.push(format!("attempt {}", connection.attempt));
    }
    if connection.until.is_some() {
        parts.push(format!("until {}", moment(connection.until.as_ref())));
    }
    if let Some(reason) = &connection.cause {
        parts.push(cause(reason));
    }
    parts.join(", ")
}

/// Why a connection ended.
pub(crate) fn cause(cause: &pb::Cause) -> String {
    let mut text = short(cause.kind().as_str_name(), "CAUSE_KIND_")
        .to_lowercase()
        .replace('_', " ");
    if let Some(code) = cause.code {
        let _ = write!(text, " {code}");
    }
    if !cause.detail.is_empty() {
        let _ = write!(text, " ({})", cause.detail);
    }
    text
}

/// A message's state.
pub(crate) fn message_state(state: pb::MessageState) -> &'static str {
    short(state.as_str_name(), "MESSAGE_STATE_")
}

/// What a message says, in its own words: show it through [`one_line`].
pub(crate) fn content(content: Option<&pb::Content>) -> String {
    use pb::content::Content;
    match content.and_then(|content| content.content.as_ref()) {
        Some(Content::Text(text)) => text.text.clone(),
        Some(Content::Reaction(reaction)) => {
            format!(
                "reacted {} to {}",
                reaction.emoji, reaction.target_stanza_id
            )
        }
        Some(Content::Edit(edit)) => {
            format!("edited {}: {}", edit.target_stanza_id, edit.text)
        }
        Some(Content::Revoke(revoke)) => format!("deleted {}", revoke.target_stanza_id),
        Some(Content::Media(media)) => file(media),
        Some(Content::Other(other)) => format!("[{}]", other.type_name),
        None => "[empty]".to_owned(),
    }
}

/// A file: what it is, its size, and what was said of it.
fn file(media: &pb::MediaContent) -> String {
    let kind = short(media.kind().as_str_name(), "MEDIA_KIND_").to_lowercase();
    let mut text = format!("[{kind}, {} bytes]", media.size);
    for said in [&media.file_name, &media.caption].into_iter().flatten() {
        text.push(' ');
        text.push_str(said);
    }
    text
}

/// Text from strangers, without line breaks and without characters that steer terminals.
pub(crate) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if steers(c) { ' ' } else { c })
        .collect()
}

/// Control characters, and those that turn the direction of the text around them.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_steer_the_terminal() {
        assert_eq!(one_line("hi\n\u{1b}[2Jthere"), "hi  [2Jthere");
        assert_eq!(one_line("a\u{202e}b\u{2029}c"), "a b c");
    }

    #[test]
    fn ages_have_no_needless_units() {
        for (seconds, want) in [(5, "5s"), (65, "1m5s"), (3_725, "1h2m"), (200_000, "2d7h")] {
            assert_eq!(coarse(Duration::from_secs(seconds)), want);
        }
    }
}
