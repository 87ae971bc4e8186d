//! JSON over HTTP, beside gRPC on the same listeners: every unary method, and streams of the daemon as
//! server-sent events; a file as it is, in both directions ([`file`], [`upload`]).
//!
//! It is a translation and nothing more: a request becomes the message it means ([`request`]), goes
//! through the same services in this process ([`call`]), and the answer becomes JSON ([`answer`]). So
//! both ways in have the same authorisation, the same errors and the same metrics. [`rules`] says which
//! path is which method, [`openapi`] tells clients.

mod answer;
mod call;
mod file;
mod openapi;
mod request;
mod rules;
mod upload;

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use prost_reflect::DescriptorPool;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response, StatusCode};
use tower::{Layer, Service};

use self::call::Answer;
use self::rules::{ROOT, Rule};
use super::layer::Around;
use super::server::MAX_REQUEST;
use super::status::{ApiError, Reason};
use crate::pb::FILE_DESCRIPTOR_SET;

/// Where the description of the API is.
const DESCRIPTION: &str = "/openapi.json";

/// The translation's tables.
#[derive(Debug)]
pub(super) struct Gateway {
    rules: Vec<Rule>,
    description: String,
}

/// The `OpenAPI` 3 document of the JSON API.
///
/// # Errors
/// When the descriptors of this build are damaged.
pub fn openapi() -> Result<serde_json::Value, String> {
    let pool = pool()?;
    Ok(openapi::describe(&pool, &Rule::all(&pool)?))
}

fn pool() -> Result<DescriptorPool, String> {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())
}

impl Gateway {
    /// # Errors
    /// When the descriptors of this build are damaged.
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self {
            rules: Rule::all(&pool()?)?,
            description: openapi()?.to_string(),
        })
    }

    fn is_ours(path: &str) -> bool {
        path == DESCRIPTION || path.starts_with(ROOT)
    }

    async fn answer<S>(
        &self,
        service: S,
        request: Request<Body>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        if request.uri().path() == DESCRIPTION {
            let description = self.description.clone();
            return Ok(answer::respond(
                StatusCode::OK,
                "application/json",
                description,
            ));
        }
        let headers = request.headers().clone();
        let (rule, asked) = match self.read(request).await {
            Ok(read) => read,
            Err(error) => return Ok(answer::error(&Status::from(error))),
        };
        let mut answered = Answer::to(service, asked).await?;
        if let Some(status) = answered.refused() {
            return Ok(answer::error(&status));
        }
        if file::is_wanted(rule, &headers) {
            return Ok(file::body(answered).await);
        }
        let output = rule.method.output();
        if rule.method.is_server_streaming() {
            return Ok(answer::events(output, answered));
        }
        let object = match answered.only().await {
            Ok(bytes) => answer::message(&output, &bytes),
            Err(status) => Err(status),
        };
        Ok(match object {
            Ok(object) => answer::object(&object),
            Err(status) => answer::error(&status),
        })
    }

    /// Which method a request means, and the call of it.
    async fn read(&self, request: Request<Body>) -> Result<(&Rule, Request<Body>), ApiError> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().strip_prefix(ROOT).unwrap_or_default();
        let found = self.rules.iter().find_map(|rule| {
            let captured = rule.matches(path)?;
            (rule.verb == head.method.as_str()).then_some((rule, captured))
        });
        let (rule, captured) = found.ok_or_else(|| {
            ApiError::new(
                Reason::MethodUnknown,
                format!("no such method or path; {DESCRIPTION} has all there are"),
            )
        })?;
        if upload::is_upload(&rule.method) {
            return Ok((rule, upload::call(rule, &captured, &head, body)?));
        }
        let body = axum::body::to_bytes(axum::body::Body::new(body), MAX_REQUEST);
        let body = body.await.map_err(|_| {
            ApiError::new(
                Reason::MessageTooLarge,
                format!("the body cannot be read, or is larger than {MAX_REQUEST} bytes"),
            )
        })?;
        let query = resumed(rule, head.uri.query().unwrap_or_default(), &head.headers);
        let message = request::read(rule, &captured, &query, &body)?;
        let asked = call::request(&rule.grpc_path(), &message, &head.headers);
        Ok((rule, asked))
    }
}

/// The query, with the place where a client that lost its stream of events goes on.
fn resumed(rule: &Rule, query: &str, headers: &HeaderMap) -> String {
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    match last {
        Some(last) if rule.method.name() == "Watch" => {
            format!("{query}&fromRevision={}", last.saturating_add(1))
        }
        _ => query.to_owned(),
    }
}

/// Puts the translation in front of the services of one listener, which [`Around`] surrounds.
#[derive(Debug, Clone)]
pub(super) struct Front {
    pub(super) around: Around,
    pub(super) gateway: Arc<Gateway>,
}

impl<S> Layer<S> for Front {
    type Service = FrontService<<Around as Layer<S>>::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        FrontService {
            inner: self.around.layer(inner),
            gateway: Arc::clone(&self.gateway),
        }
    }
}

/// The services of one listener, in gRPC and in JSON.
#[derive(Debug, Clone)]
pub(super) struct FrontService<S> {
    inner: S,
    gateway: Arc<Gateway>,
}

impl<S> Service<Request<Body>> for FrontService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !Gateway::is_ours(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let (gateway, service) = (Arc::clone(&self.gateway), self.inner.clone());
        Box::pin(async move { gateway.answer(service, request).await })
    }
}
