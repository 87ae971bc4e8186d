//! Progress of what takes long is shown to a person at a terminal, and to nobody else.

use std::process::{Command, Stdio};

use crate::support::core::create_session;
use crate::support::daemon::Daemon;
use crate::support::terminal::shown_to_a_person;

/// Into a pipe and as JSON there is nothing but the result.
#[track_caller]
fn says_nothing_to_scripts(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_shows_its_progress_at_a_terminal_alone() {
    // Nothing listens there: what is sent waits.
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    create_session(&daemon.channel().await.unwrap(), "main").await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("film.bin"), vec![7; 300_000]).unwrap();
    let trunkline = |arguments: &[&str]| {
        let mut command = daemon.trunkline();
        command.args(arguments).current_dir(folder.path());
        command
    };

    let film = path("film.bin");
    let film = [
        "send",
        "+15551234567",
        "--no-wait",
        "--file",
        film.to_str().unwrap(),
    ];
    let shown = shown_to_a_person(&trunkline(&film));
    assert!(
        shown.contains("uploading") && shown.contains("KiB"),
        "{shown}"
    );
    assert!(shown.contains("QUEUED"), "{shown}");
    says_nothing_to_scripts(&mut trunkline(&film));
    // A terminal that a script reads JSON from.
    let for_scripts = [&film[..], &["--output", "json"]].concat();
    let shown = shown_to_a_person(&trunkline(&for_scripts));
    assert!(!shown.contains("uploading"), "{shown}");

    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let secret = identity.to_string();
    let secret = age::secrecy::ExposeSecret::expose_secret(&secret);
    std::fs::write(path("key"), format!("{secret}\n")).unwrap();
    let (key, seen, unseen) = (path("key"), path("seen.age"), path("unseen.age"));
    let [key, seen, unseen] = [&key, &seen, &unseen].map(|path| path.to_str().unwrap());
    let back_up = |file| ["backup", file, "--recipient", &recipient];
    let shown = shown_to_a_person(&trunkline(&back_up(seen)));
    assert!(shown.contains("backing up"), "{shown}");
    says_nothing_to_scripts(&mut trunkline(&back_up(unseen)));

    let read = ["restore", "--check", seen, "--identity", key];
    let shown = shown_to_a_person(&trunkline(&read));
    assert!(shown.contains("reading") && shown.contains('/'), "{shown}");
    says_nothing_to_scripts(&mut trunkline(&read));
    assert_eq!(daemon.stop().await, Some(0));
    let other = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    let mut restore = other.trunkline();
    restore.args(["restore", seen, "--identity", key]);
    let shown = shown_to_a_person(&restore);
    assert!(shown.contains("restoring"), "{shown}");
}
