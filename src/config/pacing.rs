//! `[pacing]`: how fast a session sends. It serves deliverability and evades nothing: what the provider
//! limits stays limited.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problems;

/// How fast a session sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pacing {
    /// Messages one session may send per minute.
    pub per_minute: u32,
    /// Messages one session may send at once after a quiet time.
    pub burst: u32,
    /// Messages one session may send to the same recipient per minute.
    pub recipient_per_minute: u32,
    /// Messages one session may send to the same recipient at once after a quiet time.
    pub recipient_burst: u32,
    /// Messages one session may send per day (UTC); 0 for no such limit.
    pub per_day: u64,
    /// Conversations one session may open per day with people never written to before; 0 for no such
    /// limit.
    pub new_contacts_per_day: u64,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            per_minute: 600,
            burst: 50,
            recipient_per_minute: 300,
            recipient_burst: 50,
            per_day: 0,
            new_contacts_per_day: 1000,
        }
    }
}

impl Pacing {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, value) in [
            ("pacing.per_minute", self.per_minute),
            ("pacing.burst", self.burst),
            ("pacing.recipient_per_minute", self.recipient_per_minute),
            ("pacing.recipient_burst", self.recipient_burst),
        ] {
            problems.require(
                (1..=1_000_000).contains(&value),
                key,
                "is outside 1 to 1000000",
            );
        }
    }
}
