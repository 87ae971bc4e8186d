//! `[listen]`: where the daemon listens.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::problem::Problems;

/// Longest path of a unix socket (`sun_path` less its terminator).
const MAX_SOCKET_PATH: usize = 107;

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address of the API for messaging cores, in gRPC and in JSON, or "off". Callers need a token.
    pub grpc: Listener,
    /// The operator's unix socket: a path, "off", or "auto" (trunkline.sock in the runtime directory
    /// that systemd gives, else in `state_dir`). Whoever may open it is the operator.
    pub socket: SocketSetting,
    /// Address of health and metrics over HTTP, or "off". It carries no tenant data and asks for no token.
    pub ops: Listener,
    /// A PEM file with the certificate of the API, followed by the intermediate ones. The API then speaks
    /// TLS, also on loopback. Read again when it changes.
    pub tls_certificate: Option<PathBuf>,
    /// A PEM file with the private key of `tls_certificate`.
    pub tls_key: Option<PathBuf>,
    /// Whether `grpc` (without a certificate) and `ops` may listen beyond loopback although they speak
    /// plaintext. Only for networks where something else encrypts.
    pub plaintext_beyond_loopback: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            grpc: Listener::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 7433))),
            socket: SocketSetting::Auto,
            ops: Listener::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 7434))),
            tls_certificate: None,
            tls_key: None,
            plaintext_beyond_loopback: false,
        }
    }
}

impl Listen {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let encrypted = self.tls_certificate.is_some();
        for (key, listener, carries, fix) in [
            (
                "listen.grpc",
                self.grpc,
                "tokens and messages",
                "set listen.tls_certificate and listen.tls_key, ",
            ),
            ("listen.ops", self.ops, "health and metrics", ""),
        ] {
            if let Listener::At(address) = listener
                && !address.ip().is_loopback()
                && !self.plaintext_beyond_loopback
                && !(encrypted && key == "listen.grpc")
            {
                problems.add(
                    key,
                    format!(
                        "{address} is reachable beyond this machine and would carry {carries} in plaintext; {fix}use 127.0.0.1, or set listen.plaintext_beyond_loopback = true if the network encrypts"
                    ),
                );
            }
        }
        for (key, given, other) in [
            (
                "listen.tls_certificate",
                &self.tls_certificate,
                &self.tls_key,
            ),
            ("listen.tls_key", &self.tls_key, &self.tls_certificate),
        ] {
            let both = "is set alone; TLS needs listen.tls_certificate and listen.tls_key";
            problems.require(given.is_none() || other.is_some(), key, both);
            let absolute = given.as_deref().is_none_or(std::path::Path::is_absolute);
            problems.require(
                absolute,
                key,
                "is not an absolute path; write it from the root",
            );
        }
        if let (Listener::At(grpc), Listener::At(ops)) = (self.grpc, self.ops) {
            problems.require(
                grpc != ops || grpc.port() == 0,
                "listen.ops",
                "is the same address as listen.grpc; give each its own port",
            );
        }
        problems.require(
            self.grpc != Listener::Off || self.socket != SocketSetting::Off,
            "listen.grpc",
            "and listen.socket are both \"off\", so nothing could reach the daemon; switch one on",
        );
        if let SocketSetting::At(path) = &self.socket {
            let length = path.as_os_str().len();
            problems.require(
                length <= MAX_SOCKET_PATH,
                "listen.socket",
                &format!(
                    "is {length} bytes long and unix sockets allow {MAX_SOCKET_PATH}; choose a shorter path"
                ),
            );
            problems.require(
                path.is_absolute(),
                "listen.socket",
                "is not an absolute path; write it from the root, or use \"auto\"",
            );
        }
    }
}

/// An address to listen on, or "off".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listener {
    /// Do not listen.
    Off,
    /// Listen here; port 0 takes any free port.
    At(SocketAddr),
}

impl Listener {
    /// The address, unless it is off.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for Listener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            format!("`{text}` is not an address with a port; write it like \"127.0.0.1:7433\" or \"off\"")
        })
    }
}

impl TryFrom<String> for Listener {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl From<Listener> for String {
    fn from(listener: Listener) -> Self {
        listener.to_string()
    }
}

impl JsonSchema for Listener {
    fn schema_name() -> Cow<'static, str> {
        "Listener".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(off|.+:[0-9]+)$" })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Where the operator's socket is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum SocketSetting {
    /// In the runtime directory if there is one, else in the state directory.
    Auto,
    /// No socket.
    Off,
    /// Here.
    At(PathBuf),
}

impl From<String> for SocketSetting {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            "off" => Self::Off,
            _ => Self::At(PathBuf::from(text)),
        }
    }
}

impl From<SocketSetting> for String {
    fn from(setting: SocketSetting) -> Self {
        match setting {
            SocketSetting::Auto => "auto".to_owned(),
            SocketSetting::Off => "off".to_owned(),
            SocketSetting::At(path) => path.display().to_string(),
        }
    }
}

impl JsonSchema for SocketSetting {
    fn schema_name() -> Cow<'static, str> {
        "Socket".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }

    fn inline_schema() -> bool {
        true
    }
}
