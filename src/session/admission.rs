//! Who may connect, and when: one queue for the whole fleet.
//!
//! Every attempt, the first after boot and the ten-thousandth after a mass drop, passes through here: at
//! most so many per second, at most so many at the same time, the breaker permitting. Sessions with
//! traffic go first, but not always, so that nobody waits forever.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::breaker::{Breaker, BreakerConfig, Gate};
use super::state::Outcome;
use crate::domain::clock::{Clock, Entropy};

/// Fleet-wide limits on connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Attempts begun per second.
    pub per_second: u32,
    /// Attempts that may begin at once after a quiet time.
    pub burst: u32,
    /// Attempts under way at the same time.
    pub simultaneous: u32,
    /// Longest extra wait before each attempt.
    pub jitter: Duration,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            per_second: 20,
            burst: 20,
            simultaneous: 100,
            jitter: Duration::from_millis(250),
        }
    }
}

/// How urgently a session wants to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Somebody is watching: a pairing.
    Interactive,
    /// It has messages to send or had traffic lately.
    Busy,
    /// The rest.
    Idle,
}

/// Every so many grants, whoever waited longest goes first whatever its urgency.
const FAIRNESS: u64 = 8;

/// Time for the limiter, from the injected clock.
#[derive(Debug, Clone)]
pub(super) struct Ticks(pub(super) Arc<dyn Clock>);

impl governor::clock::Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A limiter that takes its time from the injected clock.
pub(super) type Limiter =
    RateLimiter<NotKeyed, InMemoryState, Ticks, governor::middleware::NoOpMiddleware<Duration>>;

#[derive(Debug)]
struct Waiter {
    urgency: Urgency,
    asked: Duration,
    grant: oneshot::Sender<Permit>,
}

#[derive(Debug)]
struct Inner {
    /// By ticket: the order of asking.
    waiting: BTreeMap<u64, Waiter>,
    next_ticket: u64,
    under_way: u32,
    grants: u64,
    breaker: Breaker,
}

/// The fleet's admission. One per process.
#[derive(Debug)]
pub struct Admission {
    config: AdmissionConfig,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    limiter: Limiter,
    inner: Mutex<Inner>,
    changed: Notify,
}

/// Permission for one attempt, held until it is online or over. Dropping it makes room.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    probe: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inner = self.admission.lock();
        inner.under_way = inner.under_way.saturating_sub(1);
        if self.probe {
            inner.breaker.release_probe();
        }
        drop(inner);
        self.admission.changed.notify_one();
    }
}

/// A question that was asked; awaiting it gives the permit, dropping it withdraws it.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    number: u64,
    grant: oneshot::Receiver<Permit>,
}

impl Ticket {
    /// Waits for the permit; never returns once admission has stopped. Safe to cancel and call
    /// again until it has returned.
    pub async fn granted(&mut self) -> Permit {
        match (&mut self.grant).await {
            Ok(permit) => permit,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.lock().waiting.remove(&self.number);
    }
}

impl Admission {
    /// An admission with nobody waiting; [`Self::run`] must be driven for anybody to be let in.
    pub fn new(
        config: AdmissionConfig,
        breaker: BreakerConfig,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> Arc<Self> {
        let at_least_one = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(config.per_second))
            .allow_burst(at_least_one(config.burst));
        Arc::new(Self {
            limiter: RateLimiter::direct_with_clock(quota, Ticks(Arc::clone(&clock))),
            config,
            clock,
            entropy,
            inner: Mutex::new(Inner {
                waiting: BTreeMap::new(),
                next_ticket: 0,
                under_way: 0,
                grants: 0,
                breaker: Breaker::new(breaker),
            }),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the queue.
    pub fn ask(self: &Arc<Self>, urgency: Urgency) -> Ticket {
        let (grant, granted) = oneshot::channel();
        let mut inner = self.lock();
        let number = inner.next_ticket;
        inner.next_ticket += 1;
        inner.waiting.insert(
            number,
            Waiter {
                urgency,
                asked: self.clock.elapsed(),
                grant,
            },
        );
        drop(inner);
        self.changed.notify_one();
        Ticket {
            admission: Arc::clone(self),
            number,
            grant: granted,
        }
    }

    /// Takes note of how an attempt went.
    pub fn report(&self, outcome: &Outcome) {
        let mut inner = self.lock();
        let before = inner.breaker.is_tripped();
        inner
            .breaker
            .record(outcome, self.clock.elapsed(), &self.entropy);
        let after = inner.breaker.is_tripped();
        drop(inner);
        if before != after {
            metrics::gauge!("trunkline_breaker_tripped").set(if after { 1.0 } else { 0.0 });
            if after {
                tracing::warn!(
                    "the provider refuses the fleet: only probes connect until one succeeds"
                );
            } else {
                tracing::info!("the provider accepts logins again");
            }
        }
        self.changed.notify_one();
    }

    /// Sessions waiting, and attempts under way.
    pub fn load(&self) -> (usize, u32) {
        let inner = self.lock();
        (inner.waiting.len(), inner.under_way)
    }

    /// Whether the breaker holds attempts back.
    pub fn is_tripped(&self) -> bool {
        self.lock().breaker.is_tripped()
    }

    /// Grants permits until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = self.next_grant() => next,
            };
            let now = self.clock.elapsed();
            metrics::histogram!("trunkline_admission_wait_seconds")
                .record(now.saturating_sub(next.asked).as_secs_f64());
            // A waiter that left in between drops the permit, which makes room again.
            let _ = next.to.send(next.permit);
        }
    }

    async fn next_grant(self: &Arc<Self>) -> Grant {
        loop {
            if !self.has_room() {
                self.changed.notified().await;
                continue;
            }
            if let Err(not_until) = self.limiter.check() {
                tokio::time::sleep(not_until.wait_time_from(self.clock.elapsed())).await;
                continue;
            }
            self.pause().await;
            loop {
                match self.take() {
                    Taken::Grant(grant) => return grant,
                    Taken::Nobody => break,
                    Taken::Wait(until) => self.wait(until).await,
                }
            }
        }
    }

    async fn wait(&self, until: Option<Duration>) {
        let Some(until) = until else {
            self.changed.notified().await;
            return;
        };
        let wait = until.saturating_sub(self.clock.elapsed());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.changed.notified() => {}
        }
    }

    async fn pause(&self) {
        let most = u64::try_from(self.config.jitter.as_millis()).unwrap_or(u64::MAX);
        // The pause may not slow the whole queue below its rate: it uses up at most one slot.
        let slot = 1_000 / u64::from(self.config.per_second.max(1));
        let pause = self.entropy.up_to(most.min(slot / 2));
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn has_room(&self) -> bool {
        let inner = self.lock();
        !inner.waiting.is_empty() && inner.under_way < self.config.simultaneous
    }

    fn take(self: &Arc<Self>) -> Taken {
        let mut inner = self.lock();
        if inner.under_way >= self.config.simultaneous || inner.waiting.is_empty() {
            return Taken::Nobody;
        }
        let probe = match inner.breaker.pass(self.clock.elapsed()) {
            Gate::Open => false,
            Gate::Probe => true,
            Gate::Wait(until) => return Taken::Wait(until),
        };
        let Some(number) = choose(&inner) else {
            return Taken::Nobody;
        };
        let Some(waiter) = inner.waiting.remove(&number) else {
            return Taken::Nobody;
        };
        inner.grants += 1;
        inner.under_way += 1;
        Taken::Grant(Grant {
            asked: waiter.asked,
            to: waiter.grant,
            permit: Permit {
                admission: Arc::clone(self),
                probe,
            },
        })
    }
}

struct Grant {
    asked: Duration,
    to: oneshot::Sender<Permit>,
    permit: Permit,
}

enum Taken {
    Grant(Grant),
    Nobody,
    Wait(Option<Duration>),
}

fn choose(inner: &Inner) -> Option<u64> {
    if inner.grants % FAIRNESS == FAIRNESS - 1 {
        return inner.waiting.keys().next().copied();
    }
    let most_urgent = inner
        .waiting
        .iter()
        .min_by_key(|(number, waiter)| (waiter.urgency, **number));
    most_urgent.map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;
    use crate::session::state::Class;

    fn admission(simultaneous: u32) -> (Arc<Admission>, CancellationToken) {
        let config = AdmissionConfig {
            per_second: 1_000,
            burst: 1_000,
            simultaneous,
            jitter: Duration::ZERO,
        };
        let admission = Admission::new(
            config,
            BreakerConfig::default(),
            // Time stands still: the breaker opens for nobody while a test looks.
            Arc::new(ManualClock::default()),
            Entropy::seeded(1),
        );
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&admission).run(stop.clone()));
        (admission, stop)
    }

    /// Lets everything that can happen without time passing happen.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_urgent_go_first_but_the_patient_are_not_forgotten() {
        let (admission, _stop) = admission(1);
        let mut first = admission.ask(Urgency::Idle);
        let mut held = first.granted().await;
        let mut idle = admission.ask(Urgency::Idle);
        let mut busy: Vec<_> = (0..20).map(|_| admission.ask(Urgency::Busy)).collect();
        let mut grants_before_idle = 0;
        loop {
            drop(held);
            let others = busy.iter_mut().map(|ticket| Box::pin(ticket.granted()));
            let (permit, index) = tokio::select! {
                biased;
                _ = idle.granted() => break,
                (permit, index, _) = futures::future::select_all(others) => (permit, index),
            };
            busy.remove(index);
            held = permit;
            grants_before_idle += 1;
        }
        assert!(
            (1..=8).contains(&grants_before_idle),
            "{grants_before_idle}"
        );
    }

    #[tokio::test]
    async fn a_withdrawn_question_and_a_dropped_permit_make_room() {
        let (admission, _stop) = admission(1);
        let mut first = admission.ask(Urgency::Busy);
        let permit = first.granted().await;
        let second = admission.ask(Urgency::Busy);
        let mut third = admission.ask(Urgency::Idle);
        settle().await;
        assert_eq!(admission.load(), (2, 1));
        drop(second);
        drop(permit);
        let third = third.granted().await;
        assert_eq!(admission.load(), (0, 1));
        // Granted and dropped without being looked at.
        let ignored = admission.ask(Urgency::Busy);
        drop(third);
        settle().await;
        drop(ignored);
        settle().await;
        assert_eq!(admission.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_tripped_breaker_lets_probes_through_and_success_lets_all() {
        let (admission, _stop) = admission(100);
        for _ in 0..3 {
            admission.report(&Outcome::Refused(Class::Fleet));
        }
        assert!(admission.is_tripped());
        let mut tickets: Vec<_> = (0..10).map(|_| admission.ask(Urgency::Busy)).collect();
        settle().await;
        assert_eq!(admission.load(), (10, 0));
        admission.report(&Outcome::Online);
        let mut permits = Vec::new();
        for ticket in &mut tickets {
            permits.push(ticket.granted().await);
        }
        assert_eq!(admission.load(), (0, 10));
    }
}
