//! Idempotent mutations: a repeated `request_id` gets the first answer.

use std::hash::{DefaultHasher, Hash, Hasher};

use prost::Message;
use tokio::sync::Mutex;

use super::status::ApiError;
use crate::domain::ids::RequestId;
use crate::store::{BodyHash, StoreError, WorkspaceStore};

/// Locks, so that a repetition that arrives while the first is under way waits for its answer. Requests
/// share locks by hash; sharing only makes one wait for another.
const STRIPES: usize = 256;

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
    /// it answers. Failures are not remembered: nothing was changed, so the client may try again.
    ///
    /// # Errors
    /// `IDEMPOTENCY_CONFLICT` when the id was used with other parameters, or whatever `mutate` fails with.
    pub(super) async fn run<R, A>(
        &self,
        workspace: &WorkspaceStore,
        id: RequestId,
        method: &'static str,
        request: &R,
        mutate: impl Future<Output = Result<A, ApiError>>,
    ) -> Result<A, ApiError>
    where
        R: Message,
        A: Message + Default,
    {
        let mut hasher = DefaultHasher::new();
        (workspace.id(), id).hash(&mut hasher);
        let stripe = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or_default();
        let _guard = match self.stripes.get(stripe) {
            Some(stripe) => Some(stripe.lock().await),
            None => None,
        };
        let body = BodyHash::of(method, &request.encode_to_vec());
        let requests = workspace.requests();
        if let Some(earlier) = requests.recall(id, body).await? {
            return decode(&earlier);
        }
        let answer = mutate.await?;
        let kept = requests
            .remember(id, body, answer.encode_to_vec().into())
            .await?;
        decode(&kept)
    }
}

fn decode<A: Message + Default>(bytes: &[u8]) -> Result<A, ApiError> {
    A::decode(bytes).map_err(|error| {
        StoreError::Damaged(format!("a remembered answer cannot be read: {error}")).into()
    })
}
