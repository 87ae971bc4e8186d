//! Groups by command line: found, looked into, written to.

use std::time::Duration;

use trunkline_simulator::{NewAccount, Simulator, SimulatorConfig};

use crate::support::core::{Paired, create_session, is_online, pair};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::talking::{json, refuses, succeeds};

const PATIENCE: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_found_looked_into_and_written_to() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let [shop, ana] =
        [("+2348030000001", "Shop"), ("+2348030000002", "Ana")].map(|(phone, name)| {
            simulator
                .create_account(NewAccount::new(phone, name))
                .unwrap()
        });
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    create_session(&channel, "main").await;
    refuses(&daemon, &["group", "list"], 75, &["SESSION_OFFLINE"]);
    let paired = pair(&channel, "main", |qr| {
        shop.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    eventually("it is online", PATIENCE, async || {
        is_online(&channel, "main").await
    })
    .await;
    let none = succeeds(&daemon, &["group", "list"]);
    assert!(none.contains("in no group"), "{none}");

    let team = ana.create_group("Team", &[&shop.phone()]).unwrap();
    let jid = team.jid();
    eventually("it is listed", PATIENCE, async || {
        succeeds(&daemon, &["group", "list", "--session", "main"]).contains(&jid)
    })
    .await;
    let list = succeeds(&daemon, &["group", "list"]);
    let row = list.lines().find(|line| line.contains(&jid)).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells, [jid.as_str(), "2", "Team"]);
    let listed = json(&succeeds(&daemon, &["group", "list", "--output", "json"]));
    assert_eq!(listed[0]["jid"], jid);

    let shown = succeeds(&daemon, &["group", "show", &jid]);
    let member = |phone: &str, role: &str| {
        let mut lines = shown.lines();
        lines.any(|line| line.contains(&format!("+{phone} ")) && line.contains(role))
    };
    assert!(shown.starts_with(&format!("{jid} Team\n")), "{shown}");
    assert!(member(&ana.phone(), "SUPERADMIN"), "{shown}");
    assert!(member(&shop.phone(), "MEMBER"), "{shown}");
    let shown = json(&succeeds(
        &daemon,
        &["group", "show", &jid, "--output", "json"],
    ));
    assert_eq!(shown[0]["members"].as_array().unwrap().len(), 2);
    // A group of somebody else's and one that was never made.
    let friend = simulator
        .create_account(NewAccount::new("+2348030000003", "Ben"))
        .unwrap();
    let others = ana.create_group("Others", &[&friend.phone()]).unwrap();
    for unknown in [others.jid(), "120363000000000000@g.us".to_owned()] {
        let parts = [unknown.as_str(), "RESOURCE_NOT_FOUND"];
        refuses(&daemon, &["group", "show", &unknown], 1, &parts);
    }

    let sent = succeeds(
        &daemon,
        &["send", &jid, "hello all", "--until", "delivered"],
    );
    assert!(sent.lines().last().unwrap().contains("DELIVERED"), "{sent}");
    let inbox = ana.inbox();
    let [hello] = &inbox[..] else {
        panic!("not one message: {inbox:?}");
    };
    assert_eq!(hello.text, "hello all");
    assert_eq!(
        hello.group.as_ref().map(ToString::to_string),
        Some(jid.clone())
    );

    ana.remove_from_group(&team, &[&shop.phone()]).unwrap();
    eventually("it is not listed any more", PATIENCE, async || {
        succeeds(&daemon, &["group", "list"]).contains("in no group")
    })
    .await;
    refuses(
        &daemon,
        &["send", &jid, "still there?", "--until", "sent"],
        1,
        &["NOT_IN_GROUP"],
    );
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
