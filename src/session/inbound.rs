//! Where a line puts what arrives: durable first, acknowledged after.
//!
//! One [`Inbound`] per line. Messages come through [`Sink::commit`] and are one commit each batch; what
//! the library dispatches on its own comes through [`Sink::enqueue`] and is written in order by one
//! task. The first failure closes the sink for good: nothing is acknowledged any more, the actor closes
//! the connection and builds a new line with a new sink.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::memory::Memory;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::event::{DedupKey, NewEvent, Payload};
use crate::domain::person::Person;
use crate::provider::contract::SentMessage;
use crate::provider::contract::{
    Arrival, CONTACT_MAPPING, CommitError, Seq, Signal, Sink, UNDECRYPTABLE,
};
use crate::store::{
    Applied, ApplyError, Change, Durability, KeyId, KeyKind, ReceiptArrival, SessionStore,
    StoreError,
};

/// Undurable arrivals a line may leave behind. A line stops reading at a few hundred, but what one
/// stanza leads to can be an address book: the protocol library hands a whole snapshot over at once.
const MOST_PENDING: u64 = 65_536;

/// Signals the actor may be behind.
const MOST_SIGNALS: usize = 4_096;

/// Arrivals written in one commit.
const BATCH: usize = 256;

/// Arrivals, and messages that their receipts move, in one commit. Each writes up to eight rows, and the
/// store takes 4,096 of them at a time.
const PART: usize = 400;

/// Messages that one receipt may move. WhatsApp's own clients send up to 256 at a time.
const RECEIPT_IDS: usize = 256;

/// How far the provider's clock may be ahead of ours.
const SKEW: Duration = Duration::from_mins(5);

/// What a line tells the actor.
#[derive(Debug)]
pub(super) enum LineEvent {
    /// Progress.
    Signal(Signal),
    /// The sink failed: the connection must be closed.
    SinkFailed {
        /// A short technical detail.
        detail: String,
    },
}

#[derive(Debug, Clone, Default)]
struct Durable {
    seq: Seq,
    failed: Option<String>,
}

#[derive(Debug)]
struct Queue {
    last: Seq,
    /// `None` once closed.
    writer: Option<mpsc::UnboundedSender<(Seq, Arrival)>>,
}

/// A line's sink.
#[derive(Debug)]
pub(super) struct Inbound {
    store: SessionStore,
    clock: Arc<dyn Clock>,
    queue: Mutex<Queue>,
    dispatched: AtomicU64,
    durable: watch::Sender<Durable>,
    events: mpsc::Sender<LineEvent>,
    memory: Mutex<Memory>,
    /// Changes of groups that arrived.
    group_changes: Arc<AtomicU64>,
    /// Messages stamped before this may have been reported undecryptable to an earlier sink.
    complete_since: Timestamp,
}

impl Inbound {
    /// A sink that writes through `store` (which owns the session) with its writer on `tasks`, and the
    /// receiver of what the line tells.
    pub(super) fn open(
        store: SessionStore,
        clock: Arc<dyn Clock>,
        tasks: &TaskTracker,
    ) -> (Arc<Self>, mpsc::Receiver<LineEvent>) {
        let (events, told) = mpsc::channel(MOST_SIGNALS);
        let (writer, queued) = mpsc::unbounded_channel();
        let complete_since = clock.now().plus(SKEW);
        let inbound = Arc::new(Self {
            store,
            clock,
            queue: Mutex::new(Queue {
                last: 0,
                writer: Some(writer),
            }),
            dispatched: AtomicU64::new(0),
            durable: watch::channel(Durable::default()).0,
            events,
            memory: Mutex::default(),
            group_changes: Arc::default(),
            complete_since,
        });
        tasks.spawn(Arc::clone(&inbound).write(queued).in_current_span());
        (inbound, told)
    }

    /// Counts the changes of groups that arrived; each is counted before anybody can read of it.
    pub(super) fn group_changes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.group_changes)
    }

    /// Takes nothing more and waits until everything queued is durable or has failed.
    pub(super) async fn close(&self) {
        self.shut();
        let dispatched = self.dispatched();
        let mut durable = self.durable.subscribe();
        // The sender lives as long as this sink.
        let _ = durable
            .wait_for(|state| state.failed.is_some() || state.seq >= dispatched)
            .await;
    }

    /// Takes nothing more; the writer ends when it has written what is queued.
    pub(super) fn shut(&self) {
        self.queue().writer = None;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(self: Arc<Self>, mut queued: mpsc::UnboundedReceiver<(Seq, Arrival)>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queued.recv_many(&mut batch, BATCH).await > 0 {
            let Some(last) = batch.last().map(|(seq, _)| *seq) else {
                continue;
            };
            let arrivals = batch.drain(..).map(|(_, arrival)| arrival).collect();
            match self.make_durable(arrivals).await {
                Ok(()) => self.durable.send_modify(|state| state.seq = last),
                Err(error) => return self.fail(&error.0),
            }
        }
    }

    async fn make_durable(&self, batch: Vec<Arrival>) -> Result<(), CommitError> {
        for part in parts(batch) {
            self.commit_part(part).await?;
        }
        Ok(())
    }

    async fn commit_part(&self, batch: Vec<Arrival>) -> Result<(), CommitError> {
        if let Some(detail) = self.durable.borrow().failed.clone() {
            return Err(CommitError(detail));
        }
        let (changes, reports) = self
            .changes(batch)
            .await
            .map_err(|error| commit_error(&error))?;
        let applied = self
            .store
            .apply(changes)
            .await
            .map_err(|error| match error {
                ApplyError::Store(error) => commit_error(&error),
                ApplyError::Transition(error) => CommitError(error.to_string()),
            })?;
        for (index, sender, stanza_id) in reports {
            if let Some(Applied::Event(event)) = applied.get(index) {
                if !event.duplicate {
                    metrics::counter!("trunkline_decrypt_failures_total").increment(1);
                }
                self.memory().reported(&sender, &stanza_id, event.event_id);
            }
        }
        count(&applied);
        Ok(())
    }

    /// The changes of a batch, with what they teach us: mappings of names, messages recovered, people
    /// we have talked to. Also which of them report an undecryptable message, and which one.
    async fn changes(
        &self,
        batch: Vec<Arrival>,
    ) -> Result<(Vec<Change>, Vec<(usize, String, String)>), StoreError> {
        let now = self.clock.now();
        let mut changes = Vec::with_capacity(batch.len());
        let mut reports = Vec::new();
        for arrival in batch {
            match arrival {
                Arrival::Event(mut event) => {
                    if !matches!(event.payload, Payload::ContactMapping { .. }) {
                        self.learn_names(&people(&event.payload), now, &mut changes);
                    }
                    self.link_recovery(&mut event).await?;
                    if matches!(event.payload, Payload::GroupChange { .. }) {
                        // Before it is durable: whoever reads of the change must not be shown the group
                        // as it was.
                        self.group_changes.fetch_add(1, Ordering::SeqCst);
                    }
                    self.remember_contact(&event.payload).await?;
                    if let Payload::Undecryptable {
                        sender, stanza_id, ..
                    } = &event.payload
                    {
                        let sender = sender.canonical().to_owned();
                        reports.push((changes.len(), sender, stanza_id.clone()));
                    }
                    changes.push(Change::Event(event));
                }
                Arrival::Receipt {
                    chat,
                    from,
                    stanza_ids,
                    kind,
                    at,
                    dedup,
                } => {
                    self.learn_names(&[&chat, &from], now, &mut changes);
                    changes.push(Change::Receipt(ReceiptArrival {
                        chat,
                        from,
                        stanza_ids,
                        kind,
                        at,
                        dedup: Some(dedup),
                        received_at: now,
                    }));
                }
            }
        }
        Ok((changes, reports))
    }

    fn learn_names(&self, people: &[&Person], now: Timestamp, changes: &mut Vec<Change>) {
        for person in people {
            let (Some(lid), Some(pn)) = (&person.lid, &person.pn_jid) else {
                continue;
            };
            if self.memory().is_new_mapping(lid, pn) {
                changes.push(Change::Event(NewEvent {
                    at: now,
                    dedup: Some(DedupKey {
                        chat: lid.clone(),
                        sender: pn.clone(),
                        stanza_id: String::new(),
                        kind: CONTACT_MAPPING.to_owned(),
                    }),
                    payload: Payload::ContactMapping {
                        person: (*person).clone(),
                    },
                }));
            }
        }
    }

    async fn link_recovery(&self, event: &mut NewEvent) -> Result<(), StoreError> {
        let Payload::Message { message, recovers } = &mut event.payload else {
            return Ok(());
        };
        if recovers.is_some() {
            return Ok(());
        }
        let (known, complete) = self
            .memory()
            .report_of(message.sender.canonical(), &message.stanza_id);
        if known.is_some() || (complete && message.sent_at >= self.complete_since) {
            *recovers = known;
            return Ok(());
        }
        let report = NewEvent {
            at: event.at,
            dedup: Some(DedupKey {
                chat: message.chat.canonical().to_owned(),
                sender: message.sender.canonical().to_owned(),
                stanza_id: message.stanza_id.clone(),
                kind: UNDECRYPTABLE.to_owned(),
            }),
            payload: Payload::Undecryptable {
                chat: message.chat.clone(),
                sender: message.sender.clone(),
                stanza_id: message.stanza_id.clone(),
                reason: String::new(),
            },
        };
        let journal = self.store.workspace().journal();
        let found = journal.find(&self.store.name().session, &report).await?;
        *recovers = found.map(|report| report.event_id);
        Ok(())
    }

    async fn remember_contact(&self, payload: &Payload) -> Result<(), StoreError> {
        let Payload::Message { message, .. } = payload else {
            return Ok(());
        };
        for alias in message.chat.aliases() {
            if self.memory().is_new_contact(alias) {
                let id = KeyId::name(alias);
                let keys = self.store.keys();
                keys.put(KeyKind::Contact, id, Vec::new(), Durability::Ordered)
                    .await?;
            }
        }
        Ok(())
    }

    fn fail(&self, detail: &str) {
        let first = self.durable.send_if_modified(|state| {
            let first = state.failed.is_none();
            state.failed.get_or_insert_with(|| detail.to_owned());
            first
        });
        self.queue().writer = None;
        if first {
            metrics::counter!("trunkline_sink_failures_total").increment(1);
            // The actor may be gone already; then the line is being dropped with it.
            let _ = self.events.try_send(LineEvent::SinkFailed {
                detail: detail.to_owned(),
            });
        }
    }
}

#[async_trait]
impl Sink for Inbound {
    async fn commit(&self, batch: Vec<Arrival>) -> Result<(), CommitError> {
        let outcome = self.make_durable(batch).await;
        if let Err(error) = &outcome {
            self.fail(&error.0);
        }
        outcome
    }

    fn enqueue(&self, arrival: Arrival) -> Seq {
        let mut queue = self.queue();
        queue.last += 1;
        let seq = queue.last;
        self.dispatched.store(seq, Ordering::SeqCst);
        let pending = seq.saturating_sub(self.durable.borrow().seq);
        let sent = match &queue.writer {
            Some(writer) if pending <= MOST_PENDING => writer.send((seq, arrival)).is_ok(),
            _ => false,
        };
        drop(queue);
        if !sent {
            self.fail("an arrival came after the sink was closed, or too many were waiting");
        }
        seq
    }

    fn dispatched(&self) -> Seq {
        self.dispatched.load(Ordering::SeqCst)
    }

    fn durable(&self) -> Seq {
        self.durable.borrow().seq
    }

    async fn wait_durable(&self, seq: Seq) -> Result<(), CommitError> {
        let mut durable = self.durable.subscribe();
        let reached = durable
            .wait_for(|state| state.seq >= seq || state.failed.is_some())
            .await
            .map_err(|_| CommitError("the sink is gone".into()))?;
        match &reached.failed {
            Some(detail) if reached.seq < seq => Err(CommitError(detail.clone())),
            _ => Ok(()),
        }
    }

    fn signal(&self, signal: Signal) {
        match self.events.try_send(LineEvent::Signal(signal)) {
            // Closed: the actor has let go of this line.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.fail("too many signals were waiting"),
        }
    }

    async fn knows(&self, event: &NewEvent) -> Result<bool, CommitError> {
        let journal = self.store.workspace().journal();
        let found = journal.find(&self.store.name().session, event).await;
        Ok(found.map_err(|error| commit_error(&error))?.is_some())
    }

    async fn sent_message(&self, stanza_id: &str) -> Result<Option<SentMessage>, CommitError> {
        let found = self.store.outbox().find_by_stanza(stanza_id).await;
        let message = found.map_err(|error| commit_error(&error))?;
        Ok(message.map(|message| SentMessage {
            to: message.to,
            encoded: message.encoded,
        }))
    }
}

/// Splits a batch so that each part fits a commit, whatever its receipts cover.
fn parts(batch: Vec<Arrival>) -> Vec<Vec<Arrival>> {
    let mut parts = vec![Vec::new()];
    let mut room = PART;
    for arrival in batch.into_iter().flat_map(pieces) {
        let weight = match &arrival {
            Arrival::Event(_) => 1,
            Arrival::Receipt { stanza_ids, .. } => 1 + stanza_ids.len(),
        };
        if weight > room && parts.last().is_some_and(|part| !part.is_empty()) {
            parts.push(Vec::new());
            room = PART;
        }
        room = room.saturating_sub(weight);
        if let Some(part) = parts.last_mut() {
            part.push(arrival);
        }
    }
    parts
}

/// A receipt for very many messages as several receipts, each recognised by itself when it is repeated.
fn pieces(arrival: Arrival) -> Vec<Arrival> {
    match arrival {
        Arrival::Receipt {
            chat,
            from,
            stanza_ids,
            kind,
            at,
            dedup,
        } if stanza_ids.len() > RECEIPT_IDS => {
            let piece = |(index, ids): (usize, &[String])| Arrival::Receipt {
                chat: chat.clone(),
                from: from.clone(),
                stanza_ids: ids.to_vec(),
                kind,
                at,
                dedup: DedupKey {
                    stanza_id: format!("{}#{index}", dedup.stanza_id),
                    ..dedup.clone()
                },
            };
            let chunks = stanza_ids.chunks(RECEIPT_IDS).enumerate();
            chunks.map(piece).collect()
        }
        whole => vec![whole],
    }
}

fn commit_error(error: &StoreError) -> CommitError {
    CommitError(error.to_string())
}

fn people(payload: &Payload) -> Vec<&Person> {
    match payload {
        Payload::Message { message, .. } => vec![&message.chat, &message.sender],
        Payload::Receipt { chat, from, .. } => vec![chat, from],
        Payload::Undecryptable { chat, sender, .. } => vec![chat, sender],
        Payload::Call { from, .. } => vec![from],
        Payload::GroupChange {
            actor,
            participants,
            ..
        } => actor.iter().chain(participants).collect(),
        _ => Vec::new(),
    }
}

fn count(applied: &[Applied]) {
    for change in applied {
        let (Applied::Event(event) | Applied::Receipt { event, .. }) = change else {
            continue;
        };
        let outcome = if event.duplicate { "duplicate" } else { "new" };
        metrics::counter!("trunkline_inbound_total", "outcome" => outcome).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::ReceiptKind;

    fn receipt(ids: usize) -> Arrival {
        let person = Person {
            lid: Some("1@lid".into()),
            ..Person::default()
        };
        Arrival::Receipt {
            chat: person.clone(),
            from: person,
            stanza_ids: (0..ids).map(|n| n.to_string()).collect(),
            kind: ReceiptKind::Read,
            at: Timestamp(1),
            dedup: DedupKey {
                chat: "1@lid".into(),
                sender: "1@lid".into(),
                stanza_id: "R".into(),
                kind: "read".into(),
            },
        }
    }

    fn covered(arrival: &Arrival) -> usize {
        match arrival {
            Arrival::Receipt { stanza_ids, .. } => stanza_ids.len(),
            Arrival::Event(_) => 0,
        }
    }

    #[test]
    fn receipts_for_many_messages_are_spread_over_commits() {
        let batch: Vec<_> = (0..64).map(|_| receipt(256)).collect();
        let parts = parts(batch.clone());
        for part in &parts {
            let weight: usize = part.iter().map(|arrival| 1 + covered(arrival)).sum();
            assert!(weight <= PART, "{weight}");
        }
        assert_eq!(parts.concat(), batch, "nothing is lost or reordered");
    }

    #[test]
    fn a_receipt_for_very_many_messages_is_cut_up() {
        let parts = parts(vec![receipt(1_000)]).concat();
        assert_eq!(parts.iter().map(covered).sum::<usize>(), 1_000);
        let keys: std::collections::BTreeSet<_> = parts
            .iter()
            .map(|part| match part {
                Arrival::Receipt { dedup, .. } => dedup.stanza_id.clone(),
                Arrival::Event(_) => panic!("not a receipt"),
            })
            .collect();
        assert_eq!(keys.len(), parts.len(), "each is recognised by itself");
        assert!(parts.iter().all(|part| covered(part) <= RECEIPT_IDS));
    }

    #[test]
    fn a_small_batch_is_one_commit() {
        let batch = vec![receipt(1), receipt(2), receipt(3)];
        assert_eq!(parts(batch.clone()), [batch]);
        assert_eq!(parts(Vec::new()), [Vec::new()]);
    }
}
