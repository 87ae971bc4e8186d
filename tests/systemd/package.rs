//! The Debian package: installed, upgraded, rolled back, removed and purged.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{CONFIG, Machine, repository};

/// Packs the program under test as a release, and again as the next one; the files.
fn packages(folder: &Path) -> [PathBuf; 2] {
    let packed = Command::new(repository("scripts/package"))
        .args([env!("CARGO_BIN_EXE_trunkline"), "0.1.0"])
        .env("PACKAGE_QUICKLY", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&packed.stderr);
    assert!(packed.status.success(), "{said}");
    let listed = String::from_utf8(packed.stdout).unwrap();
    let file = |ending: &str| {
        let line = listed.lines().find(|line| line.ends_with(ending));
        repository(line.unwrap_or_else(|| panic!("no {ending}: {listed}")))
    };
    check_tarball(&file(".tar.gz"));
    let old = folder.join("old.deb");
    std::fs::copy(file(".deb"), &old).unwrap();

    let (contents, new) = (folder.join("contents"), folder.join("new.deb"));
    let steps = "dpkg-deb --raw-extract \"$1\" \"$2\"; \
        sed -i 's/^Version: .*/Version: 0.1.1/' \"$2/DEBIAN/control\"; \
        dpkg-deb --root-owner-group -Zgzip -z1 --build \"$2\" \"$3\"";
    let repacked = Command::new("sh")
        .args(["-euc", steps, "sh"])
        .args([&old, &contents, &new])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&repacked.stderr);
    assert!(repacked.status.success(), "{said}");
    [old, new]
}

/// The tarball holds what an installation by hand needs.
fn check_tarball(path: &Path) {
    let listed = Command::new("tar").arg("-tzf").arg(path).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for file in [
        "/trunkline\n",
        "/man/trunkline.1.gz\n",
        "/systemd/trunkline.service\n",
        "/config/trunkline.toml\n",
        "/docs/operations.md\n",
        "/LICENSE\n",
    ] {
        assert!(listed.contains(file), "{file} is missing:\n{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_installs_upgrades_rolls_back_and_leaves_nothing_after_a_purge() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = packages(folder.path());
    let machine = Machine::boot_with("bookworm", &[(&old, "/old.deb"), (&new, "/new.deb")]).await;
    let installed = || machine.runs(&["dpkg-query", "-W", "-f=${Version} ${Status}", "trunkline"]);

    machine.runs(&["dpkg", "--install", "/old.deb"]);
    // The key comes first: installing starts nothing.
    assert_eq!(machine.property("ActiveState"), "inactive");
    assert_eq!(machine.property("UnitFileState"), "disabled");
    machine.write("/etc/trunkline/trunkline.toml", CONFIG);
    machine.shell("test -e /usr/share/man/man1/trunkline-session-list.1.gz");
    machine.shell("test -e /usr/share/bash-completion/completions/trunkline");
    machine.runs(&["systemctl", "enable", "--now", "trunkline"]);
    machine.runs(&["trunkline", "session", "create", "shop"]);
    let before = machine.property("MainPID");

    // The configuration was changed here and not there: it stays, and nobody asks.
    machine.runs(&["dpkg", "--install", "/new.deb"]);
    assert!(installed().starts_with("0.1.1 "), "{}", installed());
    assert_eq!(machine.property("ActiveState"), "active");
    assert_ne!(machine.property("MainPID"), before, "the new release runs");
    assert_eq!(
        machine.shell("cat /etc/trunkline/trunkline.toml"),
        CONFIG.trim_end()
    );
    let sessions = || machine.runs(&["trunkline", "session", "list"]);
    assert!(sessions().contains("shop"), "{}", sessions());

    machine.runs(&["dpkg", "--install", "/old.deb"]);
    assert!(installed().starts_with("0.1.0 "), "{}", installed());
    assert!(sessions().contains("shop"), "{}", sessions());

    // Removed: stopped, and everything of the operator's stays.
    machine.runs(&["dpkg", "--remove", "trunkline"]);
    machine.shell("! test -e /usr/bin/trunkline");
    machine.shell("test -d /var/lib/private/trunkline/store");
    machine.shell("test -e /etc/trunkline/trunkline.toml");
    machine.runs(&["dpkg", "--install", "/new.deb"]);
    machine.runs(&["systemctl", "start", "trunkline"]);
    assert!(sessions().contains("shop"), "{}", sessions());

    machine.runs(&["dpkg", "--purge", "trunkline"]);
    let left = machine.shell(
        "find / -xdev -path /proc -prune -o -path /sys -prune -o -name '*trunkline*' -print | grep -v '^/var/log\\|^/var/lib/dpkg/info/.*\\.list$' || true",
    );
    assert_eq!(left, "", "left behind");
}
