//! How connections end, and what comes after.

use std::time::Duration;

use crate::domain::session::{Cause, Connection, Desired, Login};
use crate::session::testing::*;
use crate::session::{CommandError, Illegal};

#[tokio::test]
async fn every_cause_leads_where_it_should() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    // Routine, restart, trouble and a limit: each comes back by itself.
    for cause in [
        Cause::Recycled,
        Cause::RestartRequired,
        transient(),
        Cause::RateLimited,
        Cause::Outdated,
        Cause::Stalled,
        Cause::StoreFailed { detail: "x".into() },
        Cause::Internal { detail: "x".into() },
    ] {
        let before = h.world.peer(&name, |peer| peer.attempts);
        h.world
            .control(&name, crate::session::testing::Control::End(cause.clone()));
        h.until(&name, |s| s.last_cause.as_ref() == Some(&cause))
            .await;
        h.reach(&name, "ONLINE").await;
        assert!(
            h.world.peer(&name, |peer| peer.attempts) > before,
            "{cause:?}"
        );
    }
    assert_eq!(h.world.peaks().1, 1, "two attempts of one session at once");
}

#[tokio::test]
async fn terminal_causes_stop_and_tell() {
    let h = Harness::new(quick()).await;
    for (id, cause, state) in [
        ("a", Cause::LoggedOut { code: 401 }, "LOGGED_OUT"),
        ("b", Cause::Replaced, "REPLACED"),
        (
            "c",
            Cause::Banned {
                code: 101,
                until: None,
            },
            "BANNED",
        ),
        (
            "d",
            Cause::Banned {
                code: 101,
                until: Some(far_future()),
            },
            "BANNED",
        ),
    ] {
        let name = h.online(id).await;
        h.world.control(&name, Control::End(cause));
        h.reach(&name, state).await;
        assert!(h.has_credentials(&name).await, "{state}");
        assert_eq!(h.world.peer(&name, |peer| peer.attempts), 1, "{state}");
        assert_eq!(h.journalled_states(&name).await.last(), Some(&state));
    }
}

#[tokio::test]
async fn a_restart_says_nothing_of_sessions_that_rest() {
    let mut h = Harness::new(quick()).await;
    let unpaired = h.create("new").await;
    assert_eq!(
        h.supervisor.status(&unpaired).unwrap().connection,
        Connection::Unpaired
    );
    let stopped = h.online("stopped").await;
    h.supervisor.stop(&stopped).await.unwrap();
    let replaced = h.online("replaced").await;
    h.world.control(&replaced, Control::End(Cause::Replaced));
    let banned = h.online("banned").await;
    let until = Some(far_future());
    let cause = Cause::Banned { code: 101, until };
    h.world.control(&banned, Control::End(cause));
    let resting = [
        (&unpaired, "UNPAIRED"),
        (&stopped, "STOPPED"),
        (&replaced, "REPLACED"),
        (&banned, "BANNED"),
    ];
    for (name, state) in resting {
        h.reach(name, state).await;
        assert_eq!(h.journalled_states(name).await.last(), Some(&state));
    }
    let before = h.events().await.len();
    // The second restart ends what the first began: every actor has looked around by then.
    for _ in 0..2 {
        h.restart(quick()).await;
        for (name, state) in resting {
            let status = h.supervisor.status(name).unwrap();
            assert_eq!(status.connection.name(), state);
        }
    }
    assert_eq!(h.events().await.len(), before);
}

#[tokio::test]
async fn verdicts_survive_a_restart_and_an_explicit_start_overrides_replaced() {
    let mut h = Harness::new(quick()).await;
    let (replaced, out) = (h.online("a").await, h.online("b").await);
    h.world.control(&replaced, Control::End(Cause::Replaced));
    h.world
        .control(&out, Control::End(Cause::LoggedOut { code: 401 }));
    h.reach(&replaced, "REPLACED").await;
    h.reach(&out, "LOGGED_OUT").await;
    h.restart(quick()).await;
    h.reach(&replaced, "REPLACED").await;
    h.reach(&out, "LOGGED_OUT").await;
    assert_eq!(
        h.supervisor.start(&out).await,
        Err(CommandError::Illegal(Illegal::LoggedOut))
    );
    h.supervisor.start(&replaced).await.unwrap();
    h.reach(&replaced, "ONLINE").await;
}

#[tokio::test]
async fn restore_connects_what_is_wanted_and_paired_and_nothing_else() {
    let h = Harness::new(quick()).await;
    let wanted = h.store_paired("wanted").await;
    let stopped = h.store_paired("stopped").await;
    let sessions = h.workspace.sessions();
    sessions
        .update(&stopped.session, None, |record| {
            record.desired = Desired::Stopped;
        })
        .await
        .unwrap();
    let restored = h.supervisor.restore().await.unwrap();
    assert_eq!((restored.sessions, restored.connecting), (2, 1));
    h.reach(&wanted, "ONLINE").await;
    h.reach(&stopped, "STOPPED").await;
    assert_eq!(h.world.peer(&stopped, |peer| peer.attempts), 0);
    h.supervisor.start(&stopped).await.unwrap();
    h.reach(&stopped, "ONLINE").await;
}

#[tokio::test]
async fn a_stop_ends_an_attempt_that_hangs() {
    let h = Harness::new(quick()).await;
    let name = h.store_paired("a").await;
    h.world.plan(&name, [Plan::Hang]);
    h.supervisor.restore().await.unwrap();
    eventually(|| async {
        match h.world.peer(&name, |peer| peer.attempts) {
            1 => Ok(()),
            n => Err(n.to_string()),
        }
    })
    .await;
    let status = h.supervisor.stop(&name).await.unwrap();
    assert_eq!(status.desired, Desired::Stopped);
    h.reach(&name, "STOPPED").await;
    h.supervisor.start(&name).await.unwrap();
    h.reach(&name, "ONLINE").await;
}

#[tokio::test]
async fn a_line_that_ignores_its_stop_is_dropped() {
    let mut config = quick();
    config.close_timeout = Duration::from_millis(50);
    let h = Harness::new(config).await;
    let name = h.store_paired("a").await;
    h.world.plan(&name, [Plan::Stubborn]);
    h.supervisor.restore().await.unwrap();
    eventually(|| async {
        match h.world.peer(&name, |peer| peer.attempts) {
            1 => Ok(()),
            n => Err(format!("{n} attempts")),
        }
    })
    .await;
    h.supervisor.stop(&name).await.unwrap();
    h.reach(&name, "STOPPED").await;
    h.supervisor.start(&name).await.unwrap();
    h.reach(&name, "ONLINE").await;
    assert_eq!(h.world.peaks().1, 1);
}

#[tokio::test]
async fn a_login_that_takes_too_long_is_tried_again() {
    let mut config = quick();
    config.login_timeout = Duration::from_millis(50);
    let h = Harness::new(config).await;
    let name = h.store_paired("a").await;
    h.world.plan(&name, [Plan::Hang]);
    h.supervisor.restore().await.unwrap();
    let status = h.reach(&name, "ONLINE").await;
    assert_eq!(status.last_cause, Some(Cause::LoginTimeout));
}

#[tokio::test]
async fn silence_is_probed_and_an_unanswered_probe_reconnects() {
    let mut config = quick();
    config.stall.silence = Duration::from_millis(40);
    config.stall.patience = Duration::from_millis(20);
    let h = Harness::new(config).await;
    let name = h.online("a").await;
    h.world.peer(&name, |peer| peer.silent = true);
    h.until(&name, |s| s.last_cause == Some(Cause::Stalled))
        .await;
    h.world.peer(&name, |peer| peer.silent = false);
    h.reach(&name, "ONLINE").await;
}

#[tokio::test]
async fn a_logout_tells_the_provider_and_deletes_the_credentials() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    h.supervisor.logout(&name).await.unwrap();
    let status = h.reach(&name, "UNPAIRED").await;
    assert_eq!((status.login, status.account), (Login::Unpaired, None));
    assert_eq!(h.world.peer(&name, |peer| peer.logouts), 1);
    assert!(!h.has_credentials(&name).await);
    assert_eq!(
        h.supervisor.logout(&name).await,
        Err(CommandError::Illegal(Illegal::NotPaired))
    );
}

#[tokio::test]
async fn a_deleted_session_is_gone_from_memory_and_store() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let wrong = h
        .supervisor
        .delete(&h.workspace, &name, Some("not-the-etag"))
        .await;
    assert!(wrong.is_err());
    assert!(h.supervisor.status(&name).is_some());
    h.supervisor
        .delete(&h.workspace, &name, None)
        .await
        .unwrap();
    assert_eq!(h.supervisor.status(&name), None);
    assert_eq!(h.supervisor.start(&name).await, Err(CommandError::NotFound));
    assert!(h.workspace.sessions().get(&name.session).await.is_err());
    let again = h.create("a").await;
    h.reach(&again, "UNPAIRED").await;
    assert!(!h.has_credentials(&again).await);
}

#[tokio::test]
async fn an_orderly_stop_is_remembered_and_a_running_session_is_not_orderly() {
    let mut h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let clean = |h: &Harness| {
        let sessions = h.workspace.sessions();
        let id = name.session.clone();
        async move { sessions.get(&id).await.unwrap().stopped_cleanly }
    };
    assert!(!clean(&h).await);
    h.supervisor.shutdown(PATIENCE).await;
    assert!(clean(&h).await);
    h.restart(quick()).await;
    h.reach(&name, "ONLINE").await;
    assert!(!clean(&h).await);
}
