//! Keys and the key that wraps them.
//!
//! Every workspace has its own random data keys and an index secret. They are stored only wrapped
//! (AES-256-GCM) by the key encryption key, the KEK, which never enters the store: it comes from a
//! systemd credential, a file, or a development key generated beside the store. Deleting a workspace
//! destroys its wrapped keys and calls for a new KEK, because log segments and backups still hold the
//! old wrapping.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::seal::SealError;
use crate::domain::clock::Entropy;

/// Where the key encryption key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KekSource {
    /// A file in `$CREDENTIALS_DIRECTORY`, placed there by systemd (`LoadCredentialEncrypted=`).
    Credential(PathBuf),
    /// A file the operator made; must not be readable by others.
    File(PathBuf),
    /// A file that is generated when it is missing: good enough for development only, because the key
    /// lies beside what it protects.
    Development(PathBuf),
}

impl KekSource {
    /// The file the key is read from.
    pub fn path(&self) -> &Path {
        match self {
            Self::Credential(path) | Self::File(path) | Self::Development(path) => path,
        }
    }
}

/// Why the key encryption key cannot be used.
#[derive(Debug, Error)]
pub enum KekError {
    /// The file cannot be read.
    #[error(
        "key encryption key {path}: {source}; make one with `head -c 32 /dev/urandom | base64`"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not hold 32 bytes in base64.
    #[error(
        "key encryption key {path}: line {line} is not 32 bytes in base64; make one with `head -c 32 /dev/urandom | base64`"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Other users may read the file.
    #[error(
        "key encryption key {path} is readable by others (mode {mode:o}); run `chmod 600 {path}`"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The development key cannot be written.
    #[error("development key {path} cannot be written: {source}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Identifies a KEK without revealing it: a digest of the key.
pub(super) type KekId = [u8; 8];

/// One key encryption key.
pub(super) struct Kek {
    id: KekId,
    key: RandomizedNonceKey,
}

impl Kek {
    fn new(secret: &[u8; 32]) -> Option<Self> {
        let digest = Sha256::new()
            .chain_update(b"trunkline kek id")
            .chain_update(secret)
            .finalize();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, secret).ok()?;
        Some(Self { id, key })
    }
}

/// The KEK in use and, while a rotation is under way, the ones before it.
///
/// A key file holds one key per line in base64; the first wraps, all unwrap. Empty lines and lines that
/// begin with `#` are ignored.
pub struct Keks {
    keks: Vec<Kek>,
    source: KekSource,
}

impl fmt::Debug for Keks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keks({} from {:?})", self.keks.len(), self.source)
    }
}

impl Keks {
    /// Reads the key from its source; a missing development key is generated, with a warning.
    ///
    /// # Errors
    /// [`KekError`] names the file and the fix.
    pub fn load(source: &KekSource, entropy: &Entropy) -> Result<Self, KekError> {
        if let KekSource::Development(path) = source {
            generate_if_missing(path, entropy)?;
            tracing::warn!(
                path = %path.display(),
                "the key encryption key is a development key kept beside the data; for production give one through a systemd credential or a file"
            );
        }
        let path = source.path();
        if !matches!(source, KekSource::Credential(_)) {
            refuse_exposed(path)?;
        }
        let text =
            Zeroizing::new(
                fs::read_to_string(path).map_err(|source| KekError::Unreadable {
                    path: path.to_owned(),
                    source,
                })?,
            );
        let keks = parse(&text).map_err(|line| KekError::Malformed {
            path: path.to_owned(),
            line,
        })?;
        Ok(Self {
            keks,
            source: source.clone(),
        })
    }

    /// A KEK made of `secret` that lives only in memory: for tests and benches.
    ///
    /// # Panics
    /// Never: every 32-byte secret is a valid key; the type says so where the library cannot.
    #[must_use]
    pub fn ephemeral(secret: [u8; 32]) -> Self {
        Self {
            keks: Kek::new(&secret).into_iter().collect(),
            source: KekSource::Credential(PathBuf::from("memory")),
        }
    }

    /// The id of the KEK that wraps.
    #[cfg(test)]
    pub(super) fn current_id(&self) -> KekId {
        self.keks.first().map(|kek| kek.id).unwrap_or_default()
    }

    /// Where the key came from.
    pub(super) fn source(&self) -> &KekSource {
        &self.source
    }

    /// Wraps a workspace's keys.
    pub(super) fn wrap(&self, workspace: u64, keys: &WorkspaceKeys) -> Result<Bytes, SealError> {
        let kek = self.keks.first().ok_or(SealError::Crypto)?;
        let mut record = kek.id.to_vec();
        record.extend_from_slice(&[0; 12]);
        let body = record.len();
        let plain = Zeroizing::new(keys.encode());
        record.extend_from_slice(&plain);
        let (nonce, tag) = kek
            .key
            .seal_in_place_separate_tag(Aad::from(wrap_aad(workspace)), &mut record[body..])
            .map_err(|_| SealError::Crypto)?;
        record[8..20].copy_from_slice(nonce.as_ref());
        record.extend_from_slice(tag.as_ref());
        Ok(record.into())
    }

    /// Unwraps what [`Self::wrap`] made, with whichever KEK it was wrapped.
    pub(super) fn unwrap(
        &self,
        workspace: u64,
        record: &[u8],
    ) -> Result<WorkspaceKeys, UnwrapError> {
        let damaged = || UnwrapError::Damaged;
        let (id, rest) = record.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (nonce, body) = rest.split_first_chunk::<12>().ok_or_else(damaged)?;
        let kek = self
            .keks
            .iter()
            .find(|kek| kek.id == *id)
            .ok_or(UnwrapError::WrongKek)?;
        let mut body = Zeroizing::new(body.to_vec());
        let plain = kek
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(wrap_aad(workspace)),
                &mut body,
            )
            .map_err(|_| UnwrapError::Damaged)?;
        WorkspaceKeys::decode(plain).ok_or(UnwrapError::Damaged)
    }
}

/// Why wrapped keys did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnwrapError {
    /// Wrapped by a KEK that was not given.
    #[error(
        "the store was encrypted with another key encryption key; give the one it was created with"
    )]
    WrongKek,
    /// Altered, or not from here.
    #[error("the wrapped keys are damaged; restore from a backup")]
    Damaged,
}

fn wrap_aad(workspace: u64) -> Vec<u8> {
    let mut aad = b"trunkline workspace keys".to_vec();
    aad.extend_from_slice(&workspace.to_be_bytes());
    aad
}

fn parse(text: &str) -> Result<Vec<Kek>, usize> {
    let mut keks = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bytes = Zeroizing::new(STANDARD.decode(line).map_err(|_| index + 1)?);
        let secret: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| index + 1)?;
        keks.push(Kek::new(secret).ok_or(index + 1)?);
    }
    if keks.is_empty() { Err(1) } else { Ok(keks) }
}

fn refuse_exposed(path: &Path) -> Result<(), KekError> {
    let Ok(metadata) = fs::metadata(path) else {
        // Reading it next reports why.
        return Ok(());
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KekError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn generate_if_missing(path: &Path, entropy: &Entropy) -> Result<(), KekError> {
    if path.exists() {
        return Ok(());
    }
    let line = fresh_line(entropy);
    write_private(path, &line).map_err(|source| KekError::Unwritable {
        path: path.to_owned(),
        source,
    })
}

fn fresh_line(entropy: &Entropy) -> Zeroizing<String> {
    let mut secret = Zeroizing::new([0; 32]);
    entropy.fill(&mut *secret);
    Zeroizing::new(format!("{}\n", STANDARD.encode(*secret)))
}

/// Replaces `path` so that a crash leaves either the old file or the whole new one.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

/// Adds a fresh KEK in front of the ones in a file this process may write. The old ones stay until
/// [`retire_old_keks`], so that a crash in between leaves a store that opens.
pub(super) fn prepend_fresh_kek(path: &Path, entropy: &Entropy) -> io::Result<()> {
    let old = Zeroizing::new(fs::read_to_string(path)?);
    let mut text = fresh_line(entropy);
    text.push_str(&old);
    write_private(path, &text)
}

/// Drops all but the first KEK from a file, once nothing is wrapped by the others any more.
pub(super) fn retire_old_keks(path: &Path) -> io::Result<()> {
    let text = Zeroizing::new(fs::read_to_string(path)?);
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))
        .unwrap_or_default();
    let kept = Zeroizing::new(format!("{first}\n"));
    write_private(path, &kept)
}

/// A workspace's keys in the clear, in memory only.
#[derive(Clone)]
pub(super) struct WorkspaceKeys {
    /// Newest last; ids ascend from 1.
    data: Vec<(u32, Zeroizing<[u8; 32]>)>,
    index: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for WorkspaceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkspaceKeys({} data keys)", self.data.len())
    }
}

impl WorkspaceKeys {
    /// Fresh random keys.
    pub(super) fn generate(entropy: &Entropy) -> Self {
        Self {
            data: vec![(1, random(entropy))],
            index: random(entropy),
        }
    }

    /// The same keys with a new data key in front; values sealed with older ones still open. The index
    /// secret stays, or lookups would miss.
    #[cfg(test)]
    pub(super) fn rotated(&self, entropy: &Entropy) -> Self {
        let mut next = self.clone();
        let id = self.current().0 + 1;
        next.data.push((id, random(entropy)));
        next
    }

    /// The data key that seals, and its id.
    pub(super) fn current(&self) -> (u32, &[u8; 32]) {
        static NONE: [u8; 32] = [0; 32];
        // `generate` and `decode` never make an empty list.
        self.data.last().map_or((0, &NONE), |(id, key)| (*id, key))
    }

    /// The data key with this id.
    pub(super) fn by_id(&self, id: u32) -> Option<&[u8; 32]> {
        let found = self.data.iter().find(|(known, _)| *known == id);
        found.map(|(_, key)| &**key)
    }

    /// The secret index keys are derived from.
    pub(super) fn index_secret(&self) -> &[u8; 32] {
        &self.index
    }

    /// The keys in the clear, for an encrypted backup.
    pub(super) fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.encode())
    }

    /// Reads what [`Self::to_plain`] made.
    pub(super) fn from_plain(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = KeysRecord {
            index: self.index.to_vec(),
            data: self
                .data
                .iter()
                .map(|(id, key)| DataKeyRecord {
                    id: *id,
                    key: key.to_vec(),
                })
                .collect(),
        };
        let bytes = record.encode_to_vec();
        record.wipe();
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut record = KeysRecord::decode(bytes).ok()?;
        let keys = Self::from_record(&record);
        record.wipe();
        keys
    }

    fn from_record(record: &KeysRecord) -> Option<Self> {
        let mut data = Vec::with_capacity(record.data.len());
        for key in &record.data {
            data.push((key.id, Zeroizing::new(key.key.as_slice().try_into().ok()?)));
        }
        if data.is_empty() {
            return None;
        }
        let index = Zeroizing::new(record.index.as_slice().try_into().ok()?);
        Some(Self { data, index })
    }
}

fn random(entropy: &Entropy) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    entropy.fill(&mut *key);
    key
}

#[derive(Clone, PartialEq, Message)]
struct KeysRecord {
    #[prost(message, repeated, tag = "1")]
    data: Vec<DataKeyRecord>,
    #[prost(bytes = "vec", tag = "2")]
    index: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct DataKeyRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

impl KeysRecord {
    fn wipe(&mut self) {
        self.index.zeroize();
        for key in &mut self.data {
            key.key.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entropy() -> Entropy {
        Entropy::seeded(11)
    }

    #[test]
    fn wrapped_keys_open_with_their_kek_and_workspace_only() {
        let keys = WorkspaceKeys::generate(&entropy());
        let kek = Keks::ephemeral([1; 32]);
        let wrapped = kek.wrap(4, &keys).unwrap();
        let opened = kek.unwrap(4, &wrapped).unwrap();
        assert_eq!(opened.current(), keys.current());
        assert_eq!(opened.index_secret(), keys.index_secret());
        assert_eq!(kek.unwrap(5, &wrapped).unwrap_err(), UnwrapError::Damaged);
        let other = Keks::ephemeral([2; 32]);
        assert_eq!(
            other.unwrap(4, &wrapped).unwrap_err(),
            UnwrapError::WrongKek
        );
        assert_eq!(
            kek.unwrap(4, &wrapped[..10]).unwrap_err(),
            UnwrapError::Damaged
        );
    }

    #[test]
    fn a_development_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/dev.key");
        let source = KekSource::Development(path.clone());
        let first = Keks::load(&source, &entropy()).unwrap().current_id();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let second = Keks::load(&source, &Entropy::seeded(99))
            .unwrap()
            .current_id();
        assert_eq!(first, second);
    }

    #[test]
    fn bad_key_files_are_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let load = || Keks::load(&KekSource::File(path.clone()), &entropy());
        assert!(matches!(load(), Err(KekError::Unreadable { .. })));
        write_private(&path, "# comment\nnot base64!\n").unwrap();
        assert!(matches!(load(), Err(KekError::Malformed { line: 2, .. })));
        write_private(&path, "").unwrap();
        assert!(matches!(load(), Err(KekError::Malformed { .. })));
        write_private(&path, &STANDARD.encode([7; 32])).unwrap();
        assert!(load().is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load(), Err(KekError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn a_rotated_file_opens_old_and_new_until_the_old_is_retired() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let source = KekSource::Development(path.clone());
        let keys = WorkspaceKeys::generate(&entropy());
        let before = Keks::load(&source, &entropy()).unwrap();
        let wrapped = before.wrap(1, &keys).unwrap();
        prepend_fresh_kek(&path, &Entropy::seeded(5)).unwrap();
        let during = Keks::load(&source, &entropy()).unwrap();
        assert_ne!(before.current_id(), during.current_id());
        assert!(during.unwrap(1, &wrapped).is_ok());
        retire_old_keks(&path).unwrap();
        let after = Keks::load(&source, &entropy()).unwrap();
        assert_eq!(after.current_id(), during.current_id());
        assert_eq!(
            after.unwrap(1, &wrapped).unwrap_err(),
            UnwrapError::WrongKek
        );
    }
}
