//! Requests for another copy of a sent message (`<receipt type="retry">`) that stay without an answer.
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
//!
//! Own companions are left to the library, in groups too: what it refuses them must not come another way.
//! Their requests are noted all the same, since the library's reading for one of them says nothing about
//! the others. The account's phone is another matter. Asked by it for its copy of a message to somebody, the
//! library mistakes the phone for that somebody: it drops their session, seals the copy for them, and with
//! the next request's keys it makes the phone's session theirs (`resolve_retry_chat_info` of 0.7.0). So
//! while such a request is open, and a moment longer, the library is not given the message. The phone is
//! answered here at once, and so is, a moment later, whoever else asked meanwhile; a companion in the
//! session it has, whatever keys it sent.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{debug, info, warn};
use wacore::iq::prekeys::PreKeyFetchSpec;
use wacore::messages::wrap_device_sent;
use wacore::protocol::retry::{MAX_RETRY_COUNT, MIN_RETRY_COUNT_FOR_KEYS};
use wacore::store::traits::{ProtocolStore as _, SignalStore as _};
use wacore::types::events::Receipt;
use wacore::types::jid::JidExt as _;
use wacore::types::presence::ReceiptType;
use wacore_binary::{Jid, JidExt as _, NodeRef};
use whatsapp_rust::Client;
use whatsapp_rust::features::MessageRetransmission;

use super::backend::KeyBackend;
use crate::domain::person::Person;

/// How long the library has for taking a request up, and the device for confirming the answer.
const SETTLE: Duration = Duration::from_secs(3);
/// A request is forgotten after this: the device has its answer, or asks again by itself.
const FORGET_AFTER: Duration = Duration::from_mins(2);
/// A request is forgotten after this if no connection comes at all.
const FORGET_AWAY: Duration = Duration::from_hours(24);
/// How often an answer is tried.
const MAX_TRIES: u8 = 3;
/// Answered in one go, so that a group whose members all ask is no burst.
const MAX_AT_ONCE: usize = 10;
/// Requests noted at most. Beyond, the oldest message's are forgotten: a note lost costs an answer only
/// where the library drops a request at the same time.
const MAX_REQUESTS: usize = 1_024;
/// Stanza ids are some twenty characters.
const MAX_ID: usize = 128;

/// A device's request for another copy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    stanza_id: String,
    chat: Jid,
    asker: Jid,
    count: u8,
    who: Who,
}

/// Whose device asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Somebody's that the message was for.
    Recipient,
    /// The account's own: left to the library, unless that was not given the message.
    Companion,
    /// The account's phone, which wants its copy of what went to the chat: never left to the library.
    Phone,
}

impl Request {
    /// Reads a retry receipt sent to this account. `None` for what the library does not answer either.
    fn read(receipt: &NodeRef<'_>, account: &Person) -> Option<Self> {
        let retry = receipt.get_optional_child("retry")?;
        let text = |key: &str| {
            let value = retry.get_attr(key)?;
            Some(value.as_str().into_owned())
        };
        let count = text("count").and_then(|count| count.parse().ok());
        let count = count.unwrap_or(1);
        let stanza_id = text("id")?;
        let is_answerable = (1..MAX_RETRY_COUNT).contains(&count) && stanza_id.len() <= MAX_ID;
        if !is_answerable {
            return None;
        }
        let from = receipt.get_attr("from")?.to_jid()?;
        let participant = receipt.get_attr("participant");
        let recipient = receipt.get_attr("recipient");
        let mut chat = from.to_non_ad();
        let asker = match &participant {
            Some(participant) => participant.to_jid()?,
            None => from,
        };
        let who = match recipient {
            None if is_of(account, &asker) => Who::Companion,
            None => Who::Recipient,
            // Whom a message went to is for its own account to name.
            Some(_) if !is_of(account, &asker) => return None,
            Some(_) if participant.is_some() => Who::Companion,
            Some(recipient) => {
                chat = recipient.to_jid()?.to_non_ad();
                if asker.device == 0 {
                    Who::Phone
                } else {
                    Who::Companion
                }
            }
        };
        Some(Self {
            stanza_id,
            chat,
            asker,
            count,
            who,
        })
    }

    /// Whether it is about a message to one person.
    fn is_direct(&self) -> bool {
        !self.chat.is_group() && !self.chat.is_status_broadcast() && !self.chat.is_broadcast_list()
    }
}

/// Whether a device is one of an account's, under either of its names.
fn is_of(account: &Person, device: &Jid) -> bool {
    let name = device.to_non_ad().to_string();
    [&account.pn_jid, &account.lid]
        .into_iter()
        .any(|own| own.as_deref() == Some(name.as_str()))
}

#[derive(Debug)]
struct Open {
    request: Request,
    since: Duration,
    doubt: Doubt,
    tries: u8,
}

/// Whether a request may have been left without an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Doubt {
    /// It came first: the library takes it up.
    None,
    /// It came while the library may have been at an earlier one; looked at then.
    Repeated { look: Duration },
    /// The library was not given the message: answered unless it is settled by then.
    Withheld { look: Duration },
    /// Its connection ended; looked at once the next has settled.
    Interrupted { look: Option<Duration> },
}

/// The requests for one message.
#[derive(Debug, Default)]
struct Asked {
    /// Requests the library has not taken up (yet).
    not_taken: usize,
    open: Vec<Open>,
    /// How long the library's task for a request of the phone may be on its way to the message, if there was
    /// one.
    withheld_until: Option<Duration>,
}

impl Asked {
    /// Whether the library must not be given the message.
    fn is_withheld(&self, now: Duration) -> bool {
        self.withheld_until.is_some_and(|until| now < until)
            || self.open.iter().any(|open| open.request.who == Who::Phone)
    }

    fn is_done(&self, now: Duration) -> bool {
        self.open.is_empty() && !self.is_withheld(now)
    }

    /// What is still in doubt bounds what can have been passed over.
    fn settle(&mut self, settled: impl Fn(&Open) -> bool) {
        self.open.retain(|open| !settled(open));
        let repeated = |open: &&Open| matches!(open.doubt, Doubt::Repeated { .. });
        let doubtful = self.open.iter().filter(repeated).count();
        self.not_taken = self.not_taken.min(doubtful);
    }
}

/// See the module documentation. Times are of the monotonic clock
/// ([`crate::domain::clock::Clock::elapsed`]).
#[derive(Debug, Default)]
pub(super) struct Retries {
    asked: Mutex<HashMap<String, Asked>>,
    answering: AtomicBool,
}

impl Retries {
    fn asked(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a receipt that may be a request, before the library sees it.
    pub(super) fn stanza(
        &self,
        receipt: &NodeRef<'_>,
        account: impl FnOnce() -> Person,
        now: Duration,
    ) {
        let kind = receipt.get_attr("type");
        if kind.is_some_and(|kind| kind.as_str() == "retry")
            && let Some(request) = Request::read(receipt, &account())
        {
            self.request(request, now);
        }
    }

    fn request(&self, request: Request, now: Duration) {
        let mut asked = self.asked();
        make_room(&mut asked, &request.stanza_id);
        let message = asked.entry(request.stanza_id.clone()).or_default();
        let of_phone = request.who == Who::Phone;
        // In the same words again, too: the library takes that up like any other.
        message.not_taken += usize::from(!of_phone);
        let look = now + SETTLE;
        if of_phone {
            message.withheld_until = Some(look);
            // The library may have been about to answer them, and cannot now.
            for open in &mut message.open {
                open.doubt = Doubt::Withheld { look };
            }
        }
        let is_withheld = message.is_withheld(now);
        let open = message.open.iter();
        let mut known = open.filter(|open| open.request.asker == request.asker);
        let known = known.next().map(|open| open.request.count);
        if known.is_some_and(|count| count >= request.count) {
            // What is asked again in the same words has the answer that is under way.
            return;
        }
        let doubt = match (request.who, is_withheld, known) {
            (Who::Phone, ..) => Doubt::Withheld { look: now },
            (_, true, _) => Doubt::Withheld { look },
            (_, false, Some(_)) => Doubt::Repeated { look },
            (_, false, None) => Doubt::None,
        };
        message
            .open
            .retain(|open| open.request.asker != request.asker);
        message.open.push(Open {
            request,
            since: now,
            doubt,
            tries: 0,
        });
    }

    /// Whether the library must not be given this message now: it would mistake who asks for it.
    pub(super) fn withholds(&self, stanza_id: &str, now: Duration) -> bool {
        let asked = self.asked();
        asked
            .get(stanza_id)
            .is_some_and(|message| message.is_withheld(now))
    }

    /// A receipt of any kind: who has the message does not wait for it.
    pub(super) fn receipt(&self, receipt: &Receipt) {
        use ReceiptType as R;
        let has_it = matches!(
            receipt.r#type,
            R::Delivered | R::Inactive | R::Read | R::Played
        );
        let mut asked = self.asked();
        if !has_it || asked.is_empty() {
            return;
        }
        for id in &receipt.message_ids {
            if let Some(message) = asked.get_mut(id.as_str()) {
                message.settle(|open| open.request.asker == receipt.source.sender);
                if message.open.is_empty() && message.withheld_until.is_none() {
                    asked.remove(id.as_str());
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

    /// A connection begins: whether what the last one left open was answered is not known.
    pub(super) fn interrupted(&self) {
        for message in self.asked().values_mut() {
            message.not_taken = 0;
            let open = message.open.iter_mut();
            for open in open.filter(|open| open.tries < MAX_TRIES) {
                open.doubt = Doubt::Interrupted { look: None };
            }
        }
    }

    /// The connection is ready: the receipts that waited at the server are coming.
    pub(super) fn resumed(&self, now: Duration) {
        for message in self.asked().values_mut() {
            for open in &mut message.open {
                if let Doubt::Interrupted { look } = &mut open.doubt {
                    *look = Some(now + SETTLE);
                    open.since = open.since.max(now.saturating_sub(FORGET_AFTER / 2));
                }
            }
        }
    }

    /// Whether nothing is noted that a next connection may still be wanted for. A number can be away for
    /// hours and its correspondents wait; that of one which was deleted never comes.
    pub(super) fn is_forgotten(&self, now: Duration) -> bool {
        let asked = self.asked();
        let mut open = asked.values().flat_map(|message| &message.open);
        open.all(|open| now >= open.since + FORGET_AWAY)
    }

    /// Another account, or none: nobody waits for anything.
    pub(super) fn clear(&self) {
        self.asked().clear();
    }

    /// What has to be answered now, a few at a time. Each stays noted, and comes again after a while,
    /// until [`Self::answered`].
    fn due(&self, now: Duration) -> Vec<Request> {
        let mut due = Vec::new();
        self.asked().retain(|_, message| {
            message.open.retain(|open| now < open.since + FORGET_AFTER);
            let not_taken = &mut message.not_taken;
            for open in &mut message.open {
                let again = now + SETTLE * 2;
                let is_companion = open.request.who == Who::Companion;
                match &mut open.doubt {
                    _ if due.len() == MAX_AT_ONCE => break,
                    Doubt::Withheld { look } if *look <= now => *look = again,
                    Doubt::Withheld { .. } => continue,
                    doubt if is_companion => {
                        *doubt = Doubt::None;
                        continue;
                    }
                    Doubt::Repeated { look } if *look <= now => {
                        if open.tries == 0 && *not_taken == 0 {
                            open.doubt = Doubt::None;
                            continue;
                        }
                        *not_taken -= usize::from(open.tries == 0);
                        *look = again;
                    }
                    Doubt::Interrupted { look: Some(look) } if *look <= now => *look = again,
                    _ => continue,
                }
                open.tries += 1;
                if open.tries >= MAX_TRIES {
                    open.doubt = Doubt::None;
                }
                due.push(open.request.clone());
            }
            // What cannot be answered withholds the message no longer.
            let given_up =
                |open: &Open| open.request.who == Who::Phone && open.doubt == Doubt::None;
            if message.open.iter().any(given_up) {
                message.withheld_until = Some(now + SETTLE);
                message.open.retain(|open| !given_up(open));
            }
            !message.is_done(now)
        });
        due
    }

    /// The answer is on its way.
    fn answered(&self, request: &Request) {
        if let Some(message) = self.asked().get_mut(&request.stanza_id) {
            message.settle(|open| open.request == *request);
        }
    }
}

/// Forgets the requests for the oldest message when there are too many.
fn make_room(asked: &mut HashMap<String, Asked>, wanted: &str) {
    let total: usize = asked.values().map(|message| message.open.len()).sum();
    if total < MAX_REQUESTS {
        return;
    }
    let newest = |message: &Asked| message.open.iter().map(|open| open.since).max();
    let others = asked.iter().filter(|(id, _)| *id != wanted);
    let oldest = others.min_by_key(|(_, message)| newest(message));
    let oldest = oldest.map_or(wanted, |(id, _)| id).to_owned();
    asked.remove(&oldest);
}

/// What answers: one at a time, so that two requests of one device do not undo each other's session.
pub(super) struct Answerer {
    pub(super) client: Arc<Client>,
    pub(super) backend: Arc<KeyBackend>,
    pub(super) retries: Arc<Retries>,
}

/// Ends the turn of whoever answers.
struct Turn(Arc<Retries>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.answering.store(false, Ordering::SeqCst);
    }
}

impl Answerer {
    /// The work to do now, if there is any and nobody does it already.
    pub(super) fn work(self, now: Duration) -> Option<impl Future<Output = ()>> {
        if self.retries.answering.swap(true, Ordering::SeqCst) {
            return None;
        }
        let turn = Turn(Arc::clone(&self.retries));
        let due = self.retries.due(now);
        (!due.is_empty()).then_some(async move {
            let _turn = turn;
            let mut renewed = HashSet::new();
            for request in due {
                if let Err(error) = self.answer(&request, &mut renewed).await {
                    warn!(%error, "a request for another copy could not be answered yet");
                }
            }
        })
    }

    async fn answer(&self, request: &Request, renewed: &mut HashSet<Jid>) -> anyhow::Result<()> {
        let (chat, id) = (&request.chat, &request.stanza_id);
        let Some(body) = self.backend.sent_to(chat, id).await? else {
            debug!("what is asked for again is not of the outbox, or was for somebody else");
            self.retries.answered(request);
            return Ok(());
        };
        if !self.has_session(request, renewed).await? {
            debug!("a device without a session asks again, without keys");
            self.retries.answered(request);
            return Ok(());
        }
        let mut message = waproto::codec::message_decode(&body)?;
        let is_own_copy = request.who != Who::Recipient && request.is_direct();
        if is_own_copy {
            // As the first one did, it names the chat inside the encryption, too.
            message = wrap_device_sent(message, chat.to_string());
        }
        // The library stores what it sends again: the outbox has it, and not in this shape.
        self.backend.held_by_outbox(id);
        let mut copy = MessageRetransmission::new(
            chat.clone(),
            request.asker.clone(),
            message,
            id.clone(),
            request.count,
        );
        if is_own_copy {
            copy = copy.with_recipient(chat.clone());
        }
        self.client.retransmit_message(copy).await?;
        self.retries.answered(request);
        metrics::counter!("trunkline_overlooked_retries_total").increment(1);
        info!(
            count = request.count,
            "a request for another copy had no answer; it has one now"
        );
        Ok(())
    }

    /// Whether the asker can be written to. Who asks with keys cannot open what the present session
    /// seals: it gets a new one, beside which the old one still opens what is under way.
    async fn has_session(
        &self,
        request: &Request,
        renewed: &mut HashSet<Jid>,
    ) -> anyhow::Result<bool> {
        let (signal, asker) = (self.client.signal(), &request.asker);
        let keeps_session =
            request.count < MIN_RETRY_COUNT_FOR_KEYS || request.who == Who::Companion;
        if keeps_session || renewed.contains(asker) {
            return Ok(signal.validate_session(asker).await?);
        }
        let mut wanted = PreKeyFetchSpec::new(vec![asker.clone()]);
        // A companion's bundle is vouched for by its account's key, which the server may leave out.
        if asker.device != 0
            && let Some(identity) = self.account_key(asker).await?
        {
            wanted = wanted.with_account_identities([(asker.clone(), identity)].into());
        }
        let fetched = self.client.execute(wanted).await?;
        let Some(bundle) = fetched.bundles.into_values().next() else {
            return Ok(false);
        };
        if request.who == Who::Phone
            && let Some(known) = self.account_key(asker).await?
            && bundle.identity_key()?.public_key().public_key_bytes() != known
        {
            warn!("the account's phone asks again, with another identity: it gets nothing");
            return Ok(false);
        }
        signal.install_prekey_bundle(asker, &bundle).await?;
        renewed.insert(asker.clone());
        Ok(true)
    }

    /// The identity key of a device's account, as it was first seen. The library keeps everything of a
    /// person under the LID once that is known.
    async fn account_key(&self, device: &Jid) -> anyhow::Result<Option<[u8; 32]>> {
        let mut account = device.with_device(0);
        if account.is_pn()
            && let Some(row) = self.backend.get_pn_mapping(account.user_base()).await?
        {
            account = Jid::lid(row.lid);
        }
        let address = account.to_protocol_address();
        Ok(self.backend.load_identity(address.as_str()).await?)
    }
}

#[cfg(test)]
#[path = "retries_tests.rs"]
mod tests;
