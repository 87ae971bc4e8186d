//! What the server and other people think of an account.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::body::Body;
use super::error::ControlError;

type Answer = Result<Json<Value>, ControlError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prop {
    code: u32,
    value: String,
}

pub(super) async fn props(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(prop): Body<Prop>,
) -> Answer {
    control.account(&phone)?.set_prop(prop.code, &prop.value);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trust {
    phone: String,
}

pub(super) async fn trust(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(trusted): Body<Trust>,
) -> Answer {
    control.account(&phone)?.trust(&trusted.phone)?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    locked: bool,
}

pub(super) async fn lock(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(lock): Body<Lock>,
) -> Answer {
    control.account(&phone)?.lock_reach_out(lock.locked);
    Ok(Json(json!({})))
}
