//! Session records: what is wanted of a session and what is known about it.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;

use super::engine::Commit;
use super::errors::{CreateError, LookupError, StoreError, UpdateError};
use super::key::{Kind, kind_prefix};
use super::media;
use super::migrate::first_version;
use super::named::{Family, Named, NumberRow, Resource};
use super::page::{Page, PageRequest, PageToken};
use super::person::PersonRow;
use super::requests::Remember;
use super::scope::{Scope, Txn};
use super::workspace::{WorkspaceStore, stored_id};
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

impl Resource for SessionRecord {
    type Row = SessionRow;
    const FAMILY: Family = Family {
        names: Kind::SessionName,
        rows: Kind::Session,
        numbers: Kind::SessionNumbers,
        word: "session",
        plural: "sessions",
    };

    fn to_row(&self) -> SessionRow {
        let record = self;
        SessionRow {
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

    fn from_row(row: SessionRow, workspace: &WorkspaceStore) -> Result<Self, StoreError> {
        let unknown = |what: &str| StoreError::Damaged(format!("a session's {what} is unknown"));
        let id = stored_id(SessionId::new(row.id))?;
        Ok(Self {
            name: SessionName::new(workspace.id().clone(), id),
            display_name: row.display_name,
            labels: row.labels.into_iter().collect(),
            provider: row.provider,
            desired: match row.desired {
                0 => Desired::Running,
                1 => Desired::Stopped,
                _ => return Err(unknown("desired state")),
            },
            login: match row.login {
                0 => Login::Unpaired,
                1 => Login::Paired,
                2 => Login::LoggedOut,
                _ => return Err(unknown("login state")),
            },
            account: row.account.map(Person::from),
            pairing_unconfirmed: row.pairing_unconfirmed,
            initial_sync_owed: row.initial_sync_owed,
            stopped_cleanly: row.stopped_cleanly,
            halt: row.halt.map(Halt::from),
            linked_at: row.linked_at.map(Timestamp),
            created_at: Timestamp(row.created_at),
            updated_at: Timestamp(row.updated_at),
            etag: String::new(),
        })
    }

    fn etag_mut(&mut self) -> &mut String {
        &mut self.etag
    }
}

/// The session records of one workspace.
#[derive(Debug, Clone)]
pub struct Sessions {
    workspace: WorkspaceStore,
    named: Named<SessionRecord>,
}

impl Sessions {
    pub(super) fn new(workspace: WorkspaceStore) -> Self {
        Self {
            named: Named::new(workspace.clone()),
            workspace,
        }
    }

    /// Creates a session.
    ///
    /// # Errors
    /// [`CreateError::AlreadyExists`] when the id is taken in this workspace.
    pub async fn create(&self, new: NewSession) -> Result<SessionRecord, CreateError> {
        self.create_with(new, None).await
    }

    /// Creates a session and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`CreateError::AlreadyExists`] when the id is taken in this workspace.
    pub async fn create_once(
        &self,
        new: NewSession,
        remember: Remember<SessionRecord>,
    ) -> Result<SessionRecord, CreateError> {
        self.create_with(new, Some(remember)).await
    }

    async fn create_with(
        &self,
        new: NewSession,
        remember: Option<Remember<SessionRecord>>,
    ) -> Result<SessionRecord, CreateError> {
        let now = self.workspace.now();
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
        let no_more = |_| Ok(Vec::new());
        self.named
            .create(new.id.as_str(), record, no_more, remember)
            .await
    }

    /// Reads a session's record.
    ///
    /// # Errors
    /// [`LookupError::NotFound`] when this workspace has no such session.
    pub async fn get(&self, id: &SessionId) -> Result<SessionRecord, LookupError> {
        self.named.get(id.as_str()).await
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

    /// Lists the sessions that are `wanted`. A page may hold fewer than asked for and yet not be the last.
    ///
    /// # Errors
    /// Only when the store fails.
    pub async fn list_where(
        &self,
        request: &PageRequest,
        wanted: impl Fn(&SessionRecord) -> bool + Send,
    ) -> Result<Page<SessionRecord>, StoreError> {
        self.named.page_where(request, wanted).await
    }

    /// Like [`Self::list`], with the numbers.
    pub(super) async fn page(
        &self,
        request: &PageRequest,
    ) -> Result<(Vec<(u64, SessionRecord)>, Option<PageToken>), StoreError> {
        self.named.page(request).await
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
        change: impl FnMut(&mut SessionRecord) + Send,
    ) -> Result<SessionRecord, UpdateError> {
        self.update_with(id, expected, None, change).await
    }

    /// Changes a session's record and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`UpdateError`] says whether the session is missing or was changed by somebody else.
    pub async fn update_once(
        &self,
        id: &SessionId,
        expected: Option<&str>,
        remember: &Remember<SessionRecord>,
        change: impl FnMut(&mut SessionRecord) + Send,
    ) -> Result<SessionRecord, UpdateError> {
        self.update_with(id, expected, Some(remember), change).await
    }

    async fn update_with(
        &self,
        id: &SessionId,
        expected: Option<&str>,
        remember: Option<&Remember<SessionRecord>>,
        mut change: impl FnMut(&mut SessionRecord) + Send,
    ) -> Result<SessionRecord, UpdateError> {
        let now = || self.workspace.now();
        self.named
            .update(id.as_str(), expected, remember, |record| {
                change(record);
                record.updated_at = now();
            })
            .await
    }

    /// Reads a record inside a transaction.
    pub(super) async fn read_in(
        &self,
        txn: &mut Txn,
        id: &SessionId,
    ) -> Result<Option<SessionRecord>, StoreError> {
        match self.named.read_in(txn, id.as_str(), None).await {
            Ok((_, record)) => Ok(Some(record)),
            Err(UpdateError::Store(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Writes a record inside a transaction and gives it its new etag.
    pub(super) async fn write_in(
        &self,
        txn: &mut Txn,
        id: &SessionId,
        record: &mut SessionRecord,
    ) -> Result<(), StoreError> {
        let name_key = self.named.name_key(id.as_str());
        let name: Option<NumberRow> = txn.get(&self.workspace.0.root, &name_key).await?;
        let number = name.ok_or(StoreError::Contended)?.number;
        record.updated_at = self.workspace.now();
        self.named.write_in(txn, number, record)
    }

    /// Deletes a session with everything it owns: keys, credentials, outbox. Journalled events stay
    /// until retention takes them. Survives a crash half-way.
    ///
    /// # Errors
    /// [`UpdateError`] says whether the session is missing or was changed by somebody else.
    pub async fn delete(&self, id: &SessionId, expected: Option<&str>) -> Result<(), UpdateError> {
        self.delete_with(id, expected, None).await
    }

    /// Deletes a session and remembers the answer to the request, in one commit.
    ///
    /// # Errors
    /// [`UpdateError`] says whether the session is missing or was changed by somebody else.
    pub async fn delete_once(
        &self,
        id: &SessionId,
        expected: Option<&str>,
        remember: &Remember<()>,
    ) -> Result<(), UpdateError> {
        self.delete_with(id, expected, Some(remember)).await
    }

    async fn delete_with(
        &self,
        id: &SessionId,
        expected: Option<&str>,
        remember: Option<&Remember<()>>,
    ) -> Result<(), UpdateError> {
        let number = self.unlink(id, expected, remember).await?;
        if let Some((_, handle)) = self.workspace.0.sessions.remove(id) {
            handle.retire().await;
        }
        self.purge(number).await?;
        Ok(())
    }

    /// Removes the record and leaves a mark for [`Self::purge`].
    async fn unlink(
        &self,
        id: &SessionId,
        expected: Option<&str>,
        remember: Option<&Remember<()>>,
    ) -> Result<u64, UpdateError> {
        self.named
            .remove(id.as_str(), expected, remember, |txn, number| {
                txn.put_raw(self.purge_key(number), Bytes::new());
                // A fence that no owner holds: whoever still runs this session is shut out.
                txn.delete(self.owner_key(number));
            })
            .await
    }

    /// The first half of a deletion, as a crash would leave it.
    #[cfg(test)]
    pub(super) async fn unlink_for_test(&self, id: &SessionId) {
        self.unlink(id, None, None).await.unwrap();
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
        let engine = &self.workspace.0.root.engine;
        for kind in super::session::owned_kinds() {
            let prefix = kind_prefix(self.workspace.0.number, kind, number);
            Scope::purge(&**engine, &prefix).await?;
        }
        let workspace = &self.workspace.0;
        media::purge(&workspace.context, workspace.number, Some(number)).await;
        let done = Commit {
            delete: vec![self.purge_key(number)],
            ..Commit::default()
        };
        engine.commit(done).await?;
        Ok(())
    }

    pub(super) async fn number_of(&self, id: &SessionId) -> Result<u64, LookupError> {
        self.named.number_of(id.as_str()).await
    }
}
