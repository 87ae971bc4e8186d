//! From start to stop: signals, two-stage shutdown, and what systemd is told.
//!
//! The first SIGTERM or SIGINT drains: no new work, leases and writes finish, connections close. The
//! second one, or the end of the grace period, abandons what is left; everything acknowledged is on disk
//! by then, so abandoning loses nothing. SIGHUP asks for a reload.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Both stages of a shutdown and the tasks that take part in it. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Nothing is stopping yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when draining begins: finish, take nothing new.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when patience is over: return at the next await.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Runs a task that the shutdown waits for and that the hard stage drops.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let hard = self.hard.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = hard.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// The first stage.
    pub fn drain(&self) {
        self.soft.cancel();
    }

    /// The second stage; implies the first.
    pub fn abandon(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Begins draining and waits until every task has ended; after `grace` the hard stage ends them.
    /// Returns whether all ended by themselves.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.drain();
        self.tasks.close();
        let orderly = tokio::select! {
            () = self.tasks.wait() => !self.hard.is_cancelled(),
            () = tokio::time::sleep(grace) => false,
        };
        self.hard.cancel();
        self.tasks.wait().await;
        orderly
    }
}

/// Turns the process's signals into the stages of a [`Shutdown`] and into reloads.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over; from here on they no longer kill the process.
    ///
    /// # Errors
    /// When the runtime cannot register a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Drives `shutdown` and `reload` for as long as the process lives.
    pub async fn drive(mut self, shutdown: Shutdown, reload: Arc<Notify>) {
        // Draining may have begun without a signal; only a repeated one says that patience is over.
        let mut asked = false;
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP: reloading");
                    reload.notify_one();
                    continue;
                }
            };
            if asked {
                tracing::warn!(signal = name, "second signal: stopping without waiting");
                shutdown.abandon();
            } else {
                tracing::info!(signal = name, "draining; a second signal stops at once");
                asked = true;
                shutdown.drain();
            }
        }
    }
}

/// Tells systemd how the service is. Without `$NOTIFY_SOCKET` nothing happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Supervisor;

impl Supervisor {
    /// `READY=1`: the store is open and every listener is bound.
    pub fn ready(self) {
        Self::tell(&[NotifyState::Ready]);
    }

    /// `RELOADING=1`: the configuration is being read again; [`Self::ready`] says that it is done.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => Self::tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the clock that systemd wants cannot be read"),
        }
    }

    /// `STOPPING=1`, and that draining may take `grace`.
    pub fn stopping(self, grace: Duration) {
        let micros = u32::try_from(grace.as_micros()).unwrap_or(u32::MAX);
        Self::tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(micros),
            NotifyState::Status("draining"),
        ]);
    }

    /// `STATUS=`: one line for `systemctl status`, such as `812/900 connected, backlog 3`.
    pub fn status(self, line: &str) {
        Self::tell(&[NotifyState::Status(line)]);
    }

    /// How often the watchdog wants to hear from us: half the time after which it kills.
    pub fn watchdog_period(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 2)
    }

    /// Pings the watchdog every `period` while `alive` says so within that time, until `stop`. A daemon
    /// whose store or supervisor hangs is thereby restarted.
    pub async fn watch<F, A>(self, period: Duration, stop: CancellationToken, alive: F)
    where
        F: FnMut() -> A,
        A: Future<Output = bool>,
    {
        let ping = || Self::tell(&[NotifyState::Watchdog]);
        pulse(period, stop, alive, ping).await;
    }

    fn tell(state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::warn!(%error, "systemd could not be notified");
        }
    }
}

/// Calls `ping` every `period` while `alive` says so within that time, until `stop`.
async fn pulse<F, A>(
    period: Duration,
    stop: CancellationToken,
    mut alive: F,
    mut ping: impl FnMut(),
) where
    F: FnMut() -> A,
    A: Future<Output = bool>,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if tokio::time::timeout(period, alive()).await == Ok(true) {
            ping();
        } else {
            tracing::error!("supervisor or store did not answer: the watchdog is not pinged");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::watch;

    use super::*;

    #[tokio::test]
    async fn an_orderly_end_waits_for_every_task() {
        let shutdown = Shutdown::new();
        let done = Arc::new(AtomicBool::new(false));
        let (soft, flag) = (shutdown.soft().clone(), done.clone());
        shutdown.spawn(async move {
            soft.cancelled().await;
            tokio::task::yield_now().await;
            flag.store(true, Ordering::SeqCst);
        });
        assert!(shutdown.finish(Duration::from_mins(1)).await);
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn the_grace_period_ends_tasks_that_hang() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending());
        assert!(!shutdown.finish(Duration::from_millis(20)).await);
    }

    /// What a daemon answers when the watchdog asks.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Heart {
        Beats,
        Fails,
        Hangs,
    }

    #[tokio::test]
    async fn the_watchdog_hears_nothing_while_the_heart_fails_or_hangs() {
        let (say, heart) = watch::channel(Heart::Beats);
        let asked = Arc::new(watch::channel(0_usize).0);
        let pings = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let alive = {
            let asked = Arc::clone(&asked);
            move || {
                let now = *heart.borrow();
                asked.send_modify(|times| *times += 1);
                async move {
                    match now {
                        Heart::Beats => true,
                        Heart::Fails => false,
                        Heart::Hangs => std::future::pending().await,
                    }
                }
            }
        };
        let ping = {
            let pings = Arc::clone(&pings);
            move || {
                pings.fetch_add(1, Ordering::SeqCst);
            }
        };
        let period = Duration::from_millis(5);
        let pulse = tokio::spawn(pulse(period, stop.clone(), alive, ping));
        let mut seen = asked.subscribe();
        // Asked that often from now on: what was asked before has been answered by then.
        let mut asked_again = async |more: usize| {
            let until = *seen.borrow_and_update() + more;
            seen.wait_for(|times| *times >= until).await.unwrap();
            pings.load(Ordering::SeqCst)
        };
        for failing in [Heart::Fails, Heart::Hangs] {
            say.send(Heart::Beats).unwrap();
            let before = asked_again(1).await;
            assert!(asked_again(3).await > before);
            say.send(failing).unwrap();
            let before = asked_again(2).await;
            assert_eq!(asked_again(3).await, before, "{failing:?}");
        }
        // It comes back when the daemon does.
        say.send(Heart::Beats).unwrap();
        let before = asked_again(2).await;
        assert!(asked_again(3).await > before);
        stop.cancel();
        pulse.await.unwrap();
    }

    #[tokio::test]
    async fn a_second_request_ends_them_at_once() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending());
        let other = shutdown.clone();
        let finish = tokio::spawn(async move { other.finish(Duration::from_hours(1)).await });
        shutdown.soft().cancelled().await;
        shutdown.abandon();
        assert!(!finish.await.unwrap());
    }
}
