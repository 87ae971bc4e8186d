//! Metric names wherever they occur.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use trunkline::telemetry::{Kind, METRICS, Metric};

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Its text.
pub(crate) fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).expect(path)
}

/// Every `trunkline_…` in a text.
pub(crate) fn found_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices("trunkline_")
        .filter(|(at, _)| !text[..*at].ends_with(is_part))
        .map(|(at, _)| text[at..].split(|c| !is_part(c)).next().unwrap().to_owned())
        .collect()
}

/// The metric behind the name of a series: histograms have three.
pub(crate) fn metric(series: &str) -> Option<&'static Metric> {
    let base = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|part| series.strip_suffix(part));
    METRICS.iter().find(|metric| {
        metric.name == series || (metric.kind == Kind::Histogram && Some(metric.name) == base)
    })
}
