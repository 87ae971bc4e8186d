//! Ordering and lifting faults.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Control;
use super::body::Body;
use super::error::ControlError;
use crate::faults::FaultSpec;
use crate::hub::Hub;
use crate::simulator::order_fault;

pub(super) async fn order(
    State(control): State<Control>,
    Body(spec): Body<FaultSpec>,
) -> Result<Json<Value>, ControlError> {
    let struck = order_fault(&control.core, &spec)?;
    Ok(Json(json!({ "struck": struck })))
}

pub(super) async fn list(State(control): State<Control>) -> Json<Value> {
    let faults: Vec<Value> = control
        .core
        .look(Hub::orders)
        .into_iter()
        .map(|(fault, times)| json!({ "fault": fault, "times": times }))
        .collect();
    Json(json!({ "faults": faults }))
}

pub(super) async fn clear(State(control): State<Control>) -> Json<Value> {
    control.core.with(Hub::clear_faults);
    Json(json!({}))
}
