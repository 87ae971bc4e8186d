//! Files in messages: described in events, fetched by name, and by nobody else.

use tonic::Code;
use trunkline::domain::clock::Timestamp;
use trunkline::pb;
use trunkline::pb::download_media_response::Frame;

use crate::harness::{World, arrive, arrive_with_file, check};

/// The description and the bytes of a file.
async fn download(world: &World, name: &str) -> Result<(pb::MediaContent, Vec<u8>), tonic::Status> {
    let request = pb::DownloadMediaRequest {
        name: name.to_owned(),
    };
    let mut client = world.client().await;
    let mut frames = client.media.download_media(request).await?.into_inner();
    let Some(Frame::Info(info)) = frames.message().await?.and_then(|frame| frame.frame) else {
        panic!("the description comes first");
    };
    let mut data = Vec::new();
    while let Some(frame) = frames.message().await? {
        match frame.frame {
            Some(Frame::Chunk(chunk)) => data.extend(chunk),
            other => panic!("not a chunk: {other:?}"),
        }
    }
    Ok((info, data))
}

#[tokio::test]
async fn an_event_describes_a_file_and_its_name_fetches_it() {
    let world = World::new().await;
    let session = world.session("main").await;
    let revision = arrive_with_file(&session, "bob", b"the whole file").await;
    let name = format!("workspaces/default/sessions/main/media/{revision}");
    let watch = pb::WatchRequest {
        parent: "workspaces/default".to_owned(),
        from_revision: Some(revision),
        ..Default::default()
    };
    let mut events = world.client().await.events;
    let mut frames = events.watch(watch).await.unwrap().into_inner();
    let first = frames.message().await.unwrap().unwrap().frame.unwrap();
    let pb::watch_response::Frame::Event(event) = first else {
        panic!("not an event: {first:?}");
    };
    let Some(pb::event::Payload::Message(message)) = event.payload else {
        panic!("not a message");
    };
    let Some(pb::content::Content::Media(said)) = message.content.unwrap().content else {
        panic!("not a file");
    };
    assert_eq!(said.name, name);
    assert_eq!(said.kind(), pb::MediaKind::Document);
    assert_eq!(said.size, 14);
    assert_eq!(said.sha256, "07".repeat(32));
    assert_eq!(said.file_name.as_deref(), Some("notes.txt"));
    assert_eq!(said.caption.as_deref(), Some("read this"));
    assert_eq!(said.duration.unwrap().seconds, 3);
    assert_eq!((said.width, said.height), (None, Some(2)));

    let (info, data) = download(&world, &name).await.unwrap();
    assert_eq!(info, said);
    assert_eq!(data, b"the whole file");
}

#[tokio::test]
async fn only_the_session_that_got_a_file_has_it() {
    let world = World::new().await;
    let session = world.session("main").await;
    world.session("other").await;
    let revision = arrive_with_file(&session, "bob", b"file").await;
    arrive(&session, "bob", "text", Timestamp(2)).await;
    for wrong in [
        format!("workspaces/default/sessions/other/media/{revision}"),
        format!("workspaces/default/sessions/main/media/{}", revision + 1),
        format!("workspaces/default/sessions/main/media/{}", u64::MAX),
    ] {
        let refused = download(&world, &wrong).await;
        check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    }
    let rubbish = download(&world, "workspaces/default/sessions/main/media/x").await;
    check(
        rubbish,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("name"),
    );
}
