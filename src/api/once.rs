//! Idempotent mutations: a repeated `request_id` gets the first answer.

use std::hash::{DefaultHasher, Hash, Hasher};

use prost::Message;
use tokio::sync::Mutex;

use super::fields;
use super::status::ApiError;
use crate::domain::ids::RequestId;
use crate::store::{BodyHash, Remember, Requests, StoreError, WorkspaceStore};

/// Locks, so that a repetition that arrives while the first is under way waits for its answer. Requests
/// share locks by hash; sharing only makes one wait for another.
const STRIPES: usize = 256;

/// A request that changes something.
pub(super) trait Mutation: Message {
    /// Its method's name: part of what a `request_id` stands for.
    const METHOD: &'static str;

    /// What makes it idempotent, as the client wrote it.
    fn request_id(&self) -> &str;

    /// The etag it insists on, if any.
    fn etag(&self) -> Option<&str> {
        None
    }
}

/// Says of request messages that they are mutations: with or without an etag.
macro_rules! mutation {
    ($($request:ident is $method:literal $(, with $etag:ident)?;)+) => {$(
        impl $crate::api::once::Mutation for $crate::pb::$request {
            const METHOD: &'static str = $method;

            fn request_id(&self) -> &str {
                &self.request_id
            }

            $(fn etag(&self) -> Option<&str> {
                Some(self.$etag.as_str()).filter(|etag| !etag.is_empty())
            })?
        }
    )+};
}
pub(super) use mutation;

/// A request under way, to which no answer is remembered yet.
#[derive(Debug)]
pub(super) struct Ticket {
    requests: Requests,
    id: RequestId,
    body: BodyHash,
}

impl Ticket {
    /// Has the answer remembered in the commit that makes the change.
    pub(super) fn remember<T, A>(
        &self,
        answer: impl Fn(&T) -> A + Send + Sync + 'static,
    ) -> Remember<T>
    where
        T: 'static,
        A: Message,
    {
        Remember::new(self.requests.clone(), self.id, self.body, move |value| {
            answer(value).encode_to_vec()
        })
    }
}

/// Runs mutations once per `request_id`.
#[derive(Debug)]
pub(super) struct Once {
    stripes: Vec<Mutex<()>>,
}

impl Once {
    pub(super) fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
        }
    }

    /// Answers `request` from memory if it was answered before, else runs `mutate` and remembers what
    /// it answers. Failures are not remembered: nothing was changed, so the client may try again. For
    /// mutations whose repetition does no harm: a crash may come between the change and the memory.
    ///
    /// # Errors
    /// `IDEMPOTENCY_CONFLICT` when the id was used with other parameters, or whatever `mutate` fails with.
    pub(super) async fn run<R, A>(
        &self,
        workspace: &WorkspaceStore,
        request: &R,
        mutate: impl Future<Output = Result<A, ApiError>>,
    ) -> Result<A, ApiError>
    where
        R: Mutation,
        A: Message + Default,
    {
        self.run_in(workspace, request, async |ticket| {
            let answer = mutate.await?;
            let kept = ticket
                .requests
                .remember(ticket.id, ticket.body, answer.encode_to_vec().into())
                .await?;
            decode(&kept)
        })
        .await
    }

    /// Like [`Self::run`], for mutations that remember their answer themselves, in their own commit.
    ///
    /// # Errors
    /// `IDEMPOTENCY_CONFLICT` when the id was used with other parameters, or whatever `mutate` fails with.
    pub(super) async fn run_in<R, A>(
        &self,
        workspace: &WorkspaceStore,
        request: &R,
        mutate: impl AsyncFnOnce(&Ticket) -> Result<A, ApiError>,
    ) -> Result<A, ApiError>
    where
        R: Mutation,
        A: Message + Default,
    {
        let always = async |_: &A| Ok(true);
        let mutate = async |ticket: &Ticket, _| mutate(ticket).await;
        self.run_unless(workspace, request, always, mutate).await
    }

    /// Like [`Self::run_in`], for answers that may be outlived by the memory of them: an earlier answer that
    /// is no longer `good` is given again only in the sense that `mutate` makes another, told that it takes
    /// the earlier one's place.
    ///
    /// # Errors
    /// `IDEMPOTENCY_CONFLICT` when the id was used with other parameters, or whatever `mutate` fails with.
    pub(super) async fn run_unless<R, A>(
        &self,
        workspace: &WorkspaceStore,
        request: &R,
        good: impl AsyncFnOnce(&A) -> Result<bool, ApiError>,
        mutate: impl AsyncFnOnce(&Ticket, bool) -> Result<A, ApiError>,
    ) -> Result<A, ApiError>
    where
        R: Mutation,
        A: Message + Default,
    {
        let id = fields::request_id(request.request_id())?;
        let mut hasher = DefaultHasher::new();
        (workspace.id(), id).hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or_default();
        let _guard = match self.stripes.get(stripe) {
            Some(stripe) => Some(stripe.lock().await),
            None => None,
        };
        let ticket = Ticket {
            body: BodyHash::of(R::METHOD, &request.encode_to_vec()),
            requests: workspace.requests(),
            id,
        };
        match ticket.requests.recall(id, ticket.body).await? {
            Some(earlier) => {
                let earlier = decode(&earlier)?;
                if good(&earlier).await? {
                    Ok(earlier)
                } else {
                    mutate(&ticket, true).await
                }
            }
            None => mutate(&ticket, false).await,
        }
    }
}

fn decode<A: Message + Default>(bytes: &[u8]) -> Result<A, ApiError> {
    A::decode(bytes).map_err(|error| {
        StoreError::Damaged(format!("a remembered answer cannot be read: {error}")).into()
    })
}
