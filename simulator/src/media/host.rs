//! HTTPS in front of the shelf.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::MAX_BLOB;
use crate::core::Core;

/// Media types that clients upload, as they stand in the path.
const KINDS: [&str; 9] = [
    "image",
    "video",
    "audio",
    "document",
    "md-msg-hist",
    "md-app-state",
    "sticker-pack",
    "thumbnail-sticker-pack",
    "thumbnail-link",
];

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct Media {
    pub(crate) core: Arc<Core>,
    /// Ends uploads that are under way.
    pub(crate) stop: CancellationToken,
}

/// Everything a media host serves.
pub(crate) fn router(media: Media) -> Router {
    Router::new()
        .route("/mms/{kind}/{token}", post(upload))
        .route("/v/{kind}/{name}", get(download))
        .with_state(media)
}

/// A refusal: its status and why, for the ledger and the client.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(json!({ "error": self.reason }))).into_response()
    }
}

/// A parameter of a query in which clients separate by `&` and, after a path that has a query already,
/// by another `?`.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    uri.query()?
        .split(['&', '?'])
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

async fn upload(
    State(media): State<Media>,
    Path((kind, token)): Path<(String, String)>,
    uri: Uri,
    body: Body,
) -> Response {
    let ticket = parameter(&uri, "auth").unwrap_or_default();
    let resumes = parameter(&uri, "resume").is_some();
    let body = tokio::select! {
        () = media.stop.cancelled() => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        body = axum::body::to_bytes(body, MAX_BLOB) => body,
    };
    let outcome = media.core.with(|hub| {
        let by = hub.may_upload(ticket)?;
        if resumes {
            // Nothing is ever left half uploaded here.
            return Ok(None);
        }
        let checked = match body {
            Err(_) => Err(Refusal::new(413, format!("longer than {MAX_BLOB} bytes"))),
            Ok(_) if !KINDS.contains(&kind.as_str()) => {
                Err(Refusal::new(404, format!("no media type {kind:?}")))
            }
            Ok(body) if BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&body)) != token => {
                Err(Refusal::new(400, "the path is not the hash of the body"))
            }
            Ok(body) => Ok(body),
        };
        match checked {
            Ok(body) => Ok(Some(hub.take_upload(by, &kind, body))),
            Err(refusal) => Err(hub.refuse_upload(Some(by), refusal)),
        }
    });
    match outcome {
        Ok(Some(stored)) => {
            Json(json!({ "url": stored.url, "direct_path": stored.direct_path })).into_response()
        }
        Ok(None) => Json(json!({ "resume": "0" })).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn download(State(media): State<Media>, uri: Uri) -> Response {
    let ticket = parameter(&uri, "auth");
    let found = media
        .core
        .with(|hub| hub.serve_download(uri.path(), ticket));
    match found {
        Ok(bytes) => ([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
