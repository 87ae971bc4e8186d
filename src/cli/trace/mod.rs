//! `trunkline trace`: what became of one message, step by step, and in a sentence why it went no further.

mod inbound;
mod journal;
mod outbound;

use clap::Args;
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::target::Daemon;
use super::{Context, session};
use crate::pb;

/// Say what became of a message: when it came or went, how far it got, and why no further
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trunkline trace 019a9c3e-8f0b-7d3a-9a55-1f2d3c4b5a69   a message sent from here, by the id `trunkline send` printed\n  trunkline trace 3EB0C767D097E9ECFE5F                   any message, by the stanza id that events carry\n  trunkline trace +2348031234567                         the last message that came from this number\n\nExit codes: 0 when the message is known, however it ended; 1 when it is not."
)]
pub(crate) struct TraceCommand {
    /// A message's id or name, a stanza id, an event id, or a phone number with + and country code
    message: String,
    /// The session it belongs to [default: the only one, or all]
    #[arg(long, short)]
    session: Option<String>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    clippy::struct_field_names,
    reason = "the fields are the columns that people and scripts see"
)]
struct Step {
    /// When, in UTC.
    time: String,
    /// What.
    step: String,
    /// More about it; may be empty.
    detail: String,
}

/// All that is known about a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Story {
    /// In order.
    steps: Vec<Step>,
    /// Where that leaves it, in plain words.
    verdict: String,
}

impl Story {
    /// Adds a step.
    fn add(&mut self, time: String, step: impl Into<String>, detail: impl Into<String>) {
        self.steps.push(Step {
            time,
            step: step.into(),
            detail: detail.into(),
        });
    }
}

impl TraceCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// 1 when no such message is known here; what the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        let session = match &self.session {
            Some(session) => Some(daemon.session_name(session)),
            None => session::only(&daemon).await.ok(),
        };
        if let Some(message) = self.sent_from_here(&daemon, session.as_deref()).await? {
            return tell(context, &outbound::tell(&daemon, &message).await?);
        }
        let found = journal::search(context, &daemon, session.as_deref(), &self.message).await?;
        if let Some(name) = found.outbound() {
            let message = get(&daemon, name.to_owned()).await?;
            return tell(context, &outbound::tell(&daemon, &message).await?);
        }
        match inbound::tell(&daemon, &found).await? {
            Some(story) => tell(context, &story),
            None => Err(Failure::new(
                Exit::Refused,
                inbound::nothing_known(&daemon, session.as_deref(), &self.message).await?,
            )),
        }
    }

    /// The outbound message, if what is asked for is the id of one.
    async fn sent_from_here(
        &self,
        daemon: &Daemon,
        session: Option<&str>,
    ) -> Result<Option<pb::Message>, Failure> {
        let name = match session {
            _ if self.message.contains("/messages/") => self.message.clone(),
            Some(session) if uuid::Uuid::parse_str(&self.message).is_ok() => {
                format!("{session}/messages/{}", self.message)
            }
            _ => return Ok(None),
        };
        match get(daemon, name).await {
            Ok(message) => Ok(Some(message)),
            // It may still be the id of an event.
            Err(failure) if matches!(failure.exit, Exit::Refused | Exit::Usage) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// Reads an outbound message.
async fn get(daemon: &Daemon, name: String) -> Result<pb::Message, Failure> {
    let request = pb::GetMessageRequest { name };
    let answer = daemon.messages().get_message(request).await?.into_inner();
    Ok(answer.message.unwrap_or_default())
}

fn tell(context: &Context, story: &Story) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(story);
    }
    let rows = story
        .steps
        .iter()
        .map(|step| vec![step.time.clone(), step.step.clone(), step.detail.clone()])
        .collect();
    let header = ["TIME (UTC)", "STEP", "DETAIL"];
    context.output.table(&header, rows, "nothing is known")?;
    context.output.line("")?;
    context.output.line(&story.verdict)
}
