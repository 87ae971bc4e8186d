//! `RedriveDeadLetters`.

use std::collections::BTreeSet;

use super::gate::Call;
use super::names::{DeadLetterName, SubscriptionName};
use super::once::Once;
use super::status::ApiError;
use crate::pb::{
    RedriveDeadLettersRequest, RedriveDeadLettersResponse, RedriveOutcome, RedriveResult,
};
use crate::store::{MAX_REDRIVEN, Redrive, Redriven};

/// Puts dead letters back.
pub(super) async fn put_back(
    once: &Once,
    call: Call<RedriveDeadLettersRequest, SubscriptionName>,
) -> Result<RedriveDeadLettersResponse, ApiError> {
    let (message, name) = (call.message, call.name);
    let revisions = read(&name, &message.names)?;
    let shown = {
        let name = name.clone();
        move |redrive: &Redrive| show(&name, redrive)
    };
    once.run_in(&call.workspace, &message, async |ticket| {
        let subscriptions = call.workspace.subscriptions();
        let progress = subscriptions.progress(&name.subscription).await?;
        let remember = ticket.remember(shown.clone());
        let redrive = progress
            .redrive_once(revisions.as_deref(), &remember)
            .await?;
        Ok(shown(&redrive))
    })
    .await
    .map_err(|error| error.at(&name))
}

/// Which dead letters are meant, in the order of their revisions; `None` for all.
fn read(name: &SubscriptionName, names: &[String]) -> Result<Option<Vec<u64>>, ApiError> {
    if names.len() > MAX_REDRIVEN {
        return Err(ApiError::field(
            "names",
            format!(
                "names {} dead letters; at most {MAX_REDRIVEN} are allowed",
                names.len()
            ),
        ));
    }
    let mut revisions = BTreeSet::new();
    for given in names {
        let letter = DeadLetterName::parse("names", given)?;
        if letter.of != *name {
            return Err(ApiError::field("names", "must lie in `parent`"));
        }
        if !revisions.insert(letter.revision) {
            return Err(ApiError::field("names", "names a dead letter twice"));
        }
    }
    Ok((!names.is_empty()).then(|| revisions.into_iter().collect()))
}

fn show(name: &SubscriptionName, redrive: &Redrive) -> RedriveDeadLettersResponse {
    let result = |(revision, redriven): &(u64, Redriven)| {
        let (outcome, event_id) = match redriven {
            Redriven::Back(event_id) => (RedriveOutcome::Redriven, event_id.to_string()),
            Redriven::NotFound => (RedriveOutcome::NotFound, String::new()),
            Redriven::EventGone => (RedriveOutcome::EventGone, String::new()),
        };
        RedriveResult {
            name: format!("{name}/deadLetters/{revision}"),
            outcome: outcome.into(),
            event_id,
        }
    };
    RedriveDeadLettersResponse {
        results: redrive.letters.iter().map(result).collect(),
        more: redrive.more,
    }
}
