//! `[multidevice]`: WhatsApp's multi-device service.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problems;

/// WhatsApp's multi-device service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Multidevice {
    /// The WebSocket to connect to. Plain ws:// is possible on loopback only, and only in a build with
    /// the feature `simulator`, which in turn refuses everything that is not loopback.
    pub endpoint: String,
    /// A PEM file with the root of the endpoint's and the media servers' TLS, instead of the public
    /// roots: for a stand-in of WhatsApp on loopback.
    pub tls_root: Option<PathBuf>,
    /// The name of the linked device in the phone's list.
    pub device_name: String,
    /// The WhatsApp Web version to present, instead of the one of this release: when WhatsApp refuses
    /// that as outdated (405) and no newer release is at hand.
    pub version: Option<String>,
    /// Whether to receive the chat history that the phone offers after linking.
    pub history: bool,
}

impl Default for Multidevice {
    fn default() -> Self {
        Self {
            endpoint: "wss://web.whatsapp.com/ws/chat".to_owned(),
            tls_root: None,
            device_name: "Trunkline".to_owned(),
            version: None,
            history: false,
        }
    }
}

impl Multidevice {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let known = self.endpoint.starts_with("wss://") || self.endpoint.starts_with("ws://");
        problems.require(
            known
                && self
                    .endpoint
                    .split_once("://")
                    .is_some_and(|(_, rest)| !rest.is_empty()),
            "multidevice.endpoint",
            "is not a WebSocket address; write it like \"wss://web.whatsapp.com/ws/chat\"",
        );
        problems.require(
            (1..=40).contains(&self.device_name.chars().count()),
            "multidevice.device_name",
            "must have 1 to 40 characters",
        );
        problems.require(
            self.version.is_none() || self.version_numbers().is_some(),
            "multidevice.version",
            "is not a version; write it like \"2.3000.1042742319\"",
        );
    }

    /// The version to present, if one is configured and well formed.
    pub fn version_numbers(&self) -> Option<(u32, u32, u32)> {
        let mut parts = self.version.as_deref()?.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(a)), Some(Ok(b)), Some(Ok(c)), None) => Some((a, b, c)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_three_numbers() {
        let with = |version: &str| Multidevice {
            version: Some(version.to_owned()),
            ..Multidevice::default()
        };
        assert_eq!(with("2.3000.1").version_numbers(), Some((2, 3000, 1)));
        for bad in ["", "2", "2.3000", "2.3000.1.0", "2.x.1", "2.-1.1"] {
            assert_eq!(with(bad).version_numbers(), None, "{bad}");
        }
    }
}
