//! A file as the body of a request: what it is stands in the path, the query and the headers.

use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use prost_reflect::{Kind, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value};
use tonic::body::Body;
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{Request, header};

use super::rules::{Captured, Rule};
use super::{call, request};
use crate::api::status::ApiError;
use crate::pb::UploadMediaRequest;
use crate::pb::upload_media_request::Frame;

/// Bytes of the file in one message.
const CHUNK: usize = 64 << 10;

/// The field of the stream's messages that describes the file, and those of its fields that have a header.
const INFO: &str = "info";
const MIME_TYPE: &str = "mimeType";
const SIZE: &str = "size";

/// Whether this method takes a file.
pub(super) fn is_upload(method: &MethodDescriptor) -> bool {
    method.is_client_streaming() && !method.is_server_streaming()
}

/// The message that describes the file.
pub(super) fn info(method: &MethodDescriptor) -> Option<MessageDescriptor> {
    match method.input().get_field_by_name(INFO)?.kind() {
        Kind::Message(info) => Some(info),
        _ => None,
    }
}

/// Whether a field of the description is a parameter of the query: those that have a header are not.
pub(super) fn is_parameter(json_name: &str) -> bool {
    json_name != MIME_TYPE && json_name != SIZE
}

/// The call that a request with a file means.
///
/// # Errors
/// What cannot be read, with the field to blame.
pub(super) fn call(
    rule: &Rule,
    captured: &Captured,
    head: &Parts,
    body: Body,
) -> Result<Request<Body>, ApiError> {
    let first = request::encode(rule, Value::Object(describe(rule, captured, head)?))?;
    let first = futures::stream::once(async move { Ok(call::frame(&first)) });
    let file = axum::body::Body::new(body).into_data_stream();
    let file = file.flat_map(|piece| match piece {
        Ok(bytes) => futures::stream::iter(chunks(bytes).map(Ok).collect::<Vec<_>>()),
        // A body that breaks off is not the file.
        Err(error) => futures::stream::iter(vec![Err(error)]),
    });
    let body = Body::new(axum::body::Body::from_stream(first.chain(file)));
    Ok(call::request_with(&rule.grpc_path(), body, &head.headers))
}

fn chunks(bytes: Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..bytes.len()).step_by(CHUNK);
    starts.map(move |start| {
        let end = bytes.len().min(start + CHUNK);
        let message = UploadMediaRequest {
            frame: Some(Frame::Chunk(bytes[start..end].to_vec())),
        };
        call::frame(&message.encode_to_vec())
    })
}

/// The first message of the stream.
fn describe(
    rule: &Rule,
    captured: &Captured,
    head: &Parts,
) -> Result<Map<String, Value>, ApiError> {
    let mut described = match info(&rule.method) {
        Some(info) => request::from_query(&info, head.uri.query().unwrap_or_default())?,
        None => Map::new(),
    };
    if !described.contains_key(MIME_TYPE) {
        described.insert(MIME_TYPE.into(), Value::String(mime_type(head)?));
    }
    let length = head.headers.get(header::CONTENT_LENGTH);
    if let Some(length) = length.and_then(|length| length.to_str().ok()) {
        described
            .entry(SIZE)
            .or_insert_with(|| Value::String(length.to_owned()));
    }
    let mut first = Map::from_iter([(INFO.to_owned(), Value::Object(described))]);
    if let Some(field) = rule.field {
        request::fill(&mut first, field, &captured.name)?;
    }
    Ok(first)
}

fn mime_type(head: &Parts) -> Result<String, ApiError> {
    let given = head.headers.get(header::CONTENT_TYPE);
    let given = given
        .and_then(|given| given.to_str().ok())
        .unwrap_or_default();
    let wrong = match given.split(';').next().unwrap_or_default().trim() {
        "" => "is missing",
        "application/x-www-form-urlencoded" => "is what clients say who were not told",
        "multipart/form-data" => "is a form, and the body must be the file itself",
        _ => return Ok(given.to_owned()),
    };
    Err(ApiError::field(
        "content-type",
        format!("{wrong}: say what the file is, such as image/jpeg"),
    ))
}
