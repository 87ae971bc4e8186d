//! `[keys]`: where the key encryption key comes from.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problems;

/// Where the key that encrypts all others comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// "credential" (systemd), "file", "development" (generated beside the data, with a warning), or
    /// "auto": the credential if systemd gave one, else development.
    pub source: KeySource,
    /// The name of the systemd credential (`LoadCredentialEncrypted=`).
    pub credential: String,
    /// The key file for source = "file": 32 random bytes in base64, readable by the daemon only.
    pub file: Option<PathBuf>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            source: KeySource::Auto,
            credential: "trunkline-kek".to_owned(),
            file: None,
        }
    }
}

/// Which source the key encryption key is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum KeySource {
    /// The systemd credential if there is one, else the development key.
    Auto,
    /// A systemd credential.
    Credential,
    /// A file of the operator's.
    File,
    /// A key generated beside the data.
    Development,
}

impl Keys {
    pub(super) fn validate(&self, problems: &mut Problems) {
        problems.require(
            self.source != KeySource::File || self.file.is_some(),
            "keys.file",
            "is missing although keys.source is \"file\"; name the key file",
        );
        problems.require(
            self.file.is_none() || self.source == KeySource::File,
            "keys.file",
            "would be ignored: it needs keys.source = \"file\"",
        );
        problems.require(
            !self.credential.is_empty() && !self.credential.contains('/'),
            "keys.credential",
            "is not a credential name; use the name given to LoadCredentialEncrypted=, without a path",
        );
    }

    /// The credential's file in systemd's `$CREDENTIALS_DIRECTORY`.
    pub fn credential_path(&self, credentials_dir: &Path) -> PathBuf {
        credentials_dir.join(&self.credential)
    }
}
