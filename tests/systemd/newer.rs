//! `systemd/newer.conf`, under the systemd of Debian 13.

use crate::machine::{CONFIG, Machine, repository};

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_systemd_waits_for_reloads_and_backs_off() {
    let machine = Machine::boot_release("trixie").await;
    machine.drop_in(
        "newer",
        &std::fs::read_to_string(repository("systemd/newer.conf")).unwrap(),
    );
    let verified = machine.run(&["systemd-analyze", "verify", "--man=no", "trunkline.service"]);
    let complaints = String::from_utf8_lossy(&verified.stderr);
    assert!(!complaints.contains("trunkline"), "{complaints}");

    machine.runs(&["systemctl", "start", "trunkline"]);
    assert_eq!(machine.property("Type"), "notify-reload");
    assert_eq!(machine.property("RestartSteps"), "6");
    assert_eq!(machine.property("RestartMaxDelayUSec"), "5min");
    machine.write(
        "/etc/trunkline/trunkline.toml",
        &format!("{CONFIG}[log]\nlevel = \"debug\"\n"),
    );
    // This returns when the daemon has said that it is ready again: nothing is waited for here.
    machine.runs(&["systemctl", "reload", "trunkline"]);
    let lines = machine.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("\"applied\":\"log.level\"")),
        "{lines:?}"
    );
    machine.runs(&["systemctl", "stop", "trunkline"]);
    assert_eq!(machine.property("Result"), "success");
}
