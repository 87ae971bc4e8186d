//! Linking a device, with every way it can end.

use tokio::sync::mpsc;

use crate::domain::event::Payload;
use crate::domain::session::{Cause, Login};
use crate::session::testing::*;
use crate::session::{CommandError, Illegal, PairMode, PairingUpdate};

async fn next(updates: &mut mpsc::Receiver<PairingUpdate>) -> Option<PairingUpdate> {
    tokio::time::timeout(PATIENCE, updates.recv())
        .await
        .unwrap()
}

async fn steps(h: &Harness) -> Vec<String> {
    let step = |event: crate::domain::event::Event| match event.payload {
        Payload::Pairing { step, .. } => Some(step),
        _ => None,
    };
    h.events().await.into_iter().filter_map(step).collect()
}

async fn shown_qr(
    h: &Harness,
    id: &str,
) -> (
    crate::domain::ids::SessionName,
    mpsc::Receiver<PairingUpdate>,
) {
    let name = h.create(id).await;
    let mut updates = h.supervisor.pair(&name, PairMode::Qr).await.unwrap();
    assert!(matches!(
        next(&mut updates).await,
        Some(PairingUpdate::Qr { .. })
    ));
    (name, updates)
}

#[tokio::test]
async fn a_scan_leads_to_a_confirmed_link() {
    let h = Harness::new(quick()).await;
    let (name, mut updates) = shown_qr(&h, "a").await;
    assert_eq!(
        h.supervisor.pair(&name, PairMode::Qr).await.unwrap_err(),
        CommandError::Illegal(Illegal::PairingUnderWay)
    );
    h.world.control(&name, Control::Scan);
    assert!(matches!(
        next(&mut updates).await,
        Some(PairingUpdate::Paired { account: Some(_) })
    ));
    assert!(matches!(
        next(&mut updates).await,
        Some(PairingUpdate::Confirmed { .. })
    ));
    assert_eq!(next(&mut updates).await, None);
    h.reach(&name, "ONLINE").await;
    let record = h.workspace.sessions().get(&name.session).await.unwrap();
    assert_eq!(record.login, Login::Paired);
    assert!(!record.pairing_unconfirmed);
    assert!(record.initial_sync_owed);
    assert!(record.account.is_some());
    assert!(record.linked_at.is_some());
    assert_eq!(steps(&h).await, ["started", "succeeded", "confirmed"]);
}

#[tokio::test]
async fn an_expired_pairing_can_be_repeated() {
    let h = Harness::new(quick()).await;
    let (name, mut updates) = shown_qr(&h, "a").await;
    h.world.control(&name, Control::End(Cause::PairingExpired));
    assert_eq!(next(&mut updates).await, Some(PairingUpdate::Expired));
    assert_eq!(next(&mut updates).await, None);
    h.reach(&name, "UNPAIRED").await;
    let mut updates = h.supervisor.pair(&name, PairMode::Qr).await.unwrap();
    assert!(matches!(
        next(&mut updates).await,
        Some(PairingUpdate::Qr { .. })
    ));
}

#[tokio::test]
async fn a_401_before_the_first_login_unpairs_and_wipes() {
    let h = Harness::new(quick()).await;
    let name = h.create("a").await;
    // The pairing attempt itself takes no plan; the login after it does.
    h.world.plan(
        &name,
        [Plan::Online, Plan::End(Cause::LoggedOut { code: 401 })],
    );
    let mut updates = h.supervisor.pair(&name, PairMode::Qr).await.unwrap();
    next(&mut updates).await;
    h.world.control(&name, Control::Scan);
    next(&mut updates).await;
    assert_eq!(
        next(&mut updates).await,
        Some(PairingUpdate::Failed {
            reason: "LINK_REFUSED".into()
        })
    );
    let status = h.reach(&name, "UNPAIRED").await;
    assert_eq!(status.login, Login::Unpaired);
    assert!(!h.has_credentials(&name).await);
}

#[tokio::test]
async fn a_crash_after_the_scan_is_resumed_and_confirmed() {
    let mut h = Harness::new(quick()).await;
    let name = h.create("a").await;
    h.world.plan(&name, [Plan::Online, Plan::Hang]);
    let mut updates = h.supervisor.pair(&name, PairMode::Qr).await.unwrap();
    next(&mut updates).await;
    h.world.control(&name, Control::Scan);
    assert!(matches!(
        next(&mut updates).await,
        Some(PairingUpdate::Paired { .. })
    ));
    h.restart(quick()).await;
    let status = h.reach(&name, "ONLINE").await;
    assert_eq!(status.login, Login::Paired);
    assert_eq!(
        steps(&h).await.last().map(String::as_str),
        Some("confirmed")
    );
}

#[tokio::test]
async fn whoever_walks_away_cancels_until_the_phone_has_accepted() {
    let h = Harness::new(quick()).await;
    let (name, updates) = shown_qr(&h, "a").await;
    drop(updates);
    h.reach(&name, "UNPAIRED").await;

    let (name, updates) = shown_qr(&h, "b").await;
    h.world.control(&name, Control::Scan);
    h.until(&name, |s| s.login == Login::Paired).await;
    drop(updates);
    h.reach(&name, "ONLINE").await;
}

#[tokio::test]
async fn a_connection_lost_while_the_qr_is_shown_fails_the_pairing() {
    let h = Harness::new(quick()).await;
    let (name, mut updates) = shown_qr(&h, "a").await;
    h.world.control(&name, Control::End(transient()));
    assert_eq!(
        next(&mut updates).await,
        Some(PairingUpdate::Failed {
            reason: "CONNECTION_LOST".into()
        })
    );
    h.reach(&name, "UNPAIRED").await;
}

#[tokio::test]
async fn a_stop_ends_a_pairing() {
    let h = Harness::new(quick()).await;
    let (name, mut updates) = shown_qr(&h, "a").await;
    h.supervisor.stop(&name).await.unwrap();
    assert_eq!(
        next(&mut updates).await,
        Some(PairingUpdate::Failed {
            reason: "CANCELED".into()
        })
    );
    h.reach(&name, "STOPPED").await;
    assert_eq!(
        h.supervisor.pair(&name, PairMode::Qr).await.unwrap_err(),
        CommandError::Illegal(Illegal::Stopped)
    );
}
