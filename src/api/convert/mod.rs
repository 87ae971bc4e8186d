//! Between the domain's words and the API's. Total from the domain to the API: nothing is lost.

mod event;
mod group;
mod message;
mod session;

pub(super) use event::{event, event_type, read_event_types};
pub(super) use group::group;
pub(super) use message::{
    content, kind_name, media, message, read_chat, read_kind, read_priority, read_recipient,
    read_states, state, uploaded,
};
pub(super) use session::session;

use crate::domain::clock::Timestamp;
use crate::domain::person::Person;
use crate::domain::workspace::Workspace;
use crate::pb;

/// A moment.
pub(super) fn moment(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(at.secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0 % 1_000).unwrap_or_default() * 1_000_000,
    }
}

/// A span.
pub(super) fn span(span: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or_default(),
    }
}

/// A person or group.
pub(super) fn person(person: &Person) -> pb::Person {
    pb::Person {
        phone: person.phone.clone(),
        pn_jid: person.pn_jid.clone(),
        lid: person.lid.clone(),
        provider_id: person.provider_id.clone(),
    }
}

/// A workspace.
pub(super) fn workspace(workspace: Workspace) -> pb::Workspace {
    pb::Workspace {
        name: workspace.id.name(),
        display_name: workspace.display_name,
        create_time: Some(moment(workspace.created_at)),
        etag: workspace.etag,
        full: workspace.full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_keep_their_milliseconds() {
        let at = moment(Timestamp(1_700_000_000_123));
        assert_eq!((at.seconds, at.nanos), (1_700_000_000, 123_000_000));
    }
}
