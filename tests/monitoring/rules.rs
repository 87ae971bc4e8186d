//! The alerts, by Prometheus's own tool.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::names::{found_in, metric, repository, text};

fn tool(arguments: &[&str]) -> Output {
    Command::new(repository("scripts/debian-tool"))
        .current_dir(repository("monitoring"))
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn passes(arguments: &[&str]) -> String {
    let output = tool(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn alerts() -> Vec<String> {
    text("monitoring/alerts.yaml")
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("- alert: ")?.to_owned()))
        .collect()
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    passes(&[
        "promtool",
        "prometheus",
        "--",
        "check",
        "rules",
        "alerts.yaml",
    ]);
    passes(&[
        "promtool",
        "prometheus",
        "--",
        "test",
        "rules",
        "alerts_test.yaml",
    ]);
    let cases = text("monitoring/alerts_test.yaml");
    for alert in alerts() {
        for outcome in ["fires", "does not fire"] {
            let case = format!("- name: {alert}, {outcome}\n");
            assert!(cases.contains(&case), "no case for: {alert}, {outcome}");
        }
    }
}

/// Every `expr` of a dashboard, wherever it is.
fn queries(panel: &Value, found: &mut Vec<String>) {
    match panel {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(query) if name == "expr" => found.push(query.clone()),
                    other => queries(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[test]
fn every_query_of_the_dashboard_is_one() {
    let dashboard: Value = serde_json::from_str(&text("monitoring/dashboard.json")).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    assert!(found.len() > 40, "{found:?}");
    // What Grafana puts in before it asks.
    let rules: Vec<_> = found
        .iter()
        .map(|query| {
            let query = query
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*");
            assert!(!query.contains('$'), "{query}");
            json!({ "record": "a:query", "expr": query })
        })
        .collect();
    let rules: Vec<_> = rules
        .into_iter()
        .enumerate()
        .map(|(n, rule)| json!({ "name": format!("query {n}"), "rules": [rule] }))
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    serde_json::to_writer(&file, &json!({ "groups": rules })).unwrap();
    let path = file.path().to_str().unwrap();
    passes(&["promtool", "prometheus", "--", "check", "rules", path]);
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    for file in ["alerts.yaml", "alerts_test.yaml", "dashboard.json"] {
        for series in found_in(&text(&format!("monitoring/{file}"))) {
            assert!(metric(&series).is_some(), "{file}: there is no {series}");
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard_or_in_an_alert() {
    let shown = text("monitoring/dashboard.json") + &text("monitoring/alerts.yaml");
    let shown = found_in(&shown);
    for known in trunkline::telemetry::METRICS {
        assert!(
            shown.iter().any(|series| metric(series) == Some(known)),
            "nobody looks at {}",
            known.name
        );
    }
}

#[test]
fn every_alert_has_a_remedy() {
    let operations = text("docs/operations.md");
    let alerts = alerts();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in &alerts {
        let section = operations
            .split(&format!("### {alert}\n"))
            .nth(1)
            .unwrap_or_else(|| panic!("docs/operations.md has no section {alert}"));
        let remedy = section.lines().next().unwrap();
        assert!(remedy.len() > 40, "{alert}: {remedy:?}");
    }
    let sections = operations
        .lines()
        .filter(|line| line.starts_with("### Trunkline"));
    assert_eq!(
        sections.count(),
        alerts.len(),
        "a remedy for an alert that is gone"
    );
}

#[test]
fn the_mixin_holds_both() {
    let query = "local m = import 'mixin.libsonnet'; \
        [std.length(m.prometheusAlerts.groups[0].rules), \
         m.grafanaDashboards['trunkline.json'].title]";
    let answer = passes(&["jsonnet", "jsonnet", "--", "--exec", query]);
    let answer: (usize, String) = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer, (alerts().len(), "Trunkline".to_owned()));
}
