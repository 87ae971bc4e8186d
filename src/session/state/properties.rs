//! Properties that hold for every sequence of inputs, checked against a model of the world the machine
//! drives: a line that runs or not, an admission question that is open or not, facts on disk.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::clock::Entropy;

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        1 => Just(Cause::Requested),
        4 => Just(Cause::Recycled),
        2 => Just(Cause::RestartRequired),
        4 => Just(Cause::Transient { code: Some(503), detail: "x".into() }),
        1 => Just(Cause::Stalled),
        1 => Just(Cause::LoginTimeout),
        1 => Just(Cause::RateLimited),
        1 => Just(Cause::Outdated),
        1 => Just(Cause::Replaced),
        1 => Just(Cause::LoggedOut { code: 401 }),
        1 => (0_u64..2_000_000).prop_map(|at| Cause::Banned { code: 101, until: Some(Timestamp(at)) }),
        1 => Just(Cause::Banned { code: 101, until: None }),
        1 => Just(Cause::PairingExpired),
        1 => Just(Cause::PairingFailed { reason: "NOT_PAIRED".into() }),
        1 => Just(Cause::WorkspaceFull),
        1 => Just(Cause::StoreFailed { detail: "x".into() }),
        2 => Just(Cause::Internal { detail: "panic".into() }),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        2 => Just(Input::Start),
        2 => Just(Input::Stop),
        1 => Just(Input::Restart),
        3 => Just(Input::Pair(PairMode::Qr)),
        1 => Just(Input::CancelPairing),
        1 => Just(Input::Logout),
        8 => Just(Input::Admitted),
        5 => Just(Input::Paired),
        3 => Just(Input::Confirmed),
        6 => Just(Input::Online),
        1 => Just(Input::InitialSyncDone),
        12 => cause().prop_map(Input::Ended),
        8 => Just(Input::Timer),
        1 => Just(Input::Full),
        2 => Just(Input::Room),
    ]
}

fn facts() -> impl Strategy<Value = Facts> {
    let halt = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Halt::Replaced)),
        1 => (0_u64..2_000_000).prop_map(|at| Some(Halt::Banned { code: 1, until: Some(Timestamp(at)) })),
        1 => Just(Some(Halt::Banned { code: 1, until: None })),
    ];
    let desired = prop_oneof![3 => Just(Desired::Running), 1 => Just(Desired::Stopped)];
    let login = prop_oneof![
        1 => Just((Login::Unpaired, false)),
        1 => Just((Login::Unpaired, true)),
        3 => Just((Login::Paired, false)),
        1 => Just((Login::Paired, true)),
        1 => Just((Login::LoggedOut, false)),
    ];
    (desired, login, halt, any::<bool>()).prop_map(|(desired, (login, unconfirmed), halt, owed)| {
        Facts {
            desired,
            login,
            pairing_unconfirmed: unconfirmed,
            initial_sync_owed: owed,
            halt,
        }
    })
}

/// What the actor would have done by now.
struct World {
    state: State,
    now: Now,
    rules: Rules,
    entropy: Entropy,
    running: Option<Goal>,
    asking: bool,
    disk: Facts,
    logout_asked: bool,
}

impl World {
    fn boot(facts: Facts, seed: u64) -> Self {
        let mut world = Self {
            state: State::new(facts.clone()),
            now: Now {
                wall: Timestamp(1_000_000),
                elapsed: Duration::from_secs(50),
            },
            rules: Rules::default(),
            entropy: Entropy::seeded(seed),
            running: None,
            asking: false,
            disk: facts,
            logout_asked: false,
        };
        let effects = world
            .feed(&Input::Boot {
                crashes: 0,
                reason: String::new(),
                full: false,
            })
            .unwrap();
        assert!(!effects.contains(&Effect::Wipe), "boot never deletes");
        world
    }

    fn pass(&mut self, by: Duration) {
        self.now.wall = self.now.wall.plus(by);
        self.now.elapsed += by;
    }

    fn feed(&mut self, input: &Input) -> Result<Vec<Effect>, Illegal> {
        let before = self.state.clone();
        let is_command = matches!(
            input,
            Input::Start | Input::Restart | Input::Pair(_) | Input::Logout
        );
        let asked_before = self.logout_asked;
        self.logout_asked |= *input == Input::Logout;
        let ended = matches!(input, Input::Ended(_));
        if ended {
            self.running = None;
        }
        let stepped = self
            .state
            .step(input.clone(), self.now, &self.rules, &self.entropy);
        let (next, effects) = match stepped {
            Ok(stepped) => stepped,
            Err(illegal) => {
                assert!(is_command, "{input:?} is not a command: {illegal}");
                self.logout_asked = asked_before;
                return Err(illegal);
            }
        };
        if *input == Input::Admitted {
            self.asking = false;
        }
        self.state = next;
        for effect in &effects {
            self.perform(effect, &before, input);
        }
        self.check(input);
        if self.state.facts().login == Login::Unpaired {
            self.logout_asked = false;
        }
        Ok(effects)
    }

    fn perform(&mut self, effect: &Effect, before: &State, input: &Input) {
        match effect {
            Effect::Persist(facts) => self.disk = facts.clone(),
            Effect::Admit => {
                assert!(!self.asking, "asked twice");
                assert!(self.running.is_none(), "asked while a line runs");
                self.asking = true;
            }
            Effect::Withdraw => {
                assert!(self.asking, "nothing to withdraw");
                self.asking = false;
            }
            Effect::Run(goal) => {
                assert!(self.running.is_none(), "two attempts at once");
                self.running = Some(goal.clone());
            }
            Effect::Close | Effect::Unlink => assert!(self.running.is_some(), "nothing to close"),
            Effect::Wipe => assert!(
                self.logout_asked || before.facts().pairing_unconfirmed,
                "{input:?} wiped confirmed credentials"
            ),
            _ => {}
        }
    }

    fn check(&self, input: &Input) {
        let (state, facts) = (&self.state, self.state.facts());
        assert_eq!(&self.disk, facts, "{input:?}: facts on disk lag behind");
        assert_eq!(
            self.running.is_some(),
            matches!(state.phase(), Phase::Running(_) | Phase::Closing { .. }),
            "{input:?}: {state:?}"
        );
        assert_eq!(
            self.asking,
            matches!(state.phase(), Phase::Asking(_)),
            "{input:?}: {state:?}"
        );
        assert_eq!(
            state.wake_at().is_some(),
            matches!(state.phase(), Phase::Waiting { .. })
        );
        if facts.desired == Desired::Stopped {
            assert!(
                matches!(
                    state.phase(),
                    Phase::Resting(Rest::Stopped) | Phase::Closing { .. }
                ),
                "{input:?}: {state:?}"
            );
        } else {
            assert_ne!(state.phase(), &Phase::Resting(Rest::Stopped), "{input:?}");
        }
        let has_credentials = facts.login == Login::Paired || facts.pairing_unconfirmed;
        let connects = matches!(
            state.phase(),
            Phase::Waiting { .. } | Phase::Asking(_) | Phase::Running(_)
        );
        assert!(has_credentials || !connects, "{input:?}: {state:?}");
        if let Phase::Waiting {
            due,
            shown: Connection::Backoff { until, attempt, .. },
        } = state.phase()
        {
            let wait = due.saturating_sub(self.now.elapsed);
            assert!(wait <= Duration::from_mins(15), "{wait:?}");
            assert!(until.since(self.now.wall) <= Duration::from_mins(15));
            assert!(*attempt >= 1);
        }
        if state.full && !facts.pairing_unconfirmed {
            let connects = matches!(state.phase(), Phase::Asking(_) | Phase::Running(_));
            assert!(!connects, "{input:?}: {state:?} although there is no room");
        }
        if state.connection() == Connection::Online {
            assert!(
                !facts.pairing_unconfirmed && facts.login == Login::Paired
                    || matches!(state.phase(), Phase::Closing { .. })
            );
        }
    }

    /// Plays a world in which everything the machine asks for happens.
    fn drain(&mut self) {
        if self.running.is_some() && matches!(self.state.phase(), Phase::Closing { .. }) {
            self.feed(&Input::Ended(Cause::Requested)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_sequence_breaks_the_invariants(
        facts in facts(),
        seed: u64,
        inputs in prop::collection::vec((input(), 0_u64..100_000), 0..80),
    ) {
        let mut world = World::boot(facts, seed);
        for (input, wait) in inputs {
            world.pass(Duration::from_millis(wait));
            // The actor reports an end only of what runs, an admission only of what was asked.
            let possible = match input {
                Input::Ended(_) | Input::Paired | Input::Confirmed | Input::Online => world.running.is_some(),
                Input::Admitted => world.asking,
                _ => true,
            };
            if possible {
                let _ = world.feed(&input);
            }
        }
    }

    #[test]
    fn late_words_of_a_line_change_nothing_at_rest(facts in facts(), seed: u64, inputs in prop::collection::vec(input(), 0..40)) {
        let mut world = World::boot(facts, seed);
        for input in inputs {
            let stray = matches!(input, Input::Ended(_) | Input::Paired | Input::Confirmed | Input::Online | Input::Admitted | Input::Timer);
            if stray && world.state.is_resting() {
                let before = world.state.clone();
                prop_assert_eq!(world.feed(&input).unwrap(), vec![]);
                prop_assert_eq!(&world.state, &before);
            } else if !stray {
                let _ = world.feed(&input);
            }
        }
    }

    #[test]
    fn stopping_always_converges(
        facts in facts(),
        seed: u64,
        inputs in prop::collection::vec(input(), 0..60),
    ) {
        let mut world = World::boot(facts, seed);
        for input in inputs {
            if !matches!(input, Input::Ended(_) | Input::Admitted) || world.running.is_some() || world.asking {
                let possible = match input {
                    Input::Ended(_) | Input::Paired | Input::Confirmed | Input::Online => world.running.is_some(),
                    Input::Admitted => world.asking,
                    _ => true,
                };
                if possible { let _ = world.feed(&input); }
            }
        }
        world.feed(&Input::Stop).unwrap();
        world.drain();
        prop_assert_eq!(world.state.connection(), Connection::Stopped);
        prop_assert_eq!(world.state.facts().desired, Desired::Stopped);
    }

    #[test]
    fn a_terminal_verdict_never_connects_by_itself(
        seed: u64,
        verdict in prop_oneof![
            Just(Cause::Replaced),
            Just(Cause::LoggedOut { code: 401 }),
            Just(Cause::Banned { code: 101, until: None }),
        ],
        inputs in prop::collection::vec((input(), 0_u64..10_000_000), 0..60),
    ) {
        let mut world = World::boot(Facts { login: Login::Paired, ..Facts::default() }, seed);
        world.feed(&Input::Admitted).unwrap();
        world.feed(&Input::Online).unwrap();
        world.feed(&Input::Ended(verdict)).unwrap();
        let ended = world.state.connection();
        for (input, wait) in inputs {
            world.pass(Duration::from_millis(wait));
            if matches!(input, Input::Start | Input::Restart | Input::Pair(_) | Input::Logout | Input::Stop) {
                continue;
            }
            world.feed(&input).unwrap();
            prop_assert_eq!(world.state.connection(), ended.clone());
        }
        // Nor does a restart of the daemon.
        let world = World::boot(world.disk, seed);
        prop_assert_eq!(world.state.connection(), ended);
    }

    #[test]
    fn a_recycle_loop_does_not_spin(seed: u64, uptimes in prop::collection::vec(0_u64..59_000, 3..40)) {
        let mut world = World::boot(Facts { login: Login::Paired, ..Facts::default() }, seed);
        let mut at_once = 0;
        for up in uptimes {
            if let Some(due) = world.state.wake_at() {
                let wait = due.saturating_sub(world.now.elapsed);
                prop_assert!(wait >= Duration::from_secs(1));
                world.pass(wait);
                world.feed(&Input::Timer).unwrap();
            }
            world.feed(&Input::Admitted).unwrap();
            world.feed(&Input::Online).unwrap();
            world.pass(Duration::from_millis(up));
            let effects = world.feed(&Input::Ended(Cause::Recycled)).unwrap();
            at_once += u32::from(effects.contains(&Effect::Admit));
        }
        prop_assert_eq!(at_once, 1);
    }
}
