//! Calls.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::body::Body;
use super::error::ControlError;
use crate::hub::CallEnd;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begin {
    to: String,
    #[serde(default)]
    video: bool,
}

pub(super) async fn begin(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(call): Body<Begin>,
) -> Result<Json<Value>, ControlError> {
    let id = control.account(&phone)?.call(&call.to, call.video)?;
    Ok(Json(json!({ "id": id })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    end: CallEnd,
}

pub(super) async fn end(
    State(control): State<Control>,
    Path((phone, call)): Path<(String, String)>,
    Body(End { end }): Body<End>,
) -> Result<Json<Value>, ControlError> {
    control.account(&phone)?.end_call(&call, end)?;
    Ok(Json(json!({})))
}
