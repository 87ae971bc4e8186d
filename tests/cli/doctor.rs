//! What doctor finds, with and without a daemon, and that every finding comes with its fix.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use trunkline_simulator::{Simulator, SimulatorConfig};

use crate::support::daemon::Daemon;
use crate::support::eventually;

/// A machine may be busy with something else.
const PATIENCE: Duration = Duration::from_mins(3);

fn trunkline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.env_clear();
    command
}

fn findings(output: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What was said of `check`; whatever is not as it should be says what to do.
#[track_caller]
fn finding<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    for finding in findings {
        let fix = finding["fix"].as_str().unwrap();
        assert_eq!(finding["level"] == "ok", fix.is_empty(), "{finding}");
    }
    let mut named = findings.iter().filter(|finding| finding["check"] == check);
    named
        .next()
        .unwrap_or_else(|| panic!("no {check}: {findings:?}"))
}

#[track_caller]
fn level<'a>(findings: &'a [Value], check: &str) -> &'a str {
    finding(findings, check)["level"].as_str().unwrap()
}

#[test]
fn doctor_names_what_is_wrong_without_a_daemon_and_how_to_mend_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let kek = dir.path().join("kek");
    std::fs::write(&kek, "short").unwrap();
    let file = dir.path().join("trunkline.toml");
    // Nobody listens on port 9 of this machine.
    let text = format!(
        "state_dir = \"{}\"\n[multidevice]\nendpoint = \"wss://127.0.0.1:9/ws\"\n[keys]\nsource = \"file\"\nfile = \"{}\"\n",
        state.display(),
        kek.display()
    );
    std::fs::write(&file, text).unwrap();
    let doctor = |arguments: &[&str]| {
        let mut command = trunkline();
        command.arg("doctor").arg("--config").arg(&file);
        command.args(arguments).output().unwrap()
    };
    let output = doctor(&["--output", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found = findings(&output.stdout);
    assert_eq!(level(&found, "configuration"), "ok");
    for check in ["state", "key", "endpoint", "daemon"] {
        assert_eq!(level(&found, check), "problem", "{found:?}");
    }
    let text = String::from_utf8(doctor(&[]).stdout).unwrap();
    assert!(text.contains("fix: chmod 700"), "{text}");
    let offline = findings(&doctor(&["--offline", "--output", "json"]).stdout);
    assert!(offline.iter().all(|finding| finding["check"] != "endpoint"));

    std::fs::write(&file, "[store]\ncahce = \"1MiB\"\n").unwrap();
    assert_eq!(doctor(&[]).status.code(), Some(78));
}

#[track_caller]
fn is(finding: &Value, level: &str, parts: &[&str]) {
    assert_eq!(finding["level"], level, "{finding}");
    for part in parts {
        assert!(finding.to_string().contains(part), "{part}: {finding}");
    }
}

#[tokio::test]
async fn doctor_looks_into_a_store_that_rests() {
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    let run = |arguments: &[&str], daemon: &Daemon| {
        let mut command = daemon.trunkline();
        command.args(arguments).output().unwrap()
    };
    let store = |daemon: &Daemon| {
        let output = run(&["doctor", "--offline", "--output", "json"], daemon);
        finding(&findings(&output.stdout), "store").clone()
    };
    is(&store(&daemon), "ok", &["the first start makes it"]);
    daemon.start().await;
    for session in ["a", "b"] {
        let created = run(&["session", "create", session], &daemon);
        assert!(created.status.success(), "{created:?}");
    }
    assert_eq!(daemon.stop().await, Some(0));
    is(&store(&daemon), "ok", &["sessions: 2;", "opened in"]);

    // Its key is gone, another's is there, and back again. None is made in its place.
    let state = daemon.state_dir();
    let (key, away) = (state.join("development.kek"), state.join("away"));
    std::fs::rename(&key, &away).unwrap();
    is(
        &store(&daemon),
        "problem",
        &["development.kek", "put that file back"],
    );
    assert!(!key.exists());
    std::fs::write(&key, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    is(&store(&daemon), "problem", &["key"]);
    std::fs::rename(&away, &key).unwrap();
    is(&store(&daemon), "ok", &["sessions: 2;"]);

    // Somebody has it.
    let lock = std::fs::File::open(state.join("store/lock")).unwrap();
    lock.lock().unwrap();
    is(&store(&daemon), "problem", &["has", "open", "look again"]);
    drop(lock);

    // It was handed over, and its log is cut off.
    let to = age::x25519::Identity::generate().to_public().to_string();
    let backup = state.join("backup.age");
    let backup = ["backup", backup.to_str().unwrap(), "--hand-over", "-r", &to];
    let made = run(&backup, &daemon);
    assert!(made.status.success(), "{made:?}");
    is(&store(&daemon), "problem", &["handed over", "--take-back"]);
    let log = std::fs::File::options()
        .write(true)
        .open(state.join("store/db"));
    log.unwrap().set_len(0).unwrap();
    is(&store(&daemon), "problem", &["damaged", "restore"]);
    std::fs::rename(state.join("store"), state.join("store.restoring")).unwrap();
    is(&store(&daemon), "problem", &["restore was interrupted"]);
}

#[test]
fn doctor_reads_keys_and_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trunkline.toml");
    let (kek, certificate) = (dir.path().join("kek"), dir.path().join("tls.pem"));
    std::fs::write(&kek, "short").unwrap();
    std::fs::set_permissions(&kek, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let state = dir.path().join("state");
    let text = format!(
        "state_dir = \"{}\"\n[listen]\ngrpc = \"127.0.0.1:0\"\ntls_certificate = \"{}\"\ntls_key = \"{}\"\n[keys]\nsource = \"file\"\nfile = \"{}\"\n",
        state.display(),
        certificate.display(),
        certificate.display(),
        kek.display()
    );
    std::fs::write(&file, text).unwrap();
    let look = || {
        let mut command = trunkline();
        command.args(["doctor", "--offline", "--output", "json", "--config"]);
        findings(&command.arg(&file).output().unwrap().stdout)
    };
    let found = look();
    let key = finding(&found, "key");
    assert!(key["found"].as_str().unwrap().contains("32 bytes"), "{key}");
    assert_eq!(key["level"], "problem");
    let missing = finding(&found, "certificate");
    assert_eq!(missing["level"], "problem");
    assert!(
        missing["found"].as_str().unwrap().contains("tls.pem"),
        "{missing}"
    );

    #[allow(
        clippy::disallowed_methods,
        reason = "certificates are judged by the machine's own clock"
    )]
    let now = SystemTime::now();
    let day = Duration::from_hours(24);
    for (days, level) in [(3, "warning"), (60, "ok")] {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = (now + day * days).into();
        let key = rcgen::KeyPair::generate().unwrap();
        let signed = params.self_signed(&key).unwrap();
        std::fs::write(&certificate, signed.pem() + &key.serialize_pem()).unwrap();
        let found = look();
        let found = finding(&found, "certificate");
        assert_eq!(found["level"], level, "{found}");
    }
}

/// What doctor finds under this configuration, by `command`, which may be another that runs it.
fn examined(mut command: Command, config: &Path) -> Vec<Value> {
    command.args(["doctor", "--output", "json", "--config"]);
    findings(&command.arg(config).output().unwrap().stdout)
}

/// A configuration without a daemon whose WhatsApp is at `address`.
fn pointing_at(folder: &Path, address: &str) -> std::path::PathBuf {
    let file = folder.join("trunkline.toml");
    let state = folder.join("state");
    let text = format!(
        "state_dir = \"{}\"\n[multidevice]\nendpoint = \"ws://{address}/ws/chat\"\n",
        state.display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[allow(
    clippy::disallowed_methods,
    reason = "the machine's own clock is what is being examined"
)]
fn this_machine() -> SystemTime {
    SystemTime::now()
}

/// A WhatsApp that answers one request, and whose clock says `date`.
fn dated(date: &str) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = format!("HTTP/1.1 400 Bad Request\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n");
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        stream.write_all(answer.as_bytes()).unwrap();
    });
    (address, served)
}

#[test]
fn doctor_compares_the_clock_with_the_servers() {
    let dir = tempfile::tempdir().unwrap();
    let now = this_machine();
    let hour = Duration::from_hours(1);
    for (theirs, level) in [
        (now, "ok"),
        (now + hour, "problem"),
        (now - hour, "problem"),
    ] {
        let (address, served) = dated(&httpdate::fmt_http_date(theirs));
        let config = pointing_at(dir.path(), &address);
        let found = examined(trunkline(), &config);
        served.join().unwrap();
        assert_eq!(finding(&found, "endpoint")["level"], "ok", "{found:?}");
        let clock = finding(&found, "clock");
        assert_eq!(clock["level"], level, "{clock}");
        if level == "problem" {
            assert!(clock["fix"].as_str().unwrap().contains("timedatectl"));
            // Whoever started a moment ago is an hour off, give or take a little.
            let off = clock["found"].as_str().unwrap();
            let seconds: u64 = off.split(' ').next().unwrap().parse().unwrap();
            assert!((3_000..4_200).contains(&seconds), "{off}");
        }
    }
}

/// The program with at most so many files open at a time.
fn with_files(limit: u32) -> Command {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--nofile={limit}:{limit}"))
        .arg(env!("CARGO_BIN_EXE_trunkline"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn doctor_counts_the_files_that_a_daemon_from_here_may_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = pointing_at(dir.path(), "127.0.0.1:9");
    let found = examined(with_files(256), &config);
    let files = finding(&found, "open files");
    assert_eq!(files["level"], "warning", "{files}");
    assert!(files["found"].as_str().unwrap().contains("256"), "{files}");
    assert!(files["fix"].as_str().unwrap().contains("ulimit -n"));
    let found = examined(with_files(4_096), &config);
    assert_eq!(level(&found, "open files"), "ok", "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_looks_into_a_daemon_that_runs() {
    let simulator = Simulator::bind(SimulatorConfig::default()).await.unwrap();
    let mut daemon = Daemon::prepare(&simulator.ws_url(), "");
    daemon.start().await;
    // Doctor asks the address of the configuration, and that says that any will do.
    let ops = daemon.address("ops");
    daemon.change_config(|text| text.replace("ops = \"127.0.0.1:0\"", &format!("ops = \"{ops}\"")));
    let look = || {
        let mut command = daemon.trunkline();
        let output = command.args(["doctor", "--output", "json"]).output();
        findings(&output.unwrap().stdout)
    };
    let found = look();
    for check in [
        "daemon",
        "ready",
        "store",
        "daemon files",
        "endpoint",
        "sessions",
        "state",
    ] {
        assert_eq!(level(&found, check), "ok", "{found:?}");
    }

    // Its files become scarce while it runs: what is open is more than is left.
    let pid = daemon.pid().unwrap().to_string();
    let mut files = Value::Null;
    eventually("its files are scarce", PATIENCE, async || {
        // Connections of the look before may be among them still.
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count();
        let limited = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={}:", open + open / 8 + 3)])
            .status();
        assert!(limited.unwrap().success());
        files = finding(&look(), "daemon files").clone();
        files["level"] == "problem"
    })
    .await;
    assert!(files["fix"].as_str().unwrap().contains("LimitNOFILE"));
    assert_eq!(daemon.stop().await, Some(0));
    simulator.shutdown().await;
}
