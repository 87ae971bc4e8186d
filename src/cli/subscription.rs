//! `trunkline subscription`: who consumes events, and what they gave up.

use clap::Subcommand;

use super::exit::Failure;
use super::json::json;
use super::output::Output;
use super::target::{Daemon, request_id};
use super::{Context, words};
use crate::pb::{self, RedriveOutcome};

/// Dead letters named in one request at most.
const AT_ONCE: usize = 100;

/// What to do with subscriptions.
#[derive(Debug, Subcommand)]
pub(crate) enum SubscriptionCommand {
    /// List the subscriptions and how far each has come
    List,
    /// List the events a subscription gave up
    DeadLetters {
        /// The subscription
        #[arg(default_value = "default")]
        subscription: String,
    },
    /// Have dead letters delivered again, their attempts counted anew
    Redrive {
        /// The subscription
        subscription: String,
        /// Which ones, by the revisions that `dead-letters` shows
        #[arg(
            value_name = "REVISION",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        revisions: Vec<u64>,
        /// All there are
        #[arg(long)]
        all: bool,
    },
}

impl SubscriptionCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// What the daemon refuses, in one line.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = Daemon::connect(context).await?;
        let output = context.output;
        match self {
            Self::List => list(output, &daemon).await,
            Self::DeadLetters { subscription } => {
                dead_letters(output, &daemon, &name(&daemon, &subscription)).await
            }
            Self::Redrive {
                subscription,
                mut revisions,
                ..
            } => {
                revisions.sort_unstable();
                revisions.dedup();
                redrive(output, &daemon, &name(&daemon, &subscription), &revisions).await
            }
        }
    }
}

/// The full name of a subscription; one that is full stays as it is.
fn name(daemon: &Daemon, subscription: &str) -> String {
    if subscription.contains('/') {
        subscription.to_owned()
    } else {
        format!("{}/subscriptions/{subscription}", daemon.workspace_name())
    }
}

async fn list(output: Output, daemon: &Daemon) -> Result<(), Failure> {
    let mut request = pb::ListSubscriptionsRequest {
        parent: daemon.workspace_name(),
        page_size: 1000,
        page_token: String::new(),
    };
    let (mut client, mut rows) = (daemon.subscriptions(), Vec::new());
    loop {
        let page = client.list_subscriptions(request.clone()).await?;
        let page = page.into_inner();
        for subscription in page.subscriptions {
            if output.is_json() {
                output.json(&json("Subscription", &subscription)?)?;
                continue;
            }
            rows.push(vec![
                words::id(&subscription.name).to_owned(),
                subscription.floor_revision.to_string(),
                subscription.dead_letter_count.to_string(),
                words::moment(subscription.create_time.as_ref()),
            ]);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if output.is_json() {
        return Ok(());
    }
    let header = ["SUBSCRIPTION", "SETTLED BELOW", "DEAD LETTERS", "CREATED"];
    output.table(&header, rows, "no subscriptions")
}

async fn dead_letters(output: Output, daemon: &Daemon, parent: &str) -> Result<(), Failure> {
    let mut request = pb::ListDeadLettersRequest {
        parent: parent.to_owned(),
        page_size: 1000,
        page_token: String::new(),
    };
    let (mut client, mut rows) = (daemon.subscriptions(), Vec::new());
    loop {
        let page = client.list_dead_letters(request.clone()).await?;
        let page = page.into_inner();
        for letter in page.dead_letters {
            if output.is_json() {
                output.json(&json("DeadLetter", &letter)?)?;
                continue;
            }
            let kind = letter.event.as_ref().map(pb::Event::r#type);
            let kind = kind.map_or("gone from the journal", |kind| {
                words::short(kind.as_str_name(), "EVENT_TYPE_")
            });
            rows.push(vec![
                letter.revision.to_string(),
                kind.to_owned(),
                letter.reason,
                letter.attempts.to_string(),
                words::moment(letter.bury_time.as_ref()),
            ]);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if output.is_json() {
        return Ok(());
    }
    let header = ["REVISION", "EVENT", "REASON", "ATTEMPTS", "GIVEN UP"];
    output.table(&header, rows, "no dead letters")
}

/// Puts these dead letters back, or all when none is named.
async fn redrive(
    output: Output,
    daemon: &Daemon,
    parent: &str,
    revisions: &[u64],
) -> Result<(), Failure> {
    let mut todo: Vec<_> = revisions
        .iter()
        .map(|revision| format!("{parent}/deadLetters/{revision}"))
        .collect();
    let mut client = daemon.subscriptions();
    let (mut back, mut not) = (0_usize, 0_usize);
    loop {
        let names = todo.drain(..todo.len().min(AT_ONCE)).collect::<Vec<_>>();
        let asked = names.clone();
        let request = pb::RedriveDeadLettersRequest {
            parent: parent.to_owned(),
            names,
            request_id: request_id(),
        };
        let answer = client.redrive_dead_letters(request).await?.into_inner();
        for result in &answer.results {
            let why = match result.outcome() {
                RedriveOutcome::Redriven => None,
                RedriveOutcome::NotFound => Some("there is no such dead letter"),
                _ => Some("its event has left the journal"),
            };
            match why {
                None => back += 1,
                Some(_) => not += 1,
            }
            if output.is_json() {
                output.json(&json("RedriveResult", result)?)?;
            } else if let Some(why) = why {
                output.line(&format!("{}: {why}", words::id(&result.name)))?;
            }
        }
        // Large ones may need more than one request.
        let looked_at = answer.results.iter().map(|result| result.name.as_str());
        let looked_at: std::collections::BTreeSet<_> = looked_at.collect();
        let rest = asked
            .into_iter()
            .filter(|name| !looked_at.contains(name.as_str()));
        todo.splice(..0, rest);
        let more = answer.more && revisions.is_empty();
        if (todo.is_empty() && !more) || answer.results.is_empty() {
            break;
        }
    }
    if output.is_json() {
        return Ok(());
    }
    let not = if not == 0 {
        String::new()
    } else {
        format!(", {not} could not be")
    };
    output.line(&format!("{back} dead letters are delivered again{not}"))
}
