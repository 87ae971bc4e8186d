//! Two ways into the same API, both driven by descriptors alone: gRPC, and JSON as `/openapi.json` tells
//! clients to speak it.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{Method, Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BufMut as _, Bytes};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor, SerializeOptions};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{World, soon};

/// An error as any client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The fields `BadRequest` names.
    pub(crate) fields: Vec<String>,
}

impl Failure {
    pub(crate) fn is(&self, code: Code, reason: &str) -> bool {
        self.code == i32::from(code) && self.reason == reason
    }
}

pub(crate) type Outcome = Result<Value, Failure>;

/// What is uploaded where a method takes a file.
const FILE: &[u8] = b"the whole file";

/// A way into the API.
pub(crate) enum Wire {
    Grpc(Channel),
    Json {
        client: Box<Client<HttpConnector, Body>>,
        address: SocketAddr,
        description: Value,
    },
}

impl Wire {
    pub(crate) async fn grpc(world: &World) -> Self {
        Self::Grpc(world.channel().await)
    }

    pub(crate) async fn json(world: &World) -> Self {
        let client = Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let address = world.server.tcp().unwrap();
        let uri = format!("http://{address}/openapi.json").parse().unwrap();
        let answer = client.get(uri).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = axum::body::to_bytes(Body::new(answer.into_body()), usize::MAX);
        Self::Json {
            description: serde_json::from_slice(&body.await.unwrap()).unwrap(),
            client: Box::new(client),
            address,
        }
    }

    /// Whether this way has the method at all.
    pub(crate) fn has(&self, method: &MethodDescriptor) -> bool {
        match self {
            Self::Grpc(_) => true,
            Self::Json { .. } => !(method.is_client_streaming() && method.is_server_streaming()),
        }
    }

    /// Calls a method; of a stream, the first message counts.
    pub(crate) async fn call(
        &self,
        method: &MethodDescriptor,
        token: Option<&str>,
        message: &Value,
    ) -> Outcome {
        let answered = async {
            match self {
                Self::Grpc(channel) => call_grpc(channel, method, token, message).await,
                Self::Json {
                    client,
                    address,
                    description,
                } => {
                    let request = http_request(description, method, *address, token, message);
                    call_json(client, method, request).await
                }
            }
        };
        soon(answered).await
    }
}

async fn call_grpc(
    channel: &Channel,
    method: &MethodDescriptor,
    token: Option<&str>,
    message: &Value,
) -> Outcome {
    let encoded = DynamicMessage::deserialize(method.input(), message)
        .unwrap_or_else(|error| panic!("{}: {error}", method.full_name()))
        .encode_to_vec();
    let once = tokio_stream::iter([Bytes::from(encoded)]);
    let rest: std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Bytes> + Send>> =
        if method.is_server_streaming() {
            Box::pin(tokio_stream::pending())
        } else {
            // The method takes a file.
            let chunk = json!({ "chunk": STANDARD.encode(FILE) });
            let chunk = DynamicMessage::deserialize(method.input(), chunk).ok();
            Box::pin(tokio_stream::iter(
                chunk.map(|chunk| chunk.encode_to_vec().into()),
            ))
        };
    let mut request = tonic::Request::new(once.chain(rest));
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = path.parse().unwrap();
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let first = async {
        let mut stream = if method.is_client_streaming() {
            client.streaming(request, path, Raw).await?.into_inner()
        } else {
            let request = request.map(|_| ());
            let (metadata, extensions, ()) = request.into_parts();
            let message = DynamicMessage::deserialize(method.input(), message).unwrap();
            let body = Bytes::from(message.encode_to_vec());
            let request = tonic::Request::from_parts(metadata, extensions, body);
            client
                .server_streaming(request, path, Raw)
                .await?
                .into_inner()
        };
        stream.message().await
    };
    match first.await {
        Ok(bytes) => {
            let bytes = bytes.expect("an answer");
            let decoded = DynamicMessage::decode(method.output(), bytes).unwrap();
            let options = SerializeOptions::new().skip_default_fields(false);
            let value = decoded.serialize_with_options(serde_json::value::Serializer, &options);
            Ok(value.unwrap())
        }
        Err(status) => Err(of_status(&status)),
    }
}

fn of_status(status: &Status) -> Failure {
    let decoded = tonic_types::pb::Status::decode(status.details()).unwrap();
    let kinds = decoded.details.iter().map(|any| any.type_url.clone());
    let details = tonic_types::StatusExt::get_error_details(status);
    let info = details.error_info().expect("every error has ErrorInfo");
    let fields = details.bad_request().map_or_else(Vec::new, |bad| {
        let violations = bad.field_violations.iter();
        violations
            .map(|violation| violation.field.clone())
            .collect()
    });
    checked(
        &kinds.collect::<Vec<_>>(),
        &info.domain,
        Failure {
            code: status.code().into(),
            reason: info.reason.clone(),
            message: status.message().to_owned(),
            fields,
        },
    )
}

/// What holds for every error, whichever way it came.
fn checked(kinds: &[String], domain: &str, failure: Failure) -> Failure {
    let distinct: std::collections::BTreeSet<_> = kinds.iter().collect();
    assert_eq!(distinct.len(), kinds.len(), "a detail twice: {failure:?}");
    assert_eq!(domain, "trunkline", "{failure:?}");
    let upper_snake = |c: char| c.is_ascii_uppercase() || c == '_';
    assert!(!failure.reason.is_empty() && failure.reason.chars().all(upper_snake));
    assert!(!failure.message.is_empty(), "{failure:?}");
    let has = |kind: &str| kinds.iter().any(|known| known.ends_with(kind));
    if failure.code == i32::from(Code::FailedPrecondition) {
        assert!(has("PreconditionFailure"), "{failure:?}");
    }
    if failure.code == i32::from(Code::Unavailable) {
        assert!(has("RetryInfo"), "{failure:?}");
    }
    failure
}

/// The HTTP request that the description says this call is.
fn http_request(
    description: &Value,
    method: &MethodDescriptor,
    address: SocketAddr,
    token: Option<&str>,
    message: &Value,
) -> Request<Body> {
    let paths = description["paths"].as_object().unwrap();
    let found = paths.iter().find_map(|(path, verbs)| {
        let verbs = verbs.as_object().unwrap().iter();
        let mut verbs = verbs.filter(|(_, operation)| operation["operationId"] == method.name());
        verbs
            .next()
            .map(|(verb, operation)| (path, verb, operation))
    });
    let (path, verb, operation) =
        found.unwrap_or_else(|| panic!("{} is not described", method.full_name()));
    let mut message = message.clone();
    let mut path = path.clone();
    if let Some(field) = operation["x-name-field"].as_str() {
        let pointer = format!("/{}", field.replace('.', "/"));
        let name = message.pointer_mut(&pointer).map(Value::take).unwrap();
        let ids = name.as_str().unwrap().split('/').skip(1).step_by(2);
        for id in ids {
            let open = path.find('{').unwrap();
            let close = path.find('}').unwrap();
            path.replace_range(open..=close, id);
        }
        drop_nulls(&mut message);
    }
    let has_body = operation.get("requestBody").is_some();
    let takes_file = operation["requestBody"]["content"].get("*/*").is_some();
    let mime_type = takes_file.then(|| {
        message = message["info"].take();
        let fields = message.as_object_mut().unwrap();
        fields
            .remove("mimeType")
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    });
    let mut uri = format!("http://{address}{path}");
    if !has_body || takes_file {
        let pairs = message
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(key, value)| {
                let values = match value {
                    Value::Array(values) => values.clone(),
                    one => vec![one.clone()],
                };
                values.into_iter().map(move |value| match value {
                    Value::String(text) => (key.clone(), text),
                    other => (key.clone(), other.to_string()),
                })
            });
        let mut query = form_urlencoded::Serializer::new(String::new());
        uri = format!("{uri}?{}", query.extend_pairs(pairs).finish());
    }
    let verb = Method::from_bytes(verb.to_uppercase().as_bytes()).unwrap();
    let mut request = Request::builder().method(verb).uri(uri);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if let Some(mime_type) = mime_type {
        let request = request.header(header::CONTENT_TYPE, mime_type);
        return request.body(Body::from(FILE)).unwrap();
    }
    let body = if has_body {
        Body::from(message.to_string())
    } else {
        Body::empty()
    };
    request.body(body).unwrap()
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| !value.is_null());
        object.values_mut().for_each(drop_nulls);
    }
}

async fn call_json(
    client: &Client<HttpConnector, Body>,
    method: &MethodDescriptor,
    request: Request<Body>,
) -> Outcome {
    let answer = client.request(request).await.unwrap();
    let (head, body) = answer.into_parts();
    let kind = head.headers[header::CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    if kind == "text/event-stream" {
        assert!(method.is_server_streaming());
        return first_event(Body::new(body)).await;
    }
    assert_eq!(kind, "application/json");
    let body = axum::body::to_bytes(Body::new(body), usize::MAX)
        .await
        .unwrap();
    let value: Value = serde_json::from_slice(&body).unwrap();
    if head.status.is_success() {
        return Ok(value);
    }
    Err(of_json(&value))
}

async fn first_event(body: Body) -> Outcome {
    let mut text = String::new();
    let mut stream = body.into_data_stream();
    while !text.contains("\n\n") {
        let chunk = stream.next().await.expect("an event").unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .to_owned()
    };
    let data: Value = serde_json::from_str(&line("data: ")).unwrap();
    match line("event: ").as_str() {
        "error" => Err(of_json(&data)),
        _ => Ok(data),
    }
}

fn of_json(status: &Value) -> Failure {
    let details = status["details"].as_array().unwrap();
    let kind = |detail: &Value| detail["@type"].as_str().unwrap().to_owned();
    let of = |name: &str| {
        let found = details.iter().find(|detail| kind(detail).ends_with(name));
        found.cloned().unwrap_or_default()
    };
    let info = of("ErrorInfo");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bad = of("BadRequest");
    let violations = bad["fieldViolations"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    checked(
        &details.iter().map(kind).collect::<Vec<_>>(),
        &text(&info["domain"]),
        Failure {
            code: i32::try_from(status["code"].as_i64().unwrap()).unwrap(),
            reason: text(&info["reason"]),
            message: text(&status["message"]),
            fields: violations
                .iter()
                .map(|violation| text(&violation["field"]))
                .collect(),
        },
    )
}

/// Messages as the bytes they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes.remaining();
        Ok(Some(bytes.copy_to_bytes(length)))
    }
}
