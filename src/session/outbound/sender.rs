//! The loop that sends: what is due, within the window and the pace, until the connection ends.

mod files;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::OutboundConfig;
use super::backlog::Backlog;
use super::settle::{Settler, Verdict};
use super::upload::Uploads;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::MessageId;
use crate::domain::message::{MessageState, OutboundMessage};
use crate::domain::person::Person;
use crate::provider::contract::{Capabilities, Line, SendError};
use crate::session::holds::Holds;
use crate::session::pacing::{Pace, Pacer, Reach};
use crate::store::{
    Counters, Durability, Hash, KeyId, KeyKind, LookupError, QueueEntry, SessionStore, Step,
    StoreError, TransitionError,
};

/// The server's answer for a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ack {
    /// The stanza.
    pub(crate) stanza_id: String,
    /// The refusal's code.
    pub(crate) error: Option<u32>,
    /// When.
    pub(crate) at: Timestamp,
}

/// What waits to be sent, for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages waiting (those read so far).
    pub waiting: usize,
    /// Messages on the wire without an ack.
    pub on_the_wire: usize,
    /// When the message that has been due for longest was accepted.
    pub oldest: Option<Timestamp>,
}

/// Why a sender ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SenderEnd {
    /// It was told to.
    Stopped,
    /// The server did not acknowledge in time: the connection must be renewed.
    AckTimeout,
    /// The store failed.
    Store(StoreError),
}

/// What a sender is made of.
pub(crate) struct SenderParts {
    pub(crate) config: OutboundConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: SessionStore,
    /// The account that the line belongs to, if it is known.
    pub(crate) account: Option<Person>,
    pub(crate) line: Arc<dyn Line>,
    pub(crate) capabilities: Capabilities,
    pub(crate) pacer: Pacer,
    pub(crate) holds: Arc<Holds>,
    /// How long new conversations rest after a time-lock, and everything after a 429.
    pub(crate) pauses: (Duration, Duration),
    pub(crate) nudge: Arc<Notify>,
    pub(crate) acks: mpsc::Receiver<Ack>,
    pub(crate) depth: watch::Sender<Depth>,
    pub(crate) stop: CancellationToken,
}

/// A message on the wire.
#[derive(Debug)]
struct Flight {
    entry: QueueEntry,
    since: Duration,
    /// When its ack is overdue; `None` while it is being handed over.
    deadline: Option<Duration>,
}

/// What one of the concurrent steps came to.
enum Done {
    /// Marked SENDING (or read again, for a resend): ready for the wire.
    Marked(QueueEntry, Box<OutboundMessage>),
    /// It is not to be sent: canceled, gone, or settled meanwhile.
    Dropped(QueueEntry),
    /// Handed to the wire, or not.
    Sent(QueueEntry, Box<OutboundMessage>, Result<(), SendError>),
    Failed(StoreError),
}

/// How long a sender that was told to stop waits for hand-overs under way.
const FINISH: Duration = Duration::from_secs(5);

/// Known chats remembered before they are forgotten together.
const KNOWN: usize = 4_096;

/// Sends one session's messages over one connection.
pub(crate) struct Sender {
    parts: SenderParts,
    settler: Settler,
    backlog: Backlog,
    /// Everything up to here was read from the queue.
    cursor: u64,
    more: bool,
    flights: HashMap<String, Flight>,
    steps: FuturesUnordered<BoxFuture<'static, Done>>,
    uploads: Uploads,
    /// Messages being marked SENDING.
    marking: usize,
    paused_until: Option<Duration>,
    known: HashSet<Hash>,
    /// Messages kept off the wire by something passing, and how often.
    kept_off: HashMap<MessageId, u32>,
}

impl Sender {
    pub(crate) fn new(parts: SenderParts) -> Self {
        Self {
            settler: Settler {
                store: parts.store.clone(),
                clock: Arc::clone(&parts.clock),
                holds: Arc::clone(&parts.holds),
                timelock: parts.pauses.0,
                slow_down: parts.pauses.1,
            },
            uploads: Uploads::new(
                parts.store.clone(),
                Arc::clone(&parts.line),
                Arc::clone(&parts.clock),
                parts.account.clone(),
            ),
            parts,
            backlog: Backlog::default(),
            cursor: 0,
            more: true,
            flights: HashMap::new(),
            steps: FuturesUnordered::new(),
            marking: 0,
            paused_until: None,
            known: HashSet::new(),
            kept_off: HashMap::new(),
        }
    }

    /// Sends until told to stop, or until it cannot.
    pub(crate) async fn run(mut self) -> SenderEnd {
        let end = match self.serve().await {
            Ok(end) => end,
            Err(error) => SenderEnd::Store(error),
        };
        // A hand-over is not interrupted half-way; on a dead connection it fails soon.
        let finish = async {
            while let Some(done) = self.steps.next().await {
                if let Done::Sent(entry, message, outcome) = done {
                    self.handed_over(entry, &message, outcome).await?;
                }
            }
            Ok::<(), StoreError>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(FINISH, finish).await {
            return SenderEnd::Store(error);
        }
        // What the server said before the connection ended still counts.
        self.parts.acks.close();
        while let Some(ack) = self.parts.acks.recv().await {
            if let Err(error) = self.acked(ack).await {
                return SenderEnd::Store(error);
            }
        }
        self.parts.depth.send_replace(Depth {
            waiting: self.waiting() + self.flights.len(),
            on_the_wire: 0,
            oldest: self.oldest(),
        });
        end
    }

    async fn serve(&mut self) -> Result<SenderEnd, StoreError> {
        loop {
            let (now, elapsed) = (self.parts.clock.now(), self.parts.clock.elapsed());
            self.read_queue(now).await?;
            self.backlog.wake(now, elapsed);
            for entry in self.backlog.take_expired(now) {
                self.settler.expire(&entry).await?;
            }
            self.start_due(elapsed).await?;
            self.publish();
            if self.is_ack_overdue(elapsed) {
                metrics::counter!("trunkline_ack_timeouts_total").increment(1);
                return Ok(SenderEnd::AckTimeout);
            }
            let wake = self.next_wake();
            tokio::select! {
                biased;
                () = self.parts.stop.cancelled() => return Ok(SenderEnd::Stopped),
                ack = self.parts.acks.recv() => match ack {
                    Some(ack) => self.acked(ack).await?,
                    None => return Ok(SenderEnd::Stopped),
                },
                Some(done) = self.steps.next() => self.progress(done).await?,
                Some((entry, uploaded)) = self.uploads.next() => {
                    self.uploaded(entry, uploaded).await?;
                }
                () = self.parts.nudge.notified() => self.more = true,
                () = sleep_until(&*self.parts.clock, wake) => {}
            }
        }
    }

    /// Reads on in the queue while there is room in memory.
    async fn read_queue(&mut self, now: Timestamp) -> Result<(), StoreError> {
        while self.more && self.waiting() < self.parts.config.backlog {
            let page = self.parts.store.outbox().queue(self.cursor, 500).await?;
            self.more = page.len() == 500;
            for entry in page {
                self.cursor = self.cursor.max(entry.seq);
                self.backlog.add(entry, now);
            }
        }
        Ok(())
    }

    /// Starts what may go, as far as window and pace allow.
    async fn start_due(&mut self, elapsed: Duration) -> Result<(), StoreError> {
        if self.paused_until.is_some_and(|until| elapsed < until) {
            return Ok(());
        }
        self.paused_until = None;
        while self.flights.len() + self.marking < self.parts.config.window {
            let Some(entry) = self.backlog.peek() else {
                return Ok(());
            };
            if entry.awaits_upload {
                if self.uploads.is_full() {
                    self.backlog.park(entry.chat);
                } else {
                    self.backlog.start(&entry);
                    self.uploads.start(entry);
                }
                continue;
            }
            // A resend was paced when it went the first time.
            if entry.state == MessageState::Queued {
                let Some(is_new) = self.is_new_contact(&entry).await? else {
                    self.backlog.start(&entry);
                    self.backlog.done(entry.chat);
                    continue;
                };
                match self.parts.pacer.check(&entry.chat, is_new) {
                    Pace::Go if is_new => self.meet(&entry).await?,
                    Pace::Go => {}
                    Pace::Wait(until, Reach::Recipient) => {
                        self.backlog.hold(entry.chat, until);
                        continue;
                    }
                    Pace::Wait(until, Reach::Session) => {
                        self.paused_until = Some(until);
                        return Ok(());
                    }
                }
            }
            self.backlog.start(&entry);
            self.marking += 1;
            self.steps.push(self.mark(entry));
        }
        Ok(())
    }

    /// Makes sure that the store says SENDING before anything touches the wire.
    fn mark(&self, entry: QueueEntry) -> BoxFuture<'static, Done> {
        let outbox = self.parts.store.outbox();
        let now = self.parts.clock.now();
        let counts = !self.kept_off.contains_key(&entry.id);
        Box::pin(async move {
            if entry.state == MessageState::Queued {
                let step = Step::to(MessageState::Sending, now);
                return match outbox.transition(entry.id, step).await {
                    Ok((message, _)) => Done::Marked(entry, Box::new(message)),
                    Err(TransitionError::Store(error)) => Done::Failed(error),
                    Err(TransitionError::NotFound { .. } | TransitionError::Illegal { .. }) => {
                        Done::Dropped(entry)
                    }
                };
            }
            if counts && let Err(error) = outbox.count_attempt(entry.id).await {
                return Done::Failed(error);
            }
            match outbox.get(entry.id).await {
                Ok(message) if message.state == MessageState::Sending => {
                    Done::Marked(entry, Box::new(message))
                }
                Ok(_) | Err(LookupError::NotFound { .. }) => Done::Dropped(entry),
                Err(LookupError::Store(error)) => Done::Failed(error),
            }
        })
    }

    async fn progress(&mut self, done: Done) -> Result<(), StoreError> {
        if !matches!(done, Done::Sent(..)) {
            self.marking -= 1;
        }
        match done {
            Done::Failed(error) => return Err(error),
            Done::Dropped(entry) => self.backlog.done(entry.chat),
            Done::Marked(entry, message) => self.put_on_wire(entry, message).await?,
            Done::Sent(entry, message, outcome) => {
                self.handed_over(entry, &message, outcome).await?;
            }
        }
        Ok(())
    }

    /// Whether it was accepted while another number was linked: its recipient knows that one.
    fn is_of_another_account(&self, message: &OutboundMessage) -> bool {
        let accounts = message.from.as_ref().zip(self.parts.account.as_ref());
        accounts.is_some_and(|(then, now)| then.differs_from(now))
    }

    async fn put_on_wire(
        &mut self,
        mut entry: QueueEntry,
        message: Box<OutboundMessage>,
    ) -> Result<(), StoreError> {
        let resend = entry.state == MessageState::Sending;
        let kept_off = self.kept_off.contains_key(&entry.id);
        entry.state = MessageState::Sending;
        let now = self.parts.clock.now();
        if self.is_of_another_account(&message) {
            tracing::warn!("a message accepted for another account is not sent from this one");
            if resend {
                self.settler.unknown(&message).await?;
            } else {
                self.settler.fail(message.id, "ACCOUNT_CHANGED").await?;
            }
            self.backlog.done(entry.chat);
            return Ok(());
        }
        let hopeless = message.expire_at.is_some_and(|at| at <= now)
            || (!kept_off && message.attempts > self.parts.config.max_attempts)
            || !self.parts.capabilities.resend_is_idempotent;
        if resend && hopeless {
            self.kept_off.remove(&entry.id);
            self.settler.unknown(&message).await?;
            self.backlog.done(entry.chat);
            return Ok(());
        }
        if resend {
            metrics::counter!("trunkline_resends_total").increment(1);
        }
        // Known before the wire, for an ack that is faster than the hand-over.
        let flight = Flight {
            entry,
            since: self.parts.clock.elapsed(),
            deadline: None,
        };
        self.flights.insert(message.stanza_id.clone(), flight);
        let line = Arc::clone(&self.parts.line);
        self.steps.push(Box::pin(async move {
            let outcome = line.send(&message).await;
            Done::Sent(entry, message, outcome)
        }));
        Ok(())
    }

    async fn handed_over(
        &mut self,
        entry: QueueEntry,
        message: &OutboundMessage,
        outcome: Result<(), SendError>,
    ) -> Result<(), StoreError> {
        let elapsed = self.parts.clock.elapsed();
        let Some(flight) = self.flights.get_mut(&message.stanza_id) else {
            // Its ack came first.
            return Ok(());
        };
        match outcome {
            Ok(()) => {
                flight.deadline = Some(elapsed + self.parts.config.ack_timeout);
                self.kept_off.remove(&entry.id);
            }
            // The connection is ending; if it is not, it is not worth keeping.
            Err(SendError::NotConnected) => {
                let soon = self.parts.config.ack_timeout.min(Duration::from_secs(5));
                flight.deadline = Some(elapsed + soon);
            }
            Err(SendError::Temporary(detail)) => {
                self.flights.remove(&message.stanza_id);
                self.keep_off(entry, &detail);
            }
            Err(SendError::NotOnProvider) => {
                self.refused(entry, message, "NOT_ON_WHATSAPP").await?;
            }
            Err(SendError::NotInGroup) => {
                self.refused(entry, message, "NOT_IN_GROUP").await?;
            }
            Err(SendError::Refused(detail)) => {
                tracing::warn!(message_id = %message.id, "refused before the wire");
                tracing::debug!(message_id = %message.id, detail, "why it was refused");
                self.refused(entry, message, "REFUSED_BEFORE_WIRE").await?;
            }
        }
        Ok(())
    }

    /// Tries again after a pause, which grows.
    fn keep_off(&mut self, entry: QueueEntry, detail: &str) {
        tracing::debug!(message_id = %entry.id, detail, "kept off the wire for now");
        let times = self.kept_off.entry(entry.id).or_default();
        *times += 1;
        let pause = Duration::from_secs(1 << (*times).min(16)).min(self.parts.config.retry_cap);
        self.put_back(entry, pause);
    }

    /// Puts a message back to the head of its chat, which rests for `pause`.
    fn put_back(&mut self, entry: QueueEntry, pause: Duration) {
        self.backlog.done(entry.chat);
        self.backlog.add(entry, self.parts.clock.now());
        if !pause.is_zero() {
            let until = self.parts.clock.elapsed() + pause;
            self.backlog.hold(entry.chat, until);
        }
    }

    async fn refused(
        &mut self,
        entry: QueueEntry,
        message: &OutboundMessage,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.flights.remove(&message.stanza_id);
        self.kept_off.remove(&entry.id);
        self.settler.fail(message.id, reason).await?;
        self.backlog.done(entry.chat);
        Ok(())
    }

    async fn acked(&mut self, ack: Ack) -> Result<(), StoreError> {
        let flight = self.flights.remove(&ack.stanza_id);
        let verdict = self.settler.settle(&ack).await?;
        let Some(flight) = flight else {
            return Ok(());
        };
        if verdict == Verdict::Accepted {
            let took = self.parts.clock.elapsed().saturating_sub(flight.since);
            metrics::histogram!("trunkline_send_to_ack_seconds").record(took.as_secs_f64());
        }
        self.backlog.done(flight.entry.chat);
        Ok(())
    }

    /// Whether nothing was ever exchanged with the recipient; `None` when the message is gone.
    async fn is_new_contact(&mut self, entry: &QueueEntry) -> Result<Option<bool>, StoreError> {
        if self.known.contains(&entry.chat) {
            return Ok(Some(false));
        }
        let Some(message) = read(&self.parts.store, entry.id).await? else {
            return Ok(None);
        };
        if !message.to.is_individual() {
            self.remember(entry.chat);
            return Ok(Some(false));
        }
        let keys = self.parts.store.keys();
        for alias in message.to.aliases() {
            if keys.contains(KeyKind::Contact, &KeyId::name(alias)).await? {
                self.remember(entry.chat);
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    /// Counts a conversation that is being opened.
    async fn meet(&mut self, entry: &QueueEntry) -> Result<(), StoreError> {
        self.remember(entry.chat);
        let Some(message) = read(&self.parts.store, entry.id).await? else {
            return Ok(());
        };
        let keys = self.parts.store.keys();
        for alias in message.to.aliases() {
            let id = KeyId::name(alias);
            keys.put(KeyKind::Contact, id, Vec::new(), Durability::Ordered)
                .await?;
        }
        let met = Counters {
            new_contacts: 1,
            ..Counters::default()
        };
        let session = self.parts.store.name().session;
        self.parts
            .store
            .workspace()
            .usage()
            .add(&session, met)
            .await
    }

    fn remember(&mut self, chat: Hash) {
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.insert(chat);
    }

    fn is_ack_overdue(&self, elapsed: Duration) -> bool {
        let overdue = |flight: &Flight| flight.deadline.is_some_and(|at| at <= elapsed);
        self.flights.values().any(overdue)
    }

    fn next_wake(&self) -> Option<Duration> {
        let (now, elapsed) = (self.parts.clock.now(), self.parts.clock.elapsed());
        let (wall, held) = self.backlog.next_wake();
        let wall = wall.map(|at| elapsed + at.since(now));
        let acks = self
            .flights
            .values()
            .filter_map(|flight| flight.deadline)
            .min();
        [wall, held, acks, self.paused_until]
            .into_iter()
            .flatten()
            .min()
    }

    /// Messages in memory that are not on the wire.
    fn waiting(&self) -> usize {
        self.backlog.len() + self.uploads.messages().len()
    }

    /// When the message that has waited for longest was accepted, on the wire or not.
    fn oldest(&self) -> Option<Timestamp> {
        let on_the_wire = self.flights.values().map(|flight| flight.entry.id);
        let uploading = self.uploads.messages().first().copied();
        let waiting = self.backlog.oldest().into_iter().chain(uploading);
        let oldest = on_the_wire.chain(waiting).map(accepted_at);
        oldest.min()
    }

    fn publish(&self) {
        let depth = Depth {
            waiting: self.waiting(),
            on_the_wire: self.flights.len(),
            oldest: self.oldest(),
        };
        self.parts.depth.send_if_modified(|before| {
            let changed = *before != depth;
            *before = depth;
            changed
        });
    }
}

/// Message ids are version 7 UUIDs: their first 48 bits are the time of acceptance.
pub(super) fn accepted_at(id: MessageId) -> Timestamp {
    let millis = id.0.as_u128() >> 80;
    Timestamp(u64::try_from(millis).unwrap_or_default())
}

async fn read(store: &SessionStore, id: MessageId) -> Result<Option<OutboundMessage>, StoreError> {
    match store.outbox().get(id).await {
        Ok(message) => Ok(Some(message)),
        Err(LookupError::NotFound { .. }) => Ok(None),
        Err(LookupError::Store(error)) => Err(error),
    }
}

async fn sleep_until(clock: &dyn Clock, at: Option<Duration>) {
    match at {
        Some(at) => tokio::time::sleep(at.saturating_sub(clock.elapsed())).await,
        None => std::future::pending().await,
    }
}
