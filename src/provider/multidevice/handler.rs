//! What the library reports besides messages, taken in without waiting.
//!
//! The library calls this synchronously, before it queues the acknowledgement of what it reports, so
//! whatever is enqueued here holds the acknowledgement back (see [`super::gate`]). Messages come
//! through the hook; of [`Event::Messages`] only what bypasses the hook is taken here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use tracing::{error, warn};
use wacore::appstate::patch_decode::WAPatchName;
use wacore::types::events::{
    Event, EventHandler, EventInterest, EventKind, InboundMessage, LazyHistorySync, ServerAck,
};
use wacore::types::message::{MessageInfo, MessageSource};
use wacore_binary::{Jid, JidExt as _, NodeRef, OwnedNodeRef};

use super::backend::Shared;
use super::chores::Chores;
use super::classify::classify;
use super::convert::{event, message, person, receipt, time};
use super::mappings::Mappings;
use super::watch::Watch;
use crate::domain::clock::Timestamp;
use crate::domain::person::Person;
use crate::domain::session::Cause;
use crate::provider::contract::{Arrival, Signal, Sink};

/// See the module documentation.
pub(super) struct Handler {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) watch: Arc<Watch>,
    pub(super) mappings: Arc<Mappings>,
    pub(super) shared: Arc<Shared>,
    pub(super) chores: Arc<Chores>,
    /// This account, once known.
    pub(super) account: Arc<RwLock<Person>>,
    /// Whether presence is wanted in the journal.
    pub(super) presence: bool,
    /// Whether QR codes are for showing; not while pairing by code.
    pub(super) show_qr: Arc<std::sync::atomic::AtomicBool>,
}

/// Everything the handler looks at.
pub(super) fn interest() -> EventInterest {
    use EventKind as K;
    EventInterest::of(&[
        K::RawNode,
        K::Messages,
        K::Receipt,
        K::ServerAck,
        K::UndecryptableMessage,
        K::Connected,
        K::LoggedOut,
        K::StreamReplaced,
        K::TemporaryBan,
        K::ClientOutdated,
        K::ConnectFailure,
        K::PairSuccess,
        K::PairError,
        K::PairingQrCode,
        K::PairingQrCodesExhausted,
        K::PairingCode,
        K::PairingCodeRefresh,
        K::PairingCodeError,
        K::QrScannedWithoutMultidevice,
        K::PairPasskeyRequest,
        K::PairPasskeyError,
        K::AppStateSyncFailed,
        K::IncomingCall,
        K::MissedCall,
        K::CallEndedElsewhere,
        K::GroupUpdate,
        K::Presence,
        K::ChatPresence,
        K::ContactUpdate,
        K::PinUpdate,
        K::MuteUpdate,
        K::ArchiveUpdate,
        K::StarUpdate,
        K::MarkChatAsReadUpdate,
        K::DeleteChatUpdate,
        K::ClearChatUpdate,
        K::UserStatusMuteUpdate,
        K::DeleteMessageForMeUpdate,
        K::LabelEditUpdate,
        K::LabelAssociationUpdate,
        K::PushNameUpdate,
        K::SelfPushNameUpdated,
        K::PictureUpdate,
        K::UserAboutUpdate,
        K::ContactUpdated,
        K::ContactNumberChanged,
        K::IdentityChange,
        K::BusinessStatusUpdate,
        K::DisappearingModeChanged,
        K::NewsletterLiveUpdate,
        K::MexNotification,
        K::HistorySync,
    ])
}

impl EventHandler for Handler {
    fn handle_event(&self, event: Arc<Event>) {
        // A panic here would take the library's read loop with it.
        if catch_unwind(AssertUnwindSafe(|| self.handle(&event))).is_err() {
            error!(kind = ?event.kind(), "the event handler panicked; closing the connection");
            self.watch.conclude_and_close(Cause::Internal {
                detail: format!("the handler of {:?} panicked", event.kind()),
            });
        }
    }

    fn interest(&self) -> EventInterest {
        interest()
    }
}

impl Handler {
    fn enqueue(&self, arrival: impl Into<Option<Arrival>>) {
        if let Some(arrival) = arrival.into() {
            self.sink.enqueue(arrival);
        }
    }

    fn account(&self) -> Person {
        self.account
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn handle(&self, event: &Event) {
        let now = self.watch.now();
        match event {
            Event::RawNode(node) => self.stanza(node, now),
            Event::Messages(batch) => {
                // Newsletters were taken from their stanza; what remains is what the phone sent again.
                if !batch.hook_committed {
                    let recovered = batch.iter().filter(|m| !m.info.source.chat.is_newsletter());
                    for item in recovered {
                        self.enqueue(message::message(item, &self.mappings, now));
                    }
                }
            }
            Event::Receipt(it) => {
                self.shared.retries.receipt(it);
                self.enqueue(receipt::receipt(it, &self.account(), &self.mappings));
            }
            Event::ServerAck(ack) => self.server_ack(ack, now),
            Event::UndecryptableMessage(it) => {
                self.watch.undecryptable();
                self.shared.inflight.given_up(&it.info.id);
                self.enqueue(message::undecryptable(it, &self.mappings, now));
            }
            Event::IncomingCall(it) => self.enqueue(event::call(it, &self.mappings, now)),
            Event::MissedCall(it) => self.enqueue(event::missed_call(it, &self.mappings, now)),
            Event::CallEndedElsewhere(it) => {
                self.enqueue(event::call_elsewhere(it, &self.mappings, now));
            }
            Event::GroupUpdate(it) => self.enqueue(event::group(it, &self.mappings, now)),
            Event::Presence(it) if self.presence => {
                self.enqueue(event::presence(it, &self.mappings, now));
            }
            Event::ChatPresence(it) if self.presence => {
                self.enqueue(event::typing(it, &self.mappings, now));
            }
            Event::AppStateSyncFailed(failed) => {
                for name in failed.retryable.iter().chain(&failed.skipped) {
                    self.owe(name);
                }
            }
            Event::HistorySync(chunk) => self.chores.history(LazyHistorySync::clone(chunk)),
            Event::Connected(_) => self.chores.online(),
            other => {
                self.link(other);
                self.enqueue(event::data(other, now));
            }
        }
    }

    fn owe(&self, collection: &str) {
        // The parser answers `Unknown` to anything it does not know, which is never owed.
        if let Ok(name) = WAPatchName::from_str(collection) {
            self.chores.owe(name);
        }
    }

    /// Every stanza, before the library looks at it.
    fn stanza(&self, stanza: &Arc<OwnedNodeRef>, now: Timestamp) {
        let node = stanza.get();
        self.watch.node_arrived();
        if let Some(ending) = classify(node, now) {
            if ending.close {
                self.watch.conclude_and_close(ending.cause);
            } else {
                self.watch.conclude(ending.cause);
            }
            return;
        }
        match node.tag.as_ref() {
            "success" => {
                self.watch.logged_in();
                self.chores.logged_in();
            }
            "ack" => self.watch.ack_arrived(),
            "message" => self.message_stanza(stanza, now),
            "call" => self.caller(node),
            "receipt" => {
                let now = self.watch.elapsed();
                self.shared.retries.stanza(node, || self.account(), now);
            }
            "notification" if attr(node, "type").as_deref() == Some("server_sync") => {
                for collection in node.get_children_by_tag("collection") {
                    if let Some(name) = attr(collection, "name") {
                        self.owe(&name);
                    }
                }
            }
            _ => {}
        }
    }

    fn message_stanza(&self, stanza: &Arc<OwnedNodeRef>, now: Timestamp) {
        let node = stanza.get();
        let (Some(id), Some(from)) = (attr(node, "id"), jid(node, "from")) else {
            return;
        };
        if from.is_newsletter() {
            self.newsletter(node, &id, from, now);
            return;
        }
        let encrypted = node.get_optional_child("enc").is_some()
            || node.get_optional_child("participants").is_some();
        if encrypted {
            let names = [
                "from",
                "participant",
                "sender_lid",
                "sender_pn",
                "participant_lid",
                "participant_pn",
            ];
            let users = names.iter().filter_map(|name| jid(node, name));
            let users = users.map(|jid| jid.user_base().to_owned()).collect();
            self.shared
                .inflight
                .arrived(&id, users, Some(Arc::clone(stanza)));
        }
    }

    /// The number of who calls, which an offer tells beside the LID and the library keeps to itself.
    fn caller(&self, node: &NodeRef<'_>) {
        let Some(offer) = node.get_optional_child("offer") else {
            return;
        };
        let names = jid(offer, "call-creator").zip(jid(offer, "caller_pn"));
        if let Some((lid, phone)) = names
            && lid.server.is_lid_family()
            && phone.server.is_pn_family()
            && jid(node, "from").is_some_and(|from| from.is_same_user_as(&lid))
        {
            self.mappings.learn(lid.user_base(), phone.user_base());
        }
    }

    /// A channel's post. Not encrypted, and acknowledged before the library decodes it, so it is taken
    /// from the stanza.
    fn newsletter(&self, node: &NodeRef<'_>, id: &str, from: Jid, now: Timestamp) {
        let Some(body) = node
            .get_optional_child("plaintext")
            .and_then(NodeRef::content_bytes)
        else {
            return;
        };
        let body = match waproto::codec::message_decode(body) {
            Ok(body) => body,
            Err(error) => {
                warn!(%error, "a newsletter post cannot be decoded");
                return;
            }
        };
        let sent = attr(node, "t").and_then(|t| t.parse::<i64>().ok());
        let timestamp = sent
            .and_then(|secs| whatsapp_rust::wacore::chrono::DateTime::from_timestamp(secs, 0))
            .unwrap_or_default();
        let info = MessageInfo {
            id: id.to_owned(),
            source: MessageSource {
                chat: from.clone(),
                sender: from,
                ..MessageSource::default()
            },
            timestamp,
            ..MessageInfo::default()
        };
        let post = InboundMessage::builder()
            .message(Arc::new(body))
            .info(Arc::new(info))
            .build();
        self.enqueue(message::message(&post, &self.mappings, now));
    }

    fn server_ack(&self, ack: &ServerAck, now: Timestamp) {
        if ack.class.as_deref() != Some("message") {
            return;
        }
        // A refusal without a readable code is still a refusal.
        let error = ack.error.as_deref().map(|code| code.parse().unwrap_or(0));
        self.sink.signal(Signal::ServerAck {
            stanza_id: ack.id.clone(),
            error,
            at: ack.timestamp.map_or(now, time),
        });
    }

    /// Events about the link itself. Those that end a connection were seen as stanzas before; they are
    /// a second line here.
    fn link(&self, event: &Event) {
        let failed = |reason: &str| Cause::PairingFailed {
            reason: reason.to_owned(),
        };
        match event {
            Event::LoggedOut(it) => self.watch.conclude(Cause::LoggedOut {
                code: u32::try_from(it.reason.code()).unwrap_or(401),
            }),
            Event::StreamReplaced(_) => self.watch.conclude(Cause::Replaced),
            Event::ClientOutdated(_) => self.watch.conclude(Cause::Outdated),
            Event::TemporaryBan(_) => self.watch.conclude(Cause::Banned {
                code: 402,
                until: None,
            }),
            Event::ConnectFailure(it) => self.watch.conclude(Cause::Transient {
                code: u32::try_from(it.reason.code()).ok(),
                detail: "the server refused the login".into(),
            }),
            Event::PairingQrCode(qr) if self.show_qr.load(std::sync::atomic::Ordering::SeqCst) => {
                self.sink.signal(Signal::Qr {
                    payload: qr.code.clone(),
                    expires_in: qr.timeout,
                });
            }
            Event::PairingCode(code) => self.sink.signal(Signal::PairingCode {
                code: code.code.clone(),
                expires_in: code.timeout,
            }),
            Event::PairingCodeRefresh(_) => self.chores.new_code(),
            Event::PairingCodeError(it) => {
                warn!(error = %it.error, "no pairing code");
                let reason = match it.rejection {
                    Some(rejection) if rejection.is_throttled() => "CODE_RATE_LIMITED",
                    Some(_) => "CODE_REFUSED",
                    None => "CODE_FAILED",
                };
                self.watch.conclude_and_close(failed(reason));
            }
            Event::PairingQrCodesExhausted(it) if it.disconnected => {
                self.watch.conclude_and_close(Cause::PairingExpired);
            }
            Event::PairError(it) => {
                warn!(error = %it.error, "the phone's signature was refused");
                self.watch.conclude_and_close(failed("BAD_SIGNATURE"));
            }
            Event::PairPasskeyRequest(_) | Event::PairPasskeyError(_) => {
                self.watch.conclude_and_close(failed("PASSKEY_REQUIRED"));
            }
            Event::QrScannedWithoutMultidevice(_) => self.sink.signal(Signal::Warning {
                signal: "SCANNED_WITHOUT_MULTIDEVICE".into(),
                code: None,
                until: None,
            }),
            Event::PairSuccess(it) => {
                let account = person::person(&it.id, Some(&it.lid), &self.mappings);
                self.account
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone_from(&account);
                if self.watch.tell_paired() {
                    self.sink.signal(Signal::Paired {
                        account,
                        platform: it.platform.clone(),
                    });
                }
                // The server ends the connection with a 515 now; the library may hang up first.
                self.watch.conclude(Cause::RestartRequired);
            }
            _ => {}
        }
    }
}

fn attr(node: &NodeRef<'_>, key: &str) -> Option<String> {
    node.get_attr(key).map(|value| value.as_str().into_owned())
}

fn jid(node: &NodeRef<'_>, key: &str) -> Option<Jid> {
    node.get_attr(key)?.to_jid()
}

#[cfg(test)]
#[path = "handler_tests.rs"]
mod tests;
