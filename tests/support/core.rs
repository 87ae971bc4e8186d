//! A messaging core: what a user of the API does, with the care that the API asks for. Calls that meet a
//! daemon that is away are repeated under the same `request_id`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Status};
use trunkline::pb;
use trunkline::pb::event_service_client::EventServiceClient;
use trunkline::pb::media_service_client::MediaServiceClient;
use trunkline::pb::message_service_client::MessageServiceClient;
use trunkline::pb::pair_session_response::Step;
use trunkline::pb::session_service_client::SessionServiceClient;
use trunkline::pb::watch_response::Frame;

use super::daemon::Daemon;

/// Pause before a call is repeated.
const RETRY: Duration = Duration::from_millis(20);

/// The default workspace.
pub(crate) const WORKSPACE: &str = "workspaces/default";

/// A fresh request id.
pub(crate) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The full name of a session. An id alone is one of the default workspace; a full name stays.
pub(crate) fn session_name(id: &str) -> String {
    if id.contains('/') {
        return id.to_owned();
    }
    format!("{WORKSPACE}/sessions/{id}")
}

/// Creates a session.
pub(crate) async fn create_session(channel: &Channel, id: &str) -> pb::Session {
    let name = session_name(id);
    let (parent, session_id) = name.split_once("/sessions/").unwrap();
    let request = pb::CreateSessionRequest {
        parent: parent.into(),
        session_id: session_id.into(),
        request_id: request_id(),
        ..pb::CreateSessionRequest::default()
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    let answer = sessions.create_session(request).await.unwrap();
    answer.into_inner().session.unwrap()
}

/// Reads a session.
pub(crate) async fn session(channel: &Channel, id: &str) -> Result<pb::Session, Status> {
    let request = pb::GetSessionRequest {
        name: session_name(id),
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    let answer = sessions.get_session(request).await?;
    Ok(answer.into_inner().session.unwrap_or_default())
}

/// Whether a session is online.
pub(crate) async fn is_online(channel: &Channel, id: &str) -> bool {
    session(channel, id).await.is_ok_and(|session| {
        session
            .connection
            .is_some_and(|connection| connection.state() == pb::ConnectionState::Online)
    })
}

/// How a pairing ended.
#[derive(Debug)]
pub(crate) enum Paired {
    /// Linked and confirmed.
    Linked,
    /// Ended without a link, and why.
    Failed(pb::PairingFailed),
    /// The stream broke; whether the link exists is to be found out.
    Broken(Status),
}

/// Links a session; `scan` is given each QR payload.
pub(crate) async fn pair(channel: &Channel, id: &str, mut scan: impl FnMut(&str)) -> Paired {
    follow_pairing(channel, id, "", |step| {
        if let Step::Qr(qr) = step {
            scan(&qr.payload);
        }
    })
    .await
}

/// Links a session by a code for this number; `enter` is given each code.
pub(crate) async fn pair_by_code(
    channel: &Channel,
    id: &str,
    phone: &str,
    mut enter: impl FnMut(&str),
) -> Paired {
    follow_pairing(channel, id, phone, |step| match step {
        Step::Code(code) => enter(&code.code),
        Step::Qr(_) => panic!("a QR was shown in a pairing by code"),
        _ => {}
    })
    .await
}

async fn follow_pairing(
    channel: &Channel,
    id: &str,
    phone: &str,
    mut show: impl FnMut(&Step),
) -> Paired {
    let request = pb::PairSessionRequest {
        name: session_name(id),
        request_id: request_id(),
        phone: phone.to_owned(),
    };
    let mut sessions = SessionServiceClient::new(channel.clone());
    let mut steps = match sessions.pair_session(request).await {
        Ok(steps) => steps.into_inner(),
        Err(status) => return Paired::Broken(status),
    };
    loop {
        match steps.message().await {
            Ok(Some(response)) => match response.step {
                Some(Step::Succeeded(_)) => return Paired::Linked,
                Some(Step::Failed(failed)) => return Paired::Failed(failed),
                Some(step) => show(&step),
                None => {}
            },
            Ok(None) => return Paired::Broken(Status::unavailable("the stream ended")),
            Err(status) => return Paired::Broken(status),
        }
    }
}

/// A text to send, with the id that makes repeating it safe.
pub(crate) fn text_to(session: &str, phone: &str, text: &str) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        parent: session_name(session),
        request_id: request_id(),
        to: Some(pb::Recipient {
            recipient: Some(pb::recipient::Recipient::Phone(phone.into())),
        }),
        content: Some(pb::send_message_request::Content::Text(pb::TextContent {
            text: text.into(),
        })),
        ..pb::SendMessageRequest::default()
    }
}

/// Sends once.
pub(crate) async fn send(
    channel: &Channel,
    request: &pb::SendMessageRequest,
) -> Result<pb::Message, Status> {
    let mut messages = MessageServiceClient::new(channel.clone());
    let answer = messages.send_message(request.clone()).await?;
    Ok(answer.into_inner().message.unwrap_or_default())
}

/// Sends until the daemon, which may be away meanwhile, has confirmed.
pub(crate) async fn send_surely(
    daemon: &Mutex<Daemon>,
    request: &pb::SendMessageRequest,
) -> pb::Message {
    loop {
        let channel = daemon.lock().await.channel().await;
        if let Ok(channel) = channel {
            match send(&channel, request).await {
                Ok(message) => return message,
                Err(status) if is_passing(&status) => {}
                Err(status) => panic!("send was refused: {status}"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether a status only says that the daemon is away: the connection broke, or it is starting or
/// stopping.
pub(crate) fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled
    )
}

/// Reads one message.
pub(crate) async fn message(channel: &Channel, name: &str) -> Result<pb::Message, Status> {
    let request = pb::GetMessageRequest { name: name.into() };
    let mut messages = MessageServiceClient::new(channel.clone());
    let answer = messages.get_message(request).await?;
    Ok(answer.into_inner().message.unwrap_or_default())
}

/// The whole journal of the default workspace, oldest first.
pub(crate) async fn journal(channel: &Channel) -> Result<Vec<pb::Event>, Status> {
    journal_of(channel, WORKSPACE).await
}

/// The whole journal of a workspace, oldest first.
pub(crate) async fn journal_of(
    channel: &Channel,
    workspace: &str,
) -> Result<Vec<pb::Event>, Status> {
    let request = pb::WatchRequest {
        parent: workspace.into(),
        from_revision: Some(0),
        ..pb::WatchRequest::default()
    };
    let mut events = EventServiceClient::new(channel.clone());
    let mut frames = events.watch(request).await?.into_inner();
    let mut journal = Vec::new();
    while let Some(response) = frames.message().await? {
        match response.frame {
            Some(Frame::Event(event)) => journal.push(event),
            Some(Frame::Progress(_)) => return Ok(journal),
            None => {}
        }
    }
    Err(Status::unavailable(
        "the journal ended without a progress frame",
    ))
}

/// For each stanza id, the events that report its arrival, by `event_id`.
pub(crate) fn arrivals(journal: &[pb::Event]) -> BTreeMap<String, BTreeSet<String>> {
    let mut arrivals: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in journal {
        if let Some(pb::event::Payload::Message(message)) = &event.payload
            && !message.from_me
        {
            let ids = arrivals.entry(message.stanza_id.clone()).or_default();
            ids.insert(event.event_id.clone());
        }
    }
    arrivals
}

/// Fetches a file: its description and its bytes.
pub(crate) async fn download(
    channel: &Channel,
    name: &str,
) -> Result<(pb::MediaContent, Vec<u8>), Status> {
    use pb::download_media_response::Frame;
    let request = pb::DownloadMediaRequest { name: name.into() };
    let mut media = MediaServiceClient::new(channel.clone());
    let mut frames = media.download_media(request).await?.into_inner();
    let (mut info, mut data) = (pb::MediaContent::default(), Vec::new());
    while let Some(frame) = frames.message().await? {
        match frame.frame {
            Some(Frame::Info(said)) => info = said,
            Some(Frame::Chunk(chunk)) => data.extend(chunk),
            None => {}
        }
    }
    Ok((info, data))
}

/// Uploads a file; its name.
pub(crate) async fn upload(
    channel: &Channel,
    session: &str,
    mime_type: &str,
    file_name: &str,
    bytes: &[u8],
) -> Result<String, Status> {
    use pb::upload_media_request::Frame;
    let info = pb::UploadMediaInfo {
        parent: session_name(session),
        request_id: request_id(),
        mime_type: mime_type.into(),
        file_name: Some(file_name.into()),
        ..pb::UploadMediaInfo::default()
    };
    let frame = |frame| pb::UploadMediaRequest { frame: Some(frame) };
    let mut frames = vec![frame(Frame::Info(info))];
    let chunks = bytes.chunks(256 << 10);
    frames.extend(chunks.map(|chunk| frame(Frame::Chunk(chunk.to_vec()))));
    let mut media = MediaServiceClient::new(channel.clone());
    let answer = media.upload_media(tokio_stream::iter(frames)).await?;
    Ok(answer.into_inner().media.unwrap_or_default().name)
}
