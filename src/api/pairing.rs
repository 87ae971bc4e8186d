//! The stream of a pairing.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::gate::Standing;
use super::ports::{PairBy, PairingProgress, Sessions};
use super::status::ApiError;
use super::{contain, convert, fields, sessions};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::SessionName;
use crate::domain::phone;
use crate::pb::pair_session_response::Step;
use crate::pb::{
    PairSessionRequest, PairSessionResponse, PairingCode, PairingFailed, PairingFailureReason,
    PairingQr, PairingSucceeded,
};
use crate::store::WorkspaceStore;

/// How the request wants to link.
pub(super) fn by(request: &PairSessionRequest) -> Result<PairBy, ApiError> {
    fields::request_id(&request.request_id)?;
    match request.phone.as_str() {
        "" => Ok(PairBy::Qr),
        typed => Ok(PairBy::Code(phone::normalise("phone", typed)?)),
    }
}

/// What the stream of a pairing needs.
pub(super) struct Show {
    pub(super) live: Arc<dyn Sessions>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) workspace: WorkspaceStore,
    pub(super) name: SessionName,
    pub(super) standing: Standing,
    pub(super) stop: CancellationToken,
}

/// Passes a pairing's steps on until its last, or until the client leaves, which cancels it.
pub(super) fn stream(
    mut steps: mpsc::Receiver<PairingProgress>,
    show: Show,
) -> ReceiverStream<Result<PairSessionResponse, Status>> {
    let (out, stream) = mpsc::channel(4);
    let standing = show.standing.clone();
    let work = {
        let out = out.clone();
        async move {
            loop {
                let progress = tokio::select! {
                    progress = steps.recv() => progress,
                    () = show.stop.cancelled() => Some(PairingProgress::Failed {
                        reason: "CANCELED".to_owned(),
                    }),
                    () = out.closed() => return,
                };
                let (shown, last) = match progress {
                    Some(progress) => show.step(progress).await,
                    None => (
                        Step::Failed(failed("INTERNAL", PairingFailureReason::Internal)),
                        true,
                    ),
                };
                let frame = PairSessionResponse { step: Some(shown) };
                if out.send(Ok(frame)).await.is_err() || last {
                    return;
                }
            }
        }
    };
    contain::spawn(out, standing, work);
    ReceiverStream::new(stream)
}

impl Show {
    /// A step as clients see it, and whether it is the last.
    async fn step(&self, step: PairingProgress) -> (Step, bool) {
        let ttl = |expires_at: Timestamp| Some(convert::span(expires_at.since(self.clock.now())));
        match step {
            PairingProgress::Qr {
                payload,
                expires_at,
            } => (
                Step::Qr(PairingQr {
                    payload,
                    expire_time: Some(convert::moment(expires_at)),
                    ttl: ttl(expires_at),
                }),
                false,
            ),
            PairingProgress::Code { code, expires_at } => (
                Step::Code(PairingCode {
                    code,
                    expire_time: Some(convert::moment(expires_at)),
                    ttl: ttl(expires_at),
                }),
                false,
            ),
            PairingProgress::Succeeded { account } => {
                let record = self.workspace.sessions().get(&self.name.session).await.ok();
                let succeeded = PairingSucceeded {
                    account: Some(convert::person(&account)),
                    session: record.map(|record| sessions::show(&*self.live, record)),
                };
                (Step::Succeeded(succeeded), true)
            }
            PairingProgress::Failed { reason } => {
                let known = known_failure(&reason);
                (Step::Failed(failed(&reason, known)), true)
            }
        }
    }
}

fn known_failure(reason: &str) -> PairingFailureReason {
    match reason {
        "EXPIRED" | "PAIRING_EXPIRED" => PairingFailureReason::Expired,
        "PASSKEY_REQUIRED" => PairingFailureReason::PasskeyRequired,
        "CANCELED" => PairingFailureReason::Canceled,
        "OUTDATED" | "CLIENT_OUTDATED" => PairingFailureReason::Outdated,
        "INTERNAL" | "STORE_FAILED" => PairingFailureReason::Internal,
        "CONNECTION_LOST" | "UNREACHABLE" | "LOGIN_TIMEOUT" | "RATE_LIMITED" => {
            PairingFailureReason::Unreachable
        }
        _ => PairingFailureReason::Refused,
    }
}

fn failed(detail: &str, reason: PairingFailureReason) -> PairingFailed {
    let message = match reason {
        PairingFailureReason::Expired => "nobody scanned in time: pair again",
        PairingFailureReason::PasskeyRequired => {
            "the account demands a passkey to link devices: turn that off on the phone (Settings, Account, Passkeys), then pair again"
        }
        PairingFailureReason::Canceled => "the pairing was stopped",
        PairingFailureReason::Unreachable => {
            "WhatsApp could not be reached: check the network, then pair again"
        }
        PairingFailureReason::Outdated => {
            "WhatsApp refuses this version of the client: upgrade trunkline"
        }
        PairingFailureReason::Internal => {
            "a fault of the daemon: its log has the details; pair again"
        }
        PairingFailureReason::Refused | PairingFailureReason::Unspecified => {
            "the phone or WhatsApp refused: check that the phone is online and has fewer than four linked devices, then pair again"
        }
    };
    PairingFailed {
        reason: reason.into(),
        detail: detail.to_owned(),
        message: message.to_owned(),
    }
}
