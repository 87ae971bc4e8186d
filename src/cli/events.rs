//! `trunkline events`: reads the journal.

use std::time::Duration;

use clap::Args;

use super::exit::{Exit, Failure};
use super::json::json;
use super::output::complain;
use super::target::Daemon;
use super::{Context, words};
use crate::pb;
use crate::pb::event::Payload;
use crate::pb::watch_response::Frame;

/// Pause before the journal is asked again after the daemon went away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Read the journal
#[derive(Debug, Args)]
pub(crate) struct EventsCommand {
    /// Keep printing what happens, over restarts of the daemon
    #[arg(long, short)]
    follow: bool,
    /// First revision wanted; 0 is the oldest [default: 0, with --follow from now on]
    #[arg(long, value_name = "REVISION")]
    from: Option<u64>,
    /// Only this session
    #[arg(long, short)]
    session: Option<String>,
    /// Only these types, such as message,receipt
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = event_type)]
    types: Vec<pb::EventType>,
}

fn event_type(text: &str) -> Result<pb::EventType, String> {
    let name = format!("EVENT_TYPE_{}", text.to_uppercase().replace('-', "_"));
    pb::EventType::from_str_name(&name).ok_or_else(|| {
        "write it like message, message_status, receipt, session_state, pairing or signal"
            .to_owned()
    })
}

impl EventsCommand {
    /// What happens from now on, of these types.
    pub(crate) fn following(session: Option<String>, types: Vec<pb::EventType>) -> Self {
        Self {
            follow: true,
            from: None,
            session,
            types,
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        self.run_with(context, async || Ok(())).await
    }

    /// Runs the command; `begun` is called as soon as nothing that happens will be missed, until it succeeds.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run_with(
        self,
        context: &Context,
        begun: impl AsyncFn() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut has_begun = false;
        let mut next = match (self.from, self.follow) {
            (Some(from), _) => Some(from),
            (None, true) => None,
            (None, false) => Some(0),
        };
        loop {
            let ended = self.read(context, &mut next, &begun, &mut has_begun).await;
            match ended {
                Ok(()) if !self.follow => return Ok(()),
                Ok(()) => {}
                Err(failure) if self.follow && is_passing(&failure) => {
                    complain(&format!("trunkline: {failure}; trying again"));
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Reads one stream to its end, moving `next` past everything printed.
    async fn read(
        &self,
        context: &Context,
        next: &mut Option<u64>,
        begun: &impl AsyncFn() -> Result<(), Failure>,
        has_begun: &mut bool,
    ) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        let session = self.session.as_deref();
        let request = pb::WatchRequest {
            parent: session.map_or_else(|| daemon.workspace_name(), |it| daemon.parent_of(it)),
            from_revision: *next,
            session: session
                .map(|session| daemon.session_name(session))
                .unwrap_or_default(),
            types: self.types.iter().map(|kind| i32::from(*kind)).collect(),
        };
        let mut frames = daemon.events().watch(request).await?.into_inner();
        if !*has_begun {
            begun().await?;
            *has_begun = true;
        }
        while let Some(response) = frames.message().await? {
            match response.frame {
                Some(Frame::Event(event)) => {
                    print(context, &event)?;
                    *next = Some(event.revision.saturating_add(1));
                }
                Some(Frame::Progress(progress)) => {
                    *next = Some(progress.next_revision);
                    if !self.follow {
                        return Ok(());
                    }
                }
                None => {}
            }
        }
        Ok(())
    }
}

fn is_passing(failure: &Failure) -> bool {
    matches!(failure.exit, Exit::Unreachable | Exit::Temporary)
}

fn print(context: &Context, event: &pb::Event) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(&json("Event", event)?);
    }
    let kind = words::short(event.r#type().as_str_name(), "EVENT_TYPE_");
    // Ids, reactions and names of things are strangers' words as much as texts are.
    context.output.line(&words::one_line(&format!(
        "{:>6}  {}  {:<12}  {:<14}  {}",
        event.revision,
        words::moment(event.time.as_ref()),
        words::id(&event.session),
        kind,
        describe(event)
    )))
}

/// What an event says, on one line.
pub(crate) fn describe(event: &pb::Event) -> String {
    match &event.payload {
        Some(Payload::Message(message)) => {
            let arrow = if message.from_me { "to" } else { "from" };
            let who = if message.from_me {
                &message.chat
            } else {
                &message.sender
            };
            format!(
                "{arrow} {}: {}",
                words::person(who.as_ref()),
                words::content(message.content.as_ref())
            )
        }
        Some(Payload::MessageStatus(status)) => {
            let failure = status
                .failure
                .as_ref()
                .map_or_else(String::new, |failure| format!(" ({})", failure.reason));
            format!(
                "{} to {} is {}{failure}",
                words::id(&status.message),
                words::person(status.to.as_ref()),
                words::message_state(status.state()),
            )
        }
        Some(Payload::Receipt(receipt)) => format!(
            "{} by {}: {}",
            words::short(receipt.kind().as_str_name(), "RECEIPT_KIND_").to_lowercase(),
            words::person(receipt.from.as_ref()),
            receipt.stanza_ids.join(" ")
        ),
        Some(Payload::Undecryptable(message)) => format!(
            "{} from {}: {}",
            message.stanza_id,
            words::person(message.sender.as_ref()),
            message.reason
        ),
        Some(Payload::Call(call)) => {
            format!("{} from {}", call.action, words::person(call.from.as_ref()))
        }
        Some(Payload::Presence(presence)) => {
            format!(
                "{} is {}",
                words::person(presence.from.as_ref()),
                presence.state
            )
        }
        Some(Payload::GroupChange(change)) => {
            format!(
                "{}: {}",
                words::person(change.group.as_ref()),
                change.change
            )
        }
        Some(Payload::ContactMapping(mapping)) => {
            let person = mapping.person.clone().unwrap_or_default();
            let names = [person.phone, person.pn_jid, person.lid, person.provider_id];
            names.into_iter().flatten().collect::<Vec<_>>().join(" = ")
        }
        Some(Payload::SessionState(state)) => {
            let session = pb::Session {
                connection: state.connection.clone(),
                login: state.login,
                ..pb::Session::default()
            };
            let why = state.cause.as_ref().map(words::cause).unwrap_or_default();
            format!(
                "{} {} {why}",
                words::connection(&session),
                words::login(&session)
            )
        }
        Some(Payload::Pairing(pairing)) => {
            format!(
                "{} {}",
                pairing.step,
                pairing.reason.as_deref().unwrap_or_default()
            )
        }
        Some(Payload::Signal(signal)) => {
            let code = signal
                .code
                .map(|code| format!(" {code}"))
                .unwrap_or_default();
            format!("{}{code}", signal.signal)
        }
        Some(Payload::History(history)) => format!("{}, {} bytes", history.kind, history.raw.len()),
        Some(Payload::AccountData(data)) => data.kind.clone(),
        Some(Payload::Gap(gap)) => gap.reason.clone(),
        None => String::new(),
    }
}
