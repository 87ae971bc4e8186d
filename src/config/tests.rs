//! The configuration as an operator meets it.

use std::path::Path;
use std::time::Duration;

use super::*;

fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    load_with(text, &[])
}

fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trunkline.toml");
    std::fs::write(&file, text).unwrap();
    load(&Sources {
        file: Some(file),
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect(),
        state_dir: None,
    })
}

fn problems(text: &str) -> Vec<String> {
    load_text(text)
        .unwrap_err()
        .problems
        .iter()
        .map(|problem| {
            let line = match &problem.origin {
                Some(Origin::File { line, .. }) => *line,
                _ => 0,
            };
            format!("{line} {} {}", problem.key, problem.message)
        })
        .collect()
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The shipped file with every commented key switched on.
fn uncommented() -> String {
    shipped("trunkline.toml")
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.split(" = ").next().is_some_and(is_key) && rest.contains(" = ") => {
                rest
            }
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[test]
fn the_shipped_file_is_the_defaults() {
    assert_eq!(
        load_text(&shipped("trunkline.toml")).unwrap().config,
        Config::default()
    );
}

#[test]
fn every_documented_default_is_the_real_one() {
    // These have no default; their examples are taken out again.
    let optional = [
        "file = ",
        "tls_certificate = ",
        "tls_key = ",
        "tls_root = ",
        "version = ",
    ];
    let text = uncommented()
        .lines()
        .filter(|line| !optional.iter().any(|key| line.starts_with(key)))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(load_text(&text).unwrap().config, Config::default());
}

#[test]
fn the_shipped_file_mentions_every_key_and_no_other() {
    let table: toml::Table = uncommented().parse().unwrap();
    let mut documented = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(section) => {
                documented.extend(section.keys().map(|key| format!("{name}.{key}")));
            }
            _ => documented.push(name),
        }
    }
    let mut known: Vec<String> = all_keys().into_iter().map(|key| key.path).collect();
    documented.sort();
    known.sort();
    assert_eq!(documented, known);
}

#[test]
fn the_shipped_schema_is_fresh() {
    let shipped: serde_json::Value =
        serde_json::from_str(&shipped("trunkline.schema.json")).unwrap();
    assert!(
        shipped == schema(),
        "run `cargo run --features simulator -- config schema > config/trunkline.schema.json`"
    );
}

#[test]
fn file_beats_default_and_environment_beats_file() {
    let text = "[stall]\nsilence = \"2m\"\npatience = \"7s\"\n";
    let loaded = load_with(
        text,
        &[
            ("TRUNKLINE_STALL_SILENCE", "3m"),
            ("TRUNKLINE_ADMISSION_BURST", "7"),
            ("TRUNKLINE_LISTEN_PLAINTEXT_BEYOND_LOOPBACK", "true"),
            ("TRUNKLINE_TOKEN", "for the command line"),
        ],
    )
    .unwrap();
    assert_eq!(loaded.config.stall.silence, Duration::from_mins(3));
    assert_eq!(loaded.config.stall.patience, Duration::from_secs(7));
    assert_eq!(loaded.config.admission.burst, 7);
    assert!(loaded.config.listen.plaintext_beyond_loopback);
    assert_eq!(loaded.config.backoff, Backoff::default());
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn a_strange_variable_is_a_warning() {
    let loaded = load_with("", &[("TRUNKLINE_PORT", "tcp://10.0.0.1:7433")]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("TRUNKLINE_PORT"));
}

#[test]
fn all_problems_come_at_once_with_line_and_fix() {
    let found = problems(
        "stat_dir = \"/x\"\n[listen]\ngprc = \"127.0.0.1:1\"\nops = \"here\"\n[store]\ncache = 64\n[stall]\nsilence = \"0s\"\n[nonsense]\nx = 1\n",
    );
    for (line, part) in [
        ("1 stat_dir", "did you mean state_dir?"),
        ("3 listen.gprc", "did you mean listen.grpc?"),
        ("4 listen.ops", "127.0.0.1:7433"),
        ("6 store.cache", "\"64MiB\""),
        ("8 stall.silence", "outside 1s to 1h"),
        ("9 nonsense", "unknown key"),
    ] {
        assert!(
            found
                .iter()
                .any(|p| p.starts_with(line) && p.contains(part)),
            "{line} {part}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn a_bad_variable_is_named() {
    let error = load_with("", &[("TRUNKLINE_STORE_CACHE", "lots")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "configuration: environment TRUNKLINE_STORE_CACHE: store.cache: `lots` is not a size; write it like \"64MiB\", \"512KiB\" or \"1GiB\""
    );
}

#[test]
fn a_file_that_is_no_toml_names_the_line() {
    let error = load_text("[listen]\ngrpc = \n").unwrap_err().to_string();
    assert!(error.contains("trunkline.toml:2"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = load(&Sources {
        file: Some("/nowhere/trunkline.toml".into()),
        ..Sources::default()
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("/nowhere/trunkline.toml") && error.contains("--config"),
        "{error}"
    );
}

#[test]
fn plaintext_beyond_loopback_must_be_asked_for() {
    let found = problems("[listen]\ngrpc = \"0.0.0.0:7433\"\n");
    assert!(found[0].contains("plaintext_beyond_loopback"), "{found:?}");
    let text = "[listen]\ngrpc = \"0.0.0.0:7433\"\nplaintext_beyond_loopback = true\n";
    assert!(load_text(text).is_ok());
}

#[test]
fn a_certificate_lets_the_api_listen_beyond_loopback_and_nothing_else() {
    let tls =
        "tls_certificate = \"/etc/trunkline/tls.crt\"\ntls_key = \"/etc/trunkline/tls.key\"\n";
    let text = format!("[listen]\ngrpc = \"0.0.0.0:7433\"\n{tls}");
    assert!(load_text(&text).is_ok());
    let found = problems(&format!("{text}ops = \"0.0.0.0:7434\"\n"));
    assert!(
        found[0].contains("listen.ops") && found.len() == 1,
        "{found:?}"
    );
    let found = problems("[listen]\ntls_key = \"/etc/trunkline/tls.key\"\n");
    assert!(
        found[0].contains("listen.tls_key is set alone") || found[0].contains("set alone"),
        "{found:?}"
    );
    let text = "[listen]\ntls_certificate = \"tls.crt\"\ntls_key = \"/k\"\n";
    assert!(problems(text)[0].contains("absolute"));
}

#[test]
fn a_section_validates_what_belongs_together() {
    assert!(problems("[keys]\nsource = \"file\"\n")[0].contains("keys.file"));
    assert!(problems("[backoff]\nfirst = \"1m\"\nmax = \"1s\"\n")[0].contains("backoff.max"));
    let long = "x".repeat(120);
    assert!(problems(&format!("[listen]\nsocket = \"/{long}\"\n"))[0].contains("107"));
    assert!(problems("[log]\nlevel = \"a=b=c\"\n")[0].contains("log.level"));
}

#[test]
fn the_socket_follows_the_runtime_directory() {
    let mut config = Config::default();
    assert_eq!(
        config.socket_path(None).unwrap(),
        Path::new("/var/lib/trunkline/trunkline.sock")
    );
    assert_eq!(
        config
            .socket_path(Some(Path::new("/run/trunkline")))
            .unwrap(),
        Path::new("/run/trunkline/trunkline.sock")
    );
    config.listen.socket = SocketSetting::Off;
    assert_eq!(config.socket_path(None), None);
}
