//! What goes out on request: messages, read receipts, probes, the logout.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;
use wacore::iq::keepalive::KeepaliveSpec;
use wacore_binary::{Jid, JidExt as _};
use whatsapp_rust::send::SendOptions;
use whatsapp_rust::{Client, IqError};

use super::client::{Built, Parts};
use super::convert::person::address;
use crate::domain::message::OutboundMessage;
use crate::domain::person::Person;
use crate::domain::session::Cause;
use crate::provider::contract::{ProbeError, SendError};

/// What the server answers about a group to whoever is not in it.
const FORBIDDEN: u16 = 403;
/// What it answers about a group that does not exist.
const NO_SUCH_GROUP: u16 = 404;
/// How long a send may take: it may have to look up devices and fetch prekeys first.
const SEND_PATIENCE: Duration = Duration::from_mins(1);

/// Hands a stored message to the wire under its stored stanza id.
pub(super) async fn send(
    built: &Built,
    parts: &Parts,
    message: &OutboundMessage,
) -> Result<(), SendError> {
    let refused = |detail: String| SendError::Refused(detail);
    let to = address(&message.to).ok_or_else(|| refused("the recipient has no address".into()))?;
    let body = waproto::codec::message_decode(&message.encoded)
        .map_err(|error| refused(format!("the stored message cannot be decoded: {error}")))?;
    if message.stanza_id.is_empty() {
        return Err(refused("the stored message has no stanza id".into()));
    }
    let to_group = to.is_group();
    let work = async {
        known_there(built, parts, &to).await?;
        // A message may go out under a ratchet key that came into being with the last message that was
        // received. Were the recipient to have it and the disk not, nothing they send after a crash here
        // could be read any more.
        built
            .client
            .flush_pending_signal_state()
            .await
            .map_err(|error| SendError::Temporary(error.to_string()))?;
        // The outbox answers retry receipts for it, so the library need not keep a copy.
        parts.shared.held_by_outbox(&message.stanza_id);
        let options = SendOptions::default().with_message_id(message.stanza_id.clone());
        built
            .client
            .send_message_with_options(to, body, options)
            .await
            .map(|_| ())
            .map_err(|error| match send_error(&built.client, &error) {
                SendError::Temporary(_) if to_group && is_forbidden(&error) => {
                    SendError::NotInGroup
                }
                other => other,
            })
    };
    tokio::time::timeout(SEND_PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(SendError::Temporary("the send took too long".into())))
}

/// Before the first message to a number, asks whether it is there at all: the library would otherwise
/// send to a device list that does not exist, and WhatsApp frowns upon writing to numbers it does not
/// know. The answer also brings the number's LID.
async fn known_there(built: &Built, parts: &Parts, to: &Jid) -> Result<(), SendError> {
    if !to.is_pn() {
        return Ok(());
    }
    let known = parts
        .mappings
        .find_lid(&built.backend, to.user_base())
        .await;
    if known.is_some() {
        return Ok(());
    }
    let answers = built
        .client
        .contacts()
        .is_on_whatsapp(std::slice::from_ref(to))
        .await
        .map_err(|error| send_error(&built.client, &error))?;
    match answers.iter().find(|answer| answer.contact_error.is_none()) {
        Some(answer) if answer.is_registered => Ok(()),
        Some(_) => Err(SendError::NotOnProvider),
        None => Err(SendError::Temporary(
            "the server did not say whether the number exists".into(),
        )),
    }
}

/// Whether the server refuses to tell about the group: nobody but members is told.
fn is_forbidden(error: &whatsapp_rust::SendError) -> bool {
    use whatsapp_rust::ErrorChainExt as _;
    error.sources().any(|source| {
        matches!(
            source.downcast_ref::<IqError>(),
            Some(IqError::ServerError {
                code: FORBIDDEN | NO_SUCH_GROUP,
                ..
            })
        )
    })
}

fn send_error<E>(client: &Client, error: &E) -> SendError
where
    E: std::error::Error + 'static,
    E: whatsapp_rust::ErrorChainExt,
{
    if error.is_transport_unavailable() || !client.is_connected() {
        return SendError::NotConnected;
    }
    let invalid = error.sources().any(|source| {
        matches!(
            source.downcast_ref::<whatsapp_rust::SendError>(),
            Some(whatsapp_rust::SendError::InvalidRequest(_))
        )
    });
    if invalid {
        return SendError::Refused(error.to_string());
    }
    debug!(%error, "a send failed");
    SendError::Temporary(error.to_string())
}

/// Marks messages as read.
pub(super) async fn mark_read(
    built: &Built,
    chat: &Person,
    sender: &Person,
    stanza_ids: &[String],
) -> Result<(), SendError> {
    let chat = address(chat)
        .ok_or_else(|| SendError::Refused("chat: there is no address for it".into()))?;
    let sender = if chat.is_pn() || chat.is_lid() {
        None
    } else {
        let sender = address(sender)
            .ok_or_else(|| SendError::Refused("sender: there is no address for it".into()))?;
        Some(sender)
    };
    let ids: Vec<&str> = stanza_ids.iter().map(String::as_str).collect();
    built
        .client
        .mark_as_read(&chat, sender.as_ref(), &ids)
        .await
        .map_err(|error| {
            if built.client.is_connected() {
                SendError::Temporary(error.to_string())
            } else {
                SendError::NotConnected
            }
        })
}

/// Asks the server for any sign of life: frames of any kind count, not only the answer.
pub(super) async fn probe(built: &Built, patience: Duration) -> Result<(), ProbeError> {
    ping(&built.client, patience).await
}

pub(super) async fn ping(client: &Arc<Client>, patience: Duration) -> Result<(), ProbeError> {
    let asked = client.execute(KeepaliveSpec::with_timeout(patience));
    match tokio::time::timeout(patience, asked).await {
        // Whatever the server says, it is there.
        Ok(Ok(()) | Err(IqError::ServerError { .. } | IqError::ParseError(_))) => Ok(()),
        Ok(Err(IqError::Timeout)) | Err(_) => Err(ProbeError::Silent),
        Ok(Err(_)) => Err(ProbeError::NotConnected),
    }
}

/// Ends the link at the server and closes the connection.
pub(super) async fn logout(built: &Built) -> Result<(), SendError> {
    // What follows is ours: the library reports its own logout as if the server had sent it.
    built.watch.conclude(Cause::Requested);
    tokio::time::timeout(SEND_PATIENCE, built.client.logout())
        .await
        .map_err(|_| SendError::Temporary("the logout took too long".into()))
}
