//! The transitions caused by what happens; those caused by commands are in `command`.

use std::time::Duration;

use super::{
    Class, Effect, Facts, Goal, Illegal, Input, Now, Outcome, PairingStep, Phase, Rest, Rules, Run,
    State, classify, spoils_line,
};
use crate::domain::clock::Entropy;
use crate::domain::session::{Cause, Connection, Halt, Login};

/// The reason a line gives when it is asked to log in without credentials.
pub const NOT_PAIRED: &str = "NOT_PAIRED";

/// One transition being worked out.
pub(super) struct Turn<'a> {
    pub(super) now: Now,
    pub(super) rules: &'a Rules,
    pub(super) entropy: &'a Entropy,
    pub(super) effects: Vec<Effect>,
    wipe: bool,
    cause: Option<Cause>,
}

impl Turn<'_> {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

impl State {
    /// The next state and what to do, in order: credentials are wiped before the facts say so (a crash
    /// in between finds a pairing without credentials, which resolves itself), facts are stored before
    /// anything that depends on them, and changes are announced before what follows from them.
    ///
    /// # Errors
    /// [`Illegal`] for a command that makes no sense now; the state is unchanged. Never for anything
    /// but a command.
    pub fn step(
        &self,
        input: Input,
        now: Now,
        rules: &Rules,
        entropy: &Entropy,
    ) -> Result<(Self, Vec<Effect>), Illegal> {
        let mut turn = Turn {
            now,
            rules,
            entropy,
            effects: Vec::new(),
            wipe: false,
            cause: None,
        };
        let mut next = self.clone();
        next.apply(input, &mut turn)?;

        let mut effects = Vec::new();
        if turn.wipe {
            effects.push(Effect::Wipe);
        }
        if next.facts != self.facts {
            effects.push(Effect::Persist(next.facts.clone()));
        }
        if is_news(&self.connection(), &next.connection()) || next.facts.login != self.facts.login {
            effects.push(Effect::Announce(turn.cause));
        }
        effects.append(&mut turn.effects);
        Ok((next, effects))
    }

    fn apply(&mut self, input: Input, turn: &mut Turn<'_>) -> Result<(), Illegal> {
        match input {
            Input::Start => return self.start(turn),
            Input::Stop => self.stop(turn),
            Input::Restart => return self.restart(turn),
            Input::Pair(mode) => return self.pair(mode, turn),
            Input::CancelPairing => self.cancel_pairing(turn),
            Input::Logout => return self.logout(turn),
            Input::Boot {
                crashes,
                reason,
                full,
            } => {
                self.full = full;
                self.boot(crashes, reason, turn);
            }
            Input::Admitted => {
                if let Phase::Asking(goal) = &self.phase {
                    turn.push(Effect::Run(goal.clone()));
                    self.phase = Phase::Running(Run::new(goal.clone()));
                }
            }
            Input::Paired => self.paired(turn),
            Input::Confirmed => self.confirmed(turn),
            Input::Online => self.online(turn),
            Input::InitialSyncDone => self.facts.initial_sync_owed = false,
            Input::Ended(cause) => self.ended(&cause, turn),
            Input::Full => self.make_way(turn),
            Input::Room => {
                self.full = false;
                if waits_for_room(&self.connection()) {
                    self.ask(Goal::Login, turn);
                }
            }
            Input::Timer => {
                if self.wake_at().is_some_and(|due| turn.now.elapsed >= due) {
                    if let Some(Halt::Banned { .. }) = self.facts.halt {
                        self.facts.halt = None;
                    }
                    self.ask(Goal::Login, turn);
                }
            }
        }
        Ok(())
    }

    /// The workspace is full. A pairing goes on until it is confirmed: its phone may have accepted.
    fn make_way(&mut self, turn: &mut Turn<'_>) {
        self.full = true;
        if self.facts.pairing_unconfirmed {
            return;
        }
        match &self.phase {
            Phase::Running(_) => self.close(false, turn),
            Phase::Asking(_) => {
                turn.push(Effect::Withdraw);
                self.settle(turn);
            }
            Phase::Resting(_) | Phase::Waiting { .. } | Phase::Closing { .. } => {}
        }
    }

    fn boot(&mut self, crashes: u32, reason: String, turn: &mut Turn<'_>) {
        self.crashes = crashes;
        if crashes == 0 {
            self.settle(turn);
        } else {
            let cause = Cause::Internal { detail: reason };
            turn.cause = Some(cause.clone());
            self.settle_after(Some(&cause), turn);
        }
    }

    fn paired(&mut self, turn: &mut Turn<'_>) {
        let run = match &mut self.phase {
            Phase::Running(run) => run,
            // The phone was faster than whoever cancelled: the link exists, so it is kept.
            Phase::Closing {
                run,
                discard,
                logout: false,
            } if matches!(run.goal, Goal::Pair(_)) => {
                *discard = false;
                run
            }
            _ => return,
        };
        if self.facts.login == Login::Paired {
            return;
        }
        run.accepted = true;
        self.facts.login = Login::Paired;
        self.facts.pairing_unconfirmed = true;
        self.facts.initial_sync_owed = true;
        turn.push(Effect::Pairing(PairingStep::Succeeded));
    }

    fn confirmed(&mut self, turn: &mut Turn<'_>) {
        let (Phase::Running(run)
        | Phase::Closing {
            run,
            discard: false,
            ..
        }) = &mut self.phase
        else {
            return;
        };
        if self.facts.pairing_unconfirmed {
            run.accepted = true;
            if self.facts.login != Login::Paired {
                self.facts.login = Login::Paired;
                self.facts.initial_sync_owed = true;
            }
            self.facts.pairing_unconfirmed = false;
            self.pairing_trouble = None;
            turn.push(Effect::Pairing(PairingStep::Confirmed));
            if self.full {
                self.make_way(turn);
            }
        }
    }

    fn online(&mut self, turn: &mut Turn<'_>) {
        self.confirmed(turn);
        if let Phase::Running(run) = &mut self.phase
            && run.online_since.is_none()
        {
            run.online_since = Some(turn.now.elapsed);
            turn.push(Effect::Report(Outcome::Online));
        }
    }

    fn ended(&mut self, cause: &Cause, turn: &mut Turn<'_>) {
        let (run, closing) = match &self.phase {
            Phase::Running(run) => (run.clone(), None),
            Phase::Closing { run, discard, .. } => (run.clone(), Some(*discard)),
            Phase::Resting(_) | Phase::Waiting { .. } | Phase::Asking(_) => return,
        };
        turn.cause = Some(cause.clone());
        let uptime = run
            .online_since
            .map(|since| turn.now.elapsed.saturating_sub(since));
        if uptime.is_some_and(|up| up >= turn.rules.stable_after) {
            self.calm();
        }
        let class = classify(cause, uptime.is_some());
        if class == Class::Internal {
            self.crashes = self.crashes.saturating_add(1);
        }
        if closing.is_some() || spoils_line(cause) || run.goal != Goal::Login {
            turn.push(Effect::Rebuild);
        }
        match closing {
            Some(true) => {
                self.discard("CANCELED", turn);
                self.settle(turn);
            }
            Some(false) => {
                self.learn(cause, turn);
                self.settle(turn);
            }
            None => {
                if uptime.is_none() {
                    turn.push(Effect::Report(Outcome::Refused(class)));
                }
                warn(cause, turn);
                self.follow(&run, class, cause, turn);
            }
        }
    }

    /// What comes after an attempt that ended by itself.
    fn follow(&mut self, run: &Run, class: Class, cause: &Cause, turn: &mut Turn<'_>) {
        if matches!(run.goal, Goal::Pair(_)) && !run.accepted {
            match class {
                Class::Routine => return self.ask(Goal::Login, turn),
                Class::Transient | Class::Requested | Class::RateLimited => {
                    // The phone may have accepted without our hearing of it: a login tells.
                    self.pairing_trouble = Some("CONNECTION_LOST".into());
                    return self.ask(Goal::Login, turn);
                }
                Class::Internal => self.pairing_trouble = Some("INTERNAL".into()),
                Class::Fleet | Class::Terminal | Class::Timed | Class::Pairing => {
                    self.abandon_pairing(cause, turn);
                    return self.settle(turn);
                }
            }
        }
        self.learn(cause, turn);
        match class {
            Class::Terminal | Class::Timed | Class::Pairing => self.settle(turn),
            Class::Routine if self.pass => {
                self.pass = false;
                self.settle(turn);
            }
            Class::Routine
            | Class::Requested
            | Class::Transient
            | Class::RateLimited
            | Class::Fleet
            | Class::Internal => self.settle_after(Some(cause), turn),
        }
    }

    /// Takes over what a cause says about the durable facts.
    fn learn(&mut self, cause: &Cause, turn: &mut Turn<'_>) {
        match cause {
            Cause::LoggedOut { .. } | Cause::PairingExpired | Cause::PairingFailed { .. }
                if self.facts.pairing_unconfirmed =>
            {
                self.abandon_pairing(cause, turn);
            }
            Cause::LoggedOut { .. } => self.facts.login = Login::LoggedOut,
            // Asked to log in without credentials: there is nothing to delete.
            Cause::PairingExpired | Cause::PairingFailed { .. } => {
                self.facts.login = Login::Unpaired;
                self.facts.initial_sync_owed = false;
            }
            Cause::Replaced => self.facts.halt = Some(Halt::Replaced),
            Cause::Banned { code, until } => {
                self.facts.halt = Some(Halt::Banned {
                    code: *code,
                    until: *until,
                });
            }
            _ => {}
        }
    }

    fn abandon_pairing(&mut self, cause: &Cause, turn: &mut Turn<'_>) {
        if *cause == Cause::PairingExpired {
            self.forget(turn);
            turn.push(Effect::Pairing(PairingStep::Expired));
            return;
        }
        let reason = match cause {
            Cause::PairingFailed { reason } if reason == NOT_PAIRED => self
                .pairing_trouble
                .clone()
                .unwrap_or_else(|| "NOT_ACCEPTED".into()),
            Cause::PairingFailed { reason } => reason.clone(),
            Cause::LoggedOut { .. } => "LINK_REFUSED".into(),
            Cause::Banned { .. } => "BANNED".into(),
            Cause::Outdated => "CLIENT_OUTDATED".into(),
            _ => "CONNECTION_LOST".into(),
        };
        self.discard(&reason, turn);
    }

    /// Gives up the credentials; a pairing under way fails with `reason`.
    pub(super) fn discard(&mut self, reason: &str, turn: &mut Turn<'_>) {
        let pairing = self.facts.pairing_unconfirmed;
        self.forget(turn);
        if pairing {
            turn.push(Effect::Pairing(PairingStep::Failed {
                reason: reason.into(),
            }));
        }
    }

    fn forget(&mut self, turn: &mut Turn<'_>) {
        turn.wipe = true;
        turn.push(Effect::Rebuild);
        self.facts = Facts {
            desired: self.facts.desired,
            ..Facts::default()
        };
        self.pairing_trouble = None;
    }

    /// Forgets past failures.
    pub(super) fn calm(&mut self) {
        self.failures = 0;
        self.crashes = 0;
        self.pass = true;
    }

    /// Goes where the facts lead, connecting at once if they lead to a connection.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) {
        self.settle_after(None, turn);
    }

    /// Goes where the facts lead, waiting first if there was trouble.
    fn settle_after(&mut self, trouble: Option<&Cause>, turn: &mut Turn<'_>) {
        if let Some(rest) = Rest::of(&self.facts) {
            self.phase = Phase::Resting(rest);
            return;
        }
        if let Some(Halt::Banned {
            code,
            until: Some(until),
        }) = self.facts.halt
        {
            if until > turn.now.wall {
                let jitter = u64::try_from(turn.rules.ban_jitter.as_millis()).unwrap_or(u64::MAX);
                let wait =
                    until.since(turn.now.wall) + Duration::from_millis(turn.entropy.up_to(jitter));
                self.phase = Phase::Waiting {
                    due: turn.now.elapsed.saturating_add(wait),
                    shown: Connection::Banned {
                        until: Some(until),
                        code,
                    },
                };
                return;
            }
            self.facts.halt = None;
        }
        match trouble {
            Some(cause) => self.wait(cause, turn),
            None => self.ask(Goal::Login, turn),
        }
    }

    fn wait(&mut self, cause: &Cause, turn: &mut Turn<'_>) {
        if matches!(cause, Cause::Internal { .. }) && self.crashes >= turn.rules.crash_limit {
            let Cause::Internal { detail } = cause else {
                return;
            };
            self.phase = Phase::Resting(Rest::Failed {
                reason: detail.clone(),
            });
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let backoff = match cause {
            Cause::RateLimited | Cause::Outdated => turn.rules.slow,
            _ => turn.rules.backoff,
        };
        let delay = backoff.delay(self.failures, turn.entropy);
        let shown = match cause {
            Cause::Outdated => Connection::Outdated,
            _ => Connection::Backoff {
                until: turn.now.wall.plus(delay),
                attempt: self.failures,
                reason: cause.clone(),
            },
        };
        self.phase = Phase::Waiting {
            due: turn.now.elapsed.saturating_add(delay),
            shown,
        };
    }

    pub(super) fn ask(&mut self, goal: Goal, turn: &mut Turn<'_>) {
        if self.full && goal == Goal::Login && !self.facts.pairing_unconfirmed {
            // Room is told; this is only when it is looked at again in any case.
            let look = turn.rules.slow.cap;
            turn.cause = Some(Cause::WorkspaceFull);
            self.phase = Phase::Waiting {
                due: turn.now.elapsed.saturating_add(look),
                shown: Connection::Backoff {
                    until: turn.now.wall.plus(look),
                    attempt: self.failures.max(1),
                    reason: Cause::WorkspaceFull,
                },
            };
            return;
        }
        self.phase = Phase::Asking(goal);
        turn.push(Effect::Admit);
    }
}

/// Whether a change of connection is told. Looking for room and finding none is not: what a full journal
/// would be told again and again could not leave it.
fn is_news(before: &Connection, after: &Connection) -> bool {
    before != after && !(waits_for_room(before) && waits_for_room(after))
}

fn waits_for_room(connection: &Connection) -> bool {
    matches!(
        connection,
        Connection::Backoff {
            reason: Cause::WorkspaceFull,
            ..
        }
    )
}

/// Tells about a limit that the provider has set.
fn warn(cause: &Cause, turn: &mut Turn<'_>) {
    let (signal, code, until) = match cause {
        Cause::Banned { code, until } => ("TEMPORARY_BAN", Some(*code), *until),
        Cause::RateLimited => ("RATE_LIMITED", Some(429), None),
        Cause::Outdated => ("CLIENT_OUTDATED", Some(405), None),
        _ => return,
    };
    turn.push(Effect::Limited {
        signal,
        code,
        until,
    });
}
