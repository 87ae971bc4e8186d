//! `trunkline pair`: links a number, with the QR in the terminal.

mod picture;
mod qr;
mod screen;

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::exit::{Exit, Failure};
use super::json::json;
use super::target::{Daemon, request_id};
use super::{Context, words};
use crate::pb;
use crate::pb::pair_session_response::Step;
pub(crate) use screen::Screen;

/// Link a number: scan the QR with the phone
#[derive(Debug, Args)]
pub(crate) struct PairCommand {
    /// The session; it is created if it does not exist
    #[arg(default_value = "main")]
    session: String,
    /// Link by a code typed on the phone with this number instead of a QR
    #[arg(long, value_name = "PHONE")]
    code: Option<String>,
}

impl PairCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses; a pairing that failed (1).
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        let steps = match self.begin(&daemon).await {
            // What is wrong with the request is said before the session is looked for: a refused phone
            // number leaves no session behind.
            Err(status) if status.code() == Code::NotFound => {
                create_session(context, &daemon, &self.session).await?;
                self.begin(&daemon).await?
            }
            begun => begun?,
        };
        let account = follow(context, steps).await?;
        if !context.output.is_json() {
            let id = words::id(&self.session);
            context
                .output
                .line(&format!("linked: session {id} is {account}"))?;
        }
        Ok(())
    }

    async fn begin(&self, daemon: &Daemon) -> Result<Streaming<pb::PairSessionResponse>, Status> {
        let request = pb::PairSessionRequest {
            name: daemon.session_name(&self.session),
            request_id: request_id(),
            phone: self.code.clone().unwrap_or_default(),
        };
        Ok(daemon.sessions().pair_session(request).await?.into_inner())
    }
}

async fn create_session(context: &Context, daemon: &Daemon, name: &str) -> Result<(), Failure> {
    let id = words::id(name);
    let request = pb::CreateSessionRequest {
        parent: daemon.parent_of(name),
        session_id: id.to_owned(),
        request_id: request_id(),
        ..pb::CreateSessionRequest::default()
    };
    daemon.sessions().create_session(request).await?;
    if context.output.is_json() {
        return Ok(());
    }
    context.output.line(&format!("session {id} created"))
}

/// Shows the steps until the last one; returns the account.
async fn follow(
    context: &Context,
    mut steps: Streaming<pb::PairSessionResponse>,
) -> Result<String, Failure> {
    let mut screen = Screen::new(context.output);
    let mut expires = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        let response = tokio::select! {
            _ = ticks.tick() => {
                screen.countdown(expires.saturating_duration_since(Instant::now()))?;
                continue;
            }
            response = steps.message() => response,
        };
        let response = match response {
            Ok(Some(response)) => response,
            Ok(None) => {
                return Err(broken(
                    &screen,
                    Status::unavailable("the daemon ended the pairing without a result"),
                ));
            }
            Err(status) => return Err(broken(&screen, status)),
        };
        if context.output.is_json() {
            context
                .output
                .json(&json("PairSessionResponse", &response)?)?;
        }
        match response.step {
            Some(Step::Qr(qr)) => {
                let ttl = span(qr.ttl);
                expires = Instant::now() + ttl;
                if !context.output.is_json() {
                    screen.qr(&qr.payload, ttl)?;
                }
            }
            Some(Step::Code(code)) => {
                let ttl = span(code.ttl);
                expires = Instant::now() + ttl;
                if !context.output.is_json() {
                    screen.code(&code.code, ttl)?;
                }
            }
            Some(Step::Succeeded(done)) => {
                screen.end()?;
                return Ok(account(&done));
            }
            Some(Step::Failed(failed)) => {
                screen.end()?;
                return Err(refused(&failed));
            }
            None => {}
        }
    }
}

/// The account that was linked, as far as the daemon knows it already.
pub(crate) fn account(done: &pb::PairingSucceeded) -> String {
    let session = done.session.as_ref();
    let named = [
        done.account.as_ref(),
        session.and_then(|s| s.account.as_ref()),
    ];
    let named = named
        .into_iter()
        .map(words::person)
        .find(|name| name != "-");
    named.unwrap_or_else(|| "linked".to_owned())
}

fn broken(screen: &Screen, status: Status) -> Failure {
    // The reason matters more than a terminal that cannot be written to.
    let _ = screen.end();
    status.into()
}

fn refused(failed: &pb::PairingFailed) -> Failure {
    let reason = words::short(failed.reason().as_str_name(), "PAIRING_FAILURE_REASON_");
    let detail = if failed.detail.is_empty() || failed.detail == reason {
        String::new()
    } else {
        format!(", {}", failed.detail)
    };
    Failure::new(
        Exit::Refused,
        format!("not linked: {} [{reason}{detail}]", failed.message),
    )
}

fn span(ttl: Option<prost_types::Duration>) -> Duration {
    ttl.and_then(|ttl| Duration::try_from(ttl).ok())
        .unwrap_or_default()
}
