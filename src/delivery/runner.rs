//! The one task of a subscription: reads the journal, feeds the machine, writes what it decides, and
//! hands leases to the streams.
//!
//! One read and one write are under way at most; writes that come up meanwhile join the next one, so an
//! ack is durable after two commits at the latest. Payloads are fetched by the streams' own tasks, just
//! ahead of what their clients take.

mod calls;
mod command;
mod settle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::consumer::{Delivery, MAX_UNREAD_RESULTS};
use super::dispatch::{Dispatch, Ending, Revision, Rules, StreamId, Writes};
use super::forward::{Batch, Forward, Forwarder, Lease};
use super::gauges::Gauges;
use super::journal::{Moment, Page, Reader, Skips, write};
use super::path;
use super::token::Tokens;
use crate::domain::clock::Clock;
use crate::store::{
    Journal, LookupError, Progress, ReadError, StoreError, SubscriptionRecord, WorkspaceStore,
};
pub(super) use calls::{CallPort, Kept, Opening};
pub(super) use command::{Command, MAILBOX};
pub use command::{LiveDelivery, Stopped};

/// How long a runner without streams stays, so that a reconnecting client finds its leases' tokens.
const LINGER: Duration = Duration::from_secs(30);

/// Why a subscription cannot be consumed.
pub(super) type StartError = LookupError;

/// A stream as the runner knows it.
struct Port {
    /// To the task that fetches payloads.
    forward: mpsc::Sender<Forward>,
    /// Leases of this round.
    pending: Vec<Lease>,
    /// The number of the last batch.
    batch: u64,
    /// For operations: each takes one, and gives it back when its result has been read.
    permits: Arc<Semaphore>,
    /// Of a call.
    call: Option<CallPort>,
}

impl Port {
    /// Hands something to the task that fetches payloads.
    fn hand(&self, forward: Forward) {
        match self.forward.try_send(forward) {
            // A task that is gone means a client that is gone: its Close is on the way.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::error!("a stream was handed more than its bounds allow");
            }
        }
    }
}

/// What waits for the task of one stream at most: one result per permit, one batch, one last word.
const FORWARD: usize = MAX_UNREAD_RESULTS + 2;

/// The state of the task.
pub(super) struct Runner {
    clock: Arc<dyn Clock>,
    journal: Journal,
    progress: Progress,
    record: SubscriptionRecord,
    of: path::Reader,
    tokens: Tokens,
    machine: Dispatch,
    ports: HashMap<StreamId, Port>,
    reader: Arc<Reader>,
    head: watch::Receiver<Revision>,
    commands: mpsc::Receiver<Command>,
    back: mpsc::WeakSender<Command>,
    read: Option<JoinHandle<Result<Page, ReadError>>>,
    write: Option<JoinHandle<(Writes, Result<(), StoreError>)>>,
    skips: Skips,
    /// Events had gone from the journal before they were delivered.
    may_have_lost: bool,
    idle_since: Option<Duration>,
    /// The daemon is stopping: when what consumers hold is given up.
    drained_by: Option<Duration>,
    gauges: Gauges,
}

/// What the runner woke up for.
enum Wake {
    Command(Option<Command>),
    Read(Result<Page, ReadError>),
    Written(Writes, Result<(), StoreError>),
    Head(bool),
    Time,
}

impl Runner {
    /// Prepares a run of a subscription.
    pub(super) async fn prepare(
        workspace: &WorkspaceStore,
        record: SubscriptionRecord,
        clock: Arc<dyn Clock>,
        window: usize,
        commands: mpsc::Receiver<Command>,
        back: mpsc::WeakSender<Command>,
    ) -> Result<Self, StartError> {
        let journal = workspace.journal();
        let progress = workspace.subscriptions().progress(&record.id).await?;
        let epoch = progress.next_epoch().await?;
        progress.report_loss().await?;
        let head = journal.watch().await?;
        let reader = Reader::open(&journal, &progress, &record).await?;
        let rules = Rules {
            ack_deadline: record.config.ack_deadline,
            max_attempts: record.config.max_attempts,
            window,
            most_kept: calls::most_kept(window),
        };
        Ok(Self {
            clock,
            of: path::Reader {
                workspace: workspace.id().clone(),
                subscription: record.id.clone(),
            },
            tokens: Tokens::new(journal.clone(), &record, epoch),
            machine: Dispatch::new(rules, reader.confirmed.floor()),
            ports: HashMap::new(),
            reader: Arc::new(reader),
            head,
            commands,
            back,
            read: None,
            write: None,
            skips: Skips::default(),
            may_have_lost: false,
            idle_since: None,
            drained_by: None,
            gauges: Gauges::default(),
            journal,
            progress,
            record,
        })
    }

    /// Runs until there is nothing left to run for.
    ///
    /// # Errors
    /// The store failed: all streams have been told.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let mut outcome = self.serve().await;
        if outcome == Err(StoreError::Gone) {
            // Deleted while something was written: its deletion ends the streams, and so does this.
            self.end_all(&Delivery::Stopped(Stopped::Deleted));
            outcome = Ok(());
        }
        if let Err(error) = &outcome {
            self.end_all(&Delivery::Failed(error.clone()));
        }
        if let Some(read) = self.read.take() {
            read.abort();
        }
        outcome
    }

    async fn serve(&mut self) -> Result<(), StoreError> {
        loop {
            self.step();
            if self.is_drained() {
                let outcome = self.finish().await;
                self.end_all(&Delivery::Stopped(Stopped::Draining));
                return outcome;
            }
            match self.wait().await {
                Wake::Command(None) => return self.finish().await,
                Wake::Command(Some(Command::Delete)) => {
                    self.end_all(&Delivery::Stopped(Stopped::Deleted));
                    return Ok(());
                }
                Wake::Command(Some(command)) => self.command(command),
                Wake::Read(page) => self.take_page(page)?,
                Wake::Written(writes, result) => {
                    result?;
                    self.written(&writes);
                }
                Wake::Head(open) => {
                    if !open {
                        return Err(StoreError::Closed);
                    }
                }
                Wake::Time => {
                    let now = self.clock.elapsed();
                    self.machine.tick(now);
                    if self.idle_since.is_some_and(|since| now >= since + LINGER) {
                        return self.finish().await;
                    }
                }
            }
        }
    }

    /// Everything that can be done at once: give out, tell, begin to read and write.
    fn step(&mut self) {
        let now = self.clock.elapsed();
        self.machine.tick(now);
        if self.drained_by.is_none() {
            self.begin_read();
            self.give_out(now);
        }
        self.tell_calls_of_nothing();
        self.tell_outcomes();
        self.begin_write();
        self.gauges.report(self.ports.len(), self.machine.leased());
        let idle = self.machine.is_idle() && self.write.is_none();
        self.idle_since = idle.then(|| self.idle_since.unwrap_or(now));
    }

    /// Whether the daemon is stopping and nothing has to be waited for any more.
    fn is_drained(&self) -> bool {
        self.drained_by
            .is_some_and(|by| self.clock.elapsed() >= by || !self.machine.is_owed())
    }

    async fn wait(&mut self) -> Wake {
        let now = self.clock.elapsed();
        let linger = self.idle_since.map(|since| since + LINGER);
        let skips = self.skips.due().filter(|_| self.write.is_none());
        let due = self.machine.wake_at().into_iter();
        let due = due.chain(linger).chain(skips).chain(self.drained_by).min();
        let sleep = due.map(|due| tokio::time::sleep(due.saturating_sub(now)));
        tokio::select! {
            biased;
            Some(done) = join(&mut self.write) => match done {
                Ok((writes, result)) => Wake::Written(writes, result),
                // The task was cancelled: the runtime is going down.
                Err(_) => Wake::Written(Writes::default(), Err(StoreError::Closed)),
            },
            Some(done) = join(&mut self.read) => {
                Wake::Read(done.unwrap_or(Err(StoreError::Closed.into())))
            }
            command = self.commands.recv() => Wake::Command(command),
            head = self.head.changed() => Wake::Head(head.is_ok()),
            () = async { match sleep { Some(sleep) => sleep.await, None => std::future::pending().await } } => Wake::Time,
        }
    }

    /// These writes are durable.
    fn written(&mut self, writes: &Writes) {
        self.of.settled(writes);
        self.machine.written(writes, self.clock.elapsed());
    }

    /// Writes what is left before the run ends.
    async fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(write) = self.write.take() {
            let (writes, result) = write.await.map_err(|_| StoreError::Closed)?;
            result?;
            self.written(&writes);
        }
        let writes = self.machine.take_writes();
        let moment = Moment::of(&*self.clock);
        write(&self.progress, &writes, &self.skips.take(), moment).await?;
        self.written(&writes);
        self.tell_outcomes();
        Ok(())
    }

    /// Ends all streams with a last word, after everything that is on its way to them.
    fn end_all(&mut self, last: &Delivery) {
        let now = self.clock.elapsed();
        for (stream, port) in self.ports.drain() {
            self.machine.close(stream, Ending::Orderly, now);
            port.hand(Forward::Last(last.clone()));
        }
    }

    fn begin_read(&mut self) {
        if self.read.is_some() {
            return;
        }
        let newest = *self.head.borrow_and_update();
        if let Some(start) = self.machine.next_read(newest) {
            let (reader, seen) = (Arc::clone(&self.reader), self.machine.cursor());
            self.read = Some(tokio::spawn(async move { reader.read(start, seen).await }));
        }
    }

    fn take_page(&mut self, page: Result<Page, ReadError>) -> Result<(), StoreError> {
        let now = self.clock.elapsed();
        match page {
            Ok(page) => {
                let from = self.machine.cursor();
                self.machine.fill(page.start, &page.loads, page.next, now);
                let to = self.machine.cursor();
                self.skips.note(from, to, &page.loads, now);
                Ok(())
            }
            Err(ReadError::Compacted { oldest }) => {
                self.machine.compact(oldest, now);
                self.may_have_lost = true;
                Ok(())
            }
            // What is durable is read again later.
            Err(ReadError::Future { .. }) => Ok(()),
            Err(ReadError::Store(error)) => Err(error),
        }
    }

    fn begin_write(&mut self) {
        if self.write.is_some() {
            return;
        }
        let writes = self.machine.take_writes();
        let skips = self.skips.take_if_due(self.clock.elapsed());
        let may_have_lost = std::mem::take(&mut self.may_have_lost);
        if writes.is_empty() && skips.is_empty() && !may_have_lost {
            return;
        }
        let (progress, moment) = (self.progress.clone(), Moment::of(&*self.clock));
        self.write = Some(tokio::spawn(async move {
            let mut result = write(&progress, &writes, &skips, moment).await;
            if may_have_lost && result.is_ok() {
                result = progress.report_loss().await;
            }
            (writes, result)
        }));
    }

    fn command(&mut self, command: Command) {
        let now = self.clock.elapsed();
        match command {
            Command::Open {
                credit,
                call,
                out,
                permits,
                opened,
            } => {
                if self.drained_by.is_some() && credit.events > 0 {
                    // Whoever asks is told that the daemon drains.
                    return;
                }
                let stream = match &call {
                    Some(_) => self.machine.open_call(credit),
                    None => self.machine.open(credit),
                };
                let (forward, queue) = mpsc::channel(FORWARD);
                let port = Port {
                    forward,
                    pending: Vec::new(),
                    batch: 0,
                    permits: Arc::clone(&permits),
                    call,
                };
                let is_call = port.call.is_some();
                let forwarder = Forwarder {
                    stream,
                    of: self.of.clone(),
                    journal: self.journal.clone(),
                    queue,
                    out,
                    permits,
                    runner: self.back.clone(),
                    clock: Arc::clone(&self.clock),
                    ack_deadline: self.record.config.ack_deadline,
                    call: is_call,
                };
                tokio::spawn(forwarder.run());
                self.ports.insert(stream, port);
                let deadline = self.record.config.ack_deadline;
                let opening = Opening::new(stream, deadline, self.back.upgrade());
                if opened.send(opening).is_err() {
                    self.ports.remove(&stream);
                    self.machine.close(stream, Ending::Orderly, now);
                }
            }
            Command::Ready { stream } => self.ready(stream, now),
            Command::Keep {
                stream,
                taken,
                kept,
            } => self.keep(stream, taken, kept, now),
            Command::Close {
                stream,
                ending,
                taken,
            } => {
                let port = self.ports.remove(&stream);
                if port.is_some_and(|port| port.batch == taken) {
                    self.machine.handed_over(stream, now);
                }
                self.machine.close(stream, ending, now);
            }
            Command::Settle {
                stream,
                operation,
                ack_ids,
            } => self.settle(stream, operation, ack_ids, now),
            Command::Vanished(revisions) => {
                for revision in revisions {
                    self.machine.vanish(revision, now);
                }
                self.may_have_lost = true;
            }
            Command::LookAt { revision, seen } => {
                let moment = Moment::of(&*self.clock);
                let found = self.machine.look_at(revision);
                let live = found.map(|(leased, first_leased)| LiveDelivery {
                    leased,
                    first_leased: first_leased.map(|at| moment.of_earlier(at)),
                });
                // Whoever asked may be gone.
                let _ = seen.send(live);
            }
            // The first drain decides.
            Command::Drain { until } => {
                self.drained_by.get_or_insert(until);
            }
            Command::Delete => {}
        }
    }

    /// Leases what may go, and hands the leases to their streams.
    fn give_out(&mut self, now: Duration) {
        for grant in self.machine.lease(now) {
            metrics::counter!("trunkline_delivery_leased_total").increment(1);
            if let Some(port) = self.ports.get_mut(&grant.stream) {
                port.pending.push(Lease {
                    ack_id: self.tokens.make(grant.revision, grant.lease),
                    revision: grant.revision,
                    attempt: grant.attempt,
                });
            }
        }
        for port in self.ports.values_mut() {
            if !port.pending.is_empty() {
                port.batch += 1;
                let batch = Batch {
                    number: port.batch,
                    leases: std::mem::take(&mut port.pending),
                };
                port.hand(Forward::Leases(batch));
            }
        }
    }
}

/// Waits for a task, if there is one, and forgets it.
async fn join<T>(task: &mut Option<JoinHandle<T>>) -> Option<Result<T, tokio::task::JoinError>> {
    let running = task.as_mut()?;
    let done = running.await;
    *task = None;
    Some(done)
}
