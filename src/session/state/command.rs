//! The transitions that somebody asked for.

use super::step::Turn;
use super::{Effect, Goal, Illegal, PairMode, PairingStep, Phase, Rest, State};
use crate::domain::session::{Desired, Halt, Login};

impl State {
    pub(super) fn start(&mut self, turn: &mut Turn<'_>) -> Result<(), Illegal> {
        if self.is_logging_out() {
            return Err(Illegal::LoggingOut);
        }
        if self.facts.login == Login::LoggedOut {
            return Err(Illegal::LoggedOut);
        }
        if let Some(Halt::Banned {
            until: Some(until), ..
        }) = self.facts.halt
            && until > turn.now.wall
        {
            return Err(Illegal::Banned { until });
        }
        self.facts.desired = Desired::Running;
        match self.phase {
            Phase::Resting(Rest::Unpaired)
            | Phase::Waiting { .. }
            | Phase::Asking(_)
            | Phase::Running(_) => {}
            Phase::Closing { .. } => self.facts.halt = None,
            Phase::Resting(_) => {
                self.facts.halt = None;
                self.calm();
                self.settle(turn);
            }
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, turn: &mut Turn<'_>) {
        self.facts.desired = Desired::Stopped;
        match &self.phase {
            Phase::Resting(_) | Phase::Waiting { .. } => self.settle(turn),
            Phase::Asking(goal) => {
                let pairing = matches!(goal, Goal::Pair(_));
                turn.push(Effect::Withdraw);
                if pairing {
                    self.discard("CANCELED", turn);
                }
                self.settle(turn);
            }
            Phase::Running(run) => {
                let discard = matches!(run.goal, Goal::Pair(_)) && !run.accepted;
                self.close(discard, turn);
            }
            Phase::Closing { .. } => {}
        }
    }

    pub(super) fn restart(&mut self, turn: &mut Turn<'_>) -> Result<(), Illegal> {
        if self.is_logging_out() {
            return Err(Illegal::LoggingOut);
        }
        if self.facts.desired == Desired::Stopped {
            return Err(Illegal::Stopped);
        }
        match self.facts.login {
            Login::LoggedOut => return Err(Illegal::LoggedOut),
            Login::Unpaired if !self.facts.pairing_unconfirmed => return Err(Illegal::NotPaired),
            Login::Unpaired | Login::Paired => {}
        }
        if self.is_linking() {
            return Err(Illegal::PairingUnderWay);
        }
        self.facts.halt = None;
        self.calm();
        match self.phase {
            Phase::Resting(_) | Phase::Waiting { .. } => self.settle(turn),
            Phase::Running(_) => self.close(false, turn),
            Phase::Asking(_) | Phase::Closing { .. } => {}
        }
        Ok(())
    }

    pub(super) fn pair(&mut self, mode: PairMode, turn: &mut Turn<'_>) -> Result<(), Illegal> {
        if self.is_logging_out() {
            return Err(Illegal::LoggingOut);
        }
        if self.facts.desired == Desired::Stopped {
            return Err(Illegal::Stopped);
        }
        if self.full {
            return Err(Illegal::WorkspaceFull);
        }
        if self.facts.pairing_unconfirmed {
            return Err(Illegal::PairingUnderWay);
        }
        match self.facts.login {
            Login::LoggedOut => return Err(Illegal::LoggedOut),
            Login::Paired => return Err(Illegal::AlreadyPaired),
            Login::Unpaired => {}
        }
        if !self.is_resting() {
            return Err(Illegal::PairingUnderWay);
        }
        self.calm();
        self.pairing_trouble = None;
        self.facts.pairing_unconfirmed = true;
        turn.push(Effect::Rebuild);
        turn.push(Effect::Pairing(PairingStep::Started));
        self.ask(Goal::Pair(mode), turn);
        Ok(())
    }

    pub(super) fn cancel_pairing(&mut self, turn: &mut Turn<'_>) {
        match &self.phase {
            Phase::Asking(Goal::Pair(_)) => {
                turn.push(Effect::Withdraw);
                self.discard("CANCELED", turn);
                self.settle(turn);
            }
            Phase::Running(run) if matches!(run.goal, Goal::Pair(_)) && !run.accepted => {
                self.close(true, turn);
            }
            _ => {}
        }
    }

    pub(super) fn logout(&mut self, turn: &mut Turn<'_>) -> Result<(), Illegal> {
        if self.facts.login == Login::Unpaired && !self.facts.pairing_unconfirmed {
            return Err(Illegal::NotPaired);
        }
        match &mut self.phase {
            Phase::Resting(_) | Phase::Waiting { .. } => {
                self.discard("CANCELED", turn);
                self.settle(turn);
            }
            Phase::Asking(_) => {
                turn.push(Effect::Withdraw);
                self.discard("CANCELED", turn);
                self.settle(turn);
            }
            Phase::Running(run) => {
                turn.push(if run.online_since.is_some() {
                    Effect::Unlink
                } else {
                    Effect::Close
                });
                self.phase = Phase::Closing {
                    run: run.clone(),
                    discard: true,
                    logout: true,
                };
            }
            Phase::Closing {
                discard, logout, ..
            } => {
                *discard = true;
                *logout = true;
            }
        }
        Ok(())
    }

    pub(super) fn close(&mut self, discard: bool, turn: &mut Turn<'_>) {
        if let Phase::Running(run) = &self.phase {
            turn.push(Effect::Close);
            self.phase = Phase::Closing {
                run: run.clone(),
                discard,
                logout: false,
            };
        }
    }

    fn is_logging_out(&self) -> bool {
        matches!(self.phase, Phase::Closing { logout: true, .. })
    }

    fn is_linking(&self) -> bool {
        match &self.phase {
            Phase::Asking(Goal::Pair(_)) => true,
            Phase::Running(run) | Phase::Closing { run, .. } => {
                matches!(run.goal, Goal::Pair(_))
            }
            _ => false,
        }
    }
}
