//! People, their phones and their messages.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::body::Body;
use super::error::ControlError;
use crate::account::{Account, NewAccount, phone_digits};
use crate::phone::ChatChange;
use crate::simulator::create_account;

type Answer = Result<Json<Value>, ControlError>;

impl Control {
    pub(super) fn account(&self, phone: &str) -> Result<Account, ControlError> {
        phone_digits(phone)
            .and_then(|digits| self.core.look(|hub| hub.directory.by_phone(&digits)))
            .map(|id| Account::new(Arc::clone(&self.core), id))
            .ok_or_else(|| {
                ControlError::not_found("phone", format!("no account with number {phone}"))
            })
    }
}

fn describe(account: &Account) -> Value {
    json!({
        "phone": account.phone(),
        "lid": account.lid(),
        "name": account.name(),
        "devices": account.devices(),
    })
}

pub(super) async fn create(
    State(control): State<Control>,
    Body(new): Body<NewAccount>,
) -> Result<(StatusCode, Json<Value>), ControlError> {
    let account = create_account(&control.core, new)?;
    Ok((StatusCode::CREATED, Json(describe(&account))))
}

pub(super) async fn list(State(control): State<Control>) -> Json<Value> {
    let ids: Vec<_> = control.core.look(|hub| hub.directory.ids().collect());
    let accounts: Vec<Value> = ids
        .into_iter()
        .map(|id| describe(&Account::new(Arc::clone(&control.core), id)))
        .collect();
    Json(json!({ "accounts": accounts }))
}

pub(super) async fn get(State(control): State<Control>, Path(phone): Path<String>) -> Answer {
    Ok(Json(describe(&control.account(&phone)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scan {
    qr: String,
}

pub(super) async fn scan(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(scan): Body<Scan>,
) -> Answer {
    let device = control.account(&phone)?.scan_qr(&scan.qr)?;
    Ok(Json(json!({ "device": device })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Code {
    code: String,
}

pub(super) async fn code(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(typed): Body<Code>,
) -> Answer {
    let account = control.account(&phone)?;
    // Key derivation: too long for the executor's threads.
    tokio::task::spawn_blocking(move || account.enter_code(&typed.code))
        .await
        .map_err(|error| ControlError::new(StatusCode::INTERNAL_SERVER_ERROR, "code", error))??;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Passkey {
    demanded: bool,
}

pub(super) async fn passkey(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(passkey): Body<Passkey>,
) -> Answer {
    control.account(&phone)?.demand_passkey(passkey.demanded);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    to: String,
    text: String,
}

pub(super) async fn send(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(message): Body<Text>,
) -> Answer {
    let account = control.account(&phone)?;
    let id = if message.to.ends_with("@g.us") {
        account.send_to_group(&control.group(&message.to)?, &message.text)?
    } else {
        account.send_text(&message.to, &message.text)?
    };
    Ok(Json(json!({ "id": id })))
}

pub(super) async fn inbox(State(control): State<Control>, Path(phone): Path<String>) -> Answer {
    let messages = control.account(&phone)?.inbox();
    Ok(Json(json!({ "messages": messages })))
}

pub(super) async fn sent(State(control): State<Control>, Path(phone): Path<String>) -> Answer {
    let messages = control.account(&phone)?.sent();
    Ok(Json(json!({ "messages": messages })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chats {
    with: String,
    change: ChatChange,
}

pub(super) async fn chats(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(chats): Body<Chats>,
) -> Answer {
    control
        .account(&phone)?
        .change_chat(&chats.with, &chats.change)?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    ids: Vec<String>,
}

pub(super) async fn read(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(read): Body<Read>,
) -> Answer {
    control.account(&phone)?.mark_read(&read.ids);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reply {
    enabled: bool,
    #[serde(default)]
    template: Option<String>,
}

/// Used when automatic replies are turned on without a template.
const DEFAULT_REPLY: &str = "You said: {text}";

pub(super) async fn reply(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(reply): Body<Reply>,
) -> Answer {
    let template = reply
        .enabled
        .then(|| reply.template.unwrap_or_else(|| DEFAULT_REPLY.to_owned()));
    control.account(&phone)?.set_auto_reply(template);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Presence {
    available: bool,
}

pub(super) async fn presence(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(presence): Body<Presence>,
) -> Answer {
    control.account(&phone)?.set_presence(presence.available);
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typing {
    to: String,
    typing: bool,
}

pub(super) async fn typing(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(typing): Body<Typing>,
) -> Answer {
    control
        .account(&phone)?
        .set_typing(&typing.to, typing.typing)?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reach {
    reachable: bool,
}

pub(super) async fn reach(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(reach): Body<Reach>,
) -> Answer {
    control.account(&phone)?.set_reachable(reach.reachable);
    Ok(Json(json!({})))
}

pub(super) async fn unlink(
    State(control): State<Control>,
    Path((phone, device)): Path<(String, u16)>,
) -> Answer {
    control.account(&phone)?.unlink(device)?;
    Ok(Json(json!({})))
}
