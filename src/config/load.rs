//! From sources to a configuration: default < file < environment < flags.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::Config;
use super::problem::{ConfigError, Origin, Problem, Problems};
use super::schema::{Key, env_name, keys};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "/etc/trunkline/trunkline.toml";

/// Variables that belong to the command line, not to the configuration.
const COMMAND_VARIABLES: [&str; 6] = [
    "TRUNKLINE_CONFIG",
    "TRUNKLINE_SOCKET",
    "TRUNKLINE_ENDPOINT",
    "TRUNKLINE_TOKEN",
    "TRUNKLINE_WORKSPACE",
    "TRUNKLINE_OUTPUT",
];

/// Where a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A file that must exist. Without it [`DEFAULT_FILE`] is read if it exists.
    pub file: Option<PathBuf>,
    /// `TRUNKLINE_*` variables; their values need not be text.
    pub env: Vec<(String, OsString)>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
}

/// The `TRUNKLINE_*` variables of this process.
pub fn environment() -> Vec<(String, OsString)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with("TRUNKLINE_"))
        .collect()
}

/// A configuration and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The values, valid.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Things that are odd but harmless, for a log line each.
    pub warnings: Vec<String>,
}

/// Reads and validates a configuration.
///
/// # Errors
/// [`ConfigError`] with every problem found, each with its key, its place and its fix.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let keys = keys();
    let mut problems = Problems::default();
    let mut warnings = Vec::new();
    let mut merged = Table::new();

    let file = chosen_file(sources);
    if let Some(path) = &file {
        read_file(path, &keys, &mut merged, &mut problems);
    }
    read_env(
        &sources.env,
        &keys,
        &mut merged,
        &mut problems,
        &mut warnings,
    );
    if let Some(state_dir) = &sources.state_dir {
        problems.set_origin("state_dir", Origin::Flag("--state-dir"));
        merged.insert(
            "state_dir".to_owned(),
            Value::String(state_dir.display().to_string()),
        );
    }

    let config = Config::deserialize_from(merged);
    if let Some(config) = &config {
        config.validate(&mut problems);
    }
    problems.into_result()?;
    let config = config.ok_or_else(|| ConfigError {
        problems: vec![Problem {
            key: String::new(),
            origin: None,
            message: "the values do not fit together".to_owned(),
        }],
    })?;
    Ok(Loaded {
        config,
        file,
        warnings,
    })
}

impl Config {
    fn deserialize_from(table: Table) -> Option<Self> {
        Value::Table(table).try_into().ok()
    }
}

fn chosen_file(sources: &Sources) -> Option<PathBuf> {
    sources.file.clone().or_else(|| {
        let default = Path::new(DEFAULT_FILE);
        default.exists().then(|| default.to_owned())
    })
}

fn read_file(path: &Path, keys: &[Key], merged: &mut Table, problems: &mut Problems) {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.add(
                "",
                format!(
                    "{} cannot be read: {error}; name an existing file with --config",
                    path.display()
                ),
            );
            return;
        }
    };
    let parsed = DeTable::parse(&text).and_then(|spans| Ok((spans, text.parse::<Table>()?)));
    let (spans, table) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let line = line_of(&text, error.span().map_or(0, |span| span.start));
            problems.add_at(at(path, line), error.message());
            return;
        }
    };
    for (key, line) in lines(&text, spans.get_ref()) {
        problems.set_origin(&key, at(path, line));
    }
    for (name, value) in table {
        if !is_section(&name, keys) {
            read_leaf(&name, value, keys, merged, problems);
            continue;
        }
        match value {
            Value::Table(section) => {
                for (key, value) in section {
                    read_leaf(&format!("{name}.{key}"), value, keys, merged, problems);
                }
            }
            _ => problems.add(
                &name,
                format!("is a section; write its keys under [{name}]"),
            ),
        }
    }
}

fn read_leaf(path: &str, value: Value, keys: &[Key], merged: &mut Table, problems: &mut Problems) {
    if keys.iter().any(|key| key.path == path) {
        take(path, value, merged, problems);
    } else {
        problems.add(path, format!("unknown key; {}", hint(path, keys)));
    }
}

/// The line of every key of the file, sections included.
fn lines(text: &str, table: &DeTable<'_>) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (name, value) in table {
        let section = name.get_ref();
        found.push((section.to_string(), line_of(text, name.span().start)));
        if let DeValue::Table(inner) = value.get_ref() {
            found.extend(inner.keys().map(|key| {
                let path = format!("{section}.{}", key.get_ref());
                (path, line_of(text, key.span().start))
            }));
        }
    }
    found
}

fn at(path: &Path, line: usize) -> Origin {
    Origin::File {
        path: path.to_owned(),
        line,
    }
}

fn read_env(
    env: &[(String, OsString)],
    keys: &[Key],
    merged: &mut Table,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) {
    for (name, text) in env {
        if COMMAND_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some(key) = keys.iter().find(|key| env_name(&key.path) == *name) else {
            // Not an error: Kubernetes invents TRUNKLINE_PORT and others for a service of that name.
            warnings.push(format!(
                "environment {name} is no configuration key and is ignored"
            ));
            continue;
        };
        problems.set_origin(&key.path, Origin::Env(name.clone()));
        let Some(text) = text.to_str() else {
            problems.add(&key.path, "is not UTF-8; write it in plain characters");
            continue;
        };
        match env_value(&key.kind, text) {
            Some(value) => take(&key.path, value, merged, problems),
            None => problems.add(&key.path, format!("`{text}` is not a valid {}", key.kind)),
        }
    }
}

fn env_value(kind: &str, text: &str) -> Option<Value> {
    match kind {
        "boolean" => text.parse().ok().map(Value::Boolean),
        "integer" => text.parse().ok().map(Value::Integer),
        _ => Some(Value::String(text.to_owned())),
    }
}

/// Puts one value in place if it deserializes on its own, so that each bad key is reported.
fn take(path: &str, value: Value, merged: &mut Table, problems: &mut Problems) {
    let mut alone = Table::new();
    put(&mut alone, path, value.clone());
    match Value::Table(alone).try_into::<Config>() {
        Ok(_) => put(merged, path, value),
        Err(error) => problems.add(path, error.message()),
    }
}

fn put(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry = table
                .entry(section.to_owned())
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = entry {
                put(inner, rest, value);
            }
        }
    }
}

fn is_section(name: &str, keys: &[Key]) -> bool {
    keys.iter().any(|key| {
        key.path
            .split_once('.')
            .is_some_and(|(section, _)| section == name)
    })
}

/// Names the key that was probably meant, or where all keys are listed.
fn hint(path: &str, keys: &[Key]) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let wanted = last(path);
    keys.iter()
        .map(|key| {
            let same_name = last(&key.path) == wanted;
            let distance = if same_name {
                0
            } else {
                distance(path, &key.path)
            };
            (distance, key)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 3)
        .map_or_else(
            || "`trunkline config schema` lists them all".to_owned(),
            |(_, key)| format!("did you mean {}?", key.path),
        )
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.bytes().filter(|byte| *byte == b'\n').count() + 1
}
