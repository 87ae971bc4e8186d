//! What all sessions of the process share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::Admission;
use super::config::SessionConfig;
use super::pacing::Pacing;
use crate::domain::clock::{Clock, Entropy};
use crate::provider::contract::Provider;

/// What all sessions of the process share.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) config: SessionConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Entropy,
    pub(super) admission: Arc<Admission>,
    pub(super) pacing: Pacing,
    /// By name.
    pub(super) providers: BTreeMap<String, Arc<dyn Provider>>,
}
