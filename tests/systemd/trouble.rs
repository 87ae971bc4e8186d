//! What systemd does when the daemon hangs, dies, or cannot start.

use crate::machine::{Machine, PATIENCE};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_daemon_is_restarted_by_the_watchdog() {
    let machine = Machine::boot().await;
    // As in the unit, only sooner.
    machine.drop_in("watchdog", "[Service]\nWatchdogSec=10s\nRestartSec=100ms\n");
    machine.runs(&["systemctl", "start", "trunkline"]);
    machine.runs(&["trunkline", "session", "create", "shop"]);
    let hung = machine.property("MainPID");
    machine.shell(&format!("kill -s STOP {hung}"));
    eventually("it runs again", PATIENCE, async || {
        machine.property("MainPID") != hung && machine.property("ActiveState") == "active"
    })
    .await;
    assert_eq!(machine.property("NRestarts"), "1");
    let lines = machine.lines();
    assert!(
        lines.iter().any(|line| line.contains("Watchdog timeout")),
        "{lines:?}"
    );
    assert!(
        machine
            .runs(&["trunkline", "session", "list"])
            .contains("shop")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_is_started_again_with_all_it_held() {
    let machine = Machine::boot().await;
    machine.drop_in("soon", "[Service]\nRestartSec=100ms\n");
    machine.runs(&["systemctl", "start", "trunkline"]);
    machine.runs(&["trunkline", "session", "create", "shop"]);
    let killed = machine.property("MainPID");
    machine.shell(&format!("kill -s KILL {killed}"));
    eventually("it runs again", PATIENCE, async || {
        machine.property("MainPID") != killed && machine.property("ActiveState") == "active"
    })
    .await;
    assert!(
        machine
            .runs(&["trunkline", "session", "list"])
            .contains("shop")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_or_key_is_left_to_people() {
    let machine = Machine::boot().await;
    machine.drop_in("soon", "[Service]\nRestartSec=100ms\n");
    let good = crate::machine::CONFIG;
    machine.write(
        "/etc/trunkline/trunkline.toml",
        &format!("{good}[store]\ncahce = \"64MiB\"\n"),
    );
    refused(&machine, "did you mean store.cache?");

    // Made under the development key; then somebody adds a credential.
    machine.write("/etc/trunkline/trunkline.toml", good);
    machine.runs(&["systemctl", "start", "trunkline"]);
    machine.runs(&["systemctl", "stop", "trunkline"]);
    machine.shell(
        "mkdir -p /etc/credstore.encrypted; head -c 32 /dev/urandom | base64 | \
         systemd-creds encrypt --name=trunkline-kek - /etc/credstore.encrypted/trunkline-kek",
    );
    refused(&machine, "another key encryption key");
}

/// It does not start, says why, and is not tried again.
#[track_caller]
fn refused(machine: &Machine, why: &str) {
    assert!(
        !machine
            .run(&["systemctl", "start", "trunkline"])
            .status
            .success()
    );
    assert_eq!(machine.property("ExecMainStatus"), "78");
    // Not `activating (auto-restart)`: with that the state would be another.
    assert_eq!(machine.property("ActiveState"), "failed");
    assert_eq!(machine.property("NRestarts"), "0");
    let lines = machine.lines();
    assert!(lines.iter().any(|line| line.contains(why)), "{lines:?}");
}
