//! What the daemon says about itself: log lines, metrics and panics.
//!
//! Log levels are policy: message text, phone numbers and keys may appear at debug and below, never
//! above. Our own code keeps to that by what it writes; [`Redactor`] is the net below it and below
//! libraries: in lines above debug it masks international numbers and JIDs, and in those of libraries every
//! long number.

mod inventory;
mod priority;
mod redact;

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use metrics::{counter, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use thiserror::Error;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::{Log, LogFormat, Metrics};

pub use inventory::{Kind, Label, METRICS, Metric, touch};
pub use priority::Prioritized;
pub use redact::{Redactor, scrub};

/// Buckets for everything measured in seconds, from a group commit to a slow login.
const SECONDS_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Why logs or metrics could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// A directive that cannot be parsed.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// The subscriber whose filter should change is gone.
    #[error("the log level cannot change: {0}")]
    Reload(#[from] reload::Error),
    /// Another subscriber is installed in this process.
    #[error("logging is already set up in this process: {0}")]
    Installed(#[from] TryInitError),
    /// The recorder could not be built or another one is installed.
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] BuildError),
}

/// Changes the level of a running daemon's log.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

impl LogControl {
    /// From here on `log.level` decides what is logged; the format stays.
    ///
    /// # Errors
    /// [`TelemetryError::Level`] when it is malformed: the old one then stays.
    pub fn set_level(&self, log: &Log) -> Result<(), TelemetryError> {
        self.0.reload(log.filter()?)?;
        Ok(())
    }
}

/// Sends log lines to standard error in the configured shape, and panics to the log. Under journald each
/// line carries its priority.
///
/// # Errors
/// [`TelemetryError`] when the level is malformed or logging was set up before.
pub fn init_logs(log: &Log) -> Result<LogControl, TelemetryError> {
    let (filter, control) = reload::Layer::new(log.filter()?);
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let writer = Redactor::new(Prioritized::new(io::stderr, priority::stderr_is_journal()));
    let layer = if json {
        tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .with_writer(writer)
            .boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .with_writer(writer)
            .boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(LogControl(control))
}

/// Reports a panic without its message: that may quote the data it choked on, so it appears at debug.
fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info
        .location()
        .map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    counter!("trunkline_panics_total").increment(1);
    tracing::error!(%location, thread, "panic (its message is logged at debug)");
    tracing::debug!(%location, words = panic_words(info), "what the panic said");
}

fn panic_words<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not text")
}

/// The one metrics recorder of this process; daemons that share a process share it.
static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// The recorder's handle, which renders `/metrics`. The first call installs it.
///
/// # Errors
/// [`TelemetryError::Metrics`] when another recorder is installed.
pub fn init_metrics(metrics: &Metrics) -> Result<PrometheusHandle, TelemetryError> {
    // Held until the end: of two first calls at once, the second finds what the first installed.
    let mut installed = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        // Gauges come from fixed sets of labels and would be missed; the rest may die out.
        .idle_timeout(
            MetricKindMask::COUNTER | MetricKindMask::HISTOGRAM,
            Some(metrics.idle_timeout),
        )
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)?;
    inventory::describe();
    gauge!(
        "trunkline_build_info",
        "version" => env!("CARGO_PKG_VERSION"),
        "simulator" => if cfg!(feature = "simulator") { "true" } else { "false" }
    )
    .set(1.0);
    touch();
    *installed = Some(handle.clone());
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_can_be_asked_for_twice_and_carry_the_build() {
        let first = init_metrics(&Metrics::default()).unwrap();
        let second = init_metrics(&Metrics::default()).unwrap();
        counter!("trunkline_test_total").increment(1);
        for handle in [first, second] {
            let text = handle.render();
            assert!(text.contains("trunkline_build_info{"), "{text}");
            assert!(text.contains("trunkline_test_total 1"), "{text}");
        }
    }
}
