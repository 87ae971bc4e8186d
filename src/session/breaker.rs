//! One breaker for the whole fleet: when the provider is down or refuses our version, a few sessions
//! probe and the rest wait, instead of every session finding out for itself.
//!
//! Pure: time is passed in, outcomes are reported by [`super::admission`].

use std::collections::VecDeque;
use std::time::Duration;

use super::state::{Backoff, Class, Outcome};
use crate::domain::clock::Entropy;

/// When the breaker opens and how it closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Refused attempts within [`Self::window`] that open it, if hardly any succeeded meanwhile.
    pub failures: u32,
    /// Refusals of our version (405) within the window that open it.
    pub fleet_refusals: u32,
    /// How far back outcomes count.
    pub window: Duration,
    /// Sessions that may try at the same time while it is half open.
    pub probes: u32,
    /// How long it stays open before it lets probes through.
    pub open: Backoff,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 20,
            fleet_refusals: 3,
            window: Duration::from_secs(30),
            probes: 3,
            open: Backoff {
                base: Duration::from_secs(2),
                cap: Duration::from_mins(1),
            },
        }
    }
}

/// What the breaker says to one who wants to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Go ahead.
    Open,
    /// Go ahead as one of few.
    Probe,
    /// Not before this (monotonic time); or earlier, if a probe reports.
    Wait(Option<Duration>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Closed,
    /// Tripped; nobody connects until `until`.
    Tripped {
        until: Duration,
    },
    /// Probes are under way or may begin.
    HalfOpen {
        probing: u32,
    },
}

/// See the module documentation. "Tripped" means that attempts are held back.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    mode: Mode,
    trips: u32,
    outcomes: VecDeque<(Duration, bool)>,
    refusals: VecDeque<Duration>,
}

/// Outcomes remembered at most.
const MEMORY: usize = 256;

impl Breaker {
    /// A breaker that lets everybody through.
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            mode: Mode::Closed,
            trips: 0,
            outcomes: VecDeque::new(),
            refusals: VecDeque::new(),
        }
    }

    /// Whether attempts are held back.
    pub fn is_tripped(&self) -> bool {
        self.mode != Mode::Closed
    }

    /// Whether one more attempt may begin; a probe counts as begun.
    pub fn pass(&mut self, now: Duration) -> Gate {
        if let Mode::Tripped { until } = self.mode {
            if now < until {
                return Gate::Wait(Some(until));
            }
            self.mode = Mode::HalfOpen { probing: 0 };
        }
        match &mut self.mode {
            Mode::HalfOpen { probing } if *probing < self.config.probes => {
                *probing += 1;
                Gate::Probe
            }
            Mode::HalfOpen { .. } => Gate::Wait(None),
            Mode::Closed | Mode::Tripped { .. } => Gate::Open,
        }
    }

    /// A probe ended without telling anything about the fleet (cancelled, or a verdict on its session
    /// alone): its place is free again.
    pub fn release_probe(&mut self) {
        if let Mode::HalfOpen { probing } = &mut self.mode {
            *probing = probing.saturating_sub(1);
        }
    }

    /// Takes note of how an attempt went.
    pub fn record(&mut self, outcome: &Outcome, now: Duration, entropy: &Entropy) {
        let class = match outcome {
            Outcome::Online => {
                self.mode = Mode::Closed;
                self.trips = 0;
                self.refusals.clear();
                self.remember(now, true);
                return;
            }
            Outcome::Refused(class) => *class,
        };
        match class {
            Class::Fleet => {
                self.refusals.push_back(now);
                self.remember(now, false);
            }
            Class::Transient | Class::RateLimited => self.remember(now, false),
            // The provider answered: it is up, whatever it thinks of this session.
            Class::Terminal | Class::Timed | Class::Pairing | Class::Routine => {
                self.remember(now, true);
                if matches!(self.mode, Mode::HalfOpen { .. }) {
                    self.mode = Mode::Closed;
                    self.trips = 0;
                }
                return;
            }
            Class::Requested | Class::Internal => return,
        }
        let oldest = now.saturating_sub(self.config.window);
        self.refusals.retain(|at| *at >= oldest);
        if self.refusals.len() > MEMORY {
            self.refusals.pop_front();
        }
        let half_open = matches!(self.mode, Mode::HalfOpen { .. });
        if half_open || (self.mode == Mode::Closed && self.too_many(oldest)) {
            self.trip(now, entropy);
        }
    }

    fn remember(&mut self, now: Duration, good: bool) {
        if self.outcomes.len() == MEMORY {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((now, good));
    }

    fn too_many(&self, oldest: Duration) -> bool {
        let recent = self.outcomes.iter().filter(|(at, _)| *at >= oldest);
        let (mut good, mut bad) = (0_u32, 0_u32);
        for (_, ok) in recent {
            if *ok {
                good += 1;
            } else {
                bad += 1;
            }
        }
        let refused = u32::try_from(self.refusals.len()).unwrap_or(u32::MAX);
        // One session that fails often is its own problem: hardly anybody may have succeeded.
        let outage = bad >= self.config.failures && good * 10 < bad;
        outage || (refused >= self.config.fleet_refusals && good == 0)
    }

    fn trip(&mut self, now: Duration, entropy: &Entropy) {
        self.trips = self.trips.saturating_add(1);
        let wait = self.config.open.delay(self.trips, entropy);
        self.mode = Mode::Tripped {
            until: now.saturating_add(wait),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn tripped() -> (Breaker, Entropy) {
        let (mut breaker, entropy) = (Breaker::new(BreakerConfig::default()), Entropy::seeded(1));
        for _ in 0..20 {
            assert_eq!(breaker.pass(at(1)), Gate::Open);
            breaker.record(&Outcome::Refused(Class::Transient), at(1), &entropy);
        }
        assert!(breaker.is_tripped());
        (breaker, entropy)
    }

    #[test]
    fn an_outage_trips_and_only_probes_pass_afterwards() {
        let (mut breaker, entropy) = tripped();
        let Gate::Wait(Some(until)) = breaker.pass(at(1)) else {
            panic!("tripped");
        };
        assert!(until > at(2) && until <= at(5), "{until:?}");
        for _ in 0..3 {
            assert_eq!(breaker.pass(until), Gate::Probe);
        }
        assert_eq!(breaker.pass(until), Gate::Wait(None));
        breaker.record(&Outcome::Online, until, &entropy);
        assert_eq!(breaker.pass(until), Gate::Open);
    }

    #[test]
    fn a_failed_probe_waits_longer() {
        let (mut breaker, entropy) = tripped();
        let mut now = at(1);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let Gate::Wait(Some(until)) = breaker.pass(now) else {
                panic!("tripped");
            };
            waits.push(until.saturating_sub(now));
            now = until;
            assert_eq!(breaker.pass(now), Gate::Probe);
            breaker.record(&Outcome::Refused(Class::Transient), now, &entropy);
        }
        assert!(waits.iter().all(|wait| *wait <= at(60)), "{waits:?}");
        assert!(
            waits[4..].iter().max() > waits[..2].iter().max(),
            "{waits:?}"
        );
    }

    #[test]
    fn a_refused_version_trips_after_three_and_success_forgets() {
        let (mut breaker, entropy) = (Breaker::new(BreakerConfig::default()), Entropy::seeded(1));
        for _ in 0..2 {
            breaker.record(&Outcome::Refused(Class::Fleet), at(1), &entropy);
        }
        breaker.record(&Outcome::Online, at(1), &entropy);
        for _ in 0..2 {
            breaker.record(&Outcome::Refused(Class::Fleet), at(40), &entropy);
        }
        assert!(!breaker.is_tripped());
        breaker.record(&Outcome::Refused(Class::Fleet), at(41), &entropy);
        assert!(breaker.is_tripped());
    }

    #[test]
    fn one_bad_session_among_good_ones_does_not_trip() {
        let (mut breaker, entropy) = (Breaker::new(BreakerConfig::default()), Entropy::seeded(1));
        for second in 0..200 {
            breaker.record(&Outcome::Refused(Class::Transient), at(second), &entropy);
            breaker.record(&Outcome::Online, at(second), &entropy);
        }
        assert!(!breaker.is_tripped());
    }

    #[test]
    fn an_abandoned_probe_frees_its_place_and_a_verdict_proves_life() {
        let (mut breaker, entropy) = tripped();
        let now = at(100);
        for _ in 0..3 {
            assert_eq!(breaker.pass(now), Gate::Probe);
        }
        breaker.release_probe();
        assert_eq!(breaker.pass(now), Gate::Probe);
        breaker.record(&Outcome::Refused(Class::Terminal), now, &entropy);
        assert!(!breaker.is_tripped());
    }
}
