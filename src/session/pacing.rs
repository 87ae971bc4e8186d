//! How fast a session sends: for deliverability, and within what the provider allows.
//!
//! Nothing here hides or evades anything. Rates are governor's; daily numbers live in the store's usage
//! counters and survive a restart; what the server says (429, 463) comes before both. A message that
//! was accepted is never refused here, it waits; refusals happen at acceptance, with a reason and a time.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use thiserror::Error;

use super::admission::{Limiter, Ticks};
use super::config::ConfigProblem;
use super::holds::Holds;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::WorkspaceId;
use crate::store::{Counters, Day, Hash};

/// A rate with room for a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Messages per minute.
    pub per_minute: u32,
    /// Messages at once after a quiet time.
    pub burst: u32,
}

/// What a young link may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmupStep {
    /// Holds until the link is this many days old.
    pub until_day: u32,
    /// Messages per day.
    pub per_day: u64,
    /// Conversations per day with people never written to before.
    pub new_contacts_per_day: u64,
}

/// How fast a session sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacingConfig {
    /// Of one session.
    pub session: Rate,
    /// Of one session towards one recipient.
    pub recipient: Rate,
    /// Of all sessions of a workspace together.
    pub workspace: Rate,
    /// Messages a session may send per day (UTC); none means no limit.
    pub per_day: Option<u64>,
    /// Messages a session accepts per day (UTC) for sending; more are refused.
    pub accepted_per_day: Option<u64>,
    /// Conversations a session may open per day with people never written to before.
    pub new_contacts_per_day: Option<u64>,
    /// Lower daily numbers while a link is young, in the order of age; empty means none.
    pub warmup: Vec<WarmupStep>,
    /// How long new conversations rest after a reach-out time-lock whose end is not known.
    pub timelock: Duration,
    /// How long a session rests after the server asked it to slow down (429).
    pub slow_down: Duration,
}

impl Default for PacingConfig {
    fn default() -> Self {
        Self {
            session: Rate {
                per_minute: 600,
                burst: 50,
            },
            recipient: Rate {
                per_minute: 300,
                burst: 50,
            },
            workspace: Rate {
                per_minute: 12_000,
                burst: 500,
            },
            per_day: None,
            accepted_per_day: None,
            new_contacts_per_day: Some(1_000),
            warmup: Vec::new(),
            timelock: Duration::from_hours(6),
            slow_down: Duration::from_mins(1),
        }
    }
}

impl PacingConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigProblem> {
        for (key, rate) in [
            ("pacing.per_minute", self.session),
            ("pacing.recipient", self.recipient),
            ("pacing.workspace", self.workspace),
        ] {
            if rate.per_minute == 0 || rate.burst == 0 {
                let problem = "and its burst must be at least 1";
                return Err(ConfigProblem { key, problem });
            }
        }
        let ordered = self
            .warmup
            .windows(2)
            .all(|pair| pair[0].until_day < pair[1].until_day);
        if !ordered {
            return Err(ConfigProblem {
                key: "pacing.warmup",
                problem: "must list its steps by rising until_day",
            });
        }
        Ok(())
    }

    /// The daily numbers for a link of this age: messages, new conversations.
    fn daily(&self, age: Duration) -> (Option<u64>, Option<u64>) {
        let days = age.as_secs() / 86_400;
        let step = self
            .warmup
            .iter()
            .find(|step| days < u64::from(step.until_day));
        let tighter = |general: Option<u64>, young: Option<u64>| match (general, young) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        (
            tighter(self.per_day, step.map(|step| step.per_day)),
            tighter(
                self.new_contacts_per_day,
                step.map(|step| step.new_contacts_per_day),
            ),
        )
    }
}

fn quota(rate: Rate) -> Quota {
    let at_least_one = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Quota::per_minute(at_least_one(rate.per_minute)).allow_burst(at_least_one(rate.burst))
}

/// The fleet's pacing: what sessions of a workspace share. One per process.
#[derive(Debug)]
pub struct Pacing {
    config: PacingConfig,
    clock: Arc<dyn Clock>,
    workspaces: DashMap<WorkspaceId, Arc<Limiter>>,
}

/// A message that is not accepted now: `RESOURCE_EXHAUSTED` with a time to retry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}; try again after {} (seconds since 1970)", retry_at.secs())]
pub struct PacingRefused {
    /// `UPPER_SNAKE`.
    pub reason: &'static str,
    /// When to try again.
    pub retry_at: Timestamp,
    message: &'static str,
}

impl Pacing {
    /// A pacing with fresh limiters.
    pub fn new(config: PacingConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            clock,
            workspaces: DashMap::new(),
        }
    }

    /// Whether a session may accept one more message now.
    ///
    /// # Errors
    /// [`PacingRefused`] says why and when to retry.
    pub fn accept(
        &self,
        holds: &Holds,
        today: &Counters,
        to_known_contact: bool,
    ) -> Result<(), PacingRefused> {
        let now = self.clock.now();
        if let (_, Some(retry_at)) = holds.until(now)
            && !to_known_contact
        {
            return Err(PacingRefused {
                reason: "REACHOUT_TIMELOCK",
                retry_at,
                message: "the provider has locked new conversations of this number",
            });
        }
        if self
            .config
            .accepted_per_day
            .is_some_and(|most| today.enqueued >= most)
        {
            return Err(PacingRefused {
                reason: "DAILY_QUOTA",
                retry_at: midnight_after(now),
                message: "the session has accepted its daily number of messages",
            });
        }
        Ok(())
    }

    /// The limiters of one session. They outlive its connections, or every reconnect would be a burst.
    pub(super) fn limits(&self) -> Limits {
        let ticks = Ticks(Arc::clone(&self.clock));
        Limits {
            session: RateLimiter::direct_with_clock(quota(self.config.session), ticks.clone()),
            recipients: RateLimiter::new(
                quota(self.config.recipient),
                HashMapStateStore::default(),
                ticks,
            ),
        }
    }

    /// The pacer of one session's sender.
    pub(super) fn pacer(
        &self,
        workspace: &WorkspaceId,
        limits: Arc<Limits>,
        holds: Arc<Holds>,
        linked_at: Timestamp,
        today: Counters,
    ) -> Pacer {
        let ticks = Ticks(Arc::clone(&self.clock));
        let shared = self
            .workspaces
            .entry(workspace.clone())
            .or_insert_with(|| {
                let quota = quota(self.config.workspace);
                Arc::new(RateLimiter::direct_with_clock(quota, ticks))
            })
            .clone();
        Pacer {
            limits,
            shared,
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
            holds,
            linked_at,
            day: Day::of(self.clock.now()),
            today,
            others: BTreeMap::new(),
            has_session: false,
            has_shared: false,
        }
    }
}

/// Whom a wait concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The whole session.
    Session,
    /// One recipient.
    Recipient,
}

/// Whether a message may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Now.
    Go,
    /// Not before this monotonic time.
    Wait(Duration, Reach),
}

type Recipients = RateLimiter<
    Hash,
    HashMapStateStore<Hash>,
    Ticks,
    governor::middleware::NoOpMiddleware<Duration>,
>;

/// The limiters of one session.
#[derive(Debug)]
pub(super) struct Limits {
    session: Limiter,
    recipients: Recipients,
}

/// Paces one session's sender.
#[derive(Debug)]
pub(super) struct Pacer {
    config: PacingConfig,
    clock: Arc<dyn Clock>,
    limits: Arc<Limits>,
    shared: Arc<Limiter>,
    holds: Arc<Holds>,
    linked_at: Timestamp,
    day: Day,
    today: Counters,
    /// What was counted on other days: a clock that is set does not grant a day twice.
    others: BTreeMap<Day, Counters>,
    /// A token taken from the session's limiter and not used yet.
    has_session: bool,
    /// A token taken from the workspace's limiter and not used yet.
    has_shared: bool,
}

/// Recipients remembered before old ones are forgotten.
const RECIPIENTS: usize = 1_024;

impl Pacer {
    /// Whether a message to `recipient` may go now; `Go` uses up its share.
    pub(super) fn check(&mut self, recipient: &Hash, is_new: bool) -> Pace {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        self.turn_to(Day::of(now));
        let at = |wall: Timestamp| elapsed.saturating_add(wall.since(now));
        let (all, new_chats) = self.holds.until(now);
        if let Some(until) = all {
            return Pace::Wait(at(until), Reach::Session);
        }
        if let Some(until) = new_chats.filter(|_| is_new) {
            return Pace::Wait(at(until), Reach::Recipient);
        }
        let (per_day, new_per_day) = self.config.daily(now.since(self.linked_at));
        if per_day.is_some_and(|most| self.today.sent >= most) {
            return Pace::Wait(at(midnight_after(now)), Reach::Session);
        }
        if is_new && new_per_day.is_some_and(|most| self.today.new_contacts >= most) {
            return Pace::Wait(at(midnight_after(now)), Reach::Recipient);
        }
        if !self.has_session {
            if let Err(not_until) = self.limits.session.check() {
                return Pace::Wait(elapsed + not_until.wait_time_from(elapsed), Reach::Session);
            }
            self.has_session = true;
        }
        if !self.has_shared {
            if let Err(not_until) = self.shared.check() {
                return Pace::Wait(elapsed + not_until.wait_time_from(elapsed), Reach::Session);
            }
            self.has_shared = true;
        }
        if self.limits.recipients.len() > RECIPIENTS {
            self.limits.recipients.retain_recent();
        }
        if let Err(not_until) = self.limits.recipients.check_key(recipient) {
            return Pace::Wait(
                elapsed + not_until.wait_time_from(elapsed),
                Reach::Recipient,
            );
        }
        self.has_session = false;
        self.has_shared = false;
        self.today.sent += 1;
        if is_new {
            self.today.new_contacts += 1;
        }
        Pace::Go
    }
}

/// Other days remembered.
const DAYS: usize = 8;

impl Pacer {
    /// Counts on another day, going on where it was left.
    fn turn_to(&mut self, day: Day) {
        if day == self.day {
            return;
        }
        let next = self.others.remove(&day).unwrap_or_default();
        let left = std::mem::replace(&mut self.today, next);
        self.others
            .insert(std::mem::replace(&mut self.day, day), left);
        if self.others.len() > DAYS {
            self.others.pop_first();
        }
    }
}

fn midnight_after(now: Timestamp) -> Timestamp {
    Timestamp::from_secs((now.secs() / 86_400 + 1) * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    const NOON: Timestamp = Timestamp(1_000 * 86_400_000 + 43_200_000);

    fn pacing(config: PacingConfig) -> (ManualClock, Pacing) {
        let clock = ManualClock::at(NOON);
        let pacing = Pacing::new(config, Arc::new(clock.clone()));
        (clock, pacing)
    }

    fn pacer(pacing: &Pacing, holds: &Arc<Holds>, linked_at: Timestamp) -> Pacer {
        pacing.pacer(
            &WorkspaceId::default_workspace(),
            Arc::new(pacing.limits()),
            Arc::clone(holds),
            linked_at,
            Counters::default(),
        )
    }

    fn config() -> PacingConfig {
        PacingConfig {
            session: Rate {
                per_minute: 60,
                burst: 3,
            },
            recipient: Rate {
                per_minute: 60,
                burst: 2,
            },
            ..PacingConfig::default()
        }
    }

    const A: Hash = Hash([1; 16]);
    const B: Hash = Hash([2; 16]);

    #[test]
    fn a_recipients_limit_holds_back_only_that_recipient_and_wastes_nothing() {
        let (clock, pacing) = pacing(config());
        let mut pacer = pacer(&pacing, &Arc::default(), NOON);
        assert_eq!(pacer.check(&A, false), Pace::Go);
        assert_eq!(pacer.check(&A, false), Pace::Go);
        assert!(matches!(
            pacer.check(&A, false),
            Pace::Wait(_, Reach::Recipient)
        ));
        assert_eq!(pacer.check(&B, false), Pace::Go);
        let Pace::Wait(until, Reach::Session) = pacer.check(&B, false) else {
            panic!("the session's burst is used up");
        };
        clock.advance(until.saturating_sub(clock.elapsed()) + Duration::from_millis(1));
        assert_eq!(pacer.check(&B, false), Pace::Go);
    }

    #[test]
    fn daily_numbers_end_at_midnight_utc_and_grow_with_the_link() {
        let (clock, pacing) = pacing(PacingConfig {
            per_day: Some(2),
            new_contacts_per_day: Some(5),
            warmup: vec![WarmupStep {
                until_day: 1,
                per_day: 10,
                new_contacts_per_day: 1,
            }],
            ..PacingConfig::default()
        });
        let mut pacer = pacer(&pacing, &Arc::default(), NOON);
        assert_eq!(pacer.check(&A, true), Pace::Go);
        assert_eq!(
            pacer.check(&B, true),
            Pace::Wait(Duration::from_hours(12), Reach::Recipient)
        );
        assert_eq!(pacer.check(&A, false), Pace::Go);
        assert_eq!(
            pacer.check(&A, false),
            Pace::Wait(Duration::from_hours(12), Reach::Session)
        );
        clock.advance(Duration::from_hours(12));
        assert_eq!(pacer.check(&B, true), Pace::Go);
        clock.advance(Duration::from_hours(24));
        for _ in 0..2 {
            assert_eq!(pacer.check(&B, true), Pace::Go);
        }
    }

    #[test]
    fn a_clock_that_is_set_does_not_grant_a_day_twice() {
        let (clock, pacing) = pacing(PacingConfig {
            per_day: Some(2),
            ..PacingConfig::default()
        });
        let mut pacer = pacer(&pacing, &Arc::default(), NOON);
        assert_eq!(pacer.check(&A, false), Pace::Go);
        assert_eq!(pacer.check(&B, false), Pace::Go);
        let day = Duration::from_hours(24);
        for wrong in [NOON.plus(day * 3), Timestamp(NOON.0 - 86_400_000 * 2)] {
            clock.set_wall(wrong);
            assert_eq!(pacer.check(&A, false), Pace::Go, "another day");
            clock.set_wall(NOON);
            assert!(matches!(
                pacer.check(&A, false),
                Pace::Wait(_, Reach::Session)
            ));
        }
    }

    #[test]
    fn the_servers_word_comes_first() {
        let (clock, pacing) = pacing(PacingConfig {
            accepted_per_day: Some(3),
            ..PacingConfig::default()
        });
        let holds = Arc::new(Holds::default());
        let mut pacer = pacer(&pacing, &holds, NOON);
        let hour = Duration::from_hours(1);
        holds.hold_new_chats(NOON.plus(hour));
        assert_eq!(pacer.check(&A, true), Pace::Wait(hour, Reach::Recipient));
        assert_eq!(pacer.check(&A, false), Pace::Go);
        let refused = pacing
            .accept(&holds, &Counters::default(), false)
            .unwrap_err();
        assert_eq!(refused.reason, "REACHOUT_TIMELOCK");
        assert_eq!(refused.retry_at, NOON.plus(hour));
        assert_eq!(pacing.accept(&holds, &Counters::default(), true), Ok(()));
        holds.hold_all(NOON.plus(hour));
        assert_eq!(pacer.check(&A, false), Pace::Wait(hour, Reach::Session));
        clock.advance(hour);
        assert_eq!(pacer.check(&A, true), Pace::Go);
        let today = Counters {
            enqueued: 3,
            ..Counters::default()
        };
        assert_eq!(
            pacing.accept(&holds, &today, true).unwrap_err().reason,
            "DAILY_QUOTA"
        );
    }
}
