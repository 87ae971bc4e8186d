//! Rubbish in: one line that names the field and the fix, and an exit code for scripts.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;

fn trunkline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.env_clear();
    command
}

#[track_caller]
fn refuses(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn config(folder: &Path, text: &str) -> std::path::PathBuf {
    let file = folder.join("trunkline.toml");
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_configuration_is_checked_as_the_daemon_would() {
    let dir = tempfile::tempdir().unwrap();
    let bad = config(
        dir.path(),
        "[listen]\ngprc = \"127.0.0.1:1\"\n[store]\ncache = 1\n",
    );
    for command in [["config", "check"].as_slice(), &["serve"]] {
        let output = trunkline()
            .args(command)
            .arg("--config")
            .arg(&bad)
            .output()
            .unwrap();
        refuses(
            &output,
            78,
            &[
                "2 problems",
                "trunkline.toml:2",
                "did you mean listen.grpc?",
                "store.cache",
            ],
        );
    }
    let good = config(
        dir.path(),
        "[stall]\nsilence = \"30s\"\n[multidevice]\nendpoint = \"wss://127.0.0.1:9/ws\"\n",
    );
    let output = trunkline()
        .args(["config", "check", "--config"])
        .arg(&good)
        .output()
        .unwrap();
    assert!(output.status.success());
    let json = trunkline()
        .args(["config", "check", "--output", "json", "--config"])
        .arg(&good)
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["stall"]["silence"], "30s");
}

#[test]
fn a_variable_can_be_wrong_too() {
    let output = trunkline()
        .args(["config", "check"])
        .env("TRUNKLINE_STALL_SILENCE", "forever")
        .output()
        .unwrap();
    refuses(
        &output,
        78,
        &["TRUNKLINE_STALL_SILENCE", "stall.silence", "30s"],
    );
}

#[test]
fn variables_need_not_be_text_unless_they_are_ours() {
    let rubbish = OsStr::from_bytes(b"\xff");
    for name in ["X", "TRUNKLINE_SOCKET"] {
        let output = trunkline()
            .args(["config", "schema"])
            .env(name, rubbish)
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
    }
    let output = trunkline()
        .args(["config", "check"])
        .env("TRUNKLINE_STALL_SILENCE", rubbish)
        .output()
        .unwrap();
    refuses(&output, 78, &["TRUNKLINE_STALL_SILENCE", "UTF-8"]);
}

#[test]
fn a_check_finds_what_only_the_parts_can_judge() {
    let dir = tempfile::tempdir().unwrap();
    let loopback = "[multidevice]\nendpoint = \"wss://127.0.0.1:9/ws\"\n";
    for (text, parts) in [
        (
            format!("{loopback}[log]\nlevel = \"banana\"\n"),
            ["log.level", "banana", "info"],
        ),
        (
            "[multidevice]\nendpoint = \"ws://example.com/x\"\n".to_owned(),
            ["multidevice.endpoint", "example.com", "loopback"],
        ),
        (
            format!("{loopback}tls_root = \"/nowhere/root.pem\"\n"),
            ["multidevice.tls_root", "/nowhere/root.pem", "PEM"],
        ),
        (
            format!("{loopback}[keys]\nsource = \"file\"\nfile = \"/nowhere/kek\"\n"),
            ["key encryption key", "/nowhere/kek", "head -c 32"],
        ),
        (
            format!(
                "{loopback}[listen]\ntls_certificate = \"/nowhere/tls.pem\"\ntls_key = \"/nowhere/tls.key\"\n"
            ),
            ["listen.tls_certificate", "/nowhere/tls.pem", "able to read"],
        ),
    ] {
        let bad = config(dir.path(), &text);
        let state = dir.path().join("state");
        for command in [["config", "check"].as_slice(), &["serve"]] {
            // Of the daemon before.
            let _ = std::fs::remove_dir_all(&state);
            let output = trunkline()
                .args(command)
                .arg("--config")
                .arg(&bad)
                .arg("--state-dir")
                .arg(&state)
                .output()
                .unwrap();
            refuses(&output, 78, &parts);
            assert!(
                command != ["config", "check"] || !state.exists(),
                "a check leaves nothing"
            );
        }
    }
}

#[test]
fn the_schema_is_printed_for_editors() {
    let output = trunkline().args(["config", "schema"]).output().unwrap();
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["listen"].is_object());
}

#[test]
fn a_daemon_that_is_not_there_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let output = trunkline()
        .args(["session", "list", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    refuses(
        &output,
        69,
        &["none.sock", "no such socket", "trunkline serve"],
    );

    // Somebody was there once.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = trunkline()
        .args(["session", "list", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    refuses(&output, 69, &["nobody listens"]);

    let output = trunkline()
        .current_dir(dir.path())
        .args(["session", "list", "--state-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    refuses(
        &output,
        69,
        &["no daemon found", "trunkline.sock", "--socket"],
    );

    // One that a daemon left behind is no reason to say that there is none.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("trunkline.sock")).unwrap());
    let output = trunkline()
        .current_dir(dir.path())
        .args(["session", "list", "--state-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    refuses(&output, 69, &["trunkline.sock", "nobody listens"]);

    let output = trunkline()
        .args(["session", "list", "--endpoint", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    refuses(&output, 69, &["no daemon answers at http://127.0.0.1:1"]);
    let output = trunkline()
        .args(["session", "list", "--endpoint", "localhost"])
        .env("TRUNKLINE_SOCKET", "a variable is weaker")
        .output()
        .unwrap();
    refuses(&output, 2, &["--endpoint", "http://127.0.0.1:7433"]);
}

#[test]
fn the_command_line_itself_can_be_wrong() {
    for (arguments, part) in [
        (["session", "fly"].as_slice(), "unrecognized subcommand"),
        (&["events", "--type", "gossip"], "message_status"),
        (&["send", "--timeout", "soon", "+15551234567", "x"], "30s"),
        (
            &["session", "create", "x", "--label", "nonsense"],
            "team=support",
        ),
        (&["send", "+234", "803", "123", "4567", "hi"], "in quotes"),
        (
            &["session", "list", "--socket", "s", "--endpoint", "http://e"],
            "cannot be used with",
        ),
    ] {
        refuses(&trunkline().args(arguments).output().unwrap(), 2, &[part]);
    }
}

#[test]
fn a_simulator_build_refuses_the_real_whatsapp_and_leaves_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let output = trunkline()
        .arg("serve")
        .arg("--state-dir")
        .arg(&state)
        .output()
        .unwrap();
    refuses(
        &output,
        78,
        &["multidevice.endpoint", "is not loopback", "simulator"],
    );
    assert!(!state.exists());
}

#[test]
fn key_files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let kek = dir.path().join("kek");
    let text = format!(
        "[listen]\ngrpc = \"127.0.0.1:0\"\nops = \"off\"\n[multidevice]\nendpoint = \"wss://127.0.0.1:9/ws\"\n[keys]\nsource = \"file\"\nfile = \"{}\"\n",
        kek.display()
    );
    let file = config(dir.path(), &text);
    let serve = || {
        trunkline()
            .args(["serve", "--config"])
            .arg(&file)
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .output()
            .unwrap()
    };
    refuses(&serve(), 78, &["kek", "head -c 32 /dev/urandom"]);
    std::fs::write(&kek, "short").unwrap();
    refuses(&serve(), 78, &["kek"]);
}
