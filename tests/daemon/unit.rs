//! `systemd/trunkline.service`: complete, accepted by systemd, and tight.

use std::path::{Path, PathBuf};
use std::process::Command;

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/trunkline.service")
}

/// `(section, key, value)` of every line.
fn settings() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in std::fs::read_to_string(unit()).unwrap().lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            name.clone_into(&mut section);
        } else {
            let (key, value) = line.split_once('=').expect(line);
            found.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn the_unit_says_what_operations_rely_on() {
    let settings = settings();
    for (key, value) in [
        ("Type", "notify"),
        ("ExecStart", "/usr/bin/trunkline serve"),
        ("WatchdogSec", "30s"),
        ("TimeoutStopSec", "45s"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "78"),
        ("DynamicUser", "yes"),
        ("StateDirectory", "trunkline"),
        ("StateDirectoryMode", "0700"),
        ("RuntimeDirectory", "trunkline"),
        ("ConfigurationDirectory", "trunkline"),
        ("LoadCredentialEncrypted", "trunkline-kek"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
        ("CapabilityBoundingSet", ""),
        ("NoNewPrivileges", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("ProtectSystem", "strict"),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
        ("SystemCallFilter", "~@privileged @resources"),
    ] {
        let wanted = ("Service".to_owned(), key.to_owned(), value.to_owned());
        assert!(settings.contains(&wanted), "{key}={value} is missing");
    }
}

/// Runs `systemd-analyze` on a copy whose program exists.
fn analyze(arguments: &[&str]) -> std::process::Output {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("trunkline.service");
    let text = std::fs::read_to_string(unit()).unwrap();
    std::fs::write(&copy, text.replace("/usr/bin/trunkline", "/bin/true")).unwrap();
    Command::new("systemd-analyze")
        .args(arguments)
        .arg(&copy)
        .output()
        .expect("systemd-analyze runs; get it: scripts/prereqs test")
}

#[test]
fn systemd_accepts_the_unit_and_rates_its_exposure() {
    let verified = analyze(&["verify", "--man=no"]);
    let complaints = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{complaints}");
    let about_us: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("trunkline.service"))
        .collect();
    assert!(about_us.is_empty(), "{about_us:?}");

    // The threshold is ten times the exposure: 1.2.
    let rated = analyze(&["security", "--offline=true", "--threshold=12"]);
    let report = String::from_utf8_lossy(&rated.stdout);
    assert!(
        rated.status.success(),
        "{}",
        report.lines().last().unwrap_or_default()
    );
}
