//! `make demo-once` as it runs: the binaries of this build, side by side.

#![cfg(feature = "simulator")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on should fail"
)]

use std::process::Command;

#[test]
fn the_demo_loses_and_doubles_nothing_and_says_so() {
    let trunkline = std::path::Path::new(env!("CARGO_BIN_EXE_trunkline"));
    let simulator = trunkline.with_file_name("trunkline-simulator");
    assert!(
        simulator.exists(),
        "{} is missing: build the whole workspace",
        simulator.display()
    );
    let state = tempfile::tempdir().unwrap();
    let demo = Command::new(trunkline)
        .env_clear()
        .args(["demo", "--once", "--kills", "4", "--under"])
        .arg(state.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&demo.stdout);
    eprintln!("{said}{}", String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{}", demo.status);
    let last = said.lines().last().unwrap();
    assert_eq!(last, "demo: sent 120 received 120 lost 0 duplicated 0");
    assert_eq!(
        std::fs::read_dir(state.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}
