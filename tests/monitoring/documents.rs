//! The table of metrics, the code that writes them, and the exit codes.

use std::collections::BTreeSet;
use std::path::Path;

use trunkline::telemetry::{Kind, METRICS};

use crate::names::{repository, text};

/// The row of the table in `docs/operations.md` that a metric must have.
fn row(metric: &trunkline::telemetry::Metric) -> String {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let labels: Vec<String> = metric
        .labels
        .iter()
        .map(|(label, _)| format!("`{label}`"))
        .collect();
    let labels = if labels.is_empty() {
        "–".to_owned()
    } else {
        labels.join(", ")
    };
    format!(
        "| `{}` | {kind} | {} | {labels} | {} |",
        metric.name, metric.unit, metric.help
    )
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let operations = text("docs/operations.md");
    let written: Vec<&str> = operations
        .lines()
        .filter(|line| line.starts_with("| `trunkline_"))
        .collect();
    let wanted: Vec<String> = METRICS.iter().map(row).collect();
    assert_eq!(written, wanted);
}

fn sources(folder: &Path, found: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("inventory.rs")
        {
            found.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// Names of metrics are string literals of their own.
fn written_by(code: &str) -> BTreeSet<&str> {
    code.match_indices("\"trunkline_")
        .filter_map(|(at, _)| code[at + 1..].split('"').next())
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect()
}

#[test]
fn the_code_writes_what_is_listed_and_nothing_else() {
    let mut code = String::new();
    sources(&repository("src"), &mut code);
    let mut written = written_by(&code);
    assert!(
        written.remove("trunkline_test_total"),
        "of a test in telemetry"
    );
    let listed: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(written, listed);
}

#[test]
fn every_cause_of_a_disconnect_is_listed() {
    let code = text("src/session/state/cause.rs");
    let body = code.split("pub fn name(").nth(1).unwrap();
    let body = body.split("\n}").next().unwrap();
    let named: BTreeSet<&str> = body
        .match_indices("=> \"")
        .filter_map(|(at, arrow)| body[at + arrow.len()..].split('"').next())
        .collect();
    let metric = METRICS
        .iter()
        .find(|metric| metric.name == "trunkline_disconnects_total")
        .unwrap();
    let listed: BTreeSet<&str> = metric.labels[0].1.iter().copied().collect();
    assert_eq!(named, listed);
}

#[test]
fn help_and_documentation_have_the_same_exit_codes() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.split("Exit codes:").nth(1).expect("--help lists them");
    let wanted: Vec<String> = listed
        .lines()
        .filter_map(|line| {
            let (code, meaning) = line.trim().split_once("  ")?;
            Some(format!("| {code} | {meaning} |"))
        })
        .collect();
    assert!(wanted.len() >= 10, "{wanted:?}");
    let operations = text("docs/operations.md");
    let section = operations.split("## Exit codes").nth(1).unwrap();
    let written: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| code"))
        .collect();
    assert_eq!(written, wanted);
}
