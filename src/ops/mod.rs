//! Health and metrics over HTTP, for machines: `/livez`, `/readyz`, `/metrics`.
//!
//! `/livez` says that the event loop turns; `/readyz` that the daemon can do its work (store, listeners,
//! not draining), and with `?verbose` why not. A number that is logged out makes neither fail: that is
//! the operator's business, not the load balancer's.

mod process;
mod vitals;

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use process::free_bytes;
pub use vitals::{Check, Vitals, VitalsParts};

/// A listener that is bound and not serving yet.
#[derive(Debug)]
pub struct Ops {
    listener: TcpListener,
    address: SocketAddr,
}

/// What handlers need.
#[derive(Debug, Clone)]
struct Shared {
    vitals: Vitals,
    metrics: PrometheusHandle,
}

impl Ops {
    /// Takes the address.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens, with the port that was chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, and then what has begun.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(
        self,
        vitals: Vitals,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> io::Result<()> {
        axum::serve(self.listener, router(Shared { vitals, metrics }))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(shared)
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let checks = shared.vitals.checks();
    let ready = checks.iter().all(|check| check.problem.is_none());
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let verbose = query
        .as_deref()
        .is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let mut body = String::new();
    if verbose {
        for check in &checks {
            body.push_str(&check.to_string());
            body.push('\n');
        }
    }
    body.push_str(if ready { "ok\n" } else { "not ready\n" });
    (status, body)
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    shared.vitals.record();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        shared.metrics.render(),
    )
}
