//! A machine with systemd, booted for one test and gone with it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::eventually;

/// How long anything in the machine may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A configuration under which nothing leaves the machine.
pub(crate) const CONFIG: &str = "[multidevice]\nendpoint = \"ws://127.0.0.1:9/ws/chat\"\n";

/// How the operator makes the key encryption key, as `systemd/README.md` says.
pub(crate) const MAKE_KEK: &str = "mkdir -p /etc/credstore.encrypted; head -c 32 /dev/urandom | base64 | \
    systemd-creds encrypt --name=trunkline-kek - /etc/credstore.encrypted/trunkline-kek";

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A command that runs as root.
fn privileged(program: &str) -> Command {
    let root = Command::new("id").arg("-u").output().unwrap();
    if root.stdout.trim_ascii() == b"0" {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

/// See the module documentation.
pub(crate) struct Machine {
    /// Process id of the machine's systemd, seen from here.
    leader: String,
    boot: Child,
    /// Closing it ends the machine.
    stdin: Option<ChildStdin>,
    console: TempDir,
}

impl Machine {
    /// Boots a Debian 12 with the program and the unit where the package puts them, and `CONFIG`.
    pub(crate) async fn boot() -> Self {
        Self::boot_release("bookworm").await
    }

    /// The same with another release of Debian.
    pub(crate) async fn boot_release(suite: &str) -> Self {
        let unit = repository("systemd/trunkline.service");
        let files: [(&Path, &str); 2] = [
            (
                Path::new(env!("CARGO_BIN_EXE_trunkline")),
                "/usr/bin/trunkline",
            ),
            (&unit, "/usr/lib/systemd/system/trunkline.service"),
        ];
        let machine = Self::boot_with(suite, &files).await;
        machine.runs(&["trunkline", "--version"]);
        machine.write("/etc/trunkline/trunkline.toml", CONFIG);
        machine.runs(&["systemctl", "daemon-reload"]);
        machine
    }

    /// Boots a release of Debian with these files of ours in these places of the machine.
    pub(crate) async fn boot_with(suite: &str, files: &[(&Path, &str)]) -> Self {
        let console = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(console.path().join("log")).unwrap();
        let mut command = privileged(repository("scripts/machine").to_str().unwrap());
        command.args(["boot", suite]);
        for (here, there) in files {
            command.arg(format!("--bind-ro={}:{there}", here.display()));
        }
        let mut boot = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdin = boot.stdin.take();
        let mut said = BufReader::new(boot.stdout.take().unwrap());
        let mut leader = String::new();
        said.read_line(&mut leader).unwrap();
        let machine = Self {
            leader: leader.trim().to_owned(),
            boot,
            stdin,
            console,
        };
        assert!(
            !machine.leader.is_empty(),
            "no machine:\n{}",
            machine.console()
        );
        eventually("the machine is up", PATIENCE, async || {
            let state = machine.run(&["systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            // `degraded`: a container lacks devices that some unit of Debian wants.
            matches!(state.as_str(), "running" | "degraded")
        })
        .await;
        machine
    }

    fn console(&self) -> String {
        std::fs::read_to_string(self.console.path().join("log")).unwrap_or_default()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = privileged("nsenter");
        command
            .args(["--target", &self.leader, "--all"])
            .args(["env", "--ignore-environment"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"])
            .args(arguments);
        command
    }

    /// Runs a command in the machine, as root.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same; its output, without the line break at its end.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub(crate) fn runs(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.lines().join("\n")
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim_end().to_owned()
    }

    /// Runs a line of shell.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        self.runs(&["sh", "-euc", script])
    }

    /// Writes a file, with the directories on the way to it.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, text: &str) {
        let script = format!("mkdir -p \"$(dirname '{path}')\"; cat > '{path}'");
        let mut child = self
            .command(&["sh", "-euc", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success(), "{path} is not written");
    }

    /// Adds settings to the unit.
    #[track_caller]
    pub(crate) fn drop_in(&self, name: &str, text: &str) {
        self.write(
            &format!("/etc/systemd/system/trunkline.service.d/{name}.conf"),
            text,
        );
        self.runs(&["systemctl", "daemon-reload"]);
    }

    /// A property of the unit, as `systemctl show` says it.
    #[track_caller]
    pub(crate) fn property(&self, name: &str) -> String {
        self.runs(&["systemctl", "show", "--value", "-p", name, "trunkline"])
    }

    /// What was said goes another way than `systemctl`'s answer, and may be slower.
    fn sync_journal(&self) {
        // Whoever looks at a machine that is going down sees what there is.
        let _ = self.run(&["journalctl", "--sync"]);
    }

    /// What the journal has of the daemon, whole entries.
    #[track_caller]
    pub(crate) fn journal(&self) -> Vec<Value> {
        self.sync_journal();
        let output = self.run(&["journalctl", "--unit=trunkline", "--output=json", "--quiet"]);
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What the journal has of the daemon and of systemd about it, the text alone.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.sync_journal();
        let output = self.run(&["journalctl", "--unit=trunkline", "--output=cat", "--quiet"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines();
            let tail = &lines[lines.len().saturating_sub(40)..];
            // Whatever the journal has is what explains the failure.
            let _ = writeln!(
                std::io::stderr(),
                "--- the unit's journal ---\n{}",
                tail.join("\n")
            );
        }
        drop(self.stdin.take());
        let _ = self.boot.wait();
    }
}
