//! Calls the gRPC services in this process: one framed message in, framed messages out, a status at the
//! end. Everything a call passes (authentication, spans, metrics, containment) it passes here too.

use std::pin::Pin;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use tower::{Service, ServiceExt as _};

use crate::api::faults;

/// The answer to a call: its messages, one at a time.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    read: BytesMut,
    /// Of the headers, if the call was refused at once.
    status: Option<Status>,
}

/// A request for `path` that carries `message`, with what the caller showed.
pub(super) fn request(path: &str, message: &[u8], headers: &HeaderMap) -> Request<Body> {
    let body = Body::new(axum::body::Body::from(frame(message)));
    request_with(path, body, headers)
}

/// A message as gRPC frames it.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(message.len() + 5);
    framed.push(0);
    framed.extend_from_slice(
        &u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    framed.extend_from_slice(message);
    framed.into()
}

/// A request for `path` whose framed messages are `body`, with what the caller showed.
pub(super) fn request_with(path: &str, body: Body, headers: &HeaderMap) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert(header::CONTENT_TYPE, grpc);
    let trailers = HeaderValue::from_static("trailers");
    request.headers_mut().insert(header::TE, trailers);
    if let Some(shown) = headers.get(header::AUTHORIZATION) {
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, shown.clone());
    }
    request
}

impl Answer {
    /// Makes a call.
    ///
    /// # Errors
    /// Only those of the service itself, which has none.
    pub(super) async fn to<S>(service: S, request: Request<Body>) -> Result<Self, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let response = service.oneshot(request).await?;
        let status = Status::from_header_map(response.headers());
        Ok(Self {
            body: response.into_body(),
            read: BytesMut::new(),
            status,
        })
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// The status the call ended with, if that is not OK.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.framed() {
                return Ok(Some(message));
            }
            if let Some(status) = self.status.take() {
                return match status.code() {
                    tonic::Code::Ok => Ok(None),
                    _ => Err(status),
                };
            }
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            match frame.transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.read.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok();
                        self.status = trailers.as_ref().and_then(Status::from_header_map);
                    }
                },
                None => return Err(faults::internal(&"a call ended without a status").into()),
            }
        }
    }

    /// The only message of a call that has one.
    ///
    /// # Errors
    /// The status the call ended with, if that is not OK.
    pub(super) async fn only(mut self) -> Result<Bytes, Status> {
        let message = self.next().await?;
        match message {
            Some(message) => {
                self.next().await?;
                Ok(message)
            }
            None => Err(faults::internal(&"a call ended without an answer").into()),
        }
    }

    /// Whether the call was refused before it began to answer.
    pub(super) fn refused(&mut self) -> Option<Status> {
        self.status
            .take_if(|status| status.code() != tonic::Code::Ok)
    }

    fn framed(&mut self) -> Option<Bytes> {
        let length = self.read.get(1..5)?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        let length = usize::try_from(length).ok()?;
        if self.read.len() < 5 + length {
            return None;
        }
        self.read.advance(5);
        Some(self.read.split_to(length).freeze())
    }
}
