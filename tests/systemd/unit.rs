//! What systemd thinks of the unit as it is in the repository.

use crate::machine::Machine;

#[tokio::test(flavor = "multi_thread")]
async fn systemd_accepts_the_unit_and_rates_its_exposure() {
    let machine = Machine::boot().await;
    let verified = machine.run(&["systemd-analyze", "verify", "--man=no", "trunkline.service"]);
    let complaints = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{complaints}");
    assert!(!complaints.contains("trunkline"), "{complaints}");

    // The threshold is ten times the exposure: 1.2.
    let rated = machine.run(&[
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=12",
        "--no-pager",
        "/usr/lib/systemd/system/trunkline.service",
    ]);
    let report = String::from_utf8_lossy(&rated.stdout);
    assert!(
        rated.status.success(),
        "{}{}",
        report.lines().last().unwrap_or_default(),
        String::from_utf8_lossy(&rated.stderr)
    );
    assert!(report.contains("Overall exposure level"), "{report}");
}
