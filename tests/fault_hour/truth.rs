//! The comparison: what the daemon says, in all its voices, against what the simulator knows.

use std::collections::BTreeMap;

use serde_json::Value;
use trunkline::pb::{ConnectionState, LoginState};

use crate::fleet::{Fleet, LINES, PATIENCE};
use crate::support::core::session;
use crate::support::eventually;
use crate::voices::Presence;

impl Fleet {
    /// Waits until everything agrees. A daemon may need a moment to notice; it may not stay wrong.
    /// At the shell, the session of `struck` is looked at closely, and beside it one that was spared.
    pub(crate) async fn compare(&self, struck: usize) {
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
        assert_eq!(shown.lines().count(), LINES, "of the default workspace");
        for line in shown.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let known = self.lines.iter().find(|known| line["name"] == known.name);
            let known = known.unwrap();
            // BACKOFF and CONNECTING alternate while logins are refused.
            if known.expected != ConnectionState::Backoff {
                assert_eq!(
                    line["connection"]["state"],
                    known.expected.as_str_name(),
                    "{line}"
                );
            }
        }
        for line in [struck, (struck + 1) % LINES, LINES] {
            let expected = self.lines[line].expected;
            let states = match expected {
                ConnectionState::Backoff => vec![expected, ConnectionState::Connecting],
                _ => vec![expected],
            };
            self.shows(line, &states).await;
        }
    }

    async fn differences(&self) -> Vec<String> {
        let mut differs = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in &self.lines {
            let said = session(&self.channel, &line.name).await.unwrap();
            let state = said.connection.as_ref().unwrap().state();
            let name = state.as_str_name().trim_start_matches("CONNECTION_STATE_");
            *counts.entry(name.to_lowercase()).or_default() += 1;
            if state != line.expected {
                differs.push(format!("{}: {state:?}, not {:?}", line.name, line.expected));
            }
            let phone = line.owner.phone();
            let online = self
                .simulator
                .look(|truth| truth.is_online(&phone, line.device));
            if online != (state == ConnectionState::Online) {
                differs.push(format!("{}: {state:?}, but online: {online}", line.name));
            }
            let linked = line.owner.devices().iter().any(|d| d.device == line.device);
            if linked != (said.login() == LoginState::Paired) {
                differs.push(format!(
                    "{}: {:?}, but linked: {linked}",
                    line.name,
                    said.login()
                ));
            }
        }
        differs.extend(self.not(Presence::Serving).await);
        let gauges = self.gauges().await;
        if gauges != counts {
            differs.push(format!("metrics {gauges:?}, sessions {counts:?}"));
        }
        differs
    }
}
