//! Session records: what is wanted of a session and what is known about it.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;

use super::engine::{Commit, Scan, Version};
use super::errors::{CreateError, LookupError, StoreError, UpdateError};
use super::key::{Kind, kind_prefix, trailing_u64};
use super::migrate::first_version;
use super::page::{Page, PageRequest, PageToken};
use super::person::PersonRow;
use super::scope::{ATTEMPTS, Scope, Txn, TxnError};
use super::workspace::{WorkspaceStore, etag, stored_id};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{SessionId, SessionName};
use crate::domain::person::Person;
use crate::domain::session::{Desired, Halt, Login};

/// A session as stored. The connection state is not part of it: it is what the daemon observes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its full name.
    pub name: SessionName,
    /// A label for people; may be empty.
    pub display_name: String,
    /// Labels for machines.
    pub labels: BTreeMap<String, String>,
    /// Which provider carries it (`multidevice`).
    pub provider: String,
    /// What the operator wants.
    pub desired: Desired,
    /// Whether credentials exist and are good.
    pub login: Login,
    /// The account it is linked to, once known.
    pub account: Option<Person>,
    /// Linked, but no login has confirmed it yet: a 401 now wipes back to UNPAIRED.
    pub pairing_unconfirmed: bool,
    /// The first synchronisation after pairing has not finished.
    pub initial_sync_owed: bool,
    /// The last stop was orderly; false while running and after a crash.
    pub stopped_cleanly: bool,
    /// The provider's verdict that keeps it from connecting by itself, if there is one.
    pub halt: Option<Halt>,
    /// When the present link was made.
    pub linked_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Changes with every update.
    pub etag: String,
}

/// What a client says when it creates a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// Client-chosen id.
    pub id: SessionId,
    /// A label for people; may be empty.
    pub display_name: String,
    /// Labels for machines.
    pub labels: BTreeMap<String, String>,
    /// Which provider carries it.
    pub provider: String,
    /// What is wanted of it.
    pub desired: Desired,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionRow {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) display_name: String,
    #[prost(map = "string, string", tag = "3")]
    pub(super) labels: HashMap<String, String>,
    #[prost(string, tag = "4")]
    pub(super) provider: String,
    #[prost(uint32, tag = "5")]
    pub(super) desired: u32,
    #[prost(uint32, tag = "6")]
    pub(super) login: u32,
    #[prost(message, optional, tag = "7")]
    pub(super) account: Option<PersonRow>,
    #[prost(bool, tag = "8")]
    pub(super) pairing_unconfirmed: bool,
    #[prost(bool, tag = "9")]
    pub(super) initial_sync_owed: bool,
    #[prost(uint64, tag = "10")]
    pub(super) created_at: u64,
    #[prost(uint64, tag = "11")]
    pub(super) updated_at: u64,
    #[prost(bool, tag = "12")]
    pub(super) stopped_cleanly: bool,
    #[prost(message, optional, tag = "13")]
    pub(super) halt: Option<HaltRow>,
    #[prost(uint64, optional, tag = "14")]
    pub(super) linked_at: Option<u64>,
}
first_version!(SessionRow, "session");

/// [`Halt`] as stored: a ban when there is a code.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct HaltRow {
    #[prost(uint32, optional, tag = "1")]
    code: Option<u32>,
    #[prost(uint64, optional, tag = "2")]
    until: Option<u64>,
}

impl From<Halt> for HaltRow {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Replaced => Self {
                code: None,
                until: None,
            },
            Halt::Banned { code, until } => Self {
                code: Some(code),
                until: until.map(|at| at.0),
            },
        }
    }
}

impl From<HaltRow> for Halt {
    fn from(row: HaltRow) -> Self {
        row.code.map_or(Self::Replaced, |code| Self::Banned {
            code,
            until: row.until.map(Timestamp),
        })
    }
}

/// A number found under a hashed name.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct NumberRow {
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
}
first_version!(NumberRow, "name");

impl SessionRow {
    fn from_record(record: &SessionRecord) -> Self {
        Self {
            id: record.name.session.as_str().to_owned(),
            display_name: record.display_name.clone(),
            labels: record.labels.clone().into_iter().collect(),
            provider: record.provider.clone(),
            desired: match record.desired {
                Desired::Running => 0,
                Desired::Stopped => 1,
            },
            login: match record.login {
                Login::Unpaired => 0,
                Login::Paired => 1,
                Login::LoggedOut => 2,
            },
            account: record.account.as_ref().map(PersonRow::from),
            pairing_unconfirmed: record.pairing_unconfirmed,
            initial_sync_owed: record.initial_sync_owed,
            created_at: record.created_at.0,
            updated_at: record.updated_at.0,
            stopped_cleanly: record.stopped_cleanly,
            halt: record.halt.map(HaltRow::from),
            linked_at: record.linked_at.map(|at| at.0),
        }
    }

    fn into_record(
        self,
        workspace: &WorkspaceStore,
        version: Version,
    ) -> Result<SessionRecord, StoreError> {
        let unknown = |what: &str| StoreError::Damaged(format!("a session's {what} is unknown"));
        let id = stored_id(SessionId::new(self.id))?;
        Ok(SessionRecord {
            name: SessionName::new(workspace.id().clone(), id),
            display_name: self.display_name,
            labels: self.labels.into_iter().collect(),
            provider: self.provider,
            desired: match self.desired {
                0 => Desired::Running,
                1 => Desired::Stopped,
                _ => return Err(unknown("desired state")),
            },
            login: match self.login {
                0 => Login::Unpaired,
                1 => Login::Paired,
                2 => Login::LoggedOut,
                _ => return Err(unknown("login state")),
            },
            account: self.account.map(Person::from),
            pairing_unconfirmed: self.pairing_unconfirmed,
            initial_sync_owed: self.initial_sync_owed,
            stopped_cleanly: self.stopped_cleanly,
            halt: self.halt.map(Halt::from),
            linked_at: self.linked_at.map(Timestamp),
            created_at: Timestamp(self.created_at),
            updated_at: Timestamp(self.updated_at),
            etag: etag(version),
        })
    }
}

/// The session records of one workspace.
#[derive(Debug, Clone)]
pub struct Sessions {
    workspace: WorkspaceStore,
}

impl Sessions {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self { workspace }
    }

    fn scope(&self) -> &Scope {
        &self.workspace.0.root
    }

    fn name_key(&self, id: &SessionId) -> Bytes {
        let hash = self.scope().hash(&[b"session", id.as_str().as_bytes()]);
        self.workspace.key(Kind::SessionName).hash(hash).finish()
    }

    fn row_key(&self, number: u64) -> Bytes {
        self.workspace.key(Kind::Session).u64(number).finish()
    }

    fn resource(&self, id: &SessionId) -> String {
        SessionName::new(self.workspace.id().clone(), id.clone()).to_string()
    }

    /// Creates a session.
    ///
    /// # Errors
    /// [`CreateError::AlreadyExists`] when the id is taken in this workspace.
    pub async fn create(&self, new: NewSession) -> Result<SessionRecord, CreateError> {
        let now = self.workspace.now();
        let name_key = self.name_key(&new.id);
        let record = SessionRecord {
            name: SessionName::new(self.workspace.id().clone(), new.id.clone()),
            display_name: new.display_name,
            labels: new.labels,
            provider: new.provider,
            desired: new.desired,
            login: Login::Unpaired,
            account: None,
            pairing_unconfirmed: false,
            initial_sync_owed: false,
            stopped_cleanly: true,
            halt: None,
            linked_at: None,
            created_at: now,
            updated_at: now,
            etag: String::new(),
        };
        let row = SessionRow::from_record(&record);
        let mut txn = Txn::new(self.scope().engine.clone());
        txn.expect_absent(name_key.clone());
        let sessions = self.clone();
        txn.append(
            self.workspace.key(Kind::SessionNumbers).finish(),
            Box::new(move |number| {
                let scope = sessions.scope();
                let fail = |error: StoreError| super::engine::RowError(error.to_string());
                let row_key = sessions.row_key(number);
                let name = scope.seal(&name_key, &NumberRow { number }).map_err(fail)?;
                let sealed = scope.seal(&row_key, &row).map_err(fail)?;
                Ok(vec![(name_key, name), (row_key, sealed)])
            }),
        );
        match txn.commit().await {
            Ok(_) => Ok(self.get(&new.id).await.map_err(|error| match error {
                LookupError::Store(store) => store,
                LookupError::NotFound { what } => StoreError::Damaged(format!("{what} vanished")),
            })?),
            Err(TxnError::Conflict) => Err(CreateError::AlreadyExists {
                what: self.resource(&new.id),
            }),
            Err(TxnError::Store(error)) => Err(error.into()),
        }
    }

    /// Reads a session's record.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this workspace has no such session.
    pub async fn get(&self, id: &SessionId) -> Result<SessionRecord, LookupError> {
        let number = self.number_of(id).await?;
        let key = self.row_key(number);
        let sealed = self
            .scope()
            .engine
            .get(&key)
            .await
            .map_err(StoreError::from)?;
        let sealed = sealed.ok_or_else(|| LookupError::NotFound {
            what: self.resource(id),
        })?;
        let row: SessionRow = self.scope().open(&key, &sealed)?;
        Ok(row.into_record(&self.workspace, Version::of(&sealed))?)
    }

    /// Lists sessions in the order of their creation.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list(&self, request: &PageRequest) -> Result<Page<SessionRecord>, StoreError> {
        let (rows, next) = self.page(request).await?;
        let items = rows.into_iter().map(|(_, record)| record).collect();
        Ok(Page { items, next })
    }

    /// Like [`Self::list`], with the numbers.
    pub(super) async fn page(
        &self,
        request: &PageRequest,
    ) -> Result<(Vec<(u64, SessionRecord)>, Option<PageToken>), StoreError> {
        let mut scan = Scan::prefix(&self.scope().prefix(Kind::Session), request.rows());
        if let Some(number) = request.after.as_ref().and_then(PageToken::number) {
            scan = scan.after(&self.row_key(number));
        }
        let page = self.scope().engine.range(scan).await?;
        let mut items = Vec::with_capacity(page.rows.len());
        for (key, sealed) in &page.rows {
            let row: SessionRow = self.scope().open(key, sealed)?;
            let number = trailing_u64(key)
                .ok_or_else(|| StoreError::Damaged("a session key has no number".into()))?;
            items.push((
                number,
                row.into_record(&self.workspace, Version::of(sealed))?,
            ));
        }
        let last = items.last().map(|(number, _)| *number);
        let next = last
            .filter(|_| page.more)
            .map(|number| PageToken::new(number.to_be_bytes()));
        Ok((items, next))
    }

    /// Changes a session's record: `change` edits what was read. With an etag, only if nothing changed
    /// since it was read; without one, `change` may run again on newer content.
    ///
    /// # Errors
    /// [`UpdateError`] says whether the session is missing or was changed by somebody else.
    pub async fn update(
        &self,
        id: &SessionId,
        expected: Option<&str>,
        mut change: impl FnMut(&mut SessionRecord) + Send,
    ) -> Result<SessionRecord, UpdateError> {
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            let Some(mut record) = self.read_in(&mut txn, id).await? else {
                return Err(UpdateError::NotFound {
                    what: self.resource(id),
                });
            };
            if let Some(expected) = expected
                && expected != record.etag
            {
                return Err(UpdateError::EtagMismatch {
                    what: self.resource(id),
                    current: record.etag,
                });
            }
            change(&mut record);
            self.write_in(&mut txn, id, &mut record).await?;
            match txn.commit().await {
                Ok(_) => return Ok(record),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// Reads a record inside a transaction.
    pub(super) async fn read_in(
        &self,
        txn: &mut Txn,
        id: &SessionId,
    ) -> Result<Option<SessionRecord>, StoreError> {
        let name: Option<NumberRow> = txn.get(self.scope(), &self.name_key(id)).await?;
        let Some(NumberRow { number }) = name else {
            return Ok(None);
        };
        let key = self.row_key(number);
        let Some(sealed) = txn.raw(&key).await? else {
            return Ok(None);
        };
        let row: SessionRow = self.scope().open(&key, &sealed)?;
        row.into_record(&self.workspace, Version::of(&sealed))
            .map(Some)
    }

    /// Writes a record inside a transaction and gives it its new etag.
    pub(super) async fn write_in(
        &self,
        txn: &mut Txn,
        id: &SessionId,
        record: &mut SessionRecord,
    ) -> Result<(), StoreError> {
        let name: Option<NumberRow> = txn.get(self.scope(), &self.name_key(id)).await?;
        let Some(NumberRow { number }) = name else {
            return Err(StoreError::Contended);
        };
        record.updated_at = self.workspace.now();
        let row = SessionRow::from_record(record);
        let version = txn.put(self.scope(), self.row_key(number), &row)?;
        record.etag = etag(version);
        Ok(())
    }

    /// Deletes a session with everything it owns: keys, credentials, outbox. Journalled events stay
    /// until retention takes them. Survives a crash half-way.
    ///
    /// # Errors
    /// [`UpdateError`] says whether the session is missing or was changed by somebody else.
    pub async fn delete(&self, id: &SessionId, expected: Option<&str>) -> Result<(), UpdateError> {
        let number = self.unlink(id, expected).await?;
        if let Some((_, handle)) = self.workspace.0.sessions.remove(id) {
            handle.retire().await;
        }
        self.purge(number).await?;
        Ok(())
    }

    /// Removes the record and leaves a mark for [`Self::purge`].
    async fn unlink(&self, id: &SessionId, expected: Option<&str>) -> Result<u64, UpdateError> {
        for _ in 0..ATTEMPTS {
            let mut txn = Txn::new(self.scope().engine.clone());
            let name_key = self.name_key(id);
            let name: Option<NumberRow> = txn.get(self.scope(), &name_key).await?;
            let record = self.read_in(&mut txn, id).await?;
            let (Some(NumberRow { number }), Some(record)) = (name, record) else {
                return Err(UpdateError::NotFound {
                    what: self.resource(id),
                });
            };
            if let Some(expected) = expected
                && expected != record.etag
            {
                return Err(UpdateError::EtagMismatch {
                    what: self.resource(id),
                    current: record.etag,
                });
            }
            txn.delete(name_key);
            txn.delete(self.row_key(number));
            txn.put_raw(self.purge_key(number), Bytes::new());
            // A fence that no owner holds: whoever still runs this session is shut out.
            txn.delete(self.owner_key(number));
            match txn.commit().await {
                Ok(_) => return Ok(number),
                Err(TxnError::Conflict) => {}
                Err(TxnError::Store(error)) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// The first half of a deletion, as a crash would leave it.
    #[cfg(test)]
    pub(super) async fn unlink_for_test(&self, id: &SessionId) {
        self.unlink(id, None).await.unwrap();
    }

    fn purge_key(&self, number: u64) -> Bytes {
        self.workspace.key(Kind::Purge).u64(number).finish()
    }

    fn owner_key(&self, number: u64) -> Bytes {
        let workspace = self.workspace.0.number;
        super::key::KeyBuilder::new(workspace, Kind::SessionOwner as u8, number).finish()
    }

    /// Removes all rows of a session whose record is gone, then the mark that says so.
    pub(super) async fn purge(&self, number: u64) -> Result<(), StoreError> {
        let engine = &self.scope().engine;
        for kind in super::session::owned_kinds() {
            let prefix = kind_prefix(self.workspace.0.number, kind, number);
            Scope::purge(&**engine, &prefix).await?;
        }
        let done = Commit {
            delete: vec![self.purge_key(number)],
            ..Commit::default()
        };
        engine.commit(done).await?;
        Ok(())
    }

    pub(super) async fn number_of(&self, id: &SessionId) -> Result<u64, LookupError> {
        let row: Option<NumberRow> = self.scope().get(&self.name_key(id)).await?;
        row.map(|row| row.number)
            .ok_or_else(|| LookupError::NotFound {
                what: self.resource(id),
            })
    }
}
