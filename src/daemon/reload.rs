//! What of the configuration can change while the daemon runs, and what needs a restart.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::settings;
use crate::api::tls::Certificate;
use crate::config::{Config, ConfigError, Sources, load};
use crate::store::Retention;
use crate::telemetry::{LogControl, TelemetryError};

/// The keys that take effect at once; every other needs a restart.
pub const LIVE_KEYS: [&str; 3] = [
    "log.level",
    "store.journal_max_age",
    "store.journal_max_size",
];

/// What a reload calls a certificate whose files have changed.
const CERTIFICATE: &str = "listen.tls_certificate";

/// Reads the configuration anew and applies what can be applied.
#[derive(Debug)]
pub struct Reloader {
    sources: Sources,
    /// What the daemon runs with.
    running: Config,
    logs: LogControl,
    retention: watch::Sender<Retention>,
    /// Of the network listener, if it speaks TLS.
    certificate: Option<Arc<Certificate>>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Keys whose new values are in force; `listen.tls_certificate` when the content of its files is new.
    pub applied: Vec<String>,
    /// Keys whose new values come with the next restart.
    pub pending: Vec<String>,
    /// Odd but harmless.
    pub warnings: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log level cannot be changed.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
}

impl Reloader {
    pub(super) fn new(
        sources: Sources,
        running: Config,
        logs: LogControl,
        retention: watch::Sender<Retention>,
        certificate: Option<Arc<Certificate>>,
    ) -> Self {
        Self {
            sources,
            running,
            logs,
            retention,
            certificate,
        }
    }

    /// Reads the configuration from where the daemon got it and applies what can be applied; reads the
    /// certificate and its key again. Those that cannot be used are a warning, and the ones in use stay.
    ///
    /// # Errors
    /// [`ReloadError`] when it is wrong: then everything stays as it was.
    pub fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let loaded = load(&self.sources)?;
        let changed = differences(&self.running, &loaded.config);
        self.logs.set_level(&loaded.config.log)?;
        self.retention
            .send_replace(settings::retention(&loaded.config));
        self.running.log.level = loaded.config.log.level;
        self.running.store.journal_max_age = loaded.config.store.journal_max_age;
        self.running.store.journal_max_size = loaded.config.store.journal_max_size;
        let (mut applied, pending): (Vec<_>, _) = changed
            .into_iter()
            .partition(|key| LIVE_KEYS.contains(&key.as_str()));
        let mut warnings = loaded.warnings;
        match self
            .certificate
            .as_ref()
            .map(|certificate| certificate.reload())
        {
            Some(Ok(true)) => applied.push(CERTIFICATE.to_owned()),
            Some(Err(error)) => warnings.push(format!("{error}; the certificate in use stays")),
            Some(Ok(false)) | None => {}
        }
        Ok(Reloaded {
            applied,
            pending,
            warnings,
        })
    }
}

/// The keys, as `section.key`, whose values differ.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let [old, new] = [old, new].map(|config| serde_json::to_value(config).unwrap_or_default());
    compare("", &old, &new, &mut found);
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                let [old, new] = [old, new].map(|values| values.get(name).unwrap_or(&Value::Null));
                compare(&path, old, new, found);
            }
        }
        _ if old != new => found.push(path.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_like_keys() {
        let old = Config::default();
        let mut new = Config::default();
        assert_eq!(differences(&old, &new), Vec::<String>::new());
        "debug".clone_into(&mut new.log.level);
        new.multidevice.tls_root = Some("/root.pem".into());
        new.state_dir = "/elsewhere".into();
        assert_eq!(
            differences(&old, &new),
            ["log.level", "multidevice.tls_root", "state_dir"]
        );
    }

    #[test]
    fn keys_that_are_live_exist() {
        let config = serde_json::to_value(Config::default()).unwrap();
        for key in LIVE_KEYS {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(config.pointer(&pointer).is_some(), "{key}");
        }
    }
}
