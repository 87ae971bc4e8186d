//! `BackupService`: the store as one encrypted stream. Administrators only.

use std::io::{self, Write};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::gate::Gate;
use super::status::{ApiError, Reason};
use super::{contain, faults};
use crate::pb::backup_service_server::BackupService;
use crate::pb::{BackupRequest, BackupResponse};
use crate::store::backup::{Backup, BackupError, Recipients};

/// Bytes in one chunk.
const CHUNK: usize = 64 << 10;
/// Chunks that wait for a slow reader.
const BUFFER: usize = 8;

/// Implements `BackupService`.
#[derive(Debug)]
pub(super) struct Backups {
    gate: Gate,
    stop: CancellationToken,
}

type Chunks = mpsc::Sender<Result<BackupResponse, Status>>;

impl Backups {
    pub(super) fn new(gate: Gate, stop: CancellationToken) -> Self {
        Self { gate, stop }
    }

    async fn begin(
        &self,
        request: Request<BackupRequest>,
    ) -> Result<ReceiverStream<Result<BackupResponse, Status>>, ApiError> {
        let store = self.gate.administrator(&request)?.clone();
        let standing = self.gate.caller(&request)?.standing;
        let recipients = &request.get_ref().recipients;
        let recipients = Recipients::parse(recipients.iter().map(String::as_str))
            .map_err(|error| ApiError::field("recipients", error.to_string()))?;
        let backup = store.backup(false).await?;
        tracing::info!("a backup begins");
        let (out, stream) = mpsc::channel(BUFFER);
        let (errors, stop) = (out.clone(), self.stop.clone());
        let work = {
            let errors = errors.clone();
            async move {
                let outcome = tokio::select! {
                    outcome = write(backup, recipients, out) => outcome,
                    () = stop.cancelled() => Err(faults::draining()),
                };
                let label = if outcome.is_ok() {
                    "completed"
                } else {
                    "failed"
                };
                metrics::counter!("trunkline_backups_total", "outcome" => label).increment(1);
                if let Err(error) = outcome {
                    // Nobody listens any more: nobody to tell.
                    let _ = errors.send(Err(error.into())).await;
                }
            }
        };
        contain::spawn(errors, standing, work);
        Ok(ReceiverStream::new(stream))
    }
}

/// Writes the whole backup; ends early when nobody reads it any more.
async fn write(backup: Backup, recipients: Recipients, out: Chunks) -> Result<(), ApiError> {
    let taken = out.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let mut chunks = ChunkWriter {
            out,
            waiting: Vec::with_capacity(CHUNK),
        };
        backup.write_to(&recipients, &mut chunks)
    });
    match writing.await {
        Ok(Ok(written)) => {
            tracing::info!(entries = written.entries, "a backup was made");
            Ok(())
        }
        Ok(Err(BackupError::Write(_))) if taken.is_closed() => {
            tracing::info!("a backup was given up by whoever asked for it");
            Err(ApiError::new(Reason::StoreBusy, "nobody takes it any more"))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a backup was not made");
            Err(error.into())
        }
        Err(error) => Err(faults::internal(&error)),
    }
}

/// Hands bytes on in chunks.
struct ChunkWriter {
    out: Chunks,
    waiting: Vec<u8>,
}

impl ChunkWriter {
    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK));
        let sent = self.out.blocking_send(Ok(BackupResponse { chunk }));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more"))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        if self.waiting.len() == CHUNK {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.send()
    }
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        if error.is_transient() {
            return Self::new(Reason::StoreBusy, error.to_string())
                .retry_after(faults::BACKUP_BUSY);
        }
        match error {
            BackupError::Store(error) => error.into(),
            error => faults::internal(&error),
        }
    }
}

#[tonic::async_trait]
impl BackupService for Backups {
    type BackupStream = ReceiverStream<Result<BackupResponse, Status>>;

    async fn backup(
        &self,
        request: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Ok(Response::new(self.begin(request).await?))
    }
}
