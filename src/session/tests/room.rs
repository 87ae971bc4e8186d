//! A workspace whose journal has no room: its sessions wait, disconnected, until it has.

use crate::domain::session::{Cause, Connection};
use crate::session::state::Backoff;
use crate::session::testing::*;
use crate::session::{CommandError, Illegal, PairMode, PairingUpdate, SessionStatus};
use crate::store::Retention;

/// Waits so long that only room ends them.
fn patient() -> crate::session::SessionConfig {
    let mut config = quick();
    config.rules.slow = Backoff {
        base: std::time::Duration::from_hours(1),
        cap: std::time::Duration::from_hours(1),
    };
    config
}

async fn limit(h: &Harness, max_bytes: Option<u64>) -> bool {
    let retention = Retention {
        max_age: None,
        max_bytes,
    };
    h.workspace.enforce(&retention).await.unwrap().over_limit
}

fn waits_for_room(status: &SessionStatus) -> bool {
    matches!(
        &status.connection,
        Connection::Backoff {
            reason: Cause::WorkspaceFull,
            ..
        }
    )
}

#[tokio::test]
async fn sessions_of_a_full_workspace_wait_and_connect_when_there_is_room() {
    let mut h = Harness::new(patient()).await;
    let (a, b) = (h.online("a").await, h.online("b").await);
    assert!(
        limit(&h, Some(1)).await,
        "nobody has confirmed their events"
    );
    for name in [&a, &b] {
        h.until(name, waits_for_room).await;
    }
    assert!(!h.world.peer(&a, |peer| peer.is_live()));

    // No command gets past it, and no actor that begins anew.
    h.supervisor.restart(&a).await.unwrap();
    h.until(&a, waits_for_room).await;
    h.restart(patient()).await;
    for name in [&a, &b] {
        h.until(name, waits_for_room).await;
    }

    assert!(!limit(&h, None).await);
    for name in [&a, &b] {
        h.reach(name, "ONLINE").await;
    }
    let told = h.journalled_states(&a).await;
    assert_eq!(told.last(), Some(&"ONLINE"), "{told:?}");
    assert!(told.contains(&"BACKOFF"), "{told:?}");
}

#[tokio::test]
async fn a_number_is_not_linked_where_there_is_no_room() {
    let h = Harness::new(patient()).await;
    let name = h.create("a").await;
    h.online("b").await;
    assert!(limit(&h, Some(1)).await);
    let told = h.supervisor.pair(&name, PairMode::Qr).await.unwrap_err();
    assert_eq!(told, CommandError::Illegal(Illegal::WorkspaceFull));
    assert!(!limit(&h, None).await);
    h.supervisor.pair(&name, PairMode::Qr).await.unwrap();
}

#[tokio::test]
async fn a_pairing_under_way_is_finished() {
    let h = Harness::new(patient()).await;
    let name = h.create("a").await;
    let mut updates = h.supervisor.pair(&name, PairMode::Qr).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, updates.recv()).await;
    assert!(matches!(told.unwrap(), Some(PairingUpdate::Qr { .. })));
    assert!(limit(&h, Some(1)).await);
    h.world.control(&name, Control::Scan);
    let told = tokio::time::timeout(PATIENCE, updates.recv()).await;
    assert!(matches!(told.unwrap(), Some(PairingUpdate::Paired { .. })));
    let told = tokio::time::timeout(PATIENCE, updates.recv()).await;
    assert!(matches!(
        told.unwrap(),
        Some(PairingUpdate::Confirmed { .. })
    ));
    h.until(&name, waits_for_room).await;
    assert!(!limit(&h, None).await);
    h.reach(&name, "ONLINE").await;
}
