//! `ack_id`: the name of a lease as clients hold it.
//!
//! A token is epoch ‖ revision ‖ lease ‖ tag, in base64url. The tag is a keyed hash under the workspace's
//! index key over all of it and the subscription, so a client can neither make one up nor use one of
//! another subscription or workspace. The epoch counts runs of the subscription's dispatcher: a token of
//! an earlier run names a lease that died with it, but its ack is still welcome.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use super::dispatch::{LeaseRef, Revision};
use crate::store::{Hash, Journal, SubscriptionRecord};

/// Bytes before the tag.
const BODY: usize = 24;
/// Bytes of a token.
const LENGTH: usize = BODY + 16;

/// Makes and reads the tokens of one run of one subscription.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    journal: Journal,
    /// Names the subscription, also apart from an earlier one with the same id.
    subject: String,
    epoch: u64,
}

impl Tokens {
    /// Tokens of run `epoch` of a subscription.
    pub(super) fn new(journal: Journal, record: &SubscriptionRecord, epoch: u64) -> Self {
        Self {
            journal,
            subject: format!("{}\0{}", record.id, record.created_at.0),
            epoch,
        }
    }

    /// The token of a lease given out in this run.
    pub(super) fn make(&self, revision: Revision, lease: u64) -> String {
        let mut token = Vec::with_capacity(LENGTH);
        for part in [self.epoch, revision, lease] {
            token.extend_from_slice(&part.to_be_bytes());
        }
        let tag = self.tag(&token);
        token.extend_from_slice(&tag.0);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// What a token names; `None` if it was not made for this subscription.
    pub(super) fn read(&self, text: &str) -> Option<LeaseRef> {
        let token: [u8; LENGTH] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (body, tag) = token.split_at(BODY);
        if !bool::from(self.tag(body).0.ct_eq(tag)) {
            return None;
        }
        let mut parts = body
            .chunks_exact(8)
            .map(|part| part.try_into().map(u64::from_be_bytes).unwrap_or_default());
        let (epoch, revision, lease) = (parts.next()?, parts.next()?, parts.next()?);
        Some(LeaseRef {
            revision,
            lease: (epoch == self.epoch).then_some(lease),
        })
    }

    fn tag(&self, body: &[u8]) -> Hash {
        let text = format!("lease\0{}\0{}", self.subject, hex::encode(body));
        self.journal.key_hash(&text)
    }
}
