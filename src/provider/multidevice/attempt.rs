//! One connection attempt, from the first byte to the reason it ended.

use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, warn};
use whatsapp_rust::pair_code::PairCodeOptions;

use super::client::{Built, Parts};
use super::facts::Facts;
use super::pairing::MAX_CODES;
use super::resync::{Announced, Resync};
use super::retries::Answerer;
use super::send;
use crate::domain::session::Cause;
use crate::provider::contract::{Mode, ProbeError, Signal};

/// How often deadlines are looked at and the device is saved if it changed.
const TICK: Duration = Duration::from_secs(1);
/// How long the library may hold a fresh login back to synchronise app state before the line counts as
/// online all the same: it sends and receives by then. The library itself waits 10 s for a key share.
const ONLINE_PATIENCE: Duration = Duration::from_secs(30);
/// How long an orderly goodbye may take (the library flushes what it still has to say).
const GOODBYE: Duration = Duration::from_secs(10);
/// How long the library may take to notice that its socket is gone.
const TEARDOWN: Duration = Duration::from_secs(15);

/// One attempt.
pub(super) struct Attempt<'a> {
    pub(super) parts: &'a Parts,
    pub(super) facts: &'a Facts,
    pub(super) built: &'a Built,
    /// Whether no login has ever succeeded.
    pub(super) unconfirmed: bool,
    pub(super) mode: Mode,
}

/// Ends the library's run when the attempt is dropped half-way.
struct RunTask {
    task: JoinHandle<()>,
    done: bool,
}

impl Drop for RunTask {
    fn drop(&mut self) {
        if !self.done {
            self.task.abort();
        }
    }
}

struct Deadlines {
    login: Option<Instant>,
    /// When a line that is logged in counts as online although the library has not said so.
    online: Option<Instant>,
    probing: bool,
}

impl Attempt<'_> {
    pub(super) async fn run(&self, stop: CancellationToken) -> Cause {
        let built = self.built;
        let close = built.watch.begin();
        built.chores.reset();
        self.parts.shared.inflight.reset();
        let retries = &self.parts.shared.retries;
        retries.interrupted();
        if self.mode != Mode::Login {
            retries.clear();
        }
        built.device.set_unconfirmed(self.unconfirmed);
        built.show_qr.store(
            self.mode == Mode::PairByQr,
            std::sync::atomic::Ordering::SeqCst,
        );
        built
            .client
            .enable_auto_reconnect
            .store(false, std::sync::atomic::Ordering::SeqCst);
        let client = std::sync::Arc::clone(&built.client);
        let mut run = RunTask {
            task: tokio::spawn(async move { client.run().await }),
            done: false,
        };
        let mut helpers = JoinSet::new();
        if let Mode::PairByCode { phone } = &self.mode {
            self.ask_for_code(phone.clone(), &mut helpers);
        }
        let ended = self.supervise(&mut run, &mut helpers, &stop, &close).await;
        helpers.shutdown().await;
        if let Some(panicked) = ended {
            return panicked;
        }
        built.watch.cause()
    }

    /// Returns a cause only if the library's own code failed.
    async fn supervise(
        &self,
        run: &mut RunTask,
        helpers: &mut JoinSet<()>,
        stop: &CancellationToken,
        close: &CancellationToken,
    ) -> Option<Cause> {
        let built = self.built;
        let mut codes = 1;
        let mut deadlines = Deadlines {
            login: Some(Instant::now() + self.parts.config.login_timeout),
            online: None,
            probing: false,
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ended = &mut run.task => {
                    run.done = true;
                    return panic_of(ended);
                }
                () = stop.cancelled() => {
                    built.watch.conclude(Cause::Requested);
                    let goodbye = built.client.disconnect();
                    if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
                        warn!("the library did not say goodbye in time");
                    }
                    // A connection that was still being opened is not the library's to close.
                    built.watch.abort_socket();
                    return self.wind_up(run).await;
                }
                () = close.cancelled() => return self.wind_up(run).await,
                () = built.chores.wait() => {
                    if let Err(error) = self.do_chores(&mut deadlines, &mut codes, helpers).await {
                        built.watch.poison(error.to_string());
                    }
                }
                Some(_) = helpers.join_next() => {}
                _ = tick.tick() => self.look_around(&mut deadlines, helpers).await,
            }
        }
    }

    /// Waits for the library to notice that the socket is gone; forces it if it does not.
    async fn wind_up(&self, run: &mut RunTask) -> Option<Cause> {
        if let Ok(ended) = tokio::time::timeout(TEARDOWN, &mut run.task).await {
            run.done = true;
            return panic_of(ended);
        }
        warn!("the library did not end in time; dropping its client");
        self.built.client.signal_shutdown_sync();
        run.task.abort();
        None
    }

    async fn do_chores(
        &self,
        deadlines: &mut Deadlines,
        codes: &mut u32,
        helpers: &mut JoinSet<()>,
    ) -> Result<(), crate::store::StoreError> {
        let (built, sink) = (self.built, &self.parts.sink);
        if built.chores.take_logged_in() {
            deadlines.login = None;
            deadlines.online = Some(Instant::now() + ONLINE_PATIENCE);
            if self.facts.is_unconfirmed().await? {
                self.facts.confirm().await?;
                sink.signal(Signal::Confirmed);
            }
            built.device.set_unconfirmed(false);
        }
        if built.chores.take_online() && deadlines.online.take().is_some() {
            self.go_online(helpers).await?;
        }
        let owed = built.chores.take_owed();
        if !owed.is_empty() {
            let announced = Announced {
                client: std::sync::Arc::clone(&built.client),
                shared: std::sync::Arc::clone(&self.parts.shared),
                facts: self.facts.clone(),
            };
            let before = announced.mark(&owed);
            helpers.spawn(announced.settle(owed, before));
        }
        if built.chores.take_new_code()
            && let Mode::PairByCode { phone } = &self.mode
        {
            *codes += 1;
            if *codes > MAX_CODES {
                built.watch.conclude_and_close(Cause::PairingExpired);
            } else {
                self.ask_for_code(phone.clone(), helpers);
            }
        }
        Ok(())
    }

    /// Messages can be sent from here on.
    async fn go_online(&self, helpers: &mut JoinSet<()>) -> Result<(), crate::store::StoreError> {
        let (built, sink) = (self.built, &self.parts.sink);
        self.facts.started().await?;
        self.parts
            .shared
            .retries
            .resumed(self.parts.clock.elapsed());
        sink.signal(Signal::Online {
            account: built.refresh_account(),
        });
        let resync = Resync {
            client: std::sync::Arc::clone(&built.client),
            backend: std::sync::Arc::clone(&built.backend),
            shared: std::sync::Arc::clone(&self.parts.shared),
            entropy: self.parts.entropy.clone(),
            facts: self.facts.clone(),
            sink: std::sync::Arc::clone(sink),
            chores: std::sync::Arc::clone(&built.chores),
            clock: std::sync::Arc::clone(&self.parts.clock),
            tasks: built.sync_tasks.clone(),
        };
        helpers.spawn(resync.run());
        Ok(())
    }

    /// Answers the requests for another copy that nobody has answered.
    fn answer_overlooked(&self, helpers: &mut JoinSet<()>) {
        let answerer = Answerer {
            client: std::sync::Arc::clone(&self.built.client),
            backend: std::sync::Arc::clone(&self.built.backend),
            retries: std::sync::Arc::clone(&self.parts.shared.retries),
        };
        if let Some(work) = answerer.work(self.parts.clock.elapsed()) {
            helpers.spawn(work.in_current_span());
        }
    }

    /// Asks the server for a code to type on the phone. The answer, or its refusal, arrives as an
    /// event.
    fn ask_for_code(&self, phone: String, helpers: &mut JoinSet<()>) {
        let client = std::sync::Arc::clone(&self.built.client);
        let patience = self.parts.config.login_timeout;
        helpers.spawn(async move {
            if let Err(error) = client.wait_for_socket(patience).await {
                debug!(%error, "no connection to ask for a pairing code on");
                return;
            }
            let options = PairCodeOptions {
                phone_number: phone,
                ..PairCodeOptions::default()
            };
            if let Err(error) = client.pair_with_code(options).await {
                debug!(%error, "no pairing code");
            }
        });
    }

    /// Deadlines and the periodic save.
    async fn look_around(&self, deadlines: &mut Deadlines, helpers: &mut JoinSet<()>) {
        let (built, config) = (self.built, &self.parts.config);
        let watch = &built.watch;
        built.flush().await;
        let waiting_for_first_stanza = self.mode != Mode::Login && watch.has_nodes();
        if waiting_for_first_stanza {
            // The server talks to us; from here on the QR codes and codes run out by themselves.
            deadlines.login = None;
        }
        if deadlines.login.is_some_and(|at| Instant::now() >= at) {
            watch.conclude_and_close(Cause::LoginTimeout);
            return;
        }
        if deadlines.online.is_some_and(|at| Instant::now() >= at) {
            deadlines.online = None;
            warn!("the app state is not synchronised yet; going online without it");
            if let Err(error) = self.go_online(helpers).await {
                watch.poison(error.to_string());
                return;
            }
        }
        if watch
            .undecodable_for()
            .is_some_and(|age| age >= config.decode_patience)
        {
            watch.conclude_and_close(Cause::Transient {
                code: None,
                detail: "frames arrive but none of them decodes".into(),
            });
            return;
        }
        if watch.is_logged_in() && deadlines.online.is_none() {
            self.answer_overlooked(helpers);
        }
        let silent = watch.silence().is_some_and(|age| age >= config.silence);
        if !silent {
            deadlines.probing = false;
        } else if watch.is_logged_in() && !deadlines.probing {
            deadlines.probing = true;
            let (client, watch) = (
                std::sync::Arc::clone(&built.client),
                std::sync::Arc::clone(watch),
            );
            let patience = config.probe_patience;
            helpers.spawn(async move {
                if send::ping(&client, patience).await == Err(ProbeError::Silent) {
                    watch.conclude_and_close(Cause::Stalled);
                }
            });
        }
    }
}

fn panic_of(ended: Result<(), tokio::task::JoinError>) -> Option<Cause> {
    match ended {
        Err(error) if error.is_panic() => Some(Cause::Internal {
            detail: "the protocol library panicked".into(),
        }),
        _ => None,
    }
}
