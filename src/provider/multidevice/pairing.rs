//! What pairing needs beyond the library.
//!
//! The library keeps the identity it is given in memory and answers the server (`pair-device-sign`)
//! before it saves anything: a crash in between would leave the phone with a device nobody has the keys
//! of. So while a link is not confirmed, the device is saved before each frame leaves. The first save
//! that names an account also marks the link as unconfirmed, until a login succeeds; if the server
//! refuses that login, the credentials are discarded and the session is unpaired, not logged out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::Mutex;
use wacore::store::error::StoreError;
use whatsapp_rust::store::persistence_manager::PersistenceManager;

use super::backend::KeyBackend;

/// Saves the device before frames leave.
#[derive(Default)]
pub(super) struct DeviceFlush {
    parts: OnceLock<(Weak<PersistenceManager>, Arc<KeyBackend>)>,
    unconfirmed: AtomicBool,
    /// The library's flush returns early while another one is under way.
    flushing: Mutex<()>,
}

impl DeviceFlush {
    /// Connects it; the transport exists before the things it flushes do.
    pub(super) fn attach(&self, manager: &Arc<PersistenceManager>, backend: Arc<KeyBackend>) {
        // Set once per client; a second call would be the same client's.
        let _ = self.parts.set((Arc::downgrade(manager), backend));
    }

    /// Whether the link is not confirmed yet.
    pub(super) fn set_unconfirmed(&self, unconfirmed: bool) {
        self.unconfirmed.store(unconfirmed, Ordering::SeqCst);
    }

    /// Saves the device if it changed; when this returns, it is stored.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let Some((manager, backend)) = self.parts.get() else {
            return Ok(());
        };
        let _alone = self.flushing.lock().await;
        if let Some(manager) = manager.upgrade() {
            manager.flush().await?;
        }
        backend.saves_settled().await;
        Ok(())
    }

    /// What must be on disk before a frame leaves.
    pub(super) async fn before_send(&self) -> Result<(), StoreError> {
        if self.unconfirmed.load(Ordering::SeqCst) {
            return self.flush().await;
        }
        if let Some((_, backend)) = self.parts.get() {
            backend.saves_settled().await;
        }
        Ok(())
    }
}

/// How often a pairing code may be renewed before the pairing counts as expired.
pub(super) const MAX_CODES: u32 = 3;
