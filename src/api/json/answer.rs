//! From messages and statuses to HTTP: JSON objects, server-sent events, `google.rpc.Status`.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, SerializeOptions};
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Response, StatusCode, header};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::call::Answer;
use crate::api::faults;

/// A message in protobuf's JSON mapping; fields without presence are always there.
pub(super) fn message(descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<Value, Status> {
    let decoded = DynamicMessage::decode(descriptor.clone(), bytes);
    let decoded = decoded.map_err(|error| faults::internal(&error))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    decoded
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| faults::internal(&error).into())
}

/// An answer with one JSON object.
pub(super) fn object(value: &Value) -> Response<Body> {
    respond(StatusCode::OK, "application/json", value.to_string())
}

/// An answer with `body`.
pub(super) fn respond(code: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(axum::body::Body::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An error as HTTP.
pub(super) fn error(status: &Status) -> Response<Body> {
    let mut response = respond(
        http_code(status),
        "application/json",
        status_object(status).to_string(),
    );
    let headers = response.headers_mut();
    if status.code() == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let details = status.get_error_details();
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        // Whole seconds, rounded up: the header knows no others.
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The HTTP code of an error, as `google.rpc.Code` lists them; two of ours are told apart further.
fn http_code(status: &Status) -> StatusCode {
    let details = status.get_error_details();
    match details.error_info().map(|info| info.reason.as_str()) {
        Some("METHOD_UNKNOWN") => return StatusCode::NOT_FOUND,
        Some("MESSAGE_TOO_LARGE") => return StatusCode::PAYLOAD_TOO_LARGE,
        _ => {}
    }
    match status.code() {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// An error as `google.rpc.Status`, each detail as `Any` in JSON.
pub(super) fn status_object(status: &Status) -> Value {
    let details = status.get_error_details();
    let kind = |name: &str| format!("type.googleapis.com/google.rpc.{name}");
    let mut shown = Vec::new();
    if let Some(info) = details.error_info() {
        let metadata: BTreeMap<_, _> = info.metadata.iter().collect();
        shown.push(json!({
            "@type": kind("ErrorInfo"),
            "reason": info.reason,
            "domain": info.domain,
            "metadata": metadata,
        }));
    }
    if let Some(bad) = details.bad_request() {
        let violations = bad.field_violations.iter().map(
            |violation| json!({ "field": violation.field, "description": violation.description }),
        );
        shown.push(json!({
            "@type": kind("BadRequest"),
            "fieldViolations": violations.collect::<Vec<_>>(),
        }));
    }
    if let Some(failure) = details.precondition_failure() {
        let violations = failure.violations.iter().map(|violation| {
            json!({
                "type": violation.r#type,
                "subject": violation.subject,
                "description": violation.description,
            })
        });
        shown.push(json!({
            "@type": kind("PreconditionFailure"),
            "violations": violations.collect::<Vec<_>>(),
        }));
    }
    if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
        shown.push(json!({
            "@type": kind("RetryInfo"),
            "retryDelay": format!("{}.{:03}s", delay.as_secs(), delay.subsec_millis()),
        }));
    }
    json!({
        "code": i32::from(status.code()),
        "message": status.message(),
        "details": shown,
    })
}

/// A stream of messages as server-sent events. Each is named after what it carries; `error` is the last,
/// if there is one.
pub(super) fn events(descriptor: MessageDescriptor, answer: Answer) -> Response<Body> {
    let frames = futures::stream::unfold(Some(answer), move |answer| {
        let descriptor = descriptor.clone();
        async move {
            let mut answer = answer?;
            let frame = match answer.next().await {
                Ok(None) => return None,
                Ok(Some(bytes)) => frame(&descriptor, &bytes),
                Err(status) => Err(status),
            };
            Some(match frame {
                Ok(frame) => (frame, Some(answer)),
                Err(status) => {
                    let text = format!("event: error\ndata: {}\n\n", status_object(&status));
                    (text, None)
                }
            })
        }
    });
    let frames = futures::StreamExt::map(frames, Ok::<_, std::convert::Infallible>);
    let mut response = respond(StatusCode::OK, "text/event-stream", String::new());
    *response.body_mut() = Body::new(axum::body::Body::from_stream(frames));
    response
}

/// One event. Those of the journal carry their revision, which a browser gives back in `Last-Event-ID`.
fn frame(descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<String, Status> {
    let decoded = DynamicMessage::decode(descriptor.clone(), bytes);
    let decoded = decoded.map_err(|error| faults::internal(&error))?;
    let kind = decoded
        .descriptor()
        .oneofs()
        .flat_map(|oneof| oneof.fields().collect::<Vec<_>>())
        .find(|field| decoded.has_field(field))
        .map_or_else(|| "message".to_owned(), |field| field.name().to_owned());
    let value = message(descriptor, bytes)?;
    let revision = match kind.as_str() {
        "event" => value["event"]["revision"].as_str().map(str::to_owned),
        "progress" => value["progress"]["nextRevision"]
            .as_str()
            .and_then(|next| next.parse::<u64>().ok())
            .map(|next| next.saturating_sub(1).to_string()),
        _ => None,
    };
    let id = revision.map_or_else(String::new, |revision| format!("id: {revision}\n"));
    Ok(format!("{id}event: {kind}\ndata: {value}\n\n"))
}
