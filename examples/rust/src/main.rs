// SPDX-License-Identifier: Apache-2.0
//! A messaging core that answers every text with its echo.
//!
//! `TRUNKLINE_URL` (default `http://127.0.0.1:7433`) and `TRUNKLINE_TOKEN` say where and as whom. An
//! event is acknowledged once its answer is stored; should it come again, its id makes the same answer.

use std::env::var;

use pb::content::Content::Text as Received;
use pb::event::Payload::Message;
use pb::event_service_client::EventServiceClient;
use pb::message_service_client::MessageServiceClient;
use pb::pull_request::Request::{Ack, Open};
use pb::pull_response::Response::Leases;
use pb::recipient::Recipient::Jid;
use pb::send_message_request::Content::Text;
use tokio_stream::wrappers::ReceiverStream;

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
mod pb {
    tonic::include_proto!("trunkline.v1");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = var("TRUNKLINE_URL").unwrap_or_else(|_| "http://127.0.0.1:7433".to_owned());
    let token = var("TRUNKLINE_TOKEN").map_err(|_| "TRUNKLINE_TOKEN is not set")?;
    let bearer: tonic::metadata::AsciiMetadataValue = format!("Bearer {token}").parse()?;
    let authorize = move |mut call: tonic::Request<()>| {
        call.metadata_mut().insert("authorization", bearer.clone());
        Ok(call)
    };
    let channel = tonic::transport::Endpoint::new(url)?.connect().await?;
    let mut events = EventServiceClient::with_interceptor(channel.clone(), authorize.clone());
    let mut messages = MessageServiceClient::with_interceptor(channel, authorize);

    let subscription = "workspaces/default/subscriptions/default".to_owned();
    let open = pb::PullOpen { subscription, max_events: 100, max_bytes: 1 << 20 };
    let (say, said) = tokio::sync::mpsc::channel(16);
    say.send(pb::PullRequest { request: Some(Open(open)) }).await?;
    let mut frames = events.pull(ReceiverStream::new(said)).await?.into_inner();
    while let Some(frame) = frames.message().await? {
        let Some(Leases(batch)) = frame.response else { continue };
        for lease in batch.leases {
            if let Some(answer) = lease.event.and_then(answer) {
                messages.send_message(answer).await?;
            }
            let ack = pb::PullAck { ack_ids: vec![lease.ack_id] };
            say.send(pb::PullRequest { request: Some(Ack(ack)) }).await?;
        }
    }
    Err("the daemon ended the stream".into())
}

/// What to answer to an event, if anything.
fn answer(event: pb::Event) -> Option<pb::SendMessageRequest> {
    let Some(Message(message)) = event.payload else { return None };
    let Received(received) = message.content?.content? else { return None };
    let jid = message.chat.and_then(|chat| chat.lid.or(chat.pn_jid))?;
    (!message.from_me).then(|| pb::SendMessageRequest {
        parent: event.session,
        request_id: event.event_id,
        to: Some(pb::Recipient { recipient: Some(Jid(jid)) }),
        content: Some(Text(pb::TextContent { text: format!("echo: {}", received.text) })),
        priority: pb::Priority::Reply.into(),
        ..Default::default()
    })
}
