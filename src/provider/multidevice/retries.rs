//! Requests for another copy of a sent message (`<receipt type="retry">`) that the library passes over.
//!
//! The library answers one request per message and device at a time and drops, without a word, what
//! comes meanwhile. The first answer goes out in the Signal session that the device may have lost, and
//! its second request, with new keys, can be here before the library has put the first one away: then
//! nobody answers it, and the device never shows the message. A connection that ends between a request
//! and its answer has the same effect, because the request is acknowledged first.
//!
//! So requests are noted as they arrive. The library reads the message from the outbox once for each
//! request it takes up, which tells how many it took; a device's repeated request beyond these, and any
//! that was open when the connection ended, is answered here, unless a delivery or a later request
//! settles it first. A copy too many does no harm: it has the same id, and devices show an id once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, info, warn};
use wacore::protocol::retry::{MAX_RETRY_COUNT, MIN_RETRY_COUNT_FOR_KEYS};
use wacore_binary::{Jid, NodeRef};
use whatsapp_rust::Client;
use whatsapp_rust::features::MessageRetransmission;

use crate::provider::contract::Sink;

/// How long the library has for taking a request up, and the device for confirming the answer.
const SETTLE: Duration = Duration::from_secs(3);
/// A request is forgotten after this: the device has its answer, or asks again by itself.
const FORGET_AFTER: Duration = Duration::from_mins(2);
/// How often an answer is tried.
const MAX_TRIES: u8 = 3;
/// Messages noted at most. Beyond, the notes start anew: a note lost costs an answer only where the
/// library drops a request at the same time.
const MAX_MESSAGES: usize = 1_024;

/// A device's request for another copy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) stanza_id: String,
    chat: Jid,
    asker: Jid,
    /// The chat's other side, when an own device asks.
    recipient: Option<Jid>,
    count: u8,
}

impl Request {
    /// Reads a retry receipt. `None` for what nobody would answer: too many requests, or no address.
    fn read(receipt: &NodeRef<'_>) -> Option<Self> {
        let retry = receipt.get_optional_child("retry")?;
        let text = |node: &NodeRef<'_>, key: &str| {
            node.get_attr(key).map(|value| value.as_str().into_owned())
        };
        let count = text(retry, "count").and_then(|count| count.parse().ok());
        let count = count.unwrap_or(1);
        let from = jid(receipt, "from")?;
        let recipient = jid(receipt, "recipient");
        let chat = recipient.as_ref().unwrap_or(&from).to_non_ad();
        (1..MAX_RETRY_COUNT).contains(&count).then_some(())?;
        Some(Self {
            stanza_id: text(retry, "id")?,
            chat,
            asker: jid(receipt, "participant").unwrap_or(from),
            recipient,
            count,
        })
    }
}

fn jid(node: &NodeRef<'_>, key: &str) -> Option<Jid> {
    node.get_attr(key)?.to_jid()
}

#[derive(Debug)]
struct Open {
    request: Request,
    since: Duration,
    /// When it is looked at; `None` while there is no doubt that the library took it up.
    due: Option<Duration>,
    /// Whether its connection ended, so that nothing is known of the answer.
    interrupted: bool,
    tries: u8,
}

/// The requests for one message.
#[derive(Debug, Default)]
struct Asked {
    /// Requests the library has not taken up (yet).
    not_taken: u32,
    open: Vec<Open>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Retries(Mutex<HashMap<String, Asked>>);

impl Retries {
    fn asked(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of any receipt, before the library sees it. Times are of the monotonic clock
    /// ([`crate::domain::clock::Clock::elapsed`]).
    pub(super) fn receipt(&self, receipt: &NodeRef<'_>, now: Duration) {
        let kind = receipt.get_attr("type");
        if kind.is_some_and(|kind| kind.as_str() == "retry") {
            if let Some(request) = Request::read(receipt) {
                self.request(request, now);
            }
        } else {
            self.delivered(receipt);
        }
    }

    fn request(&self, request: Request, now: Duration) {
        let mut asked = self.asked();
        if asked.len() >= MAX_MESSAGES {
            asked.clear();
        }
        let message = asked.entry(request.stanza_id.clone()).or_default();
        message.not_taken += 1;
        let known = message
            .open
            .iter_mut()
            .find(|open| open.request.asker == request.asker);
        match known {
            // What is asked again in the same words has the answer that is under way.
            Some(open) if open.request.count >= request.count => {}
            Some(open) => {
                open.request = request;
                open.since = now;
                open.due = Some(now + SETTLE);
                open.interrupted = false;
                open.tries = 0;
            }
            None => message.open.push(Open {
                request,
                since: now,
                due: None,
                interrupted: false,
                tries: 0,
            }),
        }
    }

    /// A receipt of any other kind: the device has the message.
    fn delivered(&self, receipt: &NodeRef<'_>) {
        let mut asked = self.asked();
        if asked.is_empty() {
            return;
        }
        let Some(by) = jid(receipt, "participant").or_else(|| jid(receipt, "from")) else {
            return;
        };
        let listed = receipt
            .get_optional_child("list")
            .into_iter()
            .flat_map(|list| list.get_children_by_tag("item"))
            .filter_map(|item| item.get_attr("id"));
        for id in receipt.get_attr("id").into_iter().chain(listed) {
            let id = id.as_str();
            if let Some(message) = asked.get_mut(id.as_ref()) {
                message.open.retain(|open| open.request.asker != by);
                if message.open.is_empty() {
                    asked.remove(id.as_ref());
                }
            }
        }
    }

    /// The library read the message from the outbox: it has taken a request up.
    pub(super) fn taken(&self, stanza_id: &str) {
        if let Some(message) = self.asked().get_mut(stanza_id) {
            message.not_taken = message.not_taken.saturating_sub(1);
        }
    }

    /// The connection ended: whether anything open was answered is not known.
    pub(super) fn interrupted(&self, now: Duration) {
        let due = now + SETTLE;
        for message in self.asked().values_mut() {
            message.not_taken = 0;
            for open in &mut message.open {
                open.due = Some(due);
                open.interrupted = true;
            }
        }
    }

    /// What has to be answered now. Each stays noted, and comes again after a while, until
    /// [`Self::answered`].
    pub(super) fn due(&self, now: Duration) -> Vec<Request> {
        let mut due = Vec::new();
        self.asked().retain(|_, message| {
            let Asked { not_taken, open } = message;
            for open in open.iter_mut() {
                if open.due.is_none_or(|at| at > now) {
                    continue;
                }
                if !open.interrupted && open.tries == 0 {
                    if *not_taken == 0 {
                        open.due = None;
                        continue;
                    }
                    *not_taken -= 1;
                }
                open.tries += 1;
                open.due = (open.tries < MAX_TRIES).then(|| now + SETTLE * 2);
                due.push(open.request.clone());
            }
            open.retain(|open| now < open.since + FORGET_AFTER);
            !open.is_empty()
        });
        due
    }

    /// The answer is on its way.
    pub(super) fn answered(&self, request: &Request) {
        let mut asked = self.asked();
        if let Some(message) = asked.get_mut(&request.stanza_id) {
            message.open.retain(|open| open.request != *request);
        }
    }
}

/// Answers a request the library passed over, from the outbox.
pub(super) async fn answer(
    client: Arc<Client>,
    sink: Arc<dyn Sink>,
    retries: Arc<Retries>,
    request: Request,
) {
    let body = match sink.sent_message(&request.stanza_id).await {
        Ok(Some(body)) => body,
        Ok(None) => {
            debug!("the message that is asked for again is not of the outbox");
            return retries.answered(&request);
        }
        Err(error) => return warn!(%error, "the outbox cannot be read for a request"),
    };
    let message = match waproto::codec::message_decode(&body) {
        Ok(message) => message,
        Err(error) => {
            warn!(%error, "the message that is asked for again cannot be decoded");
            return retries.answered(&request);
        }
    };
    if request.count >= MIN_RETRY_COUNT_FOR_KEYS {
        // Whoever asks twice cannot open what this session seals. The next one is built from the
        // bundle at the server, as for a device never written to.
        let asker = std::slice::from_ref(&request.asker);
        if let Err(error) = client.signal().delete_sessions(asker).await {
            return warn!(%error, "a dead Signal session could not be removed");
        }
    }
    let mut copy = MessageRetransmission::new(
        request.chat.clone(),
        request.asker.clone(),
        message,
        request.stanza_id.clone(),
        request.count,
    );
    if let Some(recipient) = &request.recipient {
        copy = copy.with_recipient(recipient.clone());
    }
    match client.retransmit_message(copy).await {
        Ok(()) => {
            retries.answered(&request);
            metrics::counter!("trunkline_overlooked_retries_total").increment(1);
            info!(
                count = request.count,
                "a request for another copy had been passed over; it is answered now"
            );
        }
        Err(error) => warn!(%error, "a request for another copy could not be answered yet"),
    }
}

#[cfg(test)]
#[path = "retries_tests.rs"]
mod tests;
