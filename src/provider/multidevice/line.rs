//! One session's line: one client, one attempt at a time.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::attempt::Attempt;
use super::client::{self, Built, Parts};
use super::facts::Facts;
use super::fetch;
use super::groups;
use super::renewal;
use super::send;
use super::upload;
use crate::domain::group::Group;
use crate::domain::ids::SessionName;
use crate::domain::media::MediaKind;
use crate::domain::message::OutboundMessage;
use crate::domain::person::Person;
use crate::domain::session::{Cause, Traffic};
use crate::provider::contract::{
    FetchError, Fetched, GroupsError, Line, Mode, OpenError, ProbeError, SendError, Signal,
    UploadError,
};
use crate::store::media::MediaFile;

/// The reason with which a login without credentials ends.
const NOT_PAIRED: &str = "NOT_PAIRED";
/// How long the end of a run waits for what was dispatched to become durable.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

/// See the module documentation.
pub(super) struct MultideviceLine {
    name: SessionName,
    parts: Parts,
    facts: Facts,
    /// Held for the length of a run.
    running: Mutex<()>,
    client: SyncMutex<Option<Arc<Built>>>,
}

impl MultideviceLine {
    pub(super) async fn open(name: SessionName, parts: Parts) -> Result<Self, OpenError> {
        let renewed = renewal::settle(&parts.keys, &parts.entropy)
            .await
            .map_err(|error| OpenError::Store(error.to_string()))?;
        if renewed {
            info!(
                workspace = %name.workspace, session = %name.session,
                "the store was restored: Signal sessions are built anew"
            );
        }
        let facts = Facts::new(parts.keys.clone());
        let unclean = facts
            .settle_unclean_stop()
            .await
            .map_err(|error| OpenError::Store(error.to_string()))?;
        if unclean {
            info!(
                workspace = %name.workspace, session = %name.session,
                "the last run ended uncleanly; the app state will be synchronised from its snapshots"
            );
        }
        Ok(Self {
            name,
            parts,
            facts,
            running: Mutex::new(()),
            client: SyncMutex::new(None),
        })
    }

    fn current(&self) -> Option<Arc<Built>> {
        self.client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn replace(&self, built: Option<Arc<Built>>) {
        let old = std::mem::replace(
            &mut *self.client.lock().unwrap_or_else(PoisonError::into_inner),
            built,
        );
        drop(old);
    }

    /// The connected client, for anything that needs one.
    fn connected(&self) -> Option<Arc<Built>> {
        self.current()
            .filter(|built| built.watch.is_logged_in() && built.client.is_connected())
    }

    async fn usable_client(&self) -> Result<Arc<Built>, OpenError> {
        if let Some(built) = self.current().filter(|built| built.is_reusable()) {
            return Ok(built);
        }
        self.replace(None);
        let built = Arc::new(client::build(&self.parts).await?);
        self.replace(Some(Arc::clone(&built)));
        Ok(built)
    }

    async fn attempt(&self, mode: Mode, stop: CancellationToken) -> Cause {
        let mut built = match self.usable_client().await {
            Ok(built) => built,
            Err(error) => return not_built(error),
        };
        if mode != Mode::Login && !built.backend.is_registered() {
            // A logout that a crash cut short leaves keys of the old link, which the new one must not use.
            drop(built);
            self.replace(None);
            if let Err(error) = self.parts.keys.wipe().await {
                return Cause::StoreFailed {
                    detail: error.to_string(),
                };
            }
            built = match self.usable_client().await {
                Ok(built) => built,
                Err(error) => return not_built(error),
            };
        }
        let unconfirmed = match self.facts.is_unconfirmed().await {
            Ok(unconfirmed) => unconfirmed,
            Err(error) => {
                return Cause::StoreFailed {
                    detail: error.to_string(),
                };
            }
        };
        let registered = built.backend.is_registered();
        match (&mode, registered) {
            (Mode::Login, false) => return pairing_failed(NOT_PAIRED),
            // The phone accepted earlier, and the answer to it may have been lost: a login tells.
            (Mode::PairByQr | Mode::PairByCode { .. }, true) if unconfirmed => {
                self.parts.sink.signal(Signal::Paired {
                    account: built.refresh_account(),
                    platform: String::new(),
                });
                return Cause::RestartRequired;
            }
            (Mode::PairByQr | Mode::PairByCode { .. }, true) => {
                return pairing_failed("ALREADY_PAIRED");
            }
            _ => {}
        }
        let attempt = Attempt {
            parts: &self.parts,
            facts: &self.facts,
            built: &built,
            unconfirmed: unconfirmed || !registered,
            mode,
        };
        let pairing = attempt.mode != Mode::Login;
        let cause = attempt.run(stop).await;
        self.after(&built, pairing, cause).await
    }

    /// Settles what an attempt leaves behind.
    async fn after(&self, built: &Arc<Built>, pairing: bool, cause: Cause) -> Cause {
        if !built.watch.is_poisoned() {
            built.flush().await;
            let sink = &self.parts.sink;
            let settled =
                tokio::time::timeout(SETTLE_PATIENCE, sink.wait_durable(sink.dispatched())).await;
            if matches!(settled, Ok(Ok(())))
                && let Err(error) = self.facts.stopped_cleanly().await
            {
                warn!(%error, "the clean stop could not be recorded");
            }
        }
        if pairing && built.backend.is_registered() && built.watch.tell_paired() {
            self.parts.sink.signal(Signal::Paired {
                account: built.refresh_account(),
                platform: String::new(),
            });
        }
        let keep = match cause {
            Cause::RestartRequired => true,
            // After a pairing that failed the library still shows codes of the old connection.
            Cause::Recycled
            | Cause::Transient { .. }
            | Cause::Stalled
            | Cause::LoginTimeout
            | Cause::RateLimited => !pairing,
            _ => false,
        };
        if !keep || !built.is_reusable() {
            self.replace(None);
        }
        if let Cause::LoggedOut { .. } = cause {
            return self.refused(cause).await;
        }
        cause
    }

    /// The server knows no such device. If no login ever succeeded, the pairing never happened: its
    /// credentials are worthless and the session is simply not paired.
    async fn refused(&self, cause: Cause) -> Cause {
        match self.facts.is_unconfirmed().await {
            Ok(false) => cause,
            Ok(true) => match self.parts.keys.wipe().await {
                Ok(()) => {
                    info!("the link was never confirmed and is refused now; back to unpaired");
                    pairing_failed("LINK_REFUSED")
                }
                Err(error) => Cause::StoreFailed {
                    detail: error.to_string(),
                },
            },
            Err(error) => Cause::StoreFailed {
                detail: error.to_string(),
            },
        }
    }
}

fn not_built(error: OpenError) -> Cause {
    match error {
        OpenError::Store(detail) => Cause::StoreFailed { detail },
        OpenError::Damaged(detail) => Cause::Internal {
            detail: format!("credentials are damaged: {detail}"),
        },
    }
}

fn pairing_failed(reason: &str) -> Cause {
    Cause::PairingFailed {
        reason: reason.to_owned(),
    }
}

#[async_trait]
impl Line for MultideviceLine {
    async fn run(&self, mode: Mode, stop: CancellationToken) -> Cause {
        let _running = self.running.lock().await;
        let span = info_span!(
            "line",
            workspace = %self.name.workspace,
            session = %self.name.session
        );
        let attempt = AssertUnwindSafe(self.attempt(mode, stop)).catch_unwind();
        async {
            let cause = attempt.await.unwrap_or_else(|_| {
                self.replace(None);
                Cause::Internal {
                    detail: "the connection's task panicked".into(),
                }
            });
            debug!(?cause, "the attempt ended");
            cause
        }
        .instrument(span)
        .await
    }

    async fn send(&self, message: &OutboundMessage) -> Result<(), SendError> {
        let built = self.connected().ok_or(SendError::NotConnected)?;
        send::send(&built, &self.parts, message).await
    }

    async fn probe(&self, patience: Duration) -> Result<(), ProbeError> {
        let built = self.connected().ok_or(ProbeError::NotConnected)?;
        send::probe(&built, patience).await
    }

    async fn mark_read(
        &self,
        chat: &Person,
        sender: &Person,
        stanza_ids: &[String],
    ) -> Result<(), SendError> {
        let built = self.connected().ok_or(SendError::NotConnected)?;
        send::mark_read(&built, chat, sender, stanza_ids).await
    }

    async fn fetch(&self, raw: &[u8]) -> Result<Fetched, FetchError> {
        let built = self.connected().ok_or(FetchError::NotConnected)?;
        fetch::fetch(&built, &self.parts, raw).await
    }

    async fn groups(&self) -> Result<Vec<Group>, GroupsError> {
        let built = self.connected().ok_or(GroupsError::NotConnected)?;
        groups::groups(&built, &self.parts).await
    }

    async fn upload(&self, file: MediaFile, kind: MediaKind) -> Result<Vec<u8>, UploadError> {
        let built = self.connected().ok_or(UploadError::NotConnected)?;
        upload::upload(&built, &self.parts, file, kind).await
    }

    fn attach(&self, encoded: &[u8], reference: &[u8]) -> Result<Vec<u8>, UploadError> {
        upload::attach(encoded, reference)
    }

    fn traffic(&self) -> Traffic {
        self.current()
            .map(|built| built.watch.traffic())
            .unwrap_or_default()
    }

    async fn logout(&self) -> Result<(), SendError> {
        let built = self.connected().ok_or(SendError::NotConnected)?;
        send::logout(&built).await
    }
}
