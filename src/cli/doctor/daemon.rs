//! The daemon that runs, if one does: ready, with room, and its sessions.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::metrics::Metrics;
use super::{Finding, store};
use crate::cli::exit::Failure;
use crate::cli::target::Daemon;
use crate::cli::{session, words};
use crate::config::Config;
use crate::pb;

const DAEMON: &str = "daemon";
/// How long the daemon may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// That no daemon answers.
pub(super) fn missing(failure: Failure) -> Finding {
    Finding::problem(
        DAEMON,
        failure.message,
        "systemctl status trunkline, and journalctl --unit=trunkline --priority=warning",
    )
}

/// What a daemon that answers says of itself.
pub(super) async fn look(daemon: &Daemon, config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(DAEMON, "answers")];
    if let Some(address) = config.listen.ops.address() {
        match get(address, "/readyz?verbose").await {
            Some(answer) => findings.push(readiness(&answer)),
            None => findings.push(Finding::warning(
                "ready",
                format!("nothing answers at listen.ops = {address}"),
                "if the daemon listens elsewhere, give doctor the same configuration (--config)",
            )),
        }
        if let Some(metrics) = get(address, "/metrics").await.map(Metrics::new) {
            findings.extend(store::of_daemon(&metrics));
            findings.extend(files_of_daemon(&metrics));
        }
    }
    findings.push(match session::all(daemon).await {
        Ok(sessions) => sessions_that_need_people(&sessions),
        Err(failure) => Finding::problem(
            "sessions",
            failure.message,
            "give doctor a token that may list them, or run it as the daemon's operator",
        ),
    });
    findings
}

/// The answer to a GET, head and body.
async fn get(address: std::net::SocketAddr, path: &str) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(PATIENCE, ask).await.ok().flatten()
}

fn readiness(answer: &str) -> Finding {
    if answer.starts_with("HTTP/1.1 200") {
        return Finding::ok("ready", "store, listeners and admission of new work");
    }
    let failing: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("[-] "))
        .collect();
    Finding::problem(
        "ready",
        failing.join("; "),
        "the log says more: journalctl --unit=trunkline --priority=warning",
    )
}

fn files_of_daemon(metrics: &Metrics) -> Option<Finding> {
    let open = metrics.value("trunkline_process_open_files")?;
    let limit = metrics.value("trunkline_process_open_files_limit")?;
    let found = format!("{open} of {limit} files open");
    Some(if open > 0.8 * limit {
        Finding::problem(
            "daemon files",
            found,
            "raise LimitNOFILE (systemctl edit trunkline) and restart",
        )
    } else {
        Finding::ok("daemon files", found)
    })
}

/// Sessions that do not come back by themselves.
fn sessions_that_need_people(sessions: &[pb::Session]) -> Finding {
    use pb::ConnectionState::{Banned, Failed, LoggedOut, Outdated, Replaced};
    let stuck: Vec<String> = sessions
        .iter()
        .filter(|session| {
            let state = session.connection.as_ref().map(pb::Connection::state);
            matches!(
                state,
                Some(Banned | Failed | LoggedOut | Outdated | Replaced)
            )
        })
        .map(|session| {
            format!(
                "{} is {}",
                words::id(&session.name),
                words::connection(session)
            )
        })
        .collect();
    if stuck.is_empty() {
        return Finding::ok(
            "sessions",
            format!("{}, none needs a person", sessions.len()),
        );
    }
    Finding::warning(
        "sessions",
        stuck.join(", "),
        "LOGGED_OUT: pair again; REPLACED: stop the other process, then `trunkline session restart`; OUTDATED: upgrade; BANNED: wait; FAILED: see `trunkline session show`",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn what_is_not_ready_is_named() {
        let finding = readiness("HTTP/1.1 503 x\r\n\r\n[+] store ok\n[-] accepting: draining\n");
        assert_eq!(finding.level, Level::Problem);
        assert_eq!(finding.found, "accepting: draining");
    }

    #[test]
    fn files_are_read_from_the_metrics() {
        let metrics = "trunkline_process_open_files 900\ntrunkline_process_open_files_limit 1000\n";
        let found = files_of_daemon(&Metrics::new(metrics.into()));
        assert_eq!(found.unwrap().level, Level::Problem);
        assert!(files_of_daemon(&Metrics::new(String::new())).is_none());
    }
}
