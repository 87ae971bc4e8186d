//! The library's HTTP client, which it needs for media and history blobs.
//!
//! Media is not carried yet: text, receipts and app state inline in stanzas need none. Every request is
//! refused with an error that says so, which the library reports as a failed download.

use async_trait::async_trait;
use wacore::net::{HttpClient, HttpRequest, HttpResponse};

/// Refuses every request.
pub(super) struct NoMedia;

#[async_trait]
impl HttpClient for NoMedia {
    async fn execute(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        anyhow::bail!(
            "media transfer is not supported ({} to a media host was not made)",
            request.method
        )
    }
}
