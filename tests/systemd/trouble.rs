//! What systemd does when the daemon hangs, dies, or cannot start.

use crate::machine::{MAKE_KEK, Machine, PATIENCE};
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

/// Holds threads of the running daemon, those of this name, while the others go on: in a control group of
/// their own below the unit's, which is frozen.
fn freeze_threads(machine: &Machine, name: &str) {
    let pid = machine.property("MainPID");
    machine.shell(&format!(
        "mountpoint -q /run/groups || {{ mkdir /run/groups; mount -t cgroup2 none /run/groups; }}
        frozen=/run/groups$(sed -n 's/^0:://p' /proc/{pid}/cgroup)/frozen
        mkdir \"$frozen\"
        echo threaded >\"$frozen/cgroup.type\"
        for thread in /proc/{pid}/task/*; do
            if test \"$(cat \"$thread/comm\")\" = {name}; then
                echo \"${{thread##*/}}\" >\"$frozen/cgroup.threads\"
            fi
        done
        test -n \"$(cat \"$frozen/cgroup.threads\")\"
        echo 1 >\"$frozen/cgroup.freeze\""
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_store_or_runtime_is_stuck_is_restarted_by_the_watchdog() {
    let machine = Machine::boot().await;
    let config = format!(
        "{}[store]\ncommit_timeout = \"1s\"\n",
        crate::machine::CONFIG
    );
    machine.write("/etc/trunkline/trunkline.toml", &config);
    machine.drop_in(
        "watchdog",
        "[Service]\nWatchdogSec=10s\nTimeoutAbortSec=5s\nRestartSec=100ms\n",
    );
    machine.runs(&["systemctl", "start", "trunkline"]);
    machine.runs(&["trunkline", "session", "create", "shop"]);
    for (restarts, threads) in [("1", "store-writer"), ("2", "trunkline")] {
        let stuck = machine.property("MainPID");
        freeze_threads(&machine, threads);
        // Something to write. Whoever asks for it waits in vain.
        machine.shell(&format!(
            "setsid trunkline workspace create w{restarts} >/dev/null 2>&1 </dev/null &"
        ));
        eventually("it runs again", PATIENCE, async || {
            machine.property("MainPID") != stuck && machine.property("ActiveState") == "active"
        })
        .await;
        assert_eq!(machine.property("NRestarts"), restarts, "{threads}");
        let lines = machine.lines();
        let timeouts = lines
            .iter()
            .filter(|line| line.contains("Watchdog timeout"));
        assert_eq!(timeouts.count().to_string(), restarts, "{lines:?}");
        if threads == "store-writer" {
            // The rest of it was alive and said why.
            let said = "the store does not answer";
            assert!(lines.iter().any(|line| line.contains(said)), "{lines:?}");
        }
        let sessions = machine.runs(&["trunkline", "session", "list"]);
        assert!(sessions.contains("shop"), "{sessions}");
    }
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
    machine.shell(MAKE_KEK);
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
