//! Workspaces: creating, reading, changing, deleting them.

use crate::domain::ids::WorkspaceId;
use crate::domain::workspace::Workspace;
use crate::store::engine::{Commit, RowError, Scan, Version};
use crate::store::errors::{CreateError, LookupError, StoreError, UpdateError};
use crate::store::key::{Kind, workspace_prefix};
use crate::store::keyring::WorkspaceKeys;
use crate::store::media;
use crate::store::named::NumberRow;
use crate::store::page::{Page, PageRequest, PageToken};
use crate::store::requests::Remember;
use crate::store::root::{Store, purge_key, rotation_key, system_key, wrapped_key};
use crate::store::scope::{ATTEMPTS, Scope, Txn, TxnError};
use crate::store::workspace::{WorkspaceRow, WorkspaceStore, etag};
use std::sync::PoisonError;

impl Store {
    fn name_key(&self, id: &WorkspaceId) -> bytes::Bytes {
        let hash = self.0.system.hash(&[b"workspace", id.as_str().as_bytes()]);
        system_key(Kind::WorkspaceName).hash(hash).finish()
    }

    pub(super) fn row_key(number: u64) -> bytes::Bytes {
        system_key(Kind::Workspace).u64(number).finish()
    }

    /// Creates a workspace with keys of its own.
    ///
    /// # Errors
    /// [`CreateError::AlreadyExists`] when the id is taken.
    pub async fn create_workspace(
        &self,
        id: &WorkspaceId,
        display_name: &str,
    ) -> Result<Workspace, CreateError> {
        self.create_workspace_with(id, display_name, None).await
    }

    /// Creates a workspace and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`CreateError::AlreadyExists`] when the id is taken.
    pub async fn create_workspace_once(
        &self,
        id: &WorkspaceId,
        display_name: &str,
        remember: Remember<Workspace>,
    ) -> Result<Workspace, CreateError> {
        self.create_workspace_with(id, display_name, Some(remember))
            .await
    }

    async fn create_workspace_with(
        &self,
        id: &WorkspaceId,
        display_name: &str,
        remember: Option<Remember<Workspace>>,
    ) -> Result<Workspace, CreateError> {
        // A key that is being replaced must not wrap another workspace's keys unseen.
        let _no_rotation = self.0.rotation.lock().await;
        let name_key = self.name_key(id);
        let mut row = WorkspaceRow {
            number: 0,
            id: id.as_str().to_owned(),
            display_name: display_name.to_owned(),
            created_at: self.0.context.clock.now().0,
        };
        let mut txn = Txn::new(self.0.context.engine.clone());
        txn.expect_absent(name_key.clone());
        if let Some(remember) = &remember {
            txn.expect_absent(remember.key());
        }
        let keys = WorkspaceKeys::generate(&self.0.context.entropy);
        let (store, scope) = (self.clone(), self.0.system.clone());
        let (created, receiver) = tokio::sync::oneshot::channel();
        let rows = move |number| {
            row.number = number;
            let row_key = Self::row_key(number);
            let sealed = scope.seal(&row_key, &row)?;
            let workspace = row.to_domain(Version::of(&sealed))?;
            let mut rows = vec![
                (
                    name_key.clone(),
                    scope.seal(&name_key, &NumberRow { number })?,
                ),
                (row_key, sealed),
                (wrapped_key(number), store.wrap(number, &keys)?),
            ];
            if let Some(remember) = &remember {
                rows.extend(remember.rows(&workspace)?);
            }
            // The receiver lives until the commit is answered.
            let _ = created.send(workspace);
            Ok(rows)
        };
        txn.append(
            system_key(Kind::WorkspaceNumbers).finish(),
            Box::new(move |number| {
                rows(number).map_err(|error: StoreError| RowError(error.to_string()))
            }),
        );
        match txn.commit().await {
            Ok(committed) => {
                let number = committed.revisions.first().copied().unwrap_or_default();
                let opened = self.open_workspace(id, number).await?;
                opened.subscriptions().ensure_default().await?;
                Ok(receiver.await.map_err(|_| StoreError::Closed)?)
            }
            Err(TxnError::Store(error)) => Err(error.into()),
            Err(TxnError::Conflict) => match self.number_of(id).await {
                Ok(_) => Err(CreateError::AlreadyExists { what: id.name() }),
                // The answer was remembered meanwhile, or the id became free just now.
                Err(LookupError::NotFound { .. }) => Err(StoreError::Contended.into()),
                Err(LookupError::Store(error)) => Err(error.into()),
            },
        }
    }

    fn wrap(&self, number: u64, keys: &WorkspaceKeys) -> Result<bytes::Bytes, StoreError> {
        let ring = self.0.keks.read().unwrap_or_else(PoisonError::into_inner);
        Ok(ring.wrap(number, keys)?)
    }

    /// Reads a workspace's record.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when there is no such workspace.
    pub async fn get_workspace(&self, id: &WorkspaceId) -> Result<Workspace, LookupError> {
        let number = self.number_of(id).await?;
        let key = Self::row_key(number);
        let sealed = self
            .0
            .context
            .engine
            .get(&key)
            .await
            .map_err(StoreError::from)?;
        let sealed = sealed.ok_or_else(|| LookupError::NotFound { what: id.name() })?;
        let row: WorkspaceRow = self.0.system.open(&key, &sealed)?;
        Ok(self.shown(row.to_domain(Version::of(&sealed))?))
    }

    /// With what is known only while the daemon runs.
    fn shown(&self, mut workspace: Workspace) -> Workspace {
        let open = self.0.workspaces.get(&workspace.id);
        workspace.full = open.is_some_and(|open| *open.0.full.borrow());
        workspace
    }

    /// Lists workspaces in the order of their creation.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list_workspaces(
        &self,
        request: &PageRequest,
    ) -> Result<Page<Workspace>, StoreError> {
        let mut scan = Scan::prefix(&system_key(Kind::Workspace).prefix(), request.rows());
        if let Some(number) = request.after.as_ref().and_then(PageToken::number) {
            scan = scan.after(&Self::row_key(number));
        }
        let page = self.0.context.engine.range(scan).await?;
        let mut items = Vec::with_capacity(page.rows.len());
        let mut last = None;
        for (key, sealed) in &page.rows {
            let row: WorkspaceRow = self.0.system.open(key, sealed)?;
            last = Some(row.number);
            items.push(self.shown(row.to_domain(Version::of(sealed))?));
        }
        let next = last
            .filter(|_| page.more)
            .map(|number| PageToken::new(number.to_be_bytes()));
        Ok(Page { items, next })
    }

    /// Changes a workspace's label.
    ///
    /// # Errors
    /// [`UpdateError`] says whether it is missing or was changed by somebody else.
    pub async fn update_workspace(
        &self,
        id: &WorkspaceId,
        expected: Option<&str>,
        display_name: &str,
    ) -> Result<Workspace, UpdateError> {
        self.update_workspace_with(id, expected, display_name, None)
            .await
    }

    /// Changes a workspace's label and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`UpdateError`] says whether it is missing or was changed by somebody else.
    pub async fn update_workspace_once(
        &self,
        id: &WorkspaceId,
        expected: Option<&str>,
        display_name: &str,
        remember: &Remember<Workspace>,
    ) -> Result<Workspace, UpdateError> {
        self.update_workspace_with(id, expected, display_name, Some(remember))
            .await
    }

    async fn update_workspace_with(
        &self,
        id: &WorkspaceId,
        expected: Option<&str>,
        display_name: &str,
        remember: Option<&Remember<Workspace>>,
    ) -> Result<Workspace, UpdateError> {
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.0.context.engine.clone());
            let (mut row, key) = self.row_in(&mut txn, id, expected).await?;
            display_name.clone_into(&mut row.display_name);
            let version = txn.put(&self.0.system, key, &row)?;
            let workspace = self.shown(row.to_domain(version)?);
            if let Some(remember) = remember {
                remember.put_in(&mut txn, &workspace)?;
            }
            match txn.commit().await {
                Ok(_) => return Ok(workspace),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    async fn row_in(
        &self,
        txn: &mut Txn,
        id: &WorkspaceId,
        expected: Option<&str>,
    ) -> Result<(WorkspaceRow, bytes::Bytes), UpdateError> {
        let missing = || UpdateError::NotFound { what: id.name() };
        let name: Option<NumberRow> = txn.get(&self.0.system, &self.name_key(id)).await?;
        let key = Self::row_key(name.ok_or_else(missing)?.number);
        let sealed = txn.raw(&key).await?.ok_or_else(missing)?;
        let current = etag(Version::of(&sealed));
        match expected {
            Some(expected) if expected != current => Err(UpdateError::EtagMismatch {
                what: id.name(),
                current,
            }),
            _ => Ok((self.0.system.open(&key, &sealed)?, key)),
        }
    }

    /// Deletes a workspace with everything in it. Its keys are destroyed first, in one commit with its
    /// record, so that from then on nothing of it can be read; its rows are purged after that, also if
    /// a crash comes between. Copies of the wrapped keys remain in log segments and backups, so the key
    /// encryption key is replaced too ([`Self::rotate_kek`]); where this process may not do that,
    /// [`Self::rotation_owed`] says so until the operator does.
    ///
    /// # Errors
    /// [`UpdateError`] says whether it is missing, built in, or was changed by somebody else.
    pub async fn delete_workspace(
        &self,
        id: &WorkspaceId,
        expected: Option<&str>,
    ) -> Result<(), UpdateError> {
        self.delete_workspace_with(id, expected, None).await
    }

    /// Deletes a workspace and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`UpdateError`] says whether it is missing, built in, or was changed by somebody else.
    pub async fn delete_workspace_once(
        &self,
        id: &WorkspaceId,
        expected: Option<&str>,
        remember: &Remember<()>,
    ) -> Result<(), UpdateError> {
        self.delete_workspace_with(id, expected, Some(remember))
            .await
    }

    async fn delete_workspace_with(
        &self,
        id: &WorkspaceId,
        expected: Option<&str>,
        remember: Option<&Remember<()>>,
    ) -> Result<(), UpdateError> {
        if *id == WorkspaceId::default_workspace() {
            return Err(UpdateError::BuiltIn { what: id.name() });
        }
        let number = self.unlink_workspace(id, expected, remember).await?;
        if let Some((_, workspace)) = self.0.workspaces.remove(id) {
            workspace.0.gone.cancel();
        }
        self.0.tokens.revoke_workspace(id).await?;
        self.purge_workspace(number).await?;
        if let Err(error) = self.rotate_kek().await {
            tracing::warn!(%error, "a workspace was deleted, but the key encryption key is still the old one");
        }
        Ok(())
    }

    async fn unlink_workspace(
        &self,
        id: &WorkspaceId,
        expected: Option<&str>,
        remember: Option<&Remember<()>>,
    ) -> Result<u64, UpdateError> {
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.0.context.engine.clone());
            let (row, key) = self.row_in(&mut txn, id, expected).await?;
            txn.delete(key);
            txn.delete(self.name_key(id));
            txn.delete(wrapped_key(row.number));
            txn.put_raw(purge_key(row.number), bytes::Bytes::new());
            txn.put_raw(rotation_key(), bytes::Bytes::new());
            if let Some(remember) = remember {
                remember.put_in(&mut txn, &())?;
            }
            match txn.commit().await {
                Ok(_) => return Ok(row.number),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    pub(super) async fn purge_workspace(&self, number: u64) -> Result<(), StoreError> {
        let engine = &*self.0.context.engine;
        Scope::purge(engine, &workspace_prefix(number)).await?;
        media::purge(&self.0.context, number, None).await;
        let done = Commit {
            delete: vec![purge_key(number)],
            ..Commit::default()
        };
        engine.commit(done).await?;
        Ok(())
    }

    async fn number_of(&self, id: &WorkspaceId) -> Result<u64, LookupError> {
        let row: Option<NumberRow> = self.0.system.get(&self.name_key(id)).await?;
        row.map(|row| row.number)
            .ok_or_else(|| LookupError::NotFound { what: id.name() })
    }

    /// A workspace's part of the store.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when there is no such workspace.
    pub async fn workspace(&self, id: &WorkspaceId) -> Result<WorkspaceStore, LookupError> {
        if let Some(known) = self.0.workspaces.get(id) {
            return Ok(known.clone());
        }
        let number = self.number_of(id).await?;
        Ok(self.open_workspace(id, number).await?)
    }
}
