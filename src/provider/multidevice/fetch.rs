//! Fetching the file of a message: the encrypted blob to disk, checked as a whole, then decrypted while it
//! is read.
//!
//! Nothing is given out before all of it is known to be what the message says. Memory is a few chunks a
//! download, whatever the file's size; the blob lies in a file without a name, which is gone with the
//! process, and is as encrypted there as it was on the way.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::debug;
use wacore::proto_helpers::MessageExt as _;
use whatsapp_rust::download::{DownloadParams, DownloadUtils, MediaRoute};

use super::client::{Built, Parts};
use super::convert::media::source;
use super::http::MediaHttp;
use crate::provider::contract::{FetchError, Fetched};

/// Longest file, in bytes: what WhatsApp takes at most.
const MAX_FILE: u64 = 2 << 30;
/// What encryption adds at most: a block of padding and the MAC.
const OVERHEAD: u64 = 16 + 10;
/// Bytes given out at once.
const CHUNK: usize = 64 << 10;
/// Chunks that wait for a slow reader.
const WAITING: usize = 4;
/// How long the media host may be silent within an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a reader may take nothing before the file is dropped.
const READER_PATIENCE: Duration = Duration::from_mins(1);

/// Fetches the file of a stored message.
pub(super) async fn fetch(built: &Built, parts: &Parts, raw: &[u8]) -> Result<Fetched, FetchError> {
    let message = waproto::codec::message_decode(raw)
        .map_err(|error| FetchError::Damaged(format!("the stored message: {error}")))?;
    let params = source(message.get_base_message()).ok_or(FetchError::NoFile)?;
    if params.file_length > MAX_FILE {
        return Err(FetchError::TooLarge { most: MAX_FILE });
    }
    let slot = Arc::clone(&parts.media.readers)
        .acquire_owned()
        .await
        .map_err(|_| FetchError::Temporary("the daemon is stopping".into()))?;
    let blob = from_any_host(built, parts, &params).await?;
    let checked = tokio::task::spawn_blocking(move || check(blob, params));
    let (blob, params) = checked
        .await
        .map_err(|_| FetchError::Temporary("the check of the file failed".into()))??;
    let (sender, chunks) = mpsc::channel(WAITING);
    let size = params.file_length;
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || give_out(&blob, &params, sender, &handle, slot));
    Ok(Fetched { size, chunks })
}

/// Asks each media host in turn, and once more with a fresh ticket when they refuse.
async fn from_any_host(
    built: &Built,
    parts: &Parts,
    params: &DownloadParams,
) -> Result<File, FetchError> {
    let mut last = FetchError::Temporary("the server named no media host".into());
    for fresh in [false, true] {
        let conn = built.client.refresh_media_conn(fresh).await;
        let conn = conn.map_err(|error| {
            if built.client.is_connected() {
                FetchError::Temporary(error.to_string())
            } else {
                FetchError::NotConnected
            }
        })?;
        let requests = DownloadUtils::prepare_download_requests(params, &MediaRoute::from(&conn))
            .map_err(|error| FetchError::Damaged(error.to_string()))?;
        let mut refused = false;
        for request in requests {
            match from_host(&parts.media, &parts.config.scratch, &request.url, params).await {
                Ok(blob) => return Ok(blob),
                Err(error) => {
                    refused |= matches!(error, FetchError::Gone);
                    debug!(%error, "a media host did not give the file");
                    last = error;
                }
            }
        }
        if !refused {
            break;
        }
    }
    Err(last)
}

/// Fetches the blob into a file and checks its hash.
async fn from_host(
    media: &MediaHttp,
    scratch: &Path,
    url: &str,
    params: &DownloadParams,
) -> Result<File, FetchError> {
    let passing = |error: String| FetchError::Temporary(error);
    let answer = tokio::time::timeout(SILENCE, media.get(url))
        .await
        .map_err(|_| passing("the media host does not answer".into()))?
        .map_err(|error| passing(error.to_string()))?;
    match answer.status().as_u16() {
        200 => {}
        401 | 403 | 404 | 410 => return Err(FetchError::Gone),
        status => return Err(passing(format!("the media host answered {status}"))),
    }
    let scratch = scratch.to_owned();
    let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(scratch))
        .await
        .map_err(|_| passing("no file could be made".into()))?
        .map_err(|error| passing(format!("the file cannot be stored: {error}")))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut body = answer.into_body();
    let mut digest = Sha256::new();
    let mut left = params.file_length + OVERHEAD;
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame())
            .await
            .map_err(|_| passing("the media host fell silent".into()))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| passing(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        left = left.checked_sub(data.len() as u64).ok_or_else(|| {
            FetchError::Damaged("the media host sent more than the message announced".into())
        })?;
        digest.update(&data);
        file.write_all(&data)
            .await
            .map_err(|error| passing(format!("the file cannot be stored: {error}")))?;
    }
    file.flush()
        .await
        .map_err(|error| passing(format!("the file cannot be stored: {error}")))?;
    if params.file_enc_sha256.as_deref() != Some(digest.finalize().as_slice()) {
        return Err(FetchError::Damaged(
            "the media host sent something else than the message announced".into(),
        ));
    }
    Ok(file.into_std().await)
}

/// Decrypts the whole blob once, for its MAC, the file's hash and its length.
fn check(blob: File, params: DownloadParams) -> Result<(File, DownloadParams), FetchError> {
    let damaged = |what: String| FetchError::Damaged(what);
    let mut digest = Digest(Sha256::new());
    let length =
        decrypt(&blob, &params, &mut digest).map_err(|error| damaged(format!("{error:#}")))?;
    if digest.0.finalize().as_slice() != params.file_sha256 {
        return Err(damaged("the file's hash differs from the message's".into()));
    }
    if length != params.file_length {
        return Err(damaged(
            "the file's length differs from the message's".into(),
        ));
    }
    Ok((blob, params))
}

/// Decrypts the checked blob once more, towards the reader.
fn give_out(
    blob: &File,
    params: &DownloadParams,
    chunks: mpsc::Sender<Bytes>,
    handle: &Handle,
    _slot: OwnedSemaphorePermit,
) {
    let mut out = Reader {
        takes: chunks,
        handle,
        buffer: Vec::with_capacity(CHUNK),
    };
    let given = decrypt(blob, params, &mut out).and_then(|_| Ok(out.flush()?));
    if let Err(error) = given {
        // The reader sees that the file is incomplete.
        debug!(%error, "a file was not read to its end");
    }
}

fn decrypt(mut blob: &File, params: &DownloadParams, out: &mut impl Write) -> anyhow::Result<u64> {
    blob.rewind()?;
    let key = params.media_key.as_deref().unwrap_or_default();
    DownloadUtils::decrypt_stream_to_writer(BufReader::new(blob), key, params.media_type, out)
}

struct Digest(Sha256);

impl Write for Digest {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader at the other end of a channel.
struct Reader<'a> {
    takes: mpsc::Sender<Bytes>,
    handle: &'a Handle,
    buffer: Vec<u8>,
}

impl Write for Reader<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..taken]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let sent = self.takes.send_timeout(full.into(), READER_PATIENCE);
        self.handle
            .block_on(sent)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader is gone or stuck"))
    }
}
