//! `systemd/trunkline.service` says what operations rely on. What systemd makes of it: `tests/systemd`.

use std::path::{Path, PathBuf};

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
