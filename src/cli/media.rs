//! `trunkline media`: the files in messages.

use std::path::PathBuf;

use clap::Subcommand;
use indicatif::ProgressBar;
use tokio::io::AsyncWriteExt as _;

use super::exit::{Exit, Failure};
use super::json::json;
use super::target::Daemon;
use super::{Context, progress};
use crate::pb;
use crate::pb::download_media_response::Frame;

/// What to do with files in messages.
#[derive(Debug, Subcommand)]
pub(crate) enum MediaCommand {
    /// Fetch the file of a message that arrived
    Get {
        /// Its name, as `trunkline events --output json` shows it
        // Not called `media`: that would read `media get <MEDIA>`.
        #[arg(value_name = "NAME")]
        name: String,
        /// Where to put it; an existing file is not overwritten
        #[arg(long, short = 'o', value_name = "FILE")]
        to: PathBuf,
    },
}

impl MediaCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Self::Get { name, to } = self;
        let daemon = Daemon::connect(context).await?;
        let request = pb::DownloadMediaRequest { name };
        let mut frames = daemon.media().download_media(request).await?.into_inner();
        let mut part = to.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let fetched = receive(context, &mut frames, &part).await;
        let info = match fetched {
            Ok(info) => info,
            Err(failure) => {
                // What is there of it is worth nothing.
                let _ = tokio::fs::remove_file(&part).await;
                return Err(failure);
            }
        };
        keep(&part, &to).await?;
        if context.output.is_json() {
            return context.output.json(&json("MediaContent", &info)?);
        }
        context.output.line(&format!(
            "{} bytes of {} in {}",
            info.size,
            if info.mime_type.is_empty() {
                "unknown type"
            } else {
                &info.mime_type
            },
            to.display()
        ))
    }
}

/// Writes the file as it comes and syncs it.
async fn receive(
    context: &Context,
    frames: &mut tonic::Streaming<pb::DownloadMediaResponse>,
    part: &std::path::Path,
) -> Result<pb::MediaContent, Failure> {
    let mut file = tokio::fs::File::create(part)
        .await
        .map_err(|error| unwritten(part, &error))?;
    let mut info = pb::MediaContent::default();
    let mut bar = ProgressBar::hidden();
    while let Some(frame) = frames.message().await? {
        match frame.frame {
            Some(Frame::Info(said)) => {
                let total = Some(said.size).filter(|size| *size > 0);
                bar = progress::bytes(context, "fetching", total);
                info = said;
            }
            Some(Frame::Chunk(chunk)) => {
                file.write_all(&chunk)
                    .await
                    .map_err(|error| unwritten(part, &error))?;
                bar.inc(chunk.len() as u64);
            }
            None => {}
        }
    }
    file.sync_all()
        .await
        .map_err(|error| unwritten(part, &error))?;
    bar.finish_and_clear();
    Ok(info)
}

/// Gives the whole file its name, unless there is such a file.
async fn keep(part: &std::path::Path, to: &std::path::Path) -> Result<(), Failure> {
    let linked = tokio::fs::hard_link(part, to).await;
    let _ = tokio::fs::remove_file(part).await;
    linked.map_err(|error| unwritten(to, &error))
}

fn unwritten(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Exit::Io,
        format!("{} cannot be written: {error}", path.display()),
    )
}
