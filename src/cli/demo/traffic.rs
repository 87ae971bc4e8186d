//! Messages both ways at once, from senders that behave as senders should: what was not confirmed is
//! asked for again under the same request id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::daemon::Recipe;
use super::simulator::Control;
use crate::cli::exit::{Exit, Failure};
use crate::cli::target::{Daemon, request_id};
use crate::pb;
use crate::pb::watch_response::Frame;

/// Pause between two messages of one sender.
const PACE: Duration = Duration::from_millis(15);
/// Pause before a call is repeated after the daemon went away.
const RETRY: Duration = Duration::from_millis(50);

/// Who talks to whom.
#[derive(Debug, Clone)]
pub(super) struct Cast {
    /// The session that holds the number.
    pub(super) session: String,
    /// The number.
    pub(super) number: String,
    /// The customer.
    pub(super) customer: String,
}

/// How far both senders are; shared with whoever pulls the plug.
#[derive(Debug, Default)]
pub(super) struct Progress {
    sent: AtomicUsize,
}

impl Progress {
    /// Messages confirmed to their senders so far, both ways.
    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    fn add(&self) {
        self.sent.fetch_add(1, Ordering::SeqCst);
    }
}

/// The core sends `count` messages to the customer; returns the stanza ids that were confirmed.
pub(super) async fn from_core(
    recipe: Recipe,
    cast: Cast,
    count: usize,
    progress: Arc<Progress>,
) -> Result<BTreeSet<String>, Failure> {
    let mut sent = BTreeSet::new();
    let mut daemon: Option<Daemon> = None;
    for number in 1..=count {
        let request = pb::SendMessageRequest {
            parent: cast.session.clone(),
            request_id: request_id(),
            to: Some(pb::Recipient {
                recipient: Some(pb::recipient::Recipient::Phone(cast.customer.clone())),
            }),
            content: Some(pb::send_message_request::Content::Text(pb::TextContent {
                text: format!("order {number} is on its way"),
            })),
            ..pb::SendMessageRequest::default()
        };
        let message = loop {
            match send_once(&recipe, &mut daemon, &request).await {
                Ok(message) => break message,
                Err(failure) if is_passing(&failure) => {
                    daemon = None;
                    tokio::time::sleep(RETRY).await;
                }
                Err(failure) => return Err(failure),
            }
        };
        sent.insert(message.stanza_id);
        progress.add();
        tokio::time::sleep(PACE).await;
    }
    Ok(sent)
}

async fn send_once(
    recipe: &Recipe,
    daemon: &mut Option<Daemon>,
    request: &pb::SendMessageRequest,
) -> Result<pb::Message, Failure> {
    let connected = match daemon {
        Some(connected) => connected,
        None => daemon.insert(recipe.connect().await?),
    };
    let answer = connected.messages().send_message(request.clone()).await?;
    Ok(answer.into_inner().message.unwrap_or_default())
}

/// Only what the daemon being away or busy explains.
fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.exit,
        Exit::Unreachable | Exit::Temporary | Exit::Interrupted
    )
}

/// The customer sends `count` messages to the number; returns their stanza ids.
pub(super) async fn from_customer(
    control: Control,
    cast: Cast,
    count: usize,
    progress: Arc<Progress>,
) -> Result<BTreeSet<String>, Failure> {
    let mut sent = BTreeSet::new();
    for number in 1..=count {
        let text = format!("where is order {number}?");
        sent.insert(control.send(&cast.customer, &cast.number, &text).await?);
        progress.add();
        tokio::time::sleep(PACE).await;
    }
    Ok(sent)
}

/// Reads the whole journal and counts, for each stanza id, the message events of the session (by
/// `event_id`, since deliveries may repeat).
pub(super) async fn journal(
    recipe: &Recipe,
    session: &str,
) -> Result<BTreeMap<String, usize>, Failure> {
    let daemon = recipe.connect().await?;
    let request = pb::WatchRequest {
        parent: daemon.workspace_name(),
        from_revision: Some(0),
        session: session.to_owned(),
        types: vec![pb::EventType::Message.into()],
    };
    let mut frames = daemon.events().watch(request).await?.into_inner();
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(response) = frames.message().await? {
        match response.frame {
            Some(Frame::Event(event)) => {
                if let Some(pb::event::Payload::Message(message)) = event.payload
                    && !message.from_me
                {
                    let ids = events.entry(message.stanza_id).or_default();
                    ids.insert(event.event_id);
                }
            }
            Some(Frame::Progress(_)) => break,
            None => {}
        }
    }
    Ok(events
        .into_iter()
        .map(|(id, ids)| (id, ids.len()))
        .collect())
}

/// Asks again and again until `done` says so or patience ends; whether it did.
pub(super) async fn eventually<F, A>(patience: Duration, mut done: F) -> Result<bool, Failure>
where
    F: FnMut() -> A,
    A: Future<Output = Result<bool, Failure>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if done().await? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(RETRY).await;
    }
}
