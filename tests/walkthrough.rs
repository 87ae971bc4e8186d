//! docs/walkthrough.md, as it is written: every block of commands in one shell, in the order of the page.

#![cfg(feature = "simulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

const PAGE: &str = include_str!("../docs/walkthrough.md");
/// How long the whole page may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// The page's headings and its blocks of commands, as a script that says where it is.
fn script() -> String {
    // What the page starts does not outlive a page that fails.
    let mut script =
        String::from("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n");
    let mut in_block = false;
    for line in PAGE.lines() {
        match line {
            "```sh" => in_block = true,
            "```" => in_block = false,
            _ if in_block => {
                script.push_str(line);
                script.push('\n');
            }
            _ => {
                if let Some(task) = line.strip_prefix("## ") {
                    let task = task.replace('\'', "");
                    script.extend(["echo '==> ", &task, "'\n"]);
                }
            }
        }
    }
    assert!(!in_block, "a block is not closed");
    script
}

#[test]
fn the_page_has_ten_tasks_with_commands_each() {
    let tasks: Vec<&str> = PAGE.split("\n## ").skip(1).collect();
    assert_eq!(tasks.len(), 10);
    for (index, task) in tasks.iter().enumerate() {
        assert!(task.starts_with(&format!("{}. ", index + 1)), "{task}");
        assert!(task.contains("\n```sh\n"), "{task}");
    }
}

#[tokio::test]
async fn every_block_works_as_it_is_written() {
    let built = Path::new(env!("CARGO_BIN_EXE_trunkline")).parent().unwrap();
    // Where the page says `target/debug`: this build's folder, whatever it is called.
    let script = script().replace("$PWD/target/debug", built.to_str().unwrap());
    assert!(script.contains(built.to_str().unwrap()));
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("said");
    let said = std::fs::File::create(&log).unwrap();
    let mut shell = Command::new("bash")
        .args(["-x", "-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("TRUNKLINE_CONFIG")
        .env("TMPDIR", home.path())
        .stdin(Stdio::null())
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let status = tokio::time::timeout(PATIENCE, shell.wait()).await;
    let said = std::fs::read_to_string(&log).unwrap();
    let succeeded = matches!(&status, Ok(Ok(status)) if status.success());
    assert!(succeeded, "{status:?}\n{said}");
    assert_eq!(said.matches("\n==> ").count(), 10, "{said}");
}
