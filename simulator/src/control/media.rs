//! Files that people send and get.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::error::ControlError;
use crate::phone::{Attachment, MediaKind};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct About {
    to: String,
    kind: MediaKind,
    #[serde(default = "any_type")]
    mime_type: String,
    #[serde(default)]
    caption: String,
    #[serde(default)]
    file_name: Option<String>,
}

fn any_type() -> String {
    "application/octet-stream".to_owned()
}

pub(super) async fn send(
    State(control): State<Control>,
    Path(phone): Path<String>,
    about: Result<Query<About>, QueryRejection>,
    data: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ControlError> {
    let Query(about) = about.map_err(|error| ControlError::bad("query", error.body_text()))?;
    let data =
        data.map_err(|error| ControlError::new(error.status(), "body", error.body_text()))?;
    let file = Attachment {
        kind: about.kind,
        mime_type: about.mime_type,
        data,
        caption: about.caption,
        file_name: about.file_name,
    };
    let id = control.account(&phone)?.send_media(&about.to, &file)?;
    Ok(Json(json!({ "id": id })))
}

pub(super) async fn open(
    State(control): State<Control>,
    Path((phone, id)): Path<(String, String)>,
) -> Result<Response, ControlError> {
    match control.account(&phone)?.open_media(&id) {
        Some(Ok(data)) => Ok(([(CONTENT_TYPE, "application/octet-stream")], data).into_response()),
        Some(Err(kind)) => Err(ControlError::new(
            StatusCode::CONFLICT,
            "id",
            format!("the file cannot be opened: {kind:?}"),
        )),
        None => Err(ControlError::not_found(
            "id",
            format!("no message {id} with a file"),
        )),
    }
}
