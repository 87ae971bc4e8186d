//! What an operator may set about the multi-device provider, and the checks that make it usable.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::endpoint::{Endpoint, EndpointError};

/// WhatsApp's own endpoint.
pub const WHATSAPP_ENDPOINT: &str = "wss://web.whatsapp.com/ws/chat";

/// The client version presented to WhatsApp unless configured otherwise. WhatsApp refuses versions
/// that are too old (405); it is configuration so that an operator need not wait for a release.
pub const DEFAULT_VERSION: (u32, u32, u32) = (2, 3000, 1_042_742_319);

/// Settings of the multi-device provider. [`MultideviceConfig::default`] speaks to WhatsApp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultideviceConfig {
    /// WebSocket address of the chat server (`wss://host[:port]/path`).
    pub endpoint: String,
    /// TLS roots in DER that are trusted besides the public ones, for a server that stands in for
    /// WhatsApp.
    pub extra_roots: Vec<Vec<u8>>,
    /// The client version presented at login.
    pub version: (u32, u32, u32),
    /// How long the TCP, TLS and WebSocket handshakes may take together.
    pub connect_timeout: Duration,
    /// How long a login may take from the first byte to the server's `<success>`, and how long a
    /// pairing may wait for its first QR code.
    pub login_timeout: Duration,
    /// How long nothing may arrive before the server is asked for a sign of life.
    pub silence: Duration,
    /// How long the server may take to answer such a question, after which the connection is closed.
    pub probe_patience: Duration,
    /// How long frames may arrive without one of them decoding before the connection is closed.
    pub decode_patience: Duration,
    /// How long an acknowledgement waits for what it acknowledges to become durable before the
    /// connection is closed instead.
    pub gate_patience: Duration,
    /// The name in the phone's list of linked devices.
    pub device_name: String,
    /// The icon in the phone's list of linked devices.
    pub platform: Platform,
    /// Whether to receive the chat history the phone offers after linking. Off, history is
    /// acknowledged and dropped.
    pub history: bool,
    /// Whether presence and typing become events.
    pub presence: bool,
    /// Where files are put while they are fetched, encrypted and without a name; must be there, and have
    /// room for them.
    pub scratch: PathBuf,
    /// LID to phone-number mappings each session keeps in memory.
    pub mapping_cache: usize,
}

/// What the phone shows a linked device as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Platform {
    /// A desktop computer.
    #[default]
    Desktop,
    /// The Chrome browser.
    Chrome,
    /// The Firefox browser.
    Firefox,
    /// The Safari browser.
    Safari,
    /// The Edge browser.
    Edge,
}

impl Default for MultideviceConfig {
    fn default() -> Self {
        Self {
            endpoint: WHATSAPP_ENDPOINT.to_owned(),
            extra_roots: Vec::new(),
            version: DEFAULT_VERSION,
            connect_timeout: Duration::from_secs(15),
            login_timeout: Duration::from_secs(45),
            silence: Duration::from_mins(1),
            probe_patience: Duration::from_secs(20),
            decode_patience: Duration::from_secs(20),
            gate_patience: Duration::from_secs(10),
            device_name: "Trunkline".to_owned(),
            platform: Platform::default(),
            history: false,
            presence: false,
            scratch: std::env::temp_dir(),
            mapping_cache: 128,
        }
    }
}

/// Why the settings cannot be used. Each names the key and the fix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The endpoint is unusable, or this build may not use it.
    #[error("endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    /// A duration is zero or absurd.
    #[error("{key} is {found:?}; use {min:?} to {max:?}")]
    Duration {
        /// The key at fault.
        key: &'static str,
        /// What it is.
        found: Duration,
        /// The least useful value.
        min: Duration,
        /// The greatest useful value.
        max: Duration,
    },
    /// The device name cannot be shown.
    #[error("device_name has {chars} characters; use 1 to 40")]
    DeviceName {
        /// How many characters it has.
        chars: usize,
    },
    /// The mapping cache is unusable.
    #[error("mapping_cache is {found}; use 16 to 100000")]
    MappingCache {
        /// What it is.
        found: usize,
    },
    /// A root certificate cannot be parsed.
    #[error("extra_roots[{index}] is not a DER certificate: {detail}")]
    Root {
        /// Its position.
        index: usize,
        /// The parser's words.
        detail: String,
    },
    /// The cryptography library refused the TLS settings.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl MultideviceConfig {
    /// Checks everything that can be checked without a network.
    ///
    /// # Errors
    /// The first [`ConfigError`]; it names the key and the fix.
    pub fn validate(&self) -> Result<Endpoint, ConfigError> {
        let endpoint = Endpoint::parse(&self.endpoint)?;
        let second = Duration::from_secs(1);
        for (key, found, max) in [
            ("connect_timeout", self.connect_timeout, 60),
            ("login_timeout", self.login_timeout, 600),
            ("silence", self.silence, 3600),
            ("probe_patience", self.probe_patience, 120),
            ("decode_patience", self.decode_patience, 600),
            ("gate_patience", self.gate_patience, 60),
        ] {
            let (min, max) = (second / 10, Duration::from_secs(max));
            if !(min..=max).contains(&found) {
                return Err(ConfigError::Duration {
                    key,
                    found,
                    min,
                    max,
                });
            }
        }
        let chars = self.device_name.chars().count();
        if !(1..=40).contains(&chars) {
            return Err(ConfigError::DeviceName { chars });
        }
        if !(16..=100_000).contains(&self.mapping_cache) {
            return Err(ConfigError::MappingCache {
                found: self.mapping_cache,
            });
        }
        Ok(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> MultideviceConfig {
        MultideviceConfig {
            endpoint: if cfg!(feature = "simulator") {
                "ws://127.0.0.1:7000/ws/chat".into()
            } else {
                WHATSAPP_ENDPOINT.into()
            },
            ..MultideviceConfig::default()
        }
    }

    type Break = fn(&mut MultideviceConfig);

    #[test]
    fn each_error_names_its_key() {
        assert!(usable().validate().is_ok());
        let broken: [(&str, Break); 4] = [
            ("login_timeout", |c| c.login_timeout = Duration::ZERO),
            ("device_name", |c| c.device_name = String::new()),
            ("mapping_cache", |c| c.mapping_cache = 0),
            ("endpoint", |c| c.endpoint = "http://x".into()),
        ];
        for (key, break_it) in broken {
            let mut config = usable();
            break_it(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
