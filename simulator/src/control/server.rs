//! The server itself: devices, connections, ledger, trust.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::error::ControlError;
use crate::hub::{Census, Hub};
use crate::simulator::DeviceInfo;

pub(super) async fn devices(State(control): State<Control>) -> Json<Value> {
    let devices: Vec<DeviceInfo> = control.core.look(DeviceInfo::all);
    Json(json!({ "devices": devices }))
}

pub(super) async fn connections(State(control): State<Control>) -> Json<Census> {
    Json(control.core.look(Hub::census))
}

#[derive(Deserialize)]
pub(super) struct Since {
    #[serde(default)]
    since: u64,
}

pub(super) async fn ledger(
    State(control): State<Control>,
    since: Result<Query<Since>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, ControlError> {
    let Query(since) = since.map_err(|error| ControlError::bad("since", error))?;
    let entries = control
        .core
        .look(|hub| hub.ledger().since(since.since).to_vec());
    Ok(Json(json!({ "entries": entries })))
}

pub(super) async fn root_key(State(control): State<Control>) -> Json<Value> {
    let key = control.core.identity().root_public();
    Json(json!({ "hex": hex::encode(key), "base64": BASE64_STANDARD.encode(key) }))
}

pub(super) async fn tls_root(State(control): State<Control>) -> Response {
    ([(CONTENT_TYPE, "application/x-pem-file")], control.tls_root).into_response()
}

pub(super) async fn healthz() -> &'static str {
    "ok"
}
