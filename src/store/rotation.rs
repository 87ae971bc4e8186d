//! Replacing the key encryption key.

use crate::store::engine::{Commit, CommitError, Expectation};
use crate::store::errors::StoreError;
use crate::store::key::SYSTEM;
use crate::store::keyring::{self, KekError, KekSource, Keks};
use crate::store::root::{Store, rotation_key, wrapped_key};
use std::sync::{Arc, PoisonError};
use thiserror::Error;

impl Store {
    /// Whether a new key encryption key is owed since a workspace was deleted.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn rotation_owed(&self) -> Result<bool, StoreError> {
        Ok(self.0.context.engine.get(&rotation_key()).await?.is_some())
    }

    /// Replaces the key encryption key: a fresh one is added to the key file, every workspace's keys are
    /// wrapped anew, then the old one is dropped from the file. A crash at any point leaves a store
    /// that opens.
    ///
    /// # Errors
    /// [`RotateError::Managed`] when the key comes from a credential, which only the operator can
    /// replace (new key on the first line, old one below, until [`Self::rewrap`] has run).
    pub async fn rotate_kek(&self) -> Result<(), RotateError> {
        let _guard = self.0.rotation.lock().await;
        let source = {
            let ring = self.0.keks.read().unwrap_or_else(PoisonError::into_inner);
            ring.source().clone()
        };
        let path = match &source {
            KekSource::Credential(path) => return Err(RotateError::Managed(path.clone())),
            KekSource::File(path) | KekSource::Development(path) => path.clone(),
        };
        let io = |source| RotateError::Io {
            path: path.clone(),
            source,
        };
        keyring::prepend_fresh_kek(&path, &self.0.context.entropy).map_err(io)?;
        self.reload_keks(&source)?;
        self.wrap_all().await?;
        keyring::retire_old_keks(&path).map_err(io)?;
        self.reload_keks(&source)?;
        // Last: until the old key is gone from the file, a new one is owed.
        Ok(self.no_longer_owed().await?)
    }

    /// Makes up for a rotation that a crash interrupted. Where this process may not replace the key,
    /// nothing happens: the operator was told when it became due.
    ///
    /// # Errors
    /// As [`Self::rotate_kek`].
    pub async fn finish_rotation(&self) -> Result<(), RotateError> {
        if !self.rotation_owed().await? {
            return Ok(());
        }
        match self.rotate_kek().await {
            Err(RotateError::Managed(_)) => Ok(()),
            done => done,
        }
    }

    fn reload_keks(&self, source: &KekSource) -> Result<(), RotateError> {
        let fresh = Keks::load(source, &self.0.context.entropy)?;
        *self.0.keks.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(())
    }

    /// Wraps every workspace's keys with the first key encryption key given; the others are no longer
    /// needed afterwards.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn rewrap(&self) -> Result<(), StoreError> {
        let _guard = self.0.rotation.lock().await;
        self.wrap_all().await?;
        self.no_longer_owed().await
    }

    async fn wrap_all(&self) -> Result<(), StoreError> {
        let mut numbers = vec![SYSTEM];
        numbers.extend(self.all_workspaces().await?.iter().map(|row| row.number));
        let engine = &*self.0.context.engine;
        for number in numbers {
            let key = wrapped_key(number);
            let Some(old) = engine.get(&key).await? else {
                continue;
            };
            let fresh = {
                let ring = self.0.keks.read().unwrap_or_else(PoisonError::into_inner);
                ring.wrap(number, &ring.unwrap(number, &old)?)?
            };
            let commit = Commit {
                expect: vec![(key.clone(), Expectation::Equals(old))],
                put: vec![(key, fresh)],
                ..Commit::default()
            };
            match engine.commit(commit).await {
                // Deleted meanwhile.
                Ok(_) | Err(CommitError::ExpectationFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn no_longer_owed(&self) -> Result<(), StoreError> {
        let engine = &self.0.context.engine;
        let done = Commit {
            delete: vec![rotation_key()],
            ..Commit::default()
        };
        engine.commit(done).await?;
        Ok(())
    }
}

/// Why the key encryption key was not replaced.
#[derive(Debug, Error)]
pub enum RotateError {
    /// It comes from a credential.
    #[error(
        "the key encryption key comes from the credential {0}: put a new key on its first line, keep the old one below it, and restart"
    )]
    Managed(std::path::PathBuf),
    /// The key file cannot be written.
    #[error("key file {path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key file cannot be read back.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
