//! The Debian package: installed, upgraded, rolled back, removed and purged.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{CONFIG, MAKE_KEK, Machine, repository};

/// What the next release's program ends with: it does the same, and can be told from the one before.
const MARK: &str = "the next release";

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
        printf '%s' \"$4\" >>\"$2/usr/bin/trunkline\"; \
        (cd \"$2\" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums); \
        dpkg-deb --root-owner-group -Zgzip -z1 --build \"$2\" \"$3\"";
    let repacked = Command::new("sh")
        .args(["-euc", steps, "sh"])
        .args([&old, &contents, &new])
        .arg(MARK)
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

/// What is installed is what was packed, and is where systemd, `man` and shells look for it.
fn check_installation(machine: &Machine) {
    assert_eq!(machine.runs(&["dpkg", "--verify", "trunkline"]), "");
    let conffiles = machine.runs(&["dpkg-query", "-W", "-f=${Conffiles}", "trunkline"]);
    let conffiles: Vec<_> = conffiles.split_whitespace().step_by(2).collect();
    assert_eq!(conffiles, ["/etc/trunkline/trunkline.toml"]);
    assert_eq!(
        machine.shell("stat -c '%U:%G %a' /usr/bin/trunkline"),
        "root:root 755"
    );
    let files = machine.runs(&["dpkg", "-L", "trunkline"]);
    let files: Vec<_> = files.lines().collect();
    for file in [
        "/usr/lib/systemd/system/trunkline.service",
        "/usr/share/bash-completion/completions/trunkline",
        "/usr/share/zsh/vendor-completions/_trunkline",
        "/usr/share/fish/vendor_completions.d/trunkline.fish",
        "/usr/share/doc/trunkline/changelog.gz",
        "/usr/share/doc/trunkline/copyright",
    ] {
        assert!(files.contains(&file), "{file} is missing: {files:?}");
        machine.shell(&format!("test -s {file}"));
    }
    // A page for each command that the program has.
    let help = machine.runs(&["trunkline", "--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| line.starts_with("  "));
    // Longer descriptions go on in lines that are further in.
    let commands = commands.filter(|line| !line.starts_with("   "));
    let commands: Vec<_> = commands
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 15, "{help}");
    for command in commands {
        let page = format!("/usr/share/man/man1/trunkline-{command}.1.gz");
        assert!(files.contains(&page.as_str()), "{page} is missing");
    }
}

/// What an operator would miss: tenants, numbers with their labels, messages that wait.
fn holdings(machine: &Machine, message: &str) -> String {
    let json = |arguments: &[&str]| {
        machine.runs(&[&["trunkline"], arguments, &["--output", "json"]].concat())
    };
    let session = json(&["session", "show", "shop"]);
    let session: serde_json::Value = serde_json::from_str(&session).unwrap();
    let story = json(&["trace", message]);
    let story: serde_json::Value = serde_json::from_str(&story).unwrap();
    format!(
        "{}\n{} {}\n{}",
        json(&["workspace", "list"]),
        session["createTime"],
        session["labels"],
        story["steps"]
    )
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
    check_installation(&machine);
    machine.write("/etc/trunkline/trunkline.toml", CONFIG);
    machine.shell(MAKE_KEK);
    machine.runs(&["systemctl", "enable", "--now", "trunkline"]);
    machine.runs(&["trunkline", "workspace", "create", "bakery"]);
    machine.runs(&[
        "trunkline",
        "session",
        "create",
        "shop",
        "--label",
        "team=sales",
    ]);
    let send = ["trunkline", "send", "+15551234567", "hello", "--no-wait"];
    let message = machine.runs(&send);
    let message = message.split_whitespace().next().unwrap();
    let held = holdings(&machine, message);
    assert!(
        held.contains("bakery") && held.contains("accepted"),
        "{held}"
    );
    let before = machine.property("MainPID");
    // The program that runs, whatever lies in its place by now.
    let is_next_release = || {
        let end = format!(
            "tail -c {} /proc/{}/exe",
            MARK.len(),
            machine.property("MainPID")
        );
        machine.run(&["sh", "-c", &end]).stdout == MARK.as_bytes()
    };
    assert!(!is_next_release());

    // The configuration was changed here and not there: it stays, and nobody asks.
    machine.runs(&["dpkg", "--install", "/new.deb"]);
    assert!(installed().starts_with("0.1.1 "), "{}", installed());
    assert_eq!(machine.property("ActiveState"), "active");
    assert_ne!(machine.property("MainPID"), before, "it was restarted");
    assert!(is_next_release());
    assert_eq!(
        machine.shell("cat /etc/trunkline/trunkline.toml"),
        CONFIG.trim_end()
    );
    assert_eq!(holdings(&machine, message), held);

    machine.runs(&["dpkg", "--install", "/old.deb"]);
    assert!(installed().starts_with("0.1.0 "), "{}", installed());
    assert_eq!(machine.property("ActiveState"), "active");
    assert!(!is_next_release());
    assert_eq!(holdings(&machine, message), held);

    // Removed: stopped, and everything of the operator's stays.
    machine.runs(&["dpkg", "--remove", "trunkline"]);
    machine.shell("! test -e /usr/bin/trunkline");
    machine.shell("test -d /var/lib/private/trunkline/store");
    machine.shell("test -e /etc/trunkline/trunkline.toml");
    machine.runs(&["dpkg", "--install", "/new.deb"]);
    machine.runs(&["systemctl", "start", "trunkline"]);
    assert_eq!(holdings(&machine, message), held);

    // Purged: the credentials of linked devices go with everything of ours; what is the operator's stays.
    let kek = "/etc/credstore.encrypted/trunkline-kek";
    machine.write("/etc/trunkline/notes", "who has the key");
    machine.runs(&["dpkg", "--purge", "trunkline"]);
    machine.shell(&format!("test -s {kek}"));
    machine.shell("test -e /etc/trunkline/notes");
    machine.shell("! test -e /etc/trunkline/trunkline.toml");
    machine.shell(&format!("rm -r {kek} /etc/trunkline"));
    assert_eq!(
        machine.run(&["dpkg", "-s", "trunkline"]).status.code(),
        Some(1)
    );
    let left = machine.shell(
        "find / -xdev -path /proc -prune -o -path /sys -prune -o -name '*trunkline*' -print | grep -v '^/var/log\\|^/var/lib/dpkg/info/.*\\.list$' || true",
    );
    assert_eq!(left, "", "left behind");
}
