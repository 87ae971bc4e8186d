//! A group's handle.

use std::sync::Arc;

use wacore_binary::{Jid, JidExt as _};

use crate::core::Core;
use crate::hub::GroupInfo;

/// A group of simulated people and clients. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    core: Arc<Core>,
    jid: Jid,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Group").field(&self.jid()).finish()
    }
}

impl Group {
    pub(crate) fn new(core: Arc<Core>, jid: Jid) -> Self {
        Self { core, jid }
    }

    /// The group that `jid` names; nothing when there is none.
    pub(crate) fn find(core: &Arc<Core>, jid: &str) -> Option<Self> {
        let jid: Jid = jid.parse().ok()?;
        core.look(|hub| hub.group_info(&jid))
            .map(|_| Self::new(Arc::clone(core), jid))
    }

    pub(crate) fn address(&self) -> &Jid {
        debug_assert!(self.jid.is_group());
        &self.jid
    }

    /// `<digits>@g.us`
    pub fn jid(&self) -> String {
        self.jid.to_string()
    }

    /// Its name and members now; nothing for a handle of another simulator.
    pub fn info(&self) -> Option<GroupInfo> {
        self.core.look(|hub| hub.group_info(&self.jid))
    }
}
