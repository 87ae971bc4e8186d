//! The hub behind its lock, and everything that is fixed while the simulator runs.

use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha20Rng;
use tokio::sync::watch;

use crate::hub::{ConnectionId, Hub};
use crate::noise::ServerIdentity;
use crate::seed::Seed;

/// Shared by every task of one simulator.
pub(crate) struct Core {
    hub: Mutex<Hub>,
    identity: ServerIdentity,
    seed: Seed,
    /// Counts visits to the hub, so that waiters look again.
    visits: watch::Sender<u64>,
}

impl Core {
    pub(crate) fn new(hub: Hub, identity: ServerIdentity, seed: Seed) -> Self {
        Self {
            hub: Mutex::new(hub),
            identity,
            seed,
            visits: watch::Sender::new(0),
        }
    }

    /// Runs `act` on the hub, lets the phones react, and wakes waiters.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Hub) -> T) -> T {
        let result = {
            let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut hub);
            hub.settle();
            result
        };
        self.visits.send_modify(|n| *n = n.wrapping_add(1));
        result
    }

    /// Looks at the hub without changing it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Hub) -> T) -> T {
        look(&self.hub.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes whenever the hub may have changed.
    pub(crate) fn visits(&self) -> watch::Receiver<u64> {
        self.visits.subscribe()
    }

    pub(crate) fn identity(&self) -> &ServerIdentity {
        &self.identity
    }

    /// Randomness of one connection's handshake.
    pub(crate) fn handshake_rng(&self, id: ConnectionId) -> ChaCha20Rng {
        self.seed.stream(&format!("handshake:{}", id.0))
    }
}
