//! What opens an encrypted archive.

use std::io::{BufRead, Read};

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor};
use thiserror::Error;

/// The largest work factor of a passphrase that is tried: about a minute on a slow machine.
const MAX_WORK: u8 = 22;

/// Identities, or a passphrase.
pub enum Unlock {
    /// The secret counterparts of recipients.
    Identities(Vec<Box<dyn age::Identity + Send + Sync>>),
    /// What the archive was encrypted with.
    Passphrase(SecretString),
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identities(all) => write!(f, "Identities({})", all.len()),
            Self::Passphrase(_) => f.write_str("Passphrase"),
        }
    }
}

/// Why an archive does not open.
#[derive(Debug, Error)]
pub enum UnlockError {
    /// An identity file holds none.
    #[error("there is no age identity in it; `age-keygen -o FILE` makes such a file")]
    NoIdentity,
    /// It is no encrypted file.
    #[error("this is not a backup of Trunkline's: it is not encrypted with age")]
    Foreign,
    /// It ends within its first lines.
    #[error("this backup is cut off: it was not written or copied to its end; use another")]
    Truncated,
    /// It was altered.
    #[error("this backup is damaged (its beginning was altered); use another")]
    Damaged,
    /// It is for somebody else.
    #[error(
        "this backup was made for other recipients: give the identity that belongs to one of its recipients with --identity"
    )]
    WrongIdentity,
    /// The passphrase is wrong.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// It needs a passphrase.
    #[error(
        "this backup is encrypted with a passphrase: give it with --passphrase-file, or --passphrase to be asked"
    )]
    NeedsPassphrase,
    /// It needs an identity.
    #[error("this backup is encrypted for recipients: give an identity file with --identity")]
    NeedsIdentity,
    /// The operating system refused.
    #[error("the backup cannot be read: {0}")]
    Io(std::io::Error),
}

impl Unlock {
    /// Reads an identity file, as `age-keygen` writes it.
    ///
    /// # Errors
    /// [`UnlockError::NoIdentity`].
    pub fn identities(text: &str) -> Result<Self, UnlockError> {
        let none = |_| UnlockError::NoIdentity;
        let file = age::IdentityFile::from_buffer(text.as_bytes()).map_err(none)?;
        let identities = file
            .into_identities()
            .map_err(|_| UnlockError::NoIdentity)?;
        if identities.is_empty() {
            return Err(UnlockError::NoIdentity);
        }
        Ok(Self::Identities(identities))
    }

    /// A passphrase.
    pub fn passphrase(text: String) -> Self {
        Self::Passphrase(text.into())
    }

    /// Opens what is encrypted.
    pub(super) fn open<R: BufRead>(&self, input: R) -> Result<impl Read + use<R>, UnlockError> {
        let decryptor = Decryptor::new_buffered(input).map_err(told)?;
        match (self, decryptor.is_scrypt()) {
            (Self::Passphrase(_), false) => Err(UnlockError::NeedsIdentity),
            (Self::Identities(_), true) => Err(UnlockError::NeedsPassphrase),
            (Self::Identities(all), false) => {
                let all = all.iter().map(|one| &**one as &dyn age::Identity);
                decryptor.decrypt(all).map_err(told)
            }
            (Self::Passphrase(passphrase), true) => {
                let mut identity = age::scrypt::Identity::new(passphrase.clone());
                identity.set_max_work_factor(MAX_WORK);
                let one = std::iter::once(&identity as &dyn age::Identity);
                decryptor.decrypt(one).map_err(|error| match error {
                    DecryptError::NoMatchingKeys
                    | DecryptError::DecryptionFailed
                    | DecryptError::KeyDecryptionFailed => UnlockError::WrongPassphrase,
                    error => told(error),
                })
            }
        }
    }
}

fn told(error: DecryptError) -> UnlockError {
    match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed => {
            UnlockError::WrongIdentity
        }
        DecryptError::Io(error) => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => UnlockError::Truncated,
            std::io::ErrorKind::InvalidData => UnlockError::Foreign,
            _ => UnlockError::Io(error),
        },
        DecryptError::InvalidMac | DecryptError::DecryptionFailed => UnlockError::Damaged,
        _ => UnlockError::Foreign,
    }
}
