//! Many sessions at once.

use std::time::Duration;

use crate::domain::clock::Clock as _;
use crate::domain::ids::SessionName;
use crate::domain::message::MessageState;
use crate::domain::session::Cause;
use crate::session::testing::*;

/// Most handshakes at once that [`a_thousand_lines_boot_hold_and_survive_a_mass_drop`] configures.
const AT_ONCE: u32 = 20;

#[tokio::test]
async fn a_thousand_lines_boot_hold_and_survive_a_mass_drop() {
    const SESSIONS: usize = 1_000;
    let mut config = quick();
    config.admission.simultaneous = AT_ONCE;
    let h = Harness::new(config).await;
    let mut names = Vec::new();
    for n in 0..SESSIONS {
        names.push(h.store_paired(&format!("s{n}")).await);
    }
    let restored = h.supervisor.restore().await.unwrap();
    assert_eq!(restored.connecting, SESSIONS);
    for name in &names {
        h.reach(name, "ONLINE").await;
    }
    assert_bounded(&h);
    every_line_carries_a_message(&h, &names).await;
    // Held all the while: all at one moment, on the connection of the boot.
    assert_eq!(h.supervisor.counts().online, SESSIONS);
    for name in &names {
        assert_eq!(h.world.peer(name, |peer| peer.attempts), 1, "{name}");
    }
    for (n, name) in names.iter().enumerate() {
        let cause = if n % 2 == 0 {
            Cause::Recycled
        } else {
            transient()
        };
        h.world.control(name, Control::End(cause));
    }
    for name in &names {
        h.until(name, |s| {
            s.last_cause.is_some() && s.connection.name() == "ONLINE"
        })
        .await;
        assert_eq!(h.world.peer(name, |peer| peer.attempts), 2, "{name}");
    }
    assert_bounded(&h);
    every_line_carries_a_message(&h, &names).await;
    let counts = h.supervisor.counts();
    assert_eq!(
        (counts.online, counts.wanted, counts.asking),
        (SESSIONS, SESSIONS, 0)
    );
    assert_eq!(h.supervisor.shutdown(PATIENCE).await, 0);
}

/// No more handshakes at once than allowed, and no line with two connections.
fn assert_bounded(h: &Harness) {
    let (handshakes, connections_per_line) = h.world.peaks();
    assert!(handshakes <= AT_ONCE, "{handshakes} handshakes at once");
    assert_eq!(connections_per_line, 1);
}

async fn every_line_carries_a_message(h: &Harness, names: &[SessionName]) {
    let mut messages = Vec::new();
    for name in names {
        messages.push((name, h.submit(name, "1", "hello").await.message.id));
    }
    for (name, id) in messages {
        h.settled(name, id, MessageState::Sent).await;
    }
}

#[tokio::test]
async fn sessions_with_messages_to_send_connect_first() {
    let mut config = quick();
    config.admission.simultaneous = 1;
    let mut h = Harness::new(config.clone()).await;
    for n in 0..12 {
        h.store_paired(&format!("idle{n}")).await;
    }
    let busy = h.store_paired("zbusy").await;
    // A daemon accepts the message while the session cannot connect.
    h.world.plan(&busy, [Plan::Hang]);
    h.supervisor.restore().await.unwrap();
    h.submit(&busy, "1", "hi").await;
    eventually(|| async {
        match h.world.peer(&busy, |peer| peer.attempts) {
            1 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    let before = {
        h.supervisor.shutdown(PATIENCE).await;
        h.world.order().len()
    };
    h.restart(config).await;
    h.reach(&busy, "ONLINE").await;
    let order = h.world.order();
    let place = order[before..]
        .iter()
        .position(|name| *name == busy)
        .unwrap();
    assert!(place <= 1, "{place}");
}

#[tokio::test]
async fn an_outage_is_probed_with_few_and_ends_for_all() {
    let mut config = quick();
    config.breaker.failures = 10;
    config.breaker.probes = 2;
    config.breaker.open.base = Duration::from_millis(100);
    config.breaker.open.cap = Duration::from_millis(200);
    config.admission.simultaneous = 8;
    let h = Harness::new(config).await;
    let mut names = Vec::new();
    for n in 0..40 {
        let name = h.store_paired(&format!("s{n}")).await;
        h.world
            .plan(&name, std::iter::repeat_n(Plan::End(transient()), 1_000));
        names.push(name);
    }
    h.supervisor.restore().await.unwrap();
    eventually(|| async {
        if h.supervisor.admission().is_tripped() {
            Ok(())
        } else {
            Err("not tripped".to_owned())
        }
    })
    .await;
    let attempts = |h: &Harness| -> u32 {
        names
            .iter()
            .map(|name| h.world.peer(name, |peer| peer.attempts))
            .sum()
    };
    let (before, since) = (attempts(&h), h.clock.elapsed());
    eventually(|| async {
        let watched = h.clock.elapsed().saturating_sub(since);
        if watched < Duration::from_millis(400) {
            return Err(format!("{watched:?} watched"));
        }
        Ok(())
    })
    .await;
    let during = u128::from(attempts(&h) - before);
    let watched = h.clock.elapsed().saturating_sub(since);
    // What was let in before it tripped, and two probes each time it opened.
    let most = 8 + 2 * (1 + watched.as_millis() / 100);
    assert!(during <= most, "{during} attempts in {watched:?}");
    for name in &names {
        h.world.peer(name, |peer| peer.plans.clear());
    }
    for name in &names {
        h.reach(name, "ONLINE").await;
    }
    assert!(!h.supervisor.admission().is_tripped());
}

#[tokio::test]
async fn a_session_whose_line_cannot_be_opened_takes_no_place_from_others() {
    let mut config = quick();
    config.admission.simultaneous = 1;
    config.rules.backoff.base = Duration::from_mins(1);
    config.rules.backoff.cap = Duration::from_mins(1);
    let h = Harness::new(config).await;
    let broken = h.store_paired("broken").await;
    h.world.peer(&broken, |peer| peer.open_errors = 1);
    h.supervisor.restore().await.unwrap();
    let status = h.reach(&broken, "BACKOFF").await;
    assert!(matches!(status.last_cause, Some(Cause::StoreFailed { .. })));
    let good = h.store_paired("good").await;
    h.supervisor.restore().await.unwrap();
    h.reach(&good, "ONLINE").await;
}

#[tokio::test]
async fn a_released_workspace_is_let_go_and_can_come_back() {
    let h = Harness::new(quick()).await;
    let names = [h.online("a").await, h.online("b").await];
    assert_eq!(h.supervisor.release(h.workspace.id()).await, 0);
    for name in &names {
        assert_eq!(h.supervisor.status(name), None);
    }
    assert_eq!(h.supervisor.counts().sessions, 0);
    h.supervisor.restore().await.unwrap();
    for name in &names {
        h.reach(name, "ONLINE").await;
    }
}
