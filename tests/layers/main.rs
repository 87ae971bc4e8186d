//! The layers of `docs/architecture.md` hold: every path that `src/` and `simulator/` name is read
//! from the source text and compared with the table in `rules.rs`. The checker's own tests plant
//! violations and expect them to be found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of a test fails the test by panicking"
)]

mod lexer;
mod paths;
mod rules;

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`, as paths in the repository.
fn rust_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(root()).unwrap();
                found.push(inside.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn all_files() -> Vec<String> {
    let mut files = rust_files("src");
    files.extend(rust_files("simulator/src"));
    files
}

#[test]
fn every_import_respects_the_layers() {
    let violations: Vec<String> = all_files()
        .iter()
        .flat_map(|file| {
            let source = std::fs::read_to_string(root().join(file)).unwrap();
            rules::check(file, &source)
        })
        .map(|violation| violation.to_string())
        .collect();
    assert!(
        violations.is_empty(),
        "layers are broken:\n{}",
        violations.join("\n")
    );
}

#[test]
fn every_module_under_src_is_a_layer() {
    let files = rust_files("src");
    assert!(
        files.contains(&"src/lib.rs".to_owned()),
        "the walk found nothing: {files:?}"
    );
    let strangers: Vec<&String> = files
        .iter()
        .filter(|file| rules::layer_name(file).is_some_and(|name| !rules::is_layer(name)))
        .collect();
    assert!(
        strangers.is_empty(),
        "give these a row in tests/layers/rules.rs and in docs/architecture.md: {strangers:?}"
    );
}

#[test]
fn the_simulator_does_not_depend_on_the_daemon() {
    let manifest = std::fs::read_to_string(root().join("simulator/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(entries) = manifest.get(section).and_then(toml::Value::as_table) else {
            continue;
        };
        assert!(
            !entries.contains_key("trunkline"),
            "simulator/Cargo.toml: [{section}] names trunkline"
        );
    }
}
