//! `trunkline doctor`: looks for what is wrong before somebody has to, and says the fix.

mod daemon;
mod machine;
mod metrics;
mod network;
mod store;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;

use super::Context;
use super::exit::{Exit, Failure};
use super::target::Daemon;
use crate::config::Config;
use crate::daemon::check_certificate;

/// A certificate that ends sooner should have been renewed: as the alert says.
const SOON: Duration = Duration::from_hours(24 * 14);

/// Look for problems on this machine and in the daemon, each with its fix
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 when nothing must be done (warnings may be shown), 1 when something must, 78 when the configuration is wrong."
)]
pub(crate) struct DoctorCommand {
    /// Leave out what needs a network beyond this machine
    #[arg(long)]
    offline: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It works, and it will bite.
    Warning,
    /// It does not work.
    Problem,
}

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) level: Level,
    /// What was found.
    pub(super) found: String,
    /// What to do; empty when nothing is to be done.
    pub(super) fix: String,
}

impl Finding {
    /// As it should be.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            found: found.into(),
            fix: String::new(),
        }
    }

    /// It works, and it will bite.
    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check,
            level: Level::Warning,
            found: found.into(),
            fix: fix.into(),
        }
    }

    /// It does not work.
    pub(super) fn problem(
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            check,
            level: Level::Problem,
            found: found.into(),
            fix: fix.into(),
        }
    }
}

impl DoctorCommand {
    /// Runs every check and reports all findings.
    ///
    /// # Errors
    /// 1 when something must be done, 78 when the configuration is wrong.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        // Everything else depends on it: without a configuration there is nothing to look at.
        let loaded = context.load_config()?;
        let config = &loaded.config;
        let mut findings = vec![configuration(&loaded)];
        findings.extend(machine::look(config));
        findings.extend(certificate(config));
        if !self.offline {
            findings.extend(network::look(&config.multidevice).await);
        }
        match Daemon::connect(context).await {
            Ok(daemon) => findings.extend(daemon::look(&daemon, config).await),
            Err(failure) => {
                findings.push(store::at_rest(config).await);
                findings.push(daemon::missing(failure));
            }
        }
        report(context, &findings)
    }
}

/// The API's certificate, if it speaks TLS.
#[allow(
    clippy::disallowed_methods,
    reason = "the machine's own clock is what a certificate is judged by"
)]
fn certificate(config: &Config) -> Option<Finding> {
    const CHECK: &str = "certificate";
    let ends = match check_certificate(config) {
        Ok(ends) => UNIX_EPOCH + Duration::from_secs(ends?.secs()),
        Err(error) => {
            return Some(Finding::problem(
                CHECK,
                error.to_string(),
                "put the files in order; a running daemon takes them up within seconds",
            ));
        }
    };
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    let found = format!("ends in {} days", left.as_secs() / 86_400);
    Some(if left < SOON {
        Finding::warning(
            CHECK,
            found,
            "renew it; a running daemon takes up the new files within seconds",
        )
    } else {
        Finding::ok(CHECK, found)
    })
}

fn configuration(loaded: &crate::config::Loaded) -> Finding {
    let file = loaded.file.as_ref().map_or_else(
        || "defaults only, no file".to_owned(),
        |file| file.display().to_string(),
    );
    if loaded.warnings.is_empty() {
        Finding::ok("configuration", file)
    } else {
        Finding::warning(
            "configuration",
            format!("{file}: {}", loaded.warnings.join("; ")),
            "correct or remove what is named",
        )
    }
}

fn report(context: &Context, findings: &[Finding]) -> Result<(), Failure> {
    if context.output.is_json() {
        for finding in findings {
            context.output.json(finding)?;
        }
    } else {
        for finding in findings {
            let mark = match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Problem => "PROBLEM",
            };
            context.output.line(&format!(
                "{mark:<8} {:<14} {}",
                finding.check, finding.found
            ))?;
            if !finding.fix.is_empty() {
                context
                    .output
                    .line(&format!("{:<23} fix: {}", "", finding.fix))?;
            }
        }
    }
    let problems = findings
        .iter()
        .filter(|f| f.level == Level::Problem)
        .count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Refused, "1 problem")),
        many => Err(Failure::new(Exit::Refused, format!("{many} problems"))),
    }
}
