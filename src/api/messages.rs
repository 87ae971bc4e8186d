//! `MessageService`.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::fields::{Listing as _, listing};
use super::gate::{Call, Gate};
use super::names::{MessageName, session_name};
use super::once::{Once, mutation};
use super::ports::{Sessions, Submission};
use super::status::ApiError;
use super::{convert, fields, outgoing};
use crate::domain::clock::Clock;
use crate::domain::ids::SessionName;
use crate::domain::message::OutboundMessage;
use crate::pb::message_service_server::MessageService;
use crate::pb::{
    CancelMessageRequest, CancelMessageResponse, GetMessageRequest, GetMessageResponse,
    ListMessagesRequest, ListMessagesResponse, SendMessageRequest, SendMessageResponse,
};
use crate::store::{BodyHash, Enqueued, PATH, Range};

mutation! {
    CancelMessageRequest is "CancelMessage";
}

listing! {
    ListMessagesRequest is "ListMessages";
}

/// Implements `MessageService`.
#[derive(Debug)]
pub(super) struct Messages {
    gate: Gate,
    once: Arc<Once>,
    sessions: Arc<dyn Sessions>,
    clock: Arc<dyn Clock>,
}

impl Messages {
    pub(super) fn new(
        gate: Gate,
        once: Arc<Once>,
        sessions: Arc<dyn Sessions>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            gate,
            once,
            sessions,
            clock,
        }
    }

    async fn send(
        &self,
        call: Call<SendMessageRequest, SessionName>,
    ) -> Result<SendMessageResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        let request_id = fields::request_id(&message.request_id)?;
        let body = BodyHash::of("SendMessage", &message.encode_to_vec());
        let to = convert::read_recipient(message.to)?;
        let priority = convert::read_priority(message.priority)?;
        let send_after = fields::moment("send_after", message.send_after)?;
        let expire_at = fields::moment("expire_at", message.expire_at)?;

        let session = call.workspace.session(&name.session).await;
        let session = session.map_err(|error| ApiError::from(error).at(&name))?;
        let outbox = session.outbox();
        // A repetition is answered before times and files are checked: they were good when it was first asked.
        let earlier = outbox.recall(request_id, body).await?;
        let is_new = earlier.is_none();
        let (content, media) = match earlier {
            None => outgoing::read(message.content, &session).await?,
            // Its file may have gone since.
            Some(earlier) => (earlier.message.content, earlier.message.media),
        };
        let earliest = send_after.unwrap_or_default().max(self.clock.now());
        if is_new && expire_at.is_some_and(|expire_at| expire_at <= earliest) {
            return Err(ApiError::field(
                "expire_at",
                "must lie in the future and after send_after",
            ));
        }
        let submission = Submission {
            request_id,
            body,
            to,
            content,
            media,
            priority,
            send_after,
            expire_at,
        };
        let Enqueued { message, replayed } = self.sessions.submit(&session, submission).await?;
        tracing::info!(
            target: PATH,
            workspace = %name.workspace,
            session = %name.session,
            message_id = %message.id,
            stanza_id = message.stanza_id,
            replayed,
            "message accepted"
        );
        Ok(SendMessageResponse {
            message: Some(convert::message(&name, &message)),
        })
    }

    async fn list(
        &self,
        call: Call<ListMessagesRequest, SessionName>,
    ) -> Result<ListMessagesResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        let page = message.page()?;
        let states = convert::read_states("states", &message.states)?;
        let chat = match message.chat.as_str() {
            "" => None,
            chat => Some(convert::read_chat("chat", chat)?),
        };
        let range = Range {
            from: fields::moment("start_time", message.start_time)?,
            until: fields::moment("end_time", message.end_time)?,
            newest_first: message.newest_first,
        };
        let wanted = |found: &OutboundMessage| {
            (states.is_empty() || states.contains(&found.state))
                && chat.as_ref().is_none_or(|chat| chat.is_one_of(&found.to))
        };
        let session = call.workspace.session(&name.session).await?;
        let page = session.outbox().list_where(&range, &page, wanted).await?;
        let show = |found| convert::message(&name, found);
        Ok(ListMessagesResponse {
            messages: page.items.iter().map(show).collect(),
            next_page_token: message.next(page.next),
        })
    }

    async fn cancel(
        &self,
        call: Call<CancelMessageRequest, MessageName>,
    ) -> Result<CancelMessageResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        let mutate = async {
            let session = call.workspace.session(&name.session.session).await?;
            let canceled = self.sessions.cancel(&session, name.message).await?;
            Ok(CancelMessageResponse {
                message: Some(convert::message(&name.session, &canceled)),
            })
        };
        self.once
            .run(&call.workspace, &message, mutate)
            .await
            .map_err(|error| error.at(&name))
    }
}

#[tonic::async_trait]
impl MessageService for Messages {
    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| session_name("parent", &message.parent))
            .await?;
        Ok(Response::new(self.send(call).await?))
    }

    async fn get_message(
        &self,
        request: Request<GetMessageRequest>,
    ) -> Result<Response<GetMessageResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| MessageName::parse("name", &message.name))
            .await?;
        let name = call.name;
        let found = async {
            let session = call.workspace.session(&name.session.session).await?;
            session.outbox().get(name.message).await
        };
        let message = found
            .await
            .map_err(|error| ApiError::from(error).at(&name))?;
        Ok(Response::new(GetMessageResponse {
            message: Some(convert::message(&name.session, &message)),
        }))
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| session_name("parent", &message.parent))
            .await?;
        let name = call.name.clone();
        let listed = self.list(call).await;
        Ok(Response::new(listed.map_err(|error| error.at(&name))?))
    }

    async fn cancel_message(
        &self,
        request: Request<CancelMessageRequest>,
    ) -> Result<Response<CancelMessageResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| MessageName::parse("name", &message.name))
            .await?;
        Ok(Response::new(self.cancel(call).await?))
    }
}
