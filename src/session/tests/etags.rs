//! Commands that insist on the record they were decided on.

use crate::domain::session::Desired;
use crate::session::testing::*;
use crate::session::{CommandError, Verb};

#[tokio::test]
async fn a_stale_etag_changes_nothing() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let sessions = h.workspace.sessions();
    let read = sessions.get(&name.session).await.unwrap();
    sessions
        .update(&name.session, None, |record| {
            record.display_name = "renamed".into();
        })
        .await
        .unwrap();
    for verb in [Verb::Stop, Verb::Start, Verb::Restart, Verb::Logout] {
        let refused = h.supervisor.command(&name, verb, Some(&read.etag)).await;
        assert_eq!(refused, Err(CommandError::EtagMismatch), "{verb:?}");
    }
    let status = h.supervisor.status(&name).unwrap();
    assert_eq!(status.connection.name(), "ONLINE");
    let now = sessions.get(&name.session).await.unwrap();
    assert_eq!(now.desired, Desired::Running);
    eventually(|| async {
        let now = sessions.get(&name.session).await.unwrap();
        let stop = h.supervisor.command(&name, Verb::Stop, Some(&now.etag));
        stop.await.map_err(|error| error.to_string())
    })
    .await;
    h.reach(&name, "STOPPED").await;
}

#[tokio::test]
async fn of_many_who_read_the_same_etag_one_wins() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    // The session itself may have changed its record between the reading and the commands: then nobody
    // wins, and all read again.
    eventually(|| async {
        let record = h.workspace.sessions().get(&name.session).await.unwrap();
        let commands = (0..8).map(|n| {
            let verb = [Verb::Stop, Verb::Start][n % 2];
            h.supervisor.command(&name, verb, Some(&record.etag))
        });
        let outcomes = futures::future::join_all(commands).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert!(won <= 1, "{outcomes:?}");
        if won == 1 {
            Ok(())
        } else {
            Err(format!("{outcomes:?}"))
        }
    })
    .await;
}
