//! The repository as a whole: it speaks of the product alone, its licences are where they must be,
//! its lock files are portable, and every file that is shipped has a check.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of a test fails the test by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under version control.
fn tracked() -> Vec<String> {
    let output = Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .expect("git runs; it is one of the prerequisites");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let files: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .split_terminator('\0')
        .map(str::to_owned)
        .filter(|file| root().join(file).is_file())
        .collect();
    assert!(
        files.iter().any(|f| f == "Cargo.toml"),
        "git lists nothing: {files:?}"
    );
    files
}

fn read(file: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(root().join(file)).unwrap()).into_owned()
}

/// What a line must not contain, and why. Written in halves so that this file passes its own test.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("/wo", "rk/", "a path of one machine"),
    ("/ro", "ot/", "a path of one machine"),
    ("/ho", "me/", "a path of one machine"),
    ("/Use", "rs/", "a path of one machine"),
    ("/mn", "t/", "a path of one machine"),
    ("registry.npm", "js.org", "a registry host"),
    ("registry.yarn", "pkg.com", "a registry host"),
    ("index.crates", ".io", "a registry host"),
    ("static.crates", ".io", "a registry host"),
    ("py", "pi.org", "a registry host"),
    ("files.python", "hosted.org", "a registry host"),
    ("deb.debian", ".org", "a registry host"),
    ("snapshot.debian", ".org", "a registry host"),
    ("proxy.golang", ".org", "a registry host"),
    ("sub", "agent", "a word about how it was made"),
    ("AI", " agent", "a word about how it was made"),
    ("Co-Author", "ed-By", "a word about how it was made"),
    ("desi", "gn §", "a document that is not in the repository"),
];

/// The reason a line is refused, if it is.
fn refusal(line: &str) -> Option<&'static str> {
    FORBIDDEN.iter().find_map(|(head, tail, reason)| {
        let whole = format!("{head}{tail}");
        let absolute = whole.starts_with('/');
        line.match_indices(&whole)
            .any(|(at, _)| {
                // Below a folder of the repository it is no path of a machine.
                let before = line[..at].chars().next_back();
                !absolute || !before.is_some_and(|c| c.is_alphanumeric() || "_-.}~*".contains(c))
            })
            .then_some(*reason)
    })
}

#[test]
fn it_speaks_of_the_product_alone() {
    let mut found = Vec::new();
    for file in tracked() {
        for (number, line) in read(&file).lines().enumerate() {
            if let Some(reason) = refusal(line) {
                found.push(format!("{file}:{}: {reason}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn planted_words_are_found() {
    for (head, tail, reason) in FORBIDDEN {
        let whole = format!("{head}{tail}");
        assert_eq!(refusal(&format!("see {whole} there")), Some(*reason));
        assert_eq!(refusal(&format!("\"{whole}")), Some(*reason));
    }
    let inside = format!("docs{}{}notes.md", FORBIDDEN[0].0, FORBIDDEN[0].1);
    assert_eq!(refusal(&inside), None);
}

#[test]
fn lock_files_name_no_server() {
    for file in tracked()
        .iter()
        .filter(|f| f.ends_with("package-lock.json"))
    {
        let lock: serde_json::Value = serde_json::from_str(&read(file)).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert!(packages.len() > 1, "{file} locks nothing");
        for (name, package) in packages {
            assert!(
                package.get("resolved").is_none(),
                "{file}: {name} records where it came from; keep omit-lockfile-registry-resolved in .npmrc"
            );
            let pinned = name.is_empty() || package["integrity"].is_string();
            assert!(pinned, "{file}: {name} has no integrity hash");
        }
    }
}

#[test]
fn node_dependencies_are_pinned_exactly() {
    let manifests: Vec<String> = tracked()
        .into_iter()
        .filter(|f| f.ends_with("package.json"))
        .collect();
    assert!(!manifests.is_empty());
    for file in manifests {
        let manifest: serde_json::Value = serde_json::from_str(&read(&file)).unwrap();
        for section in ["dependencies", "devDependencies", "optionalDependencies"] {
            for (name, version) in manifest[section].as_object().into_iter().flatten() {
                let version = version.as_str().unwrap();
                assert!(
                    version.starts_with(|c: char| c.is_ascii_digit()),
                    "{file}: {name} is {version}; pin one version"
                );
            }
        }
    }
}

#[test]
fn licences_are_where_they_are_promised() {
    let agpl = read("LICENSE");
    assert!(agpl.starts_with("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3"));
    assert!(agpl.contains("13. Remote Network Interaction"));
    for file in ["proto/LICENSE", "examples/LICENSE"] {
        let apache = read(file);
        assert!(
            apache.contains("Apache License") && apache.contains("Version 2.0"),
            "{file}"
        );
    }
    assert!(read("examples/rust/Cargo.toml").contains("license = \"Apache-2.0\""));
    for manifest in ["Cargo.toml", "simulator/Cargo.toml"] {
        let text = read(manifest);
        assert!(
            text.contains("license = \"AGPL-3.0-only\"")
                || text.contains("license.workspace = true"),
            "{manifest}"
        );
    }
}

/// Lines of a program that say something: no remarks, no imports, no mere brackets.
fn code_lines(text: &str) -> usize {
    let aside = ["//", "#", "use ", "import ", "from "];
    let mut lines: Vec<_> = text.lines().map(str::trim).collect();
    if let Some(end) = lines.iter().rposition(|line| line.ends_with("\"\"\"")) {
        // Python's remark on the whole program.
        lines.drain(..=end);
    }
    let counts = |line: &&&str| {
        line.contains(char::is_alphanumeric) && !aside.iter().any(|mark| line.starts_with(mark))
    };
    lines.iter().filter(counts).count()
}

#[test]
fn examples_are_short_and_free_to_copy() {
    let mut cores = 0;
    for file in tracked() {
        let is_code = [".rs", ".py", ".mjs"].iter().any(|end| file.ends_with(end));
        if !file.starts_with("examples/") || !is_code {
            continue;
        }
        let text = read(&file);
        let first = text.lines().next().unwrap_or_default();
        let said = first.trim_start_matches(['/', '#', ' ']);
        assert_eq!(said, "SPDX-License-Identifier: Apache-2.0", "{file}");
        if file.ends_with("/core.py") || file.ends_with("/core.mjs") || file.ends_with("/main.rs") {
            let lines = code_lines(&text);
            assert!((10..=40).contains(&lines), "{file} has {lines} lines");
            cores += 1;
        }
    }
    assert_eq!(cores, 3, "one in each language");
}

/// Panics unless the file (name, text) is what it should be.
type Check = fn(&str, &str);

/// What checks a shipped file, by folder and ending. A file that no row matches is not checked by
/// anything, and that is a failure of its own.
const CHECKS: &[(&str, &str, Check)] = &[
    ("config/", ".toml", toml_parses),
    ("config/", ".json", json_parses),
    ("systemd/", ".service", unit_parses),
    ("systemd/", ".conf", unit_parses),
    ("systemd/", ".md", has_text),
    ("proto/", ".proto", proto_is_part_of_the_api),
    ("proto/", "buf.yaml", lints_everything),
    ("proto/", "baseline.binpb", is_a_descriptor_set),
    ("proto/", "LICENSE", has_text),
    ("proto/", ".md", has_text),
];

#[test]
fn every_shipped_file_is_checked() {
    for file in tracked() {
        if !["config/", "systemd/", "proto/"]
            .iter()
            .any(|folder| file.starts_with(folder))
        {
            continue;
        }
        let check = CHECKS
            .iter()
            .find(|(folder, ending, _)| file.starts_with(folder) && file.ends_with(ending))
            .unwrap_or_else(|| {
                panic!("{file} is shipped and nothing checks it: add a row to CHECKS")
            })
            .2;
        check(&file, &read(&file));
    }
}

fn has_text(file: &str, text: &str) {
    assert!(!text.trim().is_empty(), "{file} is empty");
}

fn toml_parses(file: &str, text: &str) {
    if let Err(error) = text.parse::<toml::Table>() {
        panic!("{file}: {error}");
    }
}

fn json_parses(file: &str, text: &str) {
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        panic!("{file}: {error}");
    }
}

/// Sections, assignments, comments and continuations: what systemd would take without a warning.
fn unit_parses(file: &str, text: &str) {
    const SECTIONS: [&str; 5] = ["[Unit]", "[Service]", "[Install]", "[Socket]", "[Timer]"];
    let mut section = None;
    let mut continued = false;
    for (number, line) in text.lines().enumerate() {
        let at = format!("{file}:{}", number + 1);
        let is_comment = line.trim().is_empty() || line.starts_with('#') || line.starts_with(';');
        if continued {
            continued = line.ends_with('\\');
        } else if line.starts_with('[') {
            assert!(SECTIONS.contains(&line), "{at}: unknown section {line}");
            section = Some(line);
        } else if !is_comment {
            assert!(section.is_some(), "{at}: before any section");
            let key = line.split_once('=').map(|(key, _)| key);
            let named = key.is_some_and(|k| !k.is_empty() && k.chars().all(char::is_alphanumeric));
            assert!(named, "{at}: not an assignment: {line}");
            continued = line.ends_with('\\');
        }
    }
    assert!(section.is_some(), "{file}: no section");
}

/// The build compiles what `build.rs` names: a file it forgets would never be served.
fn proto_is_part_of_the_api(file: &str, text: &str) {
    assert!(
        text.contains("package trunkline.v1;"),
        "{file}: not in package trunkline.v1"
    );
    let name = file.strip_prefix("proto/").unwrap();
    let build = read("build.rs");
    assert!(
        build.contains(name) || build.contains("read_dir"),
        "{file}: build.rs does not compile it"
    );
}

fn lints_everything(file: &str, text: &str) {
    for rule in ["STANDARD", "COMMENTS", "WIRE_JSON"] {
        assert!(text.contains(rule), "{file}: {rule} is not checked");
    }
    for way_round in ["except", "ignore"] {
        assert!(
            !text.contains(way_round),
            "{file}: {way_round} weakens the check"
        );
    }
}

/// A `FileDescriptorSet` is a sequence of length-delimited fields with number 1.
fn is_a_descriptor_set(file: &str, _: &str) {
    let bytes = std::fs::read(root().join(file)).unwrap();
    assert_eq!(bytes.first(), Some(&0x0a), "{file}: not a descriptor set");
}

#[test]
fn a_broken_unit_is_refused() {
    unit_parses(
        "good",
        "[Unit]\nDescription=x\n# c\n[Service]\nExecStart=/bin/a \\\n  --b\n",
    );
    for bad in [
        "Description=x\n",
        "[Unti]\n",
        "[Unit]\nDescription\n",
        "[Unit]\nA B=c\n",
        "",
    ] {
        assert!(
            std::panic::catch_unwind(|| unit_parses("bad", bad)).is_err(),
            "accepted: {bad:?}"
        );
    }
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let scripts: Vec<String> = tracked()
        .into_iter()
        .filter(|f| f.starts_with("scripts/") || f == ".ci/run")
        .collect();
    assert!(scripts.len() > 1);
    for script in scripts {
        let path: PathBuf = root().join(&script);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "{script} is not executable");
        let syntax = Command::new("bash").arg("-n").arg(&path).status().unwrap();
        assert!(syntax.success(), "{script} does not parse");
    }
}

/// The keys of a log line that are not fields of the event, and "message", which is its text.
const KEYS_OF_A_LINE: [&str; 6] = ["timestamp", "level", "target", "span", "spans", "message"];

/// The first field of a log statement that a JSON line would have twice.
fn colliding_field(source: &str) -> Option<&'static str> {
    ["trace!(", "debug!(", "info!(", "warn!(", "error!("]
        .iter()
        .flat_map(|statement| source.split(statement).skip(1))
        .find_map(|rest| {
            let fields = rest.split('"').next().unwrap_or_default();
            fields.split([',', '(']).find_map(|field| {
                let (name, _) = field.split_once('=')?;
                KEYS_OF_A_LINE.into_iter().find(|key| *key == name.trim())
            })
        })
}

#[test]
fn log_lines_have_each_key_once() {
    assert_eq!(
        colliding_field("info!(a, message = %id, \"text\")"),
        Some("message")
    );
    assert_eq!(
        colliding_field("info!(message_id = %id, \"message = x\")"),
        None
    );
    for file in tracked() {
        let is_rust = Path::new(&file).extension().is_some_and(|it| it == "rs");
        if is_rust && file.starts_with("src/") {
            assert_eq!(colliding_field(&read(&file)), None, "{file}");
        }
    }
}
