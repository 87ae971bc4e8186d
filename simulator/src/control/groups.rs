//! Groups.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Control;
use super::body::Body;
use super::error::ControlError;
use crate::group::Group;
use crate::hub::Hub;

impl Control {
    pub(super) fn group(&self, jid: &str) -> Result<Group, ControlError> {
        Group::find(&self.core, jid)
            .ok_or_else(|| ControlError::not_found("group", format!("no group {jid}")))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewGroup {
    subject: String,
    members: Vec<String>,
}

pub(super) async fn create(
    State(control): State<Control>,
    Path(phone): Path<String>,
    Body(new): Body<NewGroup>,
) -> Result<(StatusCode, Json<Value>), ControlError> {
    let account = control.account(&phone)?;
    let group = account.create_group(&new.subject, &borrowed(&new.members))?;
    Ok((StatusCode::CREATED, Json(json!(group.info()))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    promote: Vec<String>,
    #[serde(default)]
    demote: Vec<String>,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    leave: bool,
}

pub(super) async fn change(
    State(control): State<Control>,
    Path((phone, jid)): Path<(String, String)>,
    Body(change): Body<Change>,
) -> Result<Json<Value>, ControlError> {
    let account = control.account(&phone)?;
    let group = control.group(&jid)?;
    if !change.add.is_empty() {
        account.add_to_group(&group, &borrowed(&change.add))?;
    }
    if !change.remove.is_empty() {
        account.remove_from_group(&group, &borrowed(&change.remove))?;
    }
    for (people, admin) in [(&change.promote, true), (&change.demote, false)] {
        if !people.is_empty() {
            account.set_group_admins(&group, &borrowed(people), admin)?;
        }
    }
    if let Some(subject) = &change.subject {
        account.set_group_subject(&group, subject)?;
    }
    if change.leave {
        account.leave_group(&group)?;
    }
    Ok(Json(json!(group.info())))
}

pub(super) async fn list(State(control): State<Control>) -> Json<Value> {
    Json(json!({ "groups": Arc::clone(&control.core).look(Hub::group_infos) }))
}

pub(super) async fn get(
    State(control): State<Control>,
    Path(jid): Path<String>,
) -> Result<Json<Value>, ControlError> {
    Ok(Json(json!(control.group(&jid)?.info())))
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
