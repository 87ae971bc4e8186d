//! The way of each message, in the log: from these lines alone it can be told what became of it.
//!
//! One target at INFO, so that an operator can do without them (`trunkline::path=off`). They carry ids, and
//! nothing of what a message says or of whom it is from.

use super::apply::{Applied, Change};
use super::journal::Appended;
use super::session::SessionStore;
use crate::domain::event::Payload;
use crate::domain::ids::SessionName;
use crate::domain::message::OutboundMessage;

/// The target of these lines.
pub const PATH: &str = "trunkline::path";

/// Tells what durable changes mean for messages.
pub(super) fn tell(session: &SessionStore, changes: &[Change], applied: &[Applied]) {
    if !tracing::enabled!(target: PATH, tracing::Level::INFO) {
        return;
    }
    let name = session.name();
    for (change, applied) in changes.iter().zip(applied) {
        tell_one(&name, change, applied);
    }
}

fn tell_one(session: &SessionName, change: &Change, applied: &Applied) {
    match (change, applied) {
        (Change::Event(event), Applied::Event(appended)) => {
            arrived(session, &event.payload, appended);
        }
        (_, Applied::Receipt { moved, .. }) => {
            for (message, event) in moved {
                moved_on(session, message, event);
            }
        }
        (_, Applied::Message { message, event }) => moved_on(session, message, event),
        _ => {}
    }
}

fn arrived(session: &SessionName, payload: &Payload, appended: &Appended) {
    let (stanza_id, readable) = match payload {
        Payload::Message { message, .. } => (&message.stanza_id, true),
        Payload::Undecryptable { stanza_id, .. } => (stanza_id, false),
        _ => return,
    };
    tracing::info!(
        target: PATH,
        workspace = %session.workspace,
        session = %session.session,
        stanza_id,
        event_id = %appended.event_id,
        revision = appended.revision,
        readable,
        duplicate = appended.duplicate,
        "message received"
    );
}

fn moved_on(session: &SessionName, message: &OutboundMessage, event: &Appended) {
    let reason = message.failure.as_ref().map(|failure| &*failure.reason);
    tracing::info!(
        target: PATH,
        workspace = %session.workspace,
        session = %session.session,
        message_id = %message.id,
        stanza_id = message.stanza_id,
        state = message.state.name(),
        attempts = message.attempts,
        reason,
        event_id = %event.event_id,
        revision = event.revision,
        "message moved"
    );
}
