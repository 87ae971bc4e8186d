//! Doubles for this provider's unit tests.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::event::NewEvent;
use crate::provider::contract::{Arrival, CommitError, SentMessage, Seq, Signal, Sink};

#[derive(Debug, Clone, Default)]
struct Progress {
    dispatched: Seq,
    durable: Seq,
    failed: Option<String>,
}

/// A sink whose durability a test moves by hand; it keeps what it was given.
#[derive(Debug)]
pub(crate) struct PausedSink {
    progress: watch::Sender<Progress>,
    pub(crate) arrivals: Mutex<Vec<Arrival>>,
    pub(crate) committed: Mutex<Vec<Arrival>>,
    pub(crate) signals: Mutex<Vec<Signal>>,
    pub(crate) sent: Mutex<HashMap<String, SentMessage>>,
}

impl Default for PausedSink {
    fn default() -> Self {
        Self {
            progress: watch::Sender::new(Progress::default()),
            arrivals: Mutex::default(),
            committed: Mutex::default(),
            signals: Mutex::default(),
            sent: Mutex::default(),
        }
    }
}

impl PausedSink {
    pub(crate) fn dispatch(&self, count: Seq) {
        self.progress.send_modify(|p| p.dispatched += count);
    }

    pub(crate) fn make_durable(&self, upto: Seq) {
        self.progress.send_modify(|p| p.durable = upto);
    }

    pub(crate) fn fail(&self, detail: &str) {
        self.progress
            .send_modify(|p| p.failed = Some(detail.to_owned()));
    }
}

#[async_trait]
impl Sink for PausedSink {
    async fn commit(&self, batch: Vec<Arrival>) -> Result<(), CommitError> {
        if let Some(detail) = self.progress.borrow().failed.clone() {
            return Err(CommitError(detail));
        }
        self.committed.lock().unwrap().extend(batch);
        Ok(())
    }

    fn enqueue(&self, arrival: Arrival) -> Seq {
        self.arrivals.lock().unwrap().push(arrival);
        self.dispatch(1);
        self.dispatched()
    }

    fn dispatched(&self) -> Seq {
        self.progress.borrow().dispatched
    }

    fn durable(&self) -> Seq {
        self.progress.borrow().durable
    }

    async fn wait_durable(&self, seq: Seq) -> Result<(), CommitError> {
        let mut progress = self.progress.subscribe();
        let reached = progress
            .wait_for(|p| p.durable >= seq || p.failed.is_some())
            .await
            .map_err(|_| CommitError("closed".into()))?;
        match &reached.failed {
            Some(detail) if reached.durable < seq => Err(CommitError(detail.clone())),
            _ => Ok(()),
        }
    }

    fn signal(&self, signal: Signal) {
        self.signals.lock().unwrap().push(signal);
    }

    async fn knows(&self, _: &NewEvent) -> Result<bool, CommitError> {
        Ok(false)
    }

    async fn sent_message(&self, stanza_id: &str) -> Result<Option<SentMessage>, CommitError> {
        Ok(self.sent.lock().unwrap().get(stanza_id).cloned())
    }
}
