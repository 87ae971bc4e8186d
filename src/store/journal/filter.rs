//! Which events a reader wants.

use super::Header;
use crate::domain::event::EventType;
use crate::domain::ids::SessionId;
use std::collections::BTreeSet;

/// Which events a reader wants. Empty sets mean "any".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only these types.
    pub types: BTreeSet<EventType>,
    /// Only these sessions. Workspace-level events pass.
    pub sessions: BTreeSet<SessionId>,
}

impl Filter {
    /// Whether it lets everything through.
    pub fn is_any(&self) -> bool {
        self.types.is_empty() && self.sessions.is_empty()
    }
}

/// A filter ready to be applied to headers.
#[derive(Debug, Clone, Default)]
pub struct CompiledFilter {
    pub(super) types: BTreeSet<EventType>,
    pub(super) sessions: Option<BTreeSet<u64>>,
    /// The subscription that reads; 0: none.
    pub(super) subscription: u64,
}

impl CompiledFilter {
    /// The same filter, as a subscription reads with it.
    pub(in crate::store) fn for_subscription(mut self, number: u64) -> Self {
        self.subscription = number;
        self
    }

    /// Whether the event passes. Gaps always do, unless they concern another subscription alone: nobody
    /// may miss that something is missing.
    pub fn matches(&self, header: &Header) -> bool {
        if header.subscription != 0 {
            return header.subscription == self.subscription;
        }
        let session = match &self.sessions {
            Some(sessions) => header.session == 0 || sessions.contains(&header.session),
            None => true,
        };
        header.event_type == EventType::Gap
            || (session && (self.types.is_empty() || self.types.contains(&header.event_type)))
    }
}
