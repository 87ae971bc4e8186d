//! The comparison: what the daemon says, in all its voices, against what the simulator knows.

use std::collections::BTreeMap;

use serde_json::Value;
use trunkline::pb::{ConnectionState, LoginState};

use crate::fleet::{Fleet, PATIENCE};
use crate::support::core::session;
use crate::support::{eventually, http};

impl Fleet {
    /// Waits until everything agrees. A daemon may need a moment to notice; it may not stay wrong.
    pub(crate) async fn compare(&self) {
        let mut differs = Vec::new();
        let agreed = tokio::time::timeout(PATIENCE, async {
            eventually("daemon and simulator agree", PATIENCE * 2, async || {
                differs = self.differences().await;
                differs.is_empty()
            })
            .await;
        });
        let agreed = agreed.await.is_ok();
        assert!(agreed, "{differs:#?}\n{}", self.daemon.log());
        // The command line draws from the same well; once per comparison is enough.
        let shown = self
            .daemon
            .trunkline()
            .args(["session", "list", "--output", "json"])
            .output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        assert_eq!(shown.lines().count(), self.lines.len());
        for line in shown.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let id = line["name"].as_str().unwrap().rsplit('/').next().unwrap();
            let known = self.lines.iter().find(|known| known.id == id).unwrap();
            // BACKOFF and CONNECTING alternate while logins are refused.
            if known.expected != ConnectionState::Backoff {
                assert_eq!(
                    line["connection"]["state"],
                    known.expected.as_str_name(),
                    "{line}"
                );
            }
        }
    }

    async fn differences(&self) -> Vec<String> {
        let mut differs = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in &self.lines {
            let said = session(&self.channel, &line.id).await.unwrap();
            let state = said.connection.as_ref().unwrap().state();
            let name = state.as_str_name().trim_start_matches("CONNECTION_STATE_");
            *counts.entry(name.to_lowercase()).or_default() += 1;
            if state != line.expected {
                differs.push(format!("{}: {state:?}, not {:?}", line.id, line.expected));
            }
            let phone = line.owner.phone();
            let online = self
                .simulator
                .look(|truth| truth.is_online(&phone, line.device));
            if online != (state == ConnectionState::Online) {
                differs.push(format!("{}: {state:?}, but online: {online}", line.id));
            }
            let linked = line.owner.devices().iter().any(|d| d.device == line.device);
            if linked != (said.login() == LoginState::Paired) {
                differs.push(format!(
                    "{}: {:?}, but linked: {linked}",
                    line.id,
                    said.login()
                ));
            }
        }
        let ops = self.daemon.address("ops");
        for path in ["/livez", "/readyz"] {
            match http::get(&ops, path).await {
                Some((200, _)) => {}
                other => differs.push(format!("{path}: {other:?}")),
            }
        }
        let metrics = http::get(&ops, "/metrics").await.map(|(_, body)| body);
        let gauges = metrics
            .as_deref()
            .map(sessions_by_state)
            .unwrap_or_default();
        if gauges != counts {
            differs.push(format!("metrics {gauges:?}, sessions {counts:?}"));
        }
        differs
    }
}

/// The gauge `trunkline_sessions`, by state, without zeros.
fn sessions_by_state(exposition: &str) -> BTreeMap<String, usize> {
    exposition
        .lines()
        .filter_map(|line| {
            let (labels, value) = line.strip_prefix("trunkline_sessions{")?.split_once("} ")?;
            let state = labels.split(',').find_map(|l| l.strip_prefix("state=\""))?;
            let count: f64 = value.parse().ok()?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count"
            )]
            let count = count as usize;
            (count > 0).then(|| (state.trim_end_matches('"').to_lowercase(), count))
        })
        .collect()
}
