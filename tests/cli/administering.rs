//! Changing and ending what there is: workspaces and sessions.

use std::time::Duration;

use serde_json::Value;
use trunkline_simulator::{NewAccount, Simulator, SimulatorConfig};

use crate::support::core::{Paired, create_session, is_online, pair};
use crate::support::daemon::Daemon;
use crate::support::eventually;
use crate::talking::{json, refuses, succeeds};

const NUMBER: &str = "+2348030000001";
const PATIENCE: Duration = Duration::from_mins(3);

/// Changes the session `main`.
fn update<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["session", "update", "main"], more].concat()
}

/// The one object that a command prints as JSON.
#[track_caller]
fn printed(daemon: &Daemon, arguments: &[&str]) -> Value {
    let asked = [arguments, &["--output", "json"]].concat();
    let mut values = json(&succeeds(daemon, &asked));
    assert_eq!(values.len(), 1, "{arguments:?}: {values:?}");
    values.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_shown_changed_and_deleted() {
    // Nothing listens there: no session of this test connects.
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    let created = succeeds(&daemon, &["workspace", "create", "acme"]);
    assert_eq!(created, "workspace acme created\n");
    let first = printed(&daemon, &["workspace", "show", "acme"]);
    assert_eq!(first["name"], "workspaces/acme");
    let etag = first["etag"].as_str().unwrap();
    let shown = succeeds(&daemon, &["workspace", "show", "acme"]);
    for part in ["workspaces/acme", "created", etag] {
        assert!(shown.contains(part), "{part:?} is missing in: {shown}");
    }
    // Without an id, the one that the command line is about.
    let meant = ["workspace", "show", "--workspace", "acme"];
    assert_eq!(printed(&daemon, &meant), first);
    let meant = printed(&daemon, &["workspace", "show"]);
    assert_eq!(meant["name"], "workspaces/default");

    let rename = ["workspace", "update", "acme", "--display-name", "Acme Ltd"];
    let guarded = [&rename[..], &["--if-etag", etag]].concat();
    assert_eq!(succeeds(&daemon, &guarded), "workspace acme updated\n");
    let second = printed(&daemon, &["workspace", "show", "acme"]);
    assert_eq!(second["displayName"], "Acme Ltd");
    assert_ne!(second["etag"], first["etag"]);
    let table = succeeds(&daemon, &["workspace", "list"]);
    assert!(table.contains("Acme Ltd"), "{table}");
    // What the caller saw is no longer what there is.
    refuses(&daemon, &guarded, 1, &["ETAG_MISMATCH"]);
    let delete = ["workspace", "delete", "acme"];
    let stale = [&delete[..], &["--if-etag", etag]].concat();
    refuses(&daemon, &stale, 1, &["ETAG_MISMATCH"]);
    let unchanged = printed(&daemon, &["workspace", "show", "acme"]);
    assert_eq!(unchanged, second);
    // A name can be taken away again.
    let nameless = printed(
        &daemon,
        &["workspace", "update", "acme", "--display-name", ""],
    );
    assert!(nameless.get("displayName").is_none(), "{nameless}");
    refuses(
        &daemon,
        &["workspace", "update", "acme", "--display-name", "a\u{1b}b"],
        2,
        &["display_name", "control characters"],
    );
    refuses(
        &daemon,
        &["workspace", "update", "nobody", "--display-name", "x"],
        1,
        &["nobody", "RESOURCE_NOT_FOUND"],
    );

    // It goes with everything in it; the built-in one does not go.
    let inside = ["session", "create", "desk", "--workspace", "acme"];
    succeeds(&daemon, &inside);
    refuses(
        &daemon,
        &["workspace", "delete", "default"],
        1,
        &["RESOURCE_BUILT_IN"],
    );
    assert_eq!(succeeds(&daemon, &delete), "workspace acme deleted\n");
    refuses(
        &daemon,
        &["workspace", "show", "acme"],
        1,
        &["RESOURCE_NOT_FOUND"],
    );
    refuses(&daemon, &delete, 1, &["RESOURCE_NOT_FOUND"]);
    let left = json(&succeeds(
        &daemon,
        &["workspace", "list", "--output", "json"],
    ));
    assert_eq!(left.len(), 1, "{left:?}");
    // The same name later has nothing of it.
    succeeds(&daemon, &["workspace", "create", "acme"]);
    let none = succeeds(&daemon, &["session", "list", "--workspace", "acme"]);
    assert!(none.contains("no sessions"), "{none}");
    let gone = printed(&daemon, &delete);
    assert_eq!(gone["name"], "workspaces/acme");
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_renamed_restarted_logged_out_and_deleted() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let phone = simulator
        .create_account(NewAccount::new(NUMBER, "Shop"))
        .unwrap();
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    let channel = daemon.channel().await.unwrap();
    create_session(&channel, "main").await;

    // What is not named stays; labels are replaced as a whole.
    let labelled = update(&["--label", "team=support", "--label", "shift=day"]);
    let first = printed(&daemon, &labelled);
    assert_eq!(first["labels"]["shift"], "day");
    let renamed = succeeds(&daemon, &update(&["--display-name", "Front desk"]));
    assert!(renamed.starts_with("session main updated"), "{renamed}");
    let shown = succeeds(&daemon, &["session", "show", "main"]);
    for part in ["Front desk", "shift=day", "team=support"] {
        assert!(shown.contains(part), "{part:?} is missing in: {shown}");
    }
    let stale = first["etag"].as_str().unwrap();
    refuses(
        &daemon,
        &update(&["--no-labels", "--if-etag", stale]),
        1,
        &["ETAG_MISMATCH"],
    );
    let session = printed(&daemon, &["session", "show", "main"]);
    let etag = session["etag"].as_str().unwrap();
    assert!(shown.contains(etag), "{shown}");
    let replaced = update(&["--label", "team=sales", "--if-etag", etag]);
    let replaced = printed(&daemon, &replaced);
    assert_eq!(replaced["labels"], serde_json::json!({ "team": "sales" }));
    assert_eq!(replaced["displayName"], "Front desk");
    let bare = printed(&daemon, &update(&["--no-labels"]));
    assert!(bare.get("labels").is_none(), "{bare}");
    refuses(
        &daemon,
        &["session", "update", "nobody", "--no-labels"],
        1,
        &["nobody", "RESOURCE_NOT_FOUND"],
    );
    // Nothing to change is a mistake, and so is both at once.
    for more in [&[][..], &["--no-labels", "--label", "a=b"]] {
        let output = daemon.trunkline().args(update(more)).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }

    let paired = pair(&channel, "main", |qr| {
        phone.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    let online = async || is_online(&channel, "main").await;
    eventually("it is online", PATIENCE, online).await;

    // A restart is another connection of the same device.
    let sockets = || simulator.connections().accepted;
    let before = sockets();
    let restarting = succeeds(&daemon, &["session", "restart", "main"]);
    assert!(restarting.contains("main restarting"), "{restarting}");
    eventually("it connects once more", PATIENCE, async || {
        sockets() > before
    })
    .await;
    eventually("it is online again", PATIENCE, online).await;
    assert_eq!(phone.devices().len(), 1);

    // After a logout the phone has no such device, and the session can be linked again.
    let ended = succeeds(&daemon, &["session", "logout", "main"]);
    assert!(ended.contains("main logged out"), "{ended}");
    eventually("the phone's list is empty", PATIENCE, async || {
        phone.devices().is_empty()
    })
    .await;
    eventually("it is unpaired", PATIENCE, async || {
        succeeds(&daemon, &["session", "show", "main"]).contains("UNPAIRED")
    })
    .await;
    refuses(&daemon, &["session", "logout", "nobody"], 1, &["nobody"]);
    refuses(&daemon, &["session", "restart", "nobody"], 1, &["nobody"]);
    let paired = pair(&channel, "main", |qr| {
        phone.scan_qr(qr).unwrap();
    })
    .await;
    assert!(matches!(paired, Paired::Linked), "{paired:?}");
    eventually("it is online once more", PATIENCE, online).await;

    let delete = ["session", "delete", "main"];
    let stale = [&delete[..], &["--if-etag", stale]].concat();
    refuses(&daemon, &stale, 1, &["ETAG_MISMATCH"]);
    assert_eq!(phone.devices().len(), 1, "a refusal unlinks nothing");
    assert_eq!(succeeds(&daemon, &delete), "session main deleted\n");
    eventually("the phone's list is empty again", PATIENCE, async || {
        phone.devices().is_empty()
    })
    .await;
    refuses(&daemon, &["session", "show", "main"], 1, &["main"]);
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
