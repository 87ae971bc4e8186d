//! Resources with a client-chosen id: an entry under the hashed id holds a number, the record lies under
//! that number, and listings go by number, in the order of creation.
//!
//! What sessions and subscriptions have in common: creation, reading, etags, and a remembered answer in
//! the very commit that makes it true.

use std::marker::PhantomData;

use bytes::Bytes;
use prost::Message;
use tokio::sync::oneshot;

use super::engine::{AppendFn, RowError, Scan, Version};
use super::errors::{CreateError, LookupError, StoreError, UpdateError};
use super::key::{Kind, trailing_u64};
use super::migrate::{Record, first_version};
use super::page::{MAX_PAGE_SIZE, Page, PageRequest, PageToken};
use super::requests::Remember;
use super::scope::{ATTEMPTS, Scope, Txn, TxnError};
use super::workspace::{WorkspaceStore, etag};

/// Most records one filtered page looks at.
const MAX_SCAN: usize = 5 * MAX_PAGE_SIZE;

/// A number found under a hashed name.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct NumberRow {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
}
first_version!(NumberRow, "name");

/// Where a kind of resource lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    /// Entries by hashed id.
    pub(super) names: Kind,
    /// Records by number.
    pub(super) rows: Kind,
    /// The last number given.
    pub(super) numbers: Kind,
    /// Set apart the hashes of different kinds.
    pub(super) word: &'static str,
    /// In resource names.
    pub(super) plural: &'static str,
}

/// A record that is kept this way.
pub(super) trait Resource: Sized + Send + 'static {
    /// As stored.
    type Row: Record + Send;
    const FAMILY: Family;

    fn from_row(row: Self::Row, workspace: &WorkspaceStore) -> Result<Self, StoreError>;
    fn to_row(&self) -> Self::Row;
    /// The etag, which is not part of the row.
    fn etag_mut(&mut self) -> &mut String;
}

/// The rows of one kind of resource in a workspace.
#[derive(Debug)]
pub(super) struct Named<R> {
    workspace: WorkspaceStore,
    resource: PhantomData<fn() -> R>,
}

impl<R> Clone for Named<R> {
    fn clone(&self) -> Self {
        Self {
            workspace: self.workspace.clone(),
            resource: PhantomData,
        }
    }
}

impl<R: Resource> Named<R> {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self {
            workspace,
            resource: PhantomData,
        }
    }

    fn scope(&self) -> &Scope {
        &self.workspace.0.root
    }

    pub(super) fn name_key(&self, id: &str) -> Bytes {
        let hash = self
            .scope()
            .hash(&[R::FAMILY.word.as_bytes(), id.as_bytes()]);
        self.workspace.key(R::FAMILY.names).hash(hash).finish()
    }

    pub(super) fn row_key(&self, number: u64) -> Bytes {
        self.workspace.key(R::FAMILY.rows).u64(number).finish()
    }

    pub(super) fn resource_name(&self, id: &str) -> String {
        format!("{}/{}/{id}", self.workspace.id().name(), R::FAMILY.plural)
    }

    fn open(&self, key: &[u8], sealed: &[u8]) -> Result<R, StoreError> {
        let mut record = R::from_row(self.scope().open(key, sealed)?, &self.workspace)?;
        *record.etag_mut() = etag(Version::of(sealed));
        Ok(record)
    }

    pub(super) async fn number_of(&self, id: &str) -> Result<u64, LookupError> {
        let row: Option<NumberRow> = self.scope().get(&self.name_key(id)).await?;
        row.map(|row| row.number)
            .ok_or_else(|| LookupError::NotFound {
                what: self.resource_name(id),
            })
    }

    pub(super) async fn get(&self, id: &str) -> Result<R, LookupError> {
        let key = self.row_key(self.number_of(id).await?);
        let sealed = self.scope().engine.get(&key).await;
        match sealed.map_err(StoreError::from)? {
            Some(sealed) => Ok(self.open(&key, &sealed)?),
            None => Err(LookupError::NotFound {
                what: self.resource_name(id),
            }),
        }
    }

    /// One page of records with their numbers.
    pub(super) async fn page(
        &self,
        request: &PageRequest,
    ) -> Result<(Vec<(u64, R)>, Option<PageToken>), StoreError> {
        let mut scan = Scan::prefix(&self.scope().prefix(R::FAMILY.rows), request.rows());
        if let Some(number) = request.after.as_ref().and_then(PageToken::number) {
            scan = scan.after(&self.row_key(number));
        }
        let page = self.scope().engine.range(scan).await?;
        let mut items = Vec::with_capacity(page.rows.len());
        for (key, sealed) in &page.rows {
            let number = trailing_u64(key)
                .ok_or_else(|| StoreError::Damaged("a record's key has no number".into()))?;
            items.push((number, self.open(key, sealed)?));
        }
        let last = items.last().map(|(number, _)| *number);
        let next = last
            .filter(|_| page.more)
            .map(|number| PageToken::new(number.to_be_bytes()));
        Ok((items, next))
    }

    /// One page of the records that are wanted. It may hold fewer than asked for and yet not be the last:
    /// at most [`MAX_SCAN`] are looked at.
    pub(super) async fn page_where(
        &self,
        request: &PageRequest,
        wanted: impl Fn(&R) -> bool + Send,
    ) -> Result<Page<R>, StoreError> {
        let mut items = Vec::new();
        let mut after = request.after.clone();
        for _ in 0..MAX_SCAN / MAX_PAGE_SIZE {
            let chunk = PageRequest {
                size: MAX_PAGE_SIZE,
                after: after.take(),
            };
            let (rows, next) = self.page(&chunk).await?;
            let end = rows.len();
            for (index, (number, record)) in rows.into_iter().enumerate() {
                if !wanted(&record) {
                    continue;
                }
                items.push(record);
                if items.len() == request.rows() {
                    let more = index + 1 < end || next.is_some();
                    return Ok(Page {
                        items,
                        next: more.then(|| PageToken::new(number.to_be_bytes())),
                    });
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(Page { items, next: after })
    }

    /// Creates a record; `more` makes the rows that come into being with it, now that its number is
    /// known.
    pub(super) async fn create(
        &self,
        id: &str,
        record: R,
        more: impl FnOnce(u64) -> Result<Vec<(Bytes, Bytes)>, StoreError> + Send + 'static,
        remember: Option<Remember<R>>,
    ) -> Result<R, CreateError> {
        let name_key = self.name_key(id);
        let mut txn = Txn::new(self.scope().engine.clone());
        txn.expect_absent(name_key.clone());
        if let Some(remember) = &remember {
            txn.expect_absent(remember.key());
        }
        let (created, receiver) = oneshot::channel();
        txn.append(
            self.workspace.key(R::FAMILY.numbers).finish(),
            self.clone()
                .birth(name_key, record, more, remember, created),
        );
        match txn.commit().await {
            Ok(_) => Ok(receiver.await.map_err(|_| StoreError::Closed)?),
            Err(TxnError::Store(error)) => Err(error.into()),
            Err(TxnError::Conflict) => match self.number_of(id).await {
                Ok(_) => Err(CreateError::AlreadyExists {
                    what: self.resource_name(id),
                }),
                // The answer was remembered meanwhile, or the id became free just now.
                Err(LookupError::NotFound { .. }) => Err(StoreError::Contended.into()),
                Err(LookupError::Store(error)) => Err(error.into()),
            },
        }
    }

    /// Makes the rows of a new record.
    fn birth(
        self,
        name_key: Bytes,
        record: R,
        more: impl FnOnce(u64) -> Result<Vec<(Bytes, Bytes)>, StoreError> + Send + 'static,
        remember: Option<Remember<R>>,
        created: oneshot::Sender<R>,
    ) -> AppendFn {
        let rows = move |number| {
            let scope = self.scope();
            let row_key = self.row_key(number);
            let sealed = scope.seal(&row_key, &record.to_row())?;
            let record = self.open(&row_key, &sealed)?;
            let name = scope.seal(&name_key, &NumberRow { number })?;
            let mut rows = vec![(name_key, name), (row_key, sealed)];
            rows.extend(more(number)?);
            if let Some(remember) = &remember {
                rows.extend(remember.rows(&record)?);
            }
            // The receiver lives until the commit is answered.
            let _ = created.send(record);
            Ok(rows)
        };
        Box::new(move |number| {
            rows(number).map_err(|error: StoreError| RowError(error.to_string()))
        })
    }

    /// Changes a record: `change` edits what was read, and may run again on newer content.
    pub(super) async fn update(
        &self,
        id: &str,
        expected: Option<&str>,
        remember: Option<&Remember<R>>,
        mut change: impl FnMut(&mut R) + Send,
    ) -> Result<R, UpdateError> {
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            let (number, mut record) = self.read_in(&mut txn, id, expected).await?;
            change(&mut record);
            self.write_in(&mut txn, number, &mut record)?;
            if let Some(remember) = remember {
                remember.put_in(&mut txn, &record)?;
            }
            match txn.commit().await {
                Ok(_) => return Ok(record),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// Removes a record with its entry, and what `also` adds to the commit. Returns its number.
    pub(super) async fn remove(
        &self,
        id: &str,
        expected: Option<&str>,
        remember: Option<&Remember<()>>,
        also: impl Fn(&mut Txn, u64) + Send + Sync,
    ) -> Result<u64, UpdateError> {
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            let (number, _) = self.read_in(&mut txn, id, expected).await?;
            txn.delete(self.name_key(id));
            txn.delete(self.row_key(number));
            also(&mut txn, number);
            if let Some(remember) = remember {
                remember.put_in(&mut txn, &())?;
            }
            match txn.commit().await {
                Ok(_) => return Ok(number),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// Reads a record inside a transaction; with an etag, only if it is still the current one.
    pub(super) async fn read_in(
        &self,
        txn: &mut Txn,
        id: &str,
        expected: Option<&str>,
    ) -> Result<(u64, R), UpdateError> {
        let missing = || UpdateError::NotFound {
            what: self.resource_name(id),
        };
        let name: Option<NumberRow> = txn.get(self.scope(), &self.name_key(id)).await?;
        let number = name.ok_or_else(missing)?.number;
        let key = self.row_key(number);
        let sealed = txn.raw(&key).await?.ok_or_else(missing)?;
        let mut record = self.open(&key, &sealed)?;
        match expected {
            Some(expected) if *expected != *record.etag_mut() => Err(UpdateError::EtagMismatch {
                what: self.resource_name(id),
                current: std::mem::take(record.etag_mut()),
            }),
            _ => Ok((number, record)),
        }
    }

    /// Writes a record inside a transaction and gives it its new etag.
    pub(super) fn write_in(
        &self,
        txn: &mut Txn,
        number: u64,
        record: &mut R,
    ) -> Result<(), StoreError> {
        let version = txn.put(self.scope(), self.row_key(number), &record.to_row())?;
        *record.etag_mut() = etag(version);
        Ok(())
    }
}
