//! One story per promise of the machine.

use std::time::Duration;

use super::*;
use crate::domain::clock::Entropy;

struct Story {
    state: State,
    now: Now,
    rules: Rules,
    entropy: Entropy,
}

impl Story {
    fn with(facts: Facts) -> Self {
        let mut story = Self {
            state: State::new(facts),
            now: Now {
                wall: Timestamp::from_secs(1_000),
                elapsed: Duration::from_secs(5),
            },
            rules: Rules::default(),
            entropy: Entropy::seeded(1),
        };
        story.ok(Input::Boot {
            crashes: 0,
            reason: String::new(),
            full: false,
        });
        story
    }

    fn paired() -> Self {
        Self::with(Facts {
            login: Login::Paired,
            ..Facts::default()
        })
    }

    fn online() -> Self {
        let mut story = Self::paired();
        story.ok(Input::Admitted);
        story.ok(Input::Online);
        story
    }

    fn pairing() -> Self {
        let mut story = Self::with(Facts::default());
        story.ok(Input::Pair(PairMode::Qr));
        story.ok(Input::Admitted);
        story
    }

    fn ok(&mut self, input: Input) -> Vec<Effect> {
        let (state, effects) = self
            .state
            .step(input, self.now, &self.rules, &self.entropy)
            .unwrap();
        self.state = state;
        effects
    }

    fn refused(&self, input: Input) -> Illegal {
        self.state
            .step(input, self.now, &self.rules, &self.entropy)
            .unwrap_err()
    }

    fn pass(&mut self, secs: u64) {
        let by = Duration::from_secs(secs);
        self.now.wall = self.now.wall.plus(by);
        self.now.elapsed += by;
    }

    fn transient() -> Cause {
        Cause::Transient {
            code: Some(503),
            detail: "stream error".into(),
        }
    }
}

#[test]
fn a_pairing_goes_through_515_to_online() {
    let mut story = Story::with(Facts::default());
    assert_eq!(story.state.connection(), Connection::Unpaired);
    let effects = story.ok(Input::Pair(PairMode::Qr));
    assert!(
        matches!(&effects[0], Effect::Persist(facts) if facts.pairing_unconfirmed),
        "{effects:?}"
    );
    assert_eq!(story.state.connection(), Connection::Pairing);
    assert_eq!(
        story.ok(Input::Admitted),
        [Effect::Run(Goal::Pair(PairMode::Qr))]
    );
    let effects = story.ok(Input::Paired);
    assert!(effects.contains(&Effect::Pairing(PairingStep::Succeeded)));
    assert!(story.state.facts().initial_sync_owed);
    let effects = story.ok(Input::Ended(Cause::RestartRequired));
    assert!(effects.contains(&Effect::Admit));
    assert_eq!(story.state.connection(), Connection::Connecting);
    story.ok(Input::Admitted);
    let effects = story.ok(Input::Confirmed);
    assert!(effects.contains(&Effect::Pairing(PairingStep::Confirmed)));
    story.ok(Input::Online);
    assert_eq!(story.state.connection(), Connection::Online);
    assert!(!story.state.facts().pairing_unconfirmed);
    assert!(story.state.facts().initial_sync_owed);
    story.ok(Input::InitialSyncDone);
    assert!(!story.state.facts().initial_sync_owed);
}

#[test]
fn a_401_before_the_first_login_unpairs_instead_of_logging_out() {
    let mut story = Story::pairing();
    story.ok(Input::Paired);
    story.ok(Input::Ended(Cause::RestartRequired));
    story.ok(Input::Admitted);
    let effects = story.ok(Input::Ended(Cause::LoggedOut { code: 401 }));
    assert_eq!(effects[0], Effect::Wipe);
    assert!(effects.contains(&Effect::Rebuild));
    assert!(effects.contains(&Effect::Pairing(PairingStep::Failed {
        reason: "LINK_REFUSED".into()
    })));
    assert_eq!(story.state.connection(), Connection::Unpaired);
    assert_eq!(story.state.facts().login, Login::Unpaired);
    story.ok(Input::Pair(PairMode::Qr));
}

#[test]
fn a_401_after_the_first_login_keeps_the_credentials() {
    let mut story = Story::online();
    let effects = story.ok(Input::Ended(Cause::LoggedOut { code: 401 }));
    assert!(!effects.contains(&Effect::Wipe), "{effects:?}");
    assert_eq!(story.state.connection(), Connection::LoggedOut);
    assert_eq!(story.refused(Input::Pair(PairMode::Qr)), Illegal::LoggedOut);
    assert_eq!(story.refused(Input::Start), Illegal::LoggedOut);
    let effects = story.ok(Input::Logout);
    assert!(effects.contains(&Effect::Wipe));
    assert_eq!(story.state.connection(), Connection::Unpaired);
}

#[test]
fn an_expired_pairing_returns_to_unpaired() {
    let mut story = Story::pairing();
    let effects = story.ok(Input::Ended(Cause::PairingExpired));
    assert!(effects.contains(&Effect::Pairing(PairingStep::Expired)));
    assert!(effects.contains(&Effect::Wipe));
    assert_eq!(story.state.connection(), Connection::Unpaired);
}

#[test]
fn a_connection_lost_while_pairing_asks_the_server_whether_the_link_exists() {
    let mut story = Story::pairing();
    let effects = story.ok(Input::Ended(Story::transient()));
    assert!(effects.contains(&Effect::Admit));
    assert_eq!(story.ok(Input::Admitted), [Effect::Run(Goal::Login)]);
    let effects = story.ok(Input::Ended(Cause::PairingFailed {
        reason: step::NOT_PAIRED.into(),
    }));
    assert!(effects.contains(&Effect::Pairing(PairingStep::Failed {
        reason: "CONNECTION_LOST".into()
    })));
    assert_eq!(story.state.connection(), Connection::Unpaired);

    let mut story = Story::pairing();
    story.ok(Input::Ended(Cause::Recycled));
    story.ok(Input::Admitted);
    story.ok(Input::Online);
    assert_eq!(story.state.facts().login, Login::Paired);
    assert!(!story.state.facts().pairing_unconfirmed);
}

#[test]
fn a_crash_between_pairing_and_login_resumes_the_login() {
    let mut story = Story::pairing();
    story.ok(Input::Paired);
    let story = Story::with(story.state.facts().clone());
    assert_eq!(story.state.connection(), Connection::Connecting);
}

#[test]
fn cancelling_a_pairing_loses_to_a_phone_that_was_faster() {
    let mut story = Story::pairing();
    assert_eq!(story.ok(Input::CancelPairing), [Effect::Close]);
    story.ok(Input::Paired);
    let effects = story.ok(Input::Ended(Cause::Requested));
    assert!(!effects.contains(&Effect::Wipe));
    assert_eq!(story.state.connection(), Connection::Connecting);

    let mut story = Story::pairing();
    story.ok(Input::CancelPairing);
    let effects = story.ok(Input::Ended(Cause::Requested));
    assert!(effects.contains(&Effect::Wipe));
    assert_eq!(story.state.connection(), Connection::Unpaired);
}

#[test]
fn a_stable_connection_earns_an_immediate_reconnect_and_forgets_failures() {
    let mut story = Story::online();
    for _ in 0..3 {
        story.ok(Input::Ended(Story::transient()));
        story.pass(900);
        story.ok(Input::Timer);
        story.ok(Input::Admitted);
        story.ok(Input::Online);
    }
    assert_eq!(story.state.failures, 3);
    story.pass(60);
    let effects = story.ok(Input::Ended(Cause::Recycled));
    assert!(effects.contains(&Effect::Admit));
    assert_eq!(story.state.failures, 0);
}

#[test]
fn an_early_timer_does_nothing() {
    let mut story = Story::online();
    story.ok(Input::Ended(Story::transient()));
    assert_eq!(story.ok(Input::Timer), []);
    assert!(matches!(
        story.state.connection(),
        Connection::Backoff { attempt: 1, .. }
    ));
}

#[test]
fn a_ban_is_sat_out_across_restarts() {
    let mut story = Story::online();
    let until = Timestamp::from_secs(1_500);
    let effects = story.ok(Input::Ended(Cause::Banned {
        code: 101,
        until: Some(until),
    }));
    assert!(effects.contains(&Effect::Limited {
        signal: "TEMPORARY_BAN",
        code: Some(101),
        until: Some(until)
    }));
    assert_eq!(story.refused(Input::Start), Illegal::Banned { until });
    let mut story = Story::with(story.state.facts().clone());
    assert!(matches!(
        story.state.connection(),
        Connection::Banned {
            until: Some(_),
            code: 101
        }
    ));
    story.pass(499);
    assert_eq!(story.ok(Input::Timer), []);
    story.pass(61);
    assert!(story.ok(Input::Timer).contains(&Effect::Admit));
    assert_eq!(story.state.facts().halt, None);
}

#[test]
fn outdated_and_rate_limited_wait_longer_than_trouble() {
    for cause in [Cause::Outdated, Cause::RateLimited] {
        let mut story = Story::paired();
        story.ok(Input::Admitted);
        story.ok(Input::Ended(cause));
        let due = story.state.wake_at().unwrap();
        assert!(due.saturating_sub(story.now.elapsed) >= Duration::from_mins(1));
    }
}

#[test]
fn repeated_internal_faults_end_in_failed_and_start_revives() {
    let mut story = Story::paired();
    for crash in 1..=5 {
        if crash > 1 {
            story.pass(900);
            story.ok(Input::Timer);
        }
        story.ok(Input::Admitted);
        story.ok(Input::Ended(Cause::Internal {
            detail: "panicked".into(),
        }));
    }
    assert_eq!(
        story.state.connection(),
        Connection::Failed {
            reason: "panicked".into()
        }
    );
    assert!(story.ok(Input::Start).contains(&Effect::Admit));

    let mut story = Story::paired();
    story.state = State::new(story.state.facts().clone());
    story.ok(Input::Boot {
        crashes: 5,
        reason: "actor panicked".into(),
        full: false,
    });
    assert_eq!(story.state.connection().name(), "FAILED");
}

#[test]
fn replaced_waits_for_an_explicit_start() {
    let mut story = Story::online();
    story.ok(Input::Ended(Cause::Replaced));
    assert_eq!(story.state.connection(), Connection::Replaced);
    let mut story = Story::with(story.state.facts().clone());
    assert_eq!(story.state.connection(), Connection::Replaced);
    let effects = story.ok(Input::Start);
    assert!(effects.contains(&Effect::Admit));
    assert_eq!(story.state.facts().halt, None);
}

#[test]
fn stop_and_start_while_closing_end_where_the_last_one_said() {
    let mut story = Story::online();
    assert!(story.ok(Input::Stop).contains(&Effect::Close));
    story.ok(Input::Start);
    let effects = story.ok(Input::Ended(Cause::Requested));
    assert!(effects.contains(&Effect::Admit));

    let mut story = Story::online();
    story.ok(Input::Restart);
    story.ok(Input::Stop);
    story.ok(Input::Ended(Cause::Requested));
    assert_eq!(story.state.connection(), Connection::Stopped);
    assert_eq!(story.state.facts().login, Login::Paired);
}

#[test]
fn an_online_logout_tells_the_provider_first() {
    let mut story = Story::online();
    assert_eq!(story.ok(Input::Logout), [Effect::Unlink]);
    assert_eq!(story.refused(Input::Start), Illegal::LoggingOut);
    let effects = story.ok(Input::Ended(Cause::LoggedOut { code: 401 }));
    assert_eq!(effects[0], Effect::Wipe);
    assert_eq!(story.state.connection(), Connection::Unpaired);
}

#[test]
fn commands_without_sense_name_their_reason() {
    let story = Story::with(Facts::default());
    assert_eq!(story.refused(Input::Restart), Illegal::NotPaired);
    assert_eq!(story.refused(Input::Logout), Illegal::NotPaired);
    let story = Story::online();
    assert_eq!(
        story.refused(Input::Pair(PairMode::Qr)),
        Illegal::AlreadyPaired
    );
    let story = Story::pairing();
    assert_eq!(
        story.refused(Input::Pair(PairMode::Qr)),
        Illegal::PairingUnderWay
    );
    assert_eq!(story.refused(Input::Restart), Illegal::PairingUnderWay);
    let mut story = Story::online();
    story.ok(Input::Stop);
    story.ok(Input::Ended(Cause::Requested));
    assert_eq!(story.refused(Input::Restart), Illegal::Stopped);
    assert_eq!(story.refused(Input::Pair(PairMode::Qr)), Illegal::Stopped);
}

#[test]
fn a_full_workspace_is_told_once_and_looked_at_without_a_word() {
    let facts = Facts {
        login: Login::Paired,
        ..Facts::default()
    };
    let mut story = Story::with(facts.clone());
    story.state = State::new(facts);
    let told = story.ok(Input::Boot {
        crashes: 0,
        reason: String::new(),
        full: true,
    });
    assert_eq!(told, [Effect::Announce(Some(Cause::WorkspaceFull))]);
    for _ in 0..3 {
        story.pass(story.rules.slow.cap.as_secs());
        assert_eq!(story.ok(Input::Timer), []);
        let Connection::Backoff { until, .. } = story.state.connection() else {
            panic!("{:?}", story.state);
        };
        assert!(until > story.now.wall, "a time that has passed is no use");
    }
    let told = story.ok(Input::Room);
    assert_eq!(told, [Effect::Announce(None), Effect::Admit]);
}
