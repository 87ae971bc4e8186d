//! A tenant.

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ids::WorkspaceId;

/// A tenant: the boundary no data crosses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Client-chosen id.
    pub id: WorkspaceId,
    /// A label for people; may be empty.
    pub display_name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Changes with every update; given back by clients for optimistic concurrency.
    pub etag: String,
    /// Its journal is above the size limit although all confirmed history is gone: its sessions are
    /// kept disconnected, so that the provider queues for them.
    #[serde(default)]
    pub full: bool,
}
