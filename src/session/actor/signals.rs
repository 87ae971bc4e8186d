//! What the line tells.

use super::{Actor, Exit};
use crate::domain::clock::Timestamp;
use crate::domain::event::Payload;
use crate::domain::person::Person;
use crate::domain::session::Cause;
use crate::provider::contract::Signal;
use crate::session::inbound::LineEvent;
use crate::session::mailbox::PairingUpdate;
use crate::session::outbound::Ack;
use crate::session::state::{Goal, Input, NOT_PAIRED, Phase};
use crate::store::Change;

impl Actor {
    pub(super) async fn line_event(&mut self, event: LineEvent) -> Result<(), Exit> {
        match event {
            LineEvent::SinkFailed { detail } => {
                tracing::error!(
                    detail,
                    "what arrived cannot be stored: closing unacknowledged"
                );
                self.close(Some(Cause::StoreFailed { detail }));
                Ok(())
            }
            LineEvent::Signal(signal) => self.signal(signal).await,
        }
    }

    async fn signal(&mut self, signal: Signal) -> Result<(), Exit> {
        match signal {
            Signal::Qr {
                payload,
                expires_in,
            } => {
                let expires_at = self.now().plus(expires_in);
                self.offer(PairingUpdate::Qr {
                    payload,
                    expires_at,
                });
            }
            Signal::PairingCode { code, expires_in } => {
                let expires_at = self.now().plus(expires_in);
                self.offer(PairingUpdate::Code { code, expires_at });
            }
            Signal::Paired { account, .. } => {
                self.account = Some(account);
                self.feed(Input::Paired).await?;
            }
            Signal::Confirmed => self.feed(Input::Confirmed).await?,
            Signal::Online { account } => self.logged_in(account).await?,
            Signal::ServerAck {
                stanza_id,
                error,
                at,
            } => self.pass_ack(Ack {
                stanza_id,
                error,
                at,
            }),
            Signal::Warning {
                signal,
                code,
                until,
            } => self.warned(signal, code, until).await?,
            Signal::InitialSyncDone => self.feed(Input::InitialSyncDone).await?,
        }
        Ok(())
    }

    /// Passes a QR or a code on. One that appears during a login means that there are no credentials.
    fn offer(&mut self, update: PairingUpdate) {
        if let Phase::Running(run) = self.state.phase()
            && run.goal == Goal::Login
        {
            self.close(Some(Cause::PairingFailed {
                reason: NOT_PAIRED.into(),
            }));
            return;
        }
        self.update_pairing(update);
    }

    async fn logged_in(&mut self, account: Person) -> Result<(), Exit> {
        if self.attempt.is_none() || !self.state.is_running() {
            return Ok(());
        }
        let is_news = self.account.as_ref() != Some(&account);
        self.account = Some(account.clone());
        if is_news {
            let edit = move |record: &mut crate::store::SessionRecord| {
                record.account = Some(account.clone());
            };
            self.commit(&mut vec![Change::Session(Box::new(edit))])
                .await?;
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.is_online();
        }
        self.last_online = Some(self.now());
        self.start_online().await?;
        self.feed(Input::Online).await?;
        // Room for the next one.
        self.permit = None;
        Ok(())
    }

    async fn warned(
        &mut self,
        signal: String,
        code: Option<u32>,
        until: Option<Timestamp>,
    ) -> Result<(), Exit> {
        let pacing = &self.parts.fleet.config.pacing;
        let (holds, now) = (&self.parts.cell.holds, self.now());
        match signal.as_str() {
            "REACHOUT_TIMELOCK" => {
                holds.hold_new_chats(until.unwrap_or_else(|| now.plus(pacing.timelock)));
            }
            "RATE_LIMITED" => holds.hold_all(until.unwrap_or_else(|| now.plus(pacing.slow_down))),
            _ => {}
        }
        holds.save(&self.store).await?;
        metrics::counter!("trunkline_provider_warnings_total", "signal" => signal.clone())
            .increment(1);
        tracing::warn!(signal, code, "the provider warned");
        let event = self.event(Payload::Signal {
            signal,
            code,
            until,
        });
        self.commit(&mut vec![event]).await
    }
}
