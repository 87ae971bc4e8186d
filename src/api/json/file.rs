//! Files as they are, for clients that ask for bytes instead of events about them.

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::answer;
use super::call::Answer;
use super::rules::Rule;
use crate::api::faults;
use crate::pb::DownloadMediaResponse;
use crate::pb::download_media_response::Frame;

/// The one media type a file is given out as: what its sender calls it is not to be trusted, least of all by
/// a browser.
pub(super) const KIND: &str = "application/octet-stream";

/// Whether this method gives out a file.
pub(super) fn is_file(method: &prost_reflect::MethodDescriptor) -> bool {
    method.name() == "DownloadMedia"
}

/// Whether the client wants the file itself.
pub(super) fn is_wanted(rule: &Rule, headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    is_file(&rule.method)
        && accepted.any(|value| value.to_str().is_ok_and(|value| value.contains(KIND)))
}

/// The file as the body. A body that ends before its length, or breaks, is not the file.
pub(super) async fn body(mut answer: Answer) -> Response<Body> {
    let size = match next(&mut answer).await {
        Ok(Some(Frame::Info(info))) => info.size,
        Ok(_) => return answer::error(&faults::internal(&"a file without a description").into()),
        Err(status) => return answer::error(&status),
    };
    let chunks = futures::stream::unfold(Some(answer), |answer| async move {
        let mut answer = answer?;
        match next(&mut answer).await {
            Ok(None) => None,
            Ok(Some(Frame::Chunk(chunk))) => Some((Ok(Bytes::from(chunk)), Some(answer))),
            Ok(Some(Frame::Info(_))) => Some((Ok(Bytes::new()), Some(answer))),
            Err(status) => Some((Err(status), None)),
        }
    });
    let mut response = answer::respond(StatusCode::OK, KIND, String::new());
    *response.body_mut() = Body::new(axum::body::Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    let attachment = HeaderValue::from_static("attachment");
    headers.insert(header::CONTENT_DISPOSITION, attachment);
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

async fn next(answer: &mut Answer) -> Result<Option<Frame>, Status> {
    let Some(bytes) = answer.next().await? else {
        return Ok(None);
    };
    let decoded = DownloadMediaResponse::decode(bytes);
    let decoded = decoded.map_err(|error| Status::from(faults::internal(&error)))?;
    Ok(decoded.frame)
}
