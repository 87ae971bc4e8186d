//! A command as a person sees it: at a terminal of its own.

use std::process::{Command, Stdio};

/// Runs the command at a terminal (of util-linux' `script`), to its end; everything that was shown there,
/// with the sequences that steer the terminal.
///
/// # Panics
/// When the command fails.
#[track_caller]
pub(crate) fn shown_to_a_person(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| word.to_str().unwrap().replace('\'', "'\\''"));
    let line = format!("'{}'", quoted.collect::<Vec<_>>().join("' '"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {shown}");
    shown
}
