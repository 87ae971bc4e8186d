//! Files in messages: described in events, fetched by name, and by nobody else.

use futures::StreamExt as _;
use tonic::Code;
use trunkline::domain::clock::Timestamp;
use trunkline::pb;
use trunkline::pb::download_media_response::Frame;
use trunkline::pb::upload_media_request::Frame as Upload;

use crate::harness::{World, arrive, arrive_with_file, check, fresh, soon};

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

/// Uploads a file to session `main`: a description that `change` may spoil, and chunks.
async fn upload(
    world: &World,
    change: impl FnOnce(&mut pb::UploadMediaInfo),
    chunks: &[&[u8]],
) -> Result<pb::UploadedMedia, tonic::Status> {
    let mut info = pb::UploadMediaInfo {
        parent: "workspaces/default/sessions/main".to_owned(),
        request_id: fresh(),
        mime_type: "image/jpeg".to_owned(),
        file_name: Some("cat.jpg".to_owned()),
        ..Default::default()
    };
    change(&mut info);
    let frame = |frame| pb::UploadMediaRequest { frame: Some(frame) };
    let mut frames = vec![frame(Upload::Info(info))];
    frames.extend(
        chunks
            .iter()
            .map(|chunk| frame(Upload::Chunk(chunk.to_vec()))),
    );
    let mut client = world.client().await;
    let answer = client
        .media
        .upload_media(tokio_stream::iter(frames))
        .await?;
    Ok(answer.into_inner().media.unwrap())
}

/// What is on disk.
fn stored(world: &World) -> usize {
    fn below(dir: std::path::PathBuf) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .map(|path| if path.is_dir() { below(path) } else { 1 })
            .sum()
    }
    below(world.files.path().to_owned())
}

async fn send(world: &World, media: pb::OutboundMedia) -> Result<pb::Message, tonic::Status> {
    let request = pb::SendMessageRequest {
        parent: "workspaces/default/sessions/main".to_owned(),
        request_id: fresh(),
        to: Some(pb::Recipient {
            recipient: Some(pb::recipient::Recipient::Phone("+15551234567".to_owned())),
        }),
        content: Some(pb::send_message_request::Content::Media(media)),
        ..Default::default()
    };
    let answer = world.client().await.messages.send_message(request).await?;
    Ok(answer.into_inner().message.unwrap())
}

#[tokio::test]
async fn a_file_is_uploaded_shown_sent_and_read_back() {
    let world = World::new().await;
    world.session("main").await;
    let kept = upload(&world, |_| {}, &[b"the whole ", b"file"])
        .await
        .unwrap();
    assert_eq!((kept.size, kept.mime_type.as_str()), (14, "image/jpeg"));
    assert_eq!(kept.file_name.as_deref(), Some("cat.jpg"));
    let digest = <sha2::Sha256 as sha2::Digest>::digest(b"the whole file");
    assert_eq!(kept.sha256, hex::encode(digest));
    let (from, to) = (kept.create_time.unwrap(), kept.expire_time.unwrap());
    assert_eq!(to.seconds - from.seconds, 86_400);
    let (info, data) = download(&world, &kept.name).await.unwrap();
    assert_eq!((info.size, data.as_slice()), (14, &b"the whole file"[..]));

    let media = pb::OutboundMedia {
        name: kept.name.clone(),
        caption: Some("look".to_owned()),
        width: Some(640),
        height: Some(480),
        ..Default::default()
    };
    let message = send(&world, media).await.unwrap();
    let Some(pb::content::Content::Media(said)) = message.content.unwrap().content else {
        panic!("not a file");
    };
    assert_eq!((said.name, said.sha256), (kept.name, kept.sha256));
    assert_eq!((said.width, said.height), (Some(640), Some(480)));
    assert_eq!(said.caption.as_deref(), Some("look"));
}

#[tokio::test]
async fn a_repeated_upload_keeps_one_file_and_another_file_is_refused() {
    let world = World::new().await;
    world.session("main").await;
    let id = fresh();
    let same = |info: &mut pb::UploadMediaInfo| info.request_id.clone_from(&id);
    let first = upload(&world, same, &[b"one"]).await.unwrap();
    let again = upload(&world, same, &[b"o", b"ne"]).await.unwrap();
    assert_eq!(again, first);
    let other = upload(&world, same, &[b"two"]).await;
    check(other, Code::AlreadyExists, "IDEMPOTENCY_CONFLICT", None);
    soon(async {
        while stored(&world) != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Spoils a description.
type Change = fn(&mut pb::UploadMediaInfo);

#[tokio::test]
async fn what_is_wrong_with_an_upload_is_said() {
    let world = World::new().await;
    world.session("main").await;
    let cases: [(Change, &str); 7] = [
        (|it| it.parent = "x".to_owned(), "info.parent"),
        (|it| it.request_id.clear(), "request_id"),
        (|it| it.mime_type = "picture".to_owned(), "info.mime_type"),
        (|it| it.file_name = Some("a/b".to_owned()), "info.file_name"),
        (|it| it.size = Some(5), "info.size"),
        (|it| it.sha256 = Some("ab".to_owned()), "info.sha256"),
        (|it| it.sha256 = Some("ab".repeat(32)), "info.sha256"),
    ];
    for (change, field) in cases {
        let refused = upload(&world, change, &[b"file"]).await;
        check(refused, Code::InvalidArgument, "INVALID_FIELD", Some(field));
    }
    let empty = upload(&world, |_| {}, &[]).await;
    check(empty, Code::InvalidArgument, "INVALID_FIELD", Some("chunk"));
    let chunk = vec![0_u8; 200 << 10];
    let long = upload(&world, |_| {}, &[&chunk[..]; 6]).await;
    check(long, Code::ResourceExhausted, "MESSAGE_TOO_LARGE", None);
    let frames = [pb::UploadMediaRequest {
        frame: Some(Upload::Chunk(b"file".to_vec())),
    }];
    let mut client = world.client().await;
    let headless = client.media.upload_media(tokio_stream::iter(frames)).await;
    check(headless, Code::InvalidArgument, "STREAM_NOT_OPENED", None);
    soon(async {
        while stored(&world) != 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
    let full = vec![0_u8; 300 << 10];
    for _ in 0..3 {
        upload(&world, |_| {}, &[&full, &full, &full])
            .await
            .unwrap();
    }
    let over = upload(&world, |_| {}, &[&full, &full, &full]).await;
    check(over, Code::ResourceExhausted, "QUOTA_EXCEEDED", None);
}

#[tokio::test]
async fn only_a_file_of_the_same_session_can_be_sent_from_it() {
    let world = World::new().await;
    let session = world.session("main").await;
    world.session("other").await;
    let elsewhere = |info: &mut pb::UploadMediaInfo| {
        info.parent = "workspaces/default/sessions/other".to_owned();
    };
    let foreign = upload(&world, elsewhere, &[b"file"]).await.unwrap().name;
    let id = foreign.rsplit_once('/').unwrap().1.to_owned();
    let named = |name: String| pb::OutboundMedia {
        name,
        ..Default::default()
    };
    for name in [
        foreign,
        format!("workspaces/default/sessions/main/media/{id}"),
        "workspaces/nobody/sessions/main/media/1b4e28ba-2fa1-4d2b-883f-0016d3cca427".to_owned(),
    ] {
        let refused = send(&world, named(name.clone())).await;
        let said = refused.as_ref().unwrap_err().message().to_owned();
        assert!(said.contains(&name), "{said}");
        check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    }
    let revision = arrive_with_file(&session, "bob", b"file").await;
    let arrived = format!("workspaces/default/sessions/main/media/{revision}");
    let refused = send(&world, named(arrived)).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("media.name"),
    );
}

#[tokio::test]
async fn a_file_is_uploaded_as_the_body_of_an_http_request() {
    let world = World::new().await;
    world.session("main").await;
    let post = async |id: &str, query: &str, kind: Option<&str>| {
        let address = world.server.tcp().unwrap();
        let url = format!(
            "http://{address}/v1/workspaces/default/sessions/main/media?requestId={id}{query}"
        );
        let mut request = axum::http::Request::post(url)
            .header("authorization", format!("Bearer {}", world.token));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let body = axum::body::Body::from(vec![7_u8; 200_000]);
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
                .build_http();
        let answer = client.request(request.body(body).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::Body::new(answer.into_body());
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        (status, body)
    };
    let id = fresh();
    let (status, answer) = post(&id, "&fileName=a%20b.png", Some("image/png")).await;
    assert_eq!(status, 200, "{answer}");
    let again = post(&id, "&fileName=a%20b.png", Some("image/png")).await;
    assert_eq!(again, (200, answer.clone()), "the first answer");
    let media = &answer["media"];
    assert_eq!(media["size"], "200000");
    assert_eq!(media["fileName"], "a b.png");
    assert_eq!(media["mimeType"], "image/png");
    let name = media["name"].as_str().unwrap();
    let (_, data) = download(&world, name).await.unwrap();
    assert!(data == vec![7; 200_000]);

    for (query, kind, said) in [
        ("", None, "content-type"),
        (
            "",
            Some("application/x-www-form-urlencoded"),
            "content-type",
        ),
        (
            "",
            Some("multipart/form-data; boundary=x"),
            "must be the file itself",
        ),
        ("&sha256=00", Some("image/png"), "info.sha256"),
        ("&nonsense=1", Some("image/png"), "nonsense"),
    ] {
        let (status, answer) = post(&fresh(), query, kind).await;
        let message = answer["message"].as_str().unwrap();
        assert!(
            status == 400 && message.contains(said),
            "{status} {message}"
        );
    }
}

#[tokio::test]
async fn an_upload_whose_file_has_gone_is_taken_again() {
    let world = World::new().await;
    world.session("main").await;
    let id = fresh();
    let same = |info: &mut pb::UploadMediaInfo| info.request_id.clone_from(&id);
    let first = upload(&world, same, &[b"file"]).await.unwrap();
    // As a restore leaves it: rows and remembered answers without files.
    std::fs::remove_dir_all(world.files.path().join("media")).unwrap();
    let named = pb::OutboundMedia {
        name: first.name.clone(),
        ..Default::default()
    };
    let refused = send(&world, named).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
    let again = upload(&world, same, &[b"file"]).await.unwrap();
    assert_ne!(again.name, first.name);
    let (_, data) = download(&world, &again.name).await.unwrap();
    assert_eq!(data, b"file");
    assert_eq!(upload(&world, same, &[b"file"]).await.unwrap(), again);
}

#[tokio::test]
async fn uploads_beyond_a_workspaces_share_wait_and_hold_up_nobody() {
    let world = World::new().await;
    world.session("main").await;
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = |number: usize| {
        let info = pb::UploadMediaInfo {
            parent: "workspaces/default/sessions/main".to_owned(),
            request_id: fresh(),
            mime_type: "text/plain".to_owned(),
            ..Default::default()
        };
        let frame = |frame| pb::UploadMediaRequest { frame: Some(frame) };
        let first = [
            frame(Upload::Info(info)),
            frame(Upload::Chunk(format!("{number}").into_bytes())),
        ];
        let mut released = released.clone();
        let rest = async move {
            released.wait_for(|released| *released).await.unwrap();
            frame(Upload::Chunk(b", at last".to_vec()))
        };
        tokio_stream::iter(first).chain(futures::stream::once(rest))
    };
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..11 {
        let mut client = world.client().await;
        let frames = slow(number);
        uploads.spawn(async move { client.media.upload_media(frames).await });
        // Its share of eight is on disk, in part; the others wait.
        soon(async {
            while stored(&world) < (number + 1).min(8) {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        })
        .await;
    }
    world.session("another").await;
    assert_eq!(stored(&world), 8);
    release.send(true).unwrap();
    soon(async {
        while let Some(uploaded) = uploads.join_next().await {
            uploaded.unwrap().unwrap();
        }
    })
    .await;
    assert_eq!(stored(&world), 11);
}
