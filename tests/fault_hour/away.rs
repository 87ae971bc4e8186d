//! The daemon itself goes away: killed, or asked to.

use std::path::Path;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use tonic_types::StatusExt as _;
use trunkline::pb;
use trunkline::pb::media_service_client::MediaServiceClient;
use trunkline::pb::upload_media_request::Frame;

use crate::fleet::{Fleet, PATIENCE};
use crate::support::core::{request_id, send, text_to};
use crate::support::eventually;
use crate::voices::Presence;

/// A file on its way in, which a daemon that drains waits for.
struct Upload {
    frames: mpsc::Sender<pb::UploadMediaRequest>,
    answer: JoinHandle<Result<Response<pb::UploadMediaResponse>, Status>>,
}

impl Upload {
    /// Returns when the daemon has begun to write the file.
    async fn begin(fleet: &Fleet, session: &str) -> Self {
        let media = fleet.daemon.state_dir().join("media");
        let before = files(&media);
        let (frames, queue) = mpsc::channel(4);
        let mut uploads = MediaServiceClient::new(fleet.channel.clone());
        let answer =
            tokio::spawn(async move { uploads.upload_media(ReceiverStream::new(queue)).await });
        let upload = Self { frames, answer };
        let info = pb::UploadMediaInfo {
            parent: session.to_owned(),
            request_id: request_id(),
            mime_type: "text/plain".to_owned(),
            ..pb::UploadMediaInfo::default()
        };
        upload.say(Frame::Info(info)).await;
        upload.say(Frame::Chunk(b"half and ".to_vec())).await;
        eventually("the upload is under way", PATIENCE, async || {
            files(&media) > before
        })
        .await;
        upload
    }

    /// Sends the rest, and sees that it is stored.
    async fn finish(self) {
        self.say(Frame::Chunk(b"half".to_vec())).await;
        let Self { frames, answer } = self;
        drop(frames);
        let stored = answer.await.unwrap().unwrap().into_inner();
        assert!(!stored.media.unwrap_or_default().name.is_empty());
    }

    async fn say(&self, frame: Frame) {
        let frame = Some(frame);
        self.frames
            .send(pb::UploadMediaRequest { frame })
            .await
            .unwrap();
    }
}

/// How many files there are, in folders of folders.
fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let counts = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files(&entry.path()),
        Ok(_) => 1,
        // It has just been renamed or removed.
        Err(_) => 0,
    });
    counts.sum()
}

impl Fleet {
    /// SIGKILL, and a new start.
    pub(crate) async fn be_killed(&mut self, line: usize) {
        self.daemon.kill().await;
        self.be_away_and_back(line).await;
    }

    /// Stops in good order while a call is under way, and starts again.
    pub(crate) async fn be_drained(&mut self, line: usize) {
        let upload = Upload::begin(self, &self.lines[line].name).await;
        self.daemon.drain();
        self.is(Presence::Draining).await;
        // Nothing new is taken, what was begun is finished, and only then lines end.
        let to = format!("+{}", self.customer.phone());
        let request = text_to(&self.lines[line].name, &to, "too late");
        let refused = send(&self.channel, &request).await.unwrap_err();
        let info = refused.get_details_error_info();
        let reason = info.map(|info| info.reason);
        assert_eq!(reason.as_deref(), Some("DRAINING"), "{refused}");
        let online = self.simulator.connections().online;
        assert_eq!(online, self.lines.len(), "lines end after calls");
        upload.finish().await;
        assert_eq!(self.daemon.wait().await, Some(0));
        self.be_away_and_back(line).await;
    }

    async fn be_away_and_back(&mut self, line: usize) {
        eventually("no line has a socket", PATIENCE, async || {
            self.simulator.connections().online == 0
        })
        .await;
        self.is(Presence::Away).await;
        self.write_to(line, "while away");
        self.daemon.start().await;
        self.channel = self.daemon.channel().await.unwrap();
    }
}
