//! Around every call: a span, the RED metrics, containment of panics, and one shape for all errors.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::drain::Drain;
use super::gate::Listener;
use super::status::{ApiError, Reason};
use super::{contain, faults};
use crate::domain::clock::Clock;

/// Calls answered, by service, method and code.
const CALLS: &str = "trunkline_api_requests_total";
/// Time to the end of the answer.
const SECONDS: &str = "trunkline_api_request_seconds";
/// Calls being answered.
const IN_FLIGHT: &str = "trunkline_api_requests_in_flight";

/// Wraps the services of one listener.
#[derive(Debug, Clone)]
pub(super) struct Around {
    pub(super) listener: Listener,
    pub(super) clock: Arc<dyn Clock>,
    /// Methods that exist, as `/package.Service/Method`: only these become label values.
    pub(super) known: Arc<std::collections::BTreeSet<String>>,
    /// Whether calls may begin.
    pub(super) drain: Drain,
}

impl<S> Layer<S> for Around {
    type Service = AroundService<S>;

    fn layer(&self, inner: S) -> AroundService<S> {
        AroundService {
            inner,
            around: self.clone(),
        }
    }
}

/// A service inside [`Around`].
#[derive(Debug, Clone)]
pub(super) struct AroundService<S> {
    inner: S,
    around: Around,
}

impl<S> Service<Request<Body>> for AroundService<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.around.listener);
        let path = request.uri().path();
        let known = self.around.known.contains(path);
        let (service, method) = split(path)
            .filter(|_| known)
            .unwrap_or(("unknown", "unknown"));
        let span = tracing::info_span!(
            "call",
            service,
            method,
            caller = tracing::field::Empty,
            workspace = tracing::field::Empty,
            session = tracing::field::Empty,
        );
        let mut measure = Measure::begin(Arc::clone(&self.around.clock), service, method);
        let refused = match self.around.drain.admit(service, method) {
            Ok(under_way) => {
                measure.under_way = under_way;
                None
            }
            Err(error) => Some(error),
        };
        let fresh = self.inner.clone();
        // The service that was polled ready is the one that must be called.
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        let answer = async move {
            if let Some(error) = refused {
                return Ok(Status::from(error).into_http());
            }
            let call = AssertUnwindSafe(async move { ready.call(request).await });
            if let Ok(answer) = call.catch_unwind().await {
                return answer;
            }
            metrics::counter!("trunkline_api_panics_total").increment(1);
            let error = faults::internal(&contain::PANICKED);
            Ok(Status::from(error).into_http())
        };
        Box::pin(
            async move {
                let response = uniform(answer.await?);
                Ok(measure.watch(response))
            }
            .instrument(span),
        )
    }
}

/// Splits `/package.Service/Method`.
fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

/// Gives errors that come from the framework (no such method, undecodable or oversized message) the
/// details that ours have.
fn uniform(response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key(Status::GRPC_STATUS)
        || headers.contains_key(Status::GRPC_STATUS_DETAILS)
    {
        return response;
    }
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Status::from(foreign(&status)).into_http(),
        _ => response,
    }
}

/// One of our errors for a status of the framework's making.
pub(super) fn foreign(status: &Status) -> ApiError {
    let said: String = status.message().chars().take(300).collect();
    match status.code() {
        Code::Unimplemented => ApiError::new(
            Reason::MethodUnknown,
            "no such service or method; this daemon may be older than the client",
        ),
        Code::OutOfRange | Code::ResourceExhausted => ApiError::new(Reason::MessageTooLarge, said),
        Code::DeadlineExceeded | Code::Cancelled => ApiError::new(Reason::DeadlineExceeded, said),
        Code::NotFound => ApiError::new(Reason::ResourceNotFound, said),
        Code::Unavailable => faults::draining(),
        _ => ApiError::field("request", format!("cannot be decoded: {said}")),
    }
}

/// Measures one call until its answer has been sent or dropped.
struct Measure {
    clock: Arc<dyn Clock>,
    begun: Duration,
    service: String,
    method: String,
    code: Option<Code>,
    /// Whoever stops waits for this call until then.
    under_way: Option<TaskTrackerToken>,
}

impl Measure {
    fn begin(clock: Arc<dyn Clock>, service: &str, method: &str) -> Self {
        metrics::gauge!(IN_FLIGHT).increment(1.0);
        Self {
            begun: clock.elapsed(),
            clock,
            service: service.to_owned(),
            method: method.to_owned(),
            code: None,
            under_way: None,
        }
    }

    /// Takes the code from the headers (errors) or, later, from the trailers.
    fn watch(mut self, response: Response<Body>) -> Response<Body> {
        self.read(response.headers());
        response.map(|inner| {
            Body::new(Measured {
                inner,
                measure: self,
            })
        })
    }

    fn read(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get(Status::GRPC_STATUS) {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        // Without trailers the client went away before the end.
        let code = format!("{:?}", self.code.unwrap_or(Code::Cancelled));
        let (service, method) = (self.service.clone(), self.method.clone());
        let took = self.clock.elapsed().saturating_sub(self.begun);
        metrics::gauge!(IN_FLIGHT).decrement(1.0);
        metrics::histogram!(SECONDS, "service" => service.clone(), "method" => method.clone())
            .record(took.as_secs_f64());
        metrics::counter!(CALLS, "service" => service, "method" => method, "code" => code)
            .increment(1);
    }
}

/// A body whose trailers are noticed.
struct Measured {
    inner: Body,
    measure: Measure,
}

impl http_body::Body for Measured {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.measure.read(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::StatusExt as _;

    #[test]
    fn errors_of_the_framework_get_our_details() {
        let response = Status::internal("invalid wire type").into_http();
        let status = Status::from_header_map(uniform(response).headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
        assert!(details.bad_request().is_some());
    }

    #[test]
    fn our_own_errors_pass_untouched() {
        let ours = Status::from(ApiError::new(Reason::NoCredit, "x"));
        let passed = uniform(ours.into_http());
        let status = Status::from_header_map(passed.headers()).unwrap();
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "NO_CREDIT");
    }
}
