//! A sink over a real session store: what it says is durable has gone through the journal.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use trunkline::domain::clock::{Clock, SystemClock};
use trunkline::domain::event::{NewEvent, Payload, ReceiptKind};
use trunkline::domain::message::InboundMessage;
use trunkline::provider::contract::{Arrival, CommitError, SentMessage, Seq, Signal, Sink};
use trunkline::store::{Applied, Change, ReceiptArrival, SessionStore};

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Everything a line has reported.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) signals: Vec<Signal>,
    pub(crate) arrivals: Vec<Arrival>,
    /// Arrivals that the journal recognised as repetitions.
    pub(crate) repeated: usize,
    /// The stanza ids of messages that the journal took as new.
    pub(crate) new_messages: Vec<String>,
    /// Arrivals that left no trace, see [`TestSink::lose`].
    pub(crate) lost: usize,
    dispatched: Seq,
    durable: Seq,
    failed: bool,
}

impl Seen {
    /// Messages journalled, oldest first.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &InboundMessage> {
        self.arrivals.iter().filter_map(|arrival| match arrival {
            Arrival::Event(event) => match &event.payload {
                Payload::Message { message, .. } => Some(message),
                _ => None,
            },
            Arrival::Receipt { .. } => None,
        })
    }

    pub(crate) fn has_receipt(&self, stanza: &str, wanted: ReceiptKind) -> bool {
        self.arrivals.iter().any(|arrival| {
            matches!(arrival, Arrival::Receipt { stanza_ids, kind, .. }
                if *kind == wanted && stanza_ids.iter().any(|id| id == stanza))
        })
    }

    /// Whether the server answered for `stanza` with this error (`None`: accepted it).
    pub(crate) fn has_ack(&self, stanza: &str, wanted: Option<u32>) -> bool {
        self.signals.iter().any(|signal| {
            matches!(signal, Signal::ServerAck { stanza_id, error, .. }
                if stanza_id == stanza && *error == wanted)
        })
    }

    /// How many arrivals were queued.
    pub(crate) fn dispatched(&self) -> Seq {
        self.dispatched
    }

    /// Whether a message was reported as one that cannot be read.
    pub(crate) fn is_undecryptable(&self, stanza: &str) -> bool {
        self.arrivals.iter().any(|arrival| {
            matches!(arrival, Arrival::Event(event) if matches!(
                &event.payload, Payload::Undecryptable { stanza_id, .. } if stanza_id == stanza))
        })
    }

    pub(crate) fn qr(&self) -> Option<String> {
        self.signals.iter().rev().find_map(|signal| match signal {
            Signal::Qr { payload, .. } => Some(payload.clone()),
            _ => None,
        })
    }

    pub(crate) fn is_online(&self) -> bool {
        self.signals
            .iter()
            .any(|signal| matches!(signal, Signal::Online { .. }))
    }
}

/// See the module documentation.
pub(crate) struct TestSink {
    seen: watch::Sender<Seen>,
    store: SessionStore,
    queue: mpsc::UnboundedSender<Arrival>,
    /// While set, queued arrivals wait.
    held: watch::Sender<bool>,
    refuse_commits: AtomicBool,
    lose_commits: AtomicBool,
    pub(crate) sent: Mutex<HashMap<String, SentMessage>>,
}

fn change(arrival: &Arrival) -> Change {
    match arrival.clone() {
        Arrival::Event(event) => Change::Event(event),
        Arrival::Receipt {
            chat,
            from,
            stanza_ids,
            kind,
            at,
            dedup,
        } => Change::Receipt(ReceiptArrival {
            chat,
            from,
            stanza_ids,
            kind,
            at,
            dedup: Some(dedup),
            received_at: SystemClock::new().now(),
        }),
    }
}

impl TestSink {
    pub(crate) fn new(store: SessionStore) -> Arc<Self> {
        let (queue, arrivals) = mpsc::unbounded_channel();
        let sink = Arc::new(Self {
            seen: watch::Sender::new(Seen::default()),
            store,
            queue,
            held: watch::Sender::new(false),
            refuse_commits: AtomicBool::new(false),
            lose_commits: AtomicBool::new(false),
            sent: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&sink).write(arrivals));
        sink
    }

    async fn write(self: Arc<Self>, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
        let mut held = self.held.subscribe();
        while let Some(arrival) = arrivals.recv().await {
            held.wait_for(|held| !held).await.unwrap();
            self.journal(&arrival).await;
            self.seen.send_modify(|seen| {
                seen.durable += 1;
                seen.arrivals.push(arrival);
            });
        }
    }

    async fn journal(&self, arrival: &Arrival) {
        let applied = self.store.apply(vec![change(arrival)]).await.unwrap();
        let appended = match &applied[0] {
            Applied::Event(appended)
            | Applied::Receipt {
                event: appended, ..
            } => appended,
            other => panic!("{other:?}"),
        };
        let message = match arrival {
            Arrival::Event(event) => match &event.payload {
                Payload::Message { message, .. } => Some(message.stanza_id.clone()),
                _ => None,
            },
            Arrival::Receipt { .. } => None,
        };
        self.seen.send_modify(|seen| {
            if appended.duplicate {
                seen.repeated += 1;
            } else {
                seen.new_messages.extend(message);
            }
        });
    }

    /// Lets queued arrivals wait, or go on.
    pub(crate) fn hold(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// Makes commits fail, or succeed again.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.refuse_commits.store(refuse, Ordering::SeqCst);
    }

    /// Makes commits succeed without a trace, as if the process died before they reached the disk, or
    /// do their work again.
    pub(crate) fn lose(&self, lose: bool) {
        self.lose_commits.store(lose, Ordering::SeqCst);
    }

    /// Forgets the signals of earlier attempts.
    pub(crate) fn forget_signals(&self) {
        self.seen.send_modify(|seen| seen.signals.clear());
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.borrow())
    }

    /// Waits until `condition` holds.
    #[track_caller]
    pub(crate) fn wait(
        &self,
        what: &'static str,
        mut condition: impl FnMut(&Seen) -> bool,
    ) -> impl Future<Output = ()> {
        let mut seen = self.seen.subscribe();
        async move {
            let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|seen| condition(seen)))
                .await
                .map(|held| held.map(|_| ()));
            assert!(
                waited.is_ok(),
                "{what}: not within {PATIENCE:?}; seen {:#?}",
                self_signals(&seen)
            );
        }
    }

    /// Waits for a fresh QR and returns it.
    pub(crate) async fn qr(&self) -> String {
        self.wait("a QR", |seen| seen.qr().is_some()).await;
        self.look(|seen| seen.qr().unwrap())
    }

    pub(crate) async fn online(&self) {
        self.wait("online", Seen::is_online).await;
    }
}

fn self_signals(seen: &watch::Receiver<Seen>) -> (Vec<Signal>, usize) {
    let seen = seen.borrow();
    (seen.signals.clone(), seen.arrivals.len())
}

#[async_trait]
impl Sink for TestSink {
    async fn commit(&self, batch: Vec<Arrival>) -> Result<(), CommitError> {
        if self.refuse_commits.load(Ordering::SeqCst) {
            return Err(CommitError("ordered by the test".into()));
        }
        if self.lose_commits.load(Ordering::SeqCst) {
            self.seen.send_modify(|seen| seen.lost += batch.len());
            return Ok(());
        }
        for arrival in &batch {
            self.journal(arrival).await;
        }
        self.seen.send_modify(|seen| seen.arrivals.extend(batch));
        Ok(())
    }

    fn enqueue(&self, arrival: Arrival) -> Seq {
        let mut seq = 0;
        self.seen.send_modify(|seen| {
            seen.dispatched += 1;
            seq = seen.dispatched;
            self.queue.send(arrival).unwrap();
        });
        seq
    }

    fn dispatched(&self) -> Seq {
        self.look(|seen| seen.dispatched)
    }

    fn durable(&self) -> Seq {
        self.look(|seen| seen.durable)
    }

    async fn wait_durable(&self, seq: Seq) -> Result<(), CommitError> {
        let mut seen = self.seen.subscribe();
        let reached = seen
            .wait_for(|seen| seen.durable >= seq || seen.failed)
            .await
            .map_err(|_| CommitError("closed".into()))?;
        if reached.failed {
            return Err(CommitError("failed".into()));
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        self.seen.send_modify(|seen| seen.signals.push(signal));
    }

    async fn knows(&self, event: &NewEvent) -> Result<bool, CommitError> {
        let journal = self.store.workspace().journal();
        let found = journal.find(&self.store.name().session, event).await;
        Ok(found
            .map_err(|error| CommitError(error.to_string()))?
            .is_some())
    }

    async fn sent_message(&self, stanza_id: &str) -> Result<Option<SentMessage>, CommitError> {
        Ok(self.sent.lock().unwrap().get(stanza_id).cloned())
    }
}
