//! `trunkline send`: puts a message into the outbox and follows it.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tonic::Streaming;

use super::exit::{Exit, Failure};
use super::json::json;
use super::target::{Daemon, request_id};
use super::upload::FileArgs;
use super::{Context, session, words};
use crate::config::duration;
use crate::pb;
use crate::pb::send_message_request::Content;
use crate::pb::watch_response::Frame;

/// Send a message: a text, or a file
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  trunkline send +2348031234567 \"hello\"\n  trunkline send --session shop --to +2348031234567 \"hello\" --until read\n  trunkline send +2348031234567 --file invoice.pdf \"your invoice\""
)]
pub(crate) struct SendCommand {
    /// The recipient and the text; only the text when --to is given
    #[arg(required_unless_present = "file", num_args = 1.., value_name = "[TO] TEXT")]
    words: Vec<String>,
    /// The recipient: a phone number with + and country code, or an id that events carry
    #[arg(long)]
    to: Option<String>,
    #[command(flatten)]
    file: FileArgs,
    /// The session to send from [default: the only one]
    #[arg(long, short)]
    session: Option<String>,
    /// A UUID that makes repeating the command safe
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// Follow the message until it is there
    #[arg(long, value_enum, default_value_t = Until::Sent)]
    until: Until,
    /// Do not follow: stored is enough
    #[arg(long)]
    no_wait: bool,
    /// How long to follow; the message is sent in any case
    #[arg(long, default_value = "1m", value_parser = duration::parse)]
    timeout: Duration,
}

/// What a person needs to know when the message can no longer be followed.
const STORED: &str = "the message is stored and will be sent";

/// How far a message is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    /// The server accepted it
    Sent,
    /// It reached a device of the recipient
    Delivered,
    /// The recipient read it
    Read,
}

impl Until {
    fn reached(self, state: pb::MessageState) -> bool {
        use pb::MessageState::{Delivered, Played, Read, Sent};
        match self {
            Self::Sent => matches!(state, Sent | Delivered | Read | Played),
            Self::Delivered => matches!(state, Delivered | Read | Played),
            Self::Read => matches!(state, Read | Played),
        }
    }
}

impl SendCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses; a message that failed (1); one that is still on its way after the
    /// timeout (75).
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let (to, text) = self.recipient_and_text()?;
        let request_id = self.request_id.clone().unwrap_or_else(request_id);
        let daemon = Daemon::connect(context).await?;
        let parent = match &self.session {
            Some(session) => daemon.session_name(session),
            None => session::only(&daemon).await?,
        };
        let said = match (&self.file.file, text) {
            (Some(path), caption) => {
                let uploaded = self
                    .file
                    .upload(context, &daemon, &parent, path, &request_id, caption)
                    .await?;
                Content::Media(uploaded)
            }
            (None, text) => Content::Text(pb::TextContent {
                text: text.unwrap_or_default(),
            }),
        };
        // Watching begins before sending, so that no transition is missed.
        let mut statuses = watch_statuses(&daemon, &parent).await?;
        let request = pb::SendMessageRequest {
            parent,
            request_id,
            to: Some(recipient(&to)),
            content: Some(said),
            ..pb::SendMessageRequest::default()
        };
        let answer = daemon.messages().send_message(request).await?.into_inner();
        let message = answer.message.unwrap_or_default();
        announce(context, &message)?;
        if self.no_wait {
            return Ok(());
        }
        let follow = self.follow(context, &message, &mut statuses);
        match tokio::time::timeout(self.timeout, follow).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(
                Exit::Temporary,
                format!(
                    "not {} after {}; the message stays in the outbox and is sent when the session can (see `trunkline session list`)",
                    format!("{:?}", self.until).to_lowercase(),
                    duration::format(self.timeout)
                ),
            )),
        }
    }

    /// Whom to, and the text; a file may go without one.
    fn recipient_and_text(&self) -> Result<(String, Option<String>), Failure> {
        match (&self.to, &self.words[..]) {
            (Some(to), [text]) | (None, [to, text]) => Ok((to.clone(), Some(text.clone()))),
            (Some(to), []) | (None, [to]) if self.file.file.is_some() => Ok((to.clone(), None)),
            (None, [_, _, ..]) => Err(Failure::new(
                Exit::Usage,
                format!(
                    "that is {} words; put the recipient and the text in quotes: `trunkline send \"+234 803 123 4567\" \"good morning\"`",
                    self.words.len()
                ),
            )),
            (None, _) => Err(Failure::new(
                Exit::Usage,
                "whom to? write `trunkline send +2348031234567 \"text\"`",
            )),
            (Some(_), _) => Err(Failure::new(
                Exit::Usage,
                "with --to only the text follows; put it in quotes",
            )),
        }
    }

    async fn follow(
        &self,
        context: &Context,
        message: &pb::Message,
        statuses: &mut Streaming<pb::WatchResponse>,
    ) -> Result<(), Failure> {
        let mut state = message.state();
        let mut failure = message.failure.clone();
        loop {
            if self.until.reached(state) {
                return Ok(());
            }
            if is_end(state) {
                return Err(ended(state, failure.as_ref()));
            }
            let next = statuses.message().await.map_err(|status| {
                let lost = Failure::from(status);
                Failure::new(lost.exit, format!("{lost}; {STORED}"))
            })?;
            let Some(response) = next else {
                let lost = format!("the daemon ended the stream; {STORED}");
                return Err(Failure::new(Exit::Unreachable, lost));
            };
            let Some(Frame::Event(event)) = response.frame else {
                continue;
            };
            if let Some(pb::event::Payload::MessageStatus(status)) = &event.payload
                && status.message == message.name
            {
                state = status.state();
                failure.clone_from(&status.failure);
                if context.output.is_json() {
                    context.output.json(&json("Event", &event)?)?;
                } else {
                    context.output.line(words::message_state(state))?;
                }
            }
        }
    }
}

/// States that a message does not leave by itself.
fn is_end(state: pb::MessageState) -> bool {
    use pb::MessageState::{Canceled, Expired, Failed, Unknown};
    matches!(state, Canceled | Expired | Failed | Unknown)
}

fn ended(state: pb::MessageState, failure: Option<&pb::MessageFailure>) -> Failure {
    let why = failure.map_or_else(String::new, |failure| {
        let code = failure
            .code
            .map(|code| format!(" {code}"))
            .unwrap_or_default();
        format!(": {}{code}", failure.reason)
    });
    Failure::new(
        Exit::Refused,
        format!("the message is {}{why}", words::message_state(state)),
    )
}

fn announce(context: &Context, message: &pb::Message) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(&json("Message", message)?);
    }
    context.output.line(&format!(
        "{} {}",
        words::id(&message.name),
        words::message_state(message.state())
    ))
}

/// People type phone numbers; ids from events contain an `@`.
fn recipient(to: &str) -> pb::Recipient {
    let recipient = if to.contains('@') {
        pb::recipient::Recipient::Jid(to.to_owned())
    } else {
        pb::recipient::Recipient::Phone(to.to_owned())
    };
    pb::Recipient {
        recipient: Some(recipient),
    }
}

async fn watch_statuses(
    daemon: &Daemon,
    session: &str,
) -> Result<Streaming<pb::WatchResponse>, Failure> {
    let request = pb::WatchRequest {
        parent: daemon.parent_of(session),
        from_revision: None,
        session: session.to_owned(),
        types: vec![pb::EventType::MessageStatus.into()],
    };
    Ok(daemon.events().watch(request).await?.into_inner())
}
