//! Watch: the journal from a revision on, without acks.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::gate::{Call, Standing};
use super::names::{WorkspaceName, session_name};
use super::status::ApiError;
use super::{contain, convert, faults};
use crate::domain::ids::SessionId;
use crate::pb::watch_response::Frame;
use crate::pb::{WatchProgress, WatchRequest, WatchResponse};
use crate::store::{CompiledFilter, Filter, Journal, StoreError, WorkspaceStore};

/// Events read at once: bounds what a slow reader holds in memory.
const PAGE: usize = 100;

/// Frames that wait for a slow reader.
const BUFFER: usize = 16;

/// A Watch that has been checked and may begin.
pub(super) struct Watch {
    workspace: WorkspaceStore,
    journal: Journal,
    filter: CompiledFilter,
    from: u64,
    progress_every: Duration,
    standing: Standing,
}

impl Watch {
    /// Checks what was asked. The first revision must be there: everything else is told at once, with
    /// the oldest revision, instead of on the stream.
    pub(super) async fn check(
        call: Call<WatchRequest, WorkspaceName>,
        progress_every: Duration,
    ) -> Result<Self, ApiError> {
        let mut filter = Filter {
            types: convert::read_event_types("types", &call.message.types)?,
            ..Filter::default()
        };
        if !call.message.session.is_empty() {
            filter.sessions.insert(own_session(&call).await?);
        }
        let journal = call.workspace.journal();
        let size = journal.size().await?;
        let from = match call.message.from_revision {
            None => size.newest + 1,
            Some(0) => size.oldest,
            Some(from) => from,
        };
        journal.headers(from, 1).await?;
        Ok(Self {
            filter: journal.compile(&filter).await?,
            workspace: call.workspace,
            journal,
            from,
            progress_every,
            standing: call.standing,
        })
    }

    /// Starts the stream. It ends when the client leaves, when the store closes or on `stop`.
    pub(super) fn start(
        self,
        stop: CancellationToken,
    ) -> ReceiverStream<Result<WatchResponse, Status>> {
        let (out, stream) = mpsc::channel(BUFFER);
        let errors = out.clone();
        let standing = self.standing.clone();
        let work = {
            let out = out.clone();
            async move {
                let outcome = tokio::select! {
                    outcome = self.follow(&out) => outcome,
                    () = stop.cancelled() => Err(faults::draining()),
                    () = out.closed() => return,
                };
                if let Err(error) = outcome {
                    // Nobody listens any more: nobody to tell.
                    let _ = out.send(Err(error.into())).await;
                }
            }
        };
        contain::spawn(errors, standing, work);
        ReceiverStream::new(stream)
    }

    async fn follow(
        self,
        out: &mpsc::Sender<Result<WatchResponse, Status>>,
    ) -> Result<(), ApiError> {
        let mut head = self.journal.watch().await?;
        let mut next = self.from;
        loop {
            let page = self.journal.read(next, PAGE, &self.filter).await?;
            next = page.next;
            for event in page.events {
                let event = convert::event(self.workspace.id(), event);
                if !send(out, Frame::Event(event)).await {
                    return Ok(());
                }
            }
            if next <= *head.borrow_and_update() {
                continue;
            }
            if !send(
                out,
                Frame::Progress(WatchProgress {
                    next_revision: next,
                }),
            )
            .await
            {
                return Ok(());
            }
            loop {
                match tokio::time::timeout(self.progress_every, head.changed()).await {
                    Ok(Ok(())) => break,
                    Ok(Err(_)) => return Err(StoreError::Closed.into()),
                    Err(_idle) => {
                        let progress = WatchProgress {
                            next_revision: next,
                        };
                        if !send(out, Frame::Progress(progress)).await {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

/// The session to watch, which must be one of this workspace.
async fn own_session(call: &Call<WatchRequest, WorkspaceName>) -> Result<SessionId, ApiError> {
    let name = session_name("session", &call.message.session)?;
    if name.workspace != call.name.0 {
        return Err(ApiError::field("session", "must lie in `parent`"));
    }
    call.workspace.sessions().get(&name.session).await?;
    Ok(name.session)
}

async fn send(out: &mpsc::Sender<Result<WatchResponse, Status>>, frame: Frame) -> bool {
    out.send(Ok(WatchResponse { frame: Some(frame) }))
        .await
        .is_ok()
}
