//! What the daemon says of itself to machines and to people at a shell: HTTP, `grpc.health`, the command line.

use std::collections::BTreeMap;

use prost_reflect::DescriptorPool;
use serde_json::Value;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use trunkline::pb::{self, ConnectionState};

use crate::fleet::{Fleet, PATIENCE};
use crate::support::{eventually, http};

/// Exit codes of the command line: the daemon cannot be reached, or will not do it now.
const UNREACHABLE: i32 = 69;
const TEMPORARY: i32 = 75;

/// How the daemon is, and so what has to be heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It does its work, whatever becomes of lines.
    Serving,
    /// It finishes what it has begun.
    Draining,
    /// There is no process.
    Away,
}

impl Presence {
    /// HTTP status of `/livez` and `/readyz`; none when nobody answers.
    fn ops(self) -> [Option<u16>; 2] {
        match self {
            Self::Serving => [Some(200), Some(200)],
            Self::Draining => [Some(200), Some(503)],
            Self::Away => [None, None],
        }
    }

    /// What health says of every service; none when nobody answers.
    fn health(self) -> Option<ServingStatus> {
        match self {
            Self::Serving => Some(ServingStatus::Serving),
            Self::Draining => Some(ServingStatus::NotServing),
            Self::Away => None,
        }
    }

    /// How a command ends that asks for a session.
    fn exit_code(self) -> i32 {
        match self {
            Self::Serving => 0,
            Self::Draining => TEMPORARY,
            Self::Away => UNREACHABLE,
        }
    }
}

impl Fleet {
    /// Waits until every voice says so. Never long: nothing but a start and a stop changes it.
    pub(crate) async fn is(&self, presence: Presence) {
        let mut differs = Vec::new();
        let agreed = tokio::time::timeout(PATIENCE, async {
            eventually("all voices agree", PATIENCE * 2, async || {
                differs = self.not(presence).await;
                differs.is_empty()
            })
            .await;
        });
        let agreed = agreed.await.is_ok();
        assert!(agreed, "{presence:?}: {differs:#?}\n{}", self.daemon.log());
        if presence != Presence::Serving {
            let (code, _) = self.command(&self.lines[0].name).await;
            let wanted = presence.exit_code();
            assert_eq!(code, Some(wanted), "session show: {presence:?}");
        }
    }

    /// The voices that say something else.
    pub(crate) async fn not(&self, presence: Presence) -> Vec<String> {
        let mut differs = Vec::new();
        let ops = self.daemon.address("ops");
        for (path, wanted) in ["/livez", "/readyz"].into_iter().zip(presence.ops()) {
            let said = http::get(&ops, path).await;
            if said.as_ref().map(|(status, _)| *status) != wanted {
                differs.push(format!("{path}: {said:?}, not {wanted:?}"));
            }
        }
        for service in services() {
            let request = HealthCheckRequest {
                service: service.clone(),
            };
            let said = HealthClient::new(self.channel.clone()).check(request).await;
            let status = said.as_ref().ok().map(|answer| answer.get_ref().status());
            if status != presence.health() {
                differs.push(format!("health of {service:?}: {said:?}"));
            }
        }
        differs
    }

    /// `session show` tells the line's name, account, login and state as the simulator and the API know them.
    pub(crate) async fn shows(&self, line: usize, states: &[ConnectionState]) {
        let line = &self.lines[line];
        let (code, shown) = self.command(&line.name).await;
        let wanted = Presence::Serving.exit_code();
        assert_eq!(code, Some(wanted), "session show {}", line.name);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["name"], line.name.as_str());
        let state = shown["connection"]["state"].as_str().unwrap();
        let state = ConnectionState::from_str_name(state).unwrap();
        assert!(states.contains(&state), "{shown}, not {states:?}");
        let linked = line.owner.devices().iter().any(|d| d.device == line.device);
        assert_eq!(shown["login"] == "LOGIN_STATE_PAIRED", linked, "{shown}");
        if linked {
            let phone = format!("+{}", line.owner.phone());
            assert_eq!(shown["account"]["phone"], phone, "{shown}");
        }
    }

    /// Exit code and output of `session show`.
    async fn command(&self, name: &str) -> (Option<i32>, String) {
        let [workspace, id] = ["workspaces/", "/sessions/"].map(|part| {
            let (_, rest) = name.split_once(part).unwrap();
            rest.split('/').next().unwrap()
        });
        let mut command = tokio::process::Command::from(self.daemon.trunkline());
        let command = command.args(["--workspace", workspace, "--output", "json"]);
        let ended = command.args(["session", "show", id]).output().await;
        let ended = ended.unwrap();
        (
            ended.status.code(),
            String::from_utf8(ended.stdout).unwrap(),
        )
    }

    /// The gauge `trunkline_sessions`, by state, without zeros.
    pub(crate) async fn gauges(&self) -> BTreeMap<String, usize> {
        let metrics = http::get(&self.daemon.address("ops"), "/metrics").await;
        metrics
            .map(|(_, body)| sessions_by_state(&body))
            .unwrap_or_default()
    }
}

/// What health is asked for: every service of the API, and the daemon as a whole.
fn services() -> Vec<String> {
    let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let services = pool.services().map(|it| it.full_name().to_owned());
    services.chain([String::new()]).collect()
}

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
