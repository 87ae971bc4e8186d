//! Files are carried to the provider before their messages, once, and never instead of them.

use std::time::Duration;

use crate::domain::clock::{Clock as _, Entropy};
use crate::domain::ids::{MediaId, MessageId, RequestId, SessionName};
use crate::domain::media::{Media, MediaKind};
use crate::domain::message::{Content, MessageState, Priority};
use crate::provider::contract::UploadError;
use crate::session::Submission;
use crate::session::testing::*;
use crate::store::media::NewMedia;
use crate::store::{BodyHash, Remember};

async fn upload(h: &Harness, name: &SessionName, bytes: &'static [u8]) -> MediaId {
    let session = h.session(name).await;
    let store = session.media().unwrap();
    let mut incoming = store.begin();
    incoming.write(bytes.into()).await.unwrap();
    let sealed = incoming.finish().await.unwrap();
    let new = NewMedia {
        mime_type: "image/jpeg".into(),
        file_name: None,
    };
    let request = RequestId(Entropy::from_system().unwrap().uuid());
    let requests = session.workspace().requests();
    let body = BodyHash::of("UploadMedia", bytes);
    let remember = Remember::new(requests, request, body, |_: &_| Vec::new());
    store.keep(sealed, new, remember, false).await.unwrap().id
}

/// A message with a file.
async fn submission(h: &Harness, name: &SessionName, to: &str, file: MediaId) -> Submission {
    let store = h.session(name).await.media().unwrap();
    let uploaded = store.get(file).await.unwrap();
    let media = Media {
        kind: MediaKind::Image,
        mime_type: uploaded.mime_type,
        size: uploaded.size,
        sha256: uploaded.sha256,
        caption: None,
        file_name: None,
        seconds: None,
        width: None,
        height: None,
        thumbnail: vec![1],
        raw: Vec::new(),
    };
    Submission {
        request_id: RequestId(Entropy::from_system().unwrap().uuid()),
        body: BodyHash::of("Send", b""),
        to: person(to),
        content: Content::Media {
            media: Box::new(media),
        },
        media: Some(file),
        priority: Priority::default(),
        send_after: None,
        expire_at: None,
    }
}

async fn send(h: &Harness, name: &SessionName, to: &str, file: MediaId) -> MessageId {
    let submission = submission(h, name, to, file).await;
    let session = h.session(name).await;
    let accepted = h.supervisor.submit(&session, submission).await;
    accepted.unwrap().message.id
}

fn files(h: &Harness, name: &SessionName) -> Vec<Vec<u8>> {
    h.world.peer(name, |peer| peer.uploads.clone())
}

/// What the last message on the wire says of its file.
fn wire(h: &Harness, name: &SessionName) -> Vec<String> {
    let wire = h.world.peer(name, |peer| peer.wire.clone());
    let text = |(_, bytes): (String, Vec<u8>)| String::from_utf8(bytes).unwrap();
    wire.into_iter().map(text).collect()
}

#[tokio::test]
async fn a_file_goes_before_its_message_and_once_for_many() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let picture = upload(&h, &name, b"a picture").await;
    let first = send(&h, &name, "1", picture).await;
    let message = h.settled(&name, first, MessageState::Sent).await;
    assert_eq!(message.attempts, 1);
    assert!(message.encoded.ends_with(b" at 1"));
    let Content::Media { media } = &message.content else {
        panic!("{:?}", message.content);
    };
    assert!(media.thumbnail.is_empty(), "kept once, in the encoding");
    for to in ["2", "3"] {
        let id = send(&h, &name, to, picture).await;
        h.settled(&name, id, MessageState::Sent).await;
    }
    assert_eq!(files(&h, &name), [b"a picture"]);
    assert!(wire(&h, &name).iter().all(|said| said.ends_with(" at 1")));

    h.clock.step(Duration::from_hours(25));
    let later = send(&h, &name, "4", picture).await;
    let message = h.settled(&name, later, MessageState::Sent).await;
    assert!(message.encoded.ends_with(b" at 2"), "the note is too old");
}

#[tokio::test]
async fn a_text_to_another_chat_does_not_wait_for_a_long_file() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let film = upload(&h, &name, b"a film").await;
    h.world.peer(&name, |peer| peer.upload = UploadPlan::Hang);
    for to in ["1", "2", "3"] {
        send(&h, &name, to, film).await;
    }
    let behind = h.submit(&name, "1", "behind the film").await.message;
    let text = h.submit(&name, "9", "hello").await.message;
    h.settled(&name, text.id, MessageState::Sent).await;
    assert_eq!(wire(&h, &name).len(), 1);
    assert_eq!(
        h.message(&name, behind.id).await.state,
        MessageState::Queued
    );
    let waiting = h.supervisor.status(&name).unwrap().queue.waiting;
    assert_eq!(waiting, 4, "what is being uploaded waits too");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_told() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let file = upload(&h, &name, b"file").await;
    let plan = |plan| h.world.peer(&name, |peer| peer.upload = plan);
    plan(UploadPlan::End(UploadError::Temporary("scripted".into())));
    let patient = send(&h, &name, "1", file).await;
    eventually(|| async {
        let kept = h.message(&name, patient).await;
        match kept.state {
            MessageState::Queued => Ok(()),
            state => Err(format!("{state:?}")),
        }
    })
    .await;
    plan(UploadPlan::Accept);
    let sent = h.settled(&name, patient, MessageState::Sent).await;
    assert_eq!(sent.attempts, 1);

    // Another file: this one's place is known by now.
    let other = upload(&h, &name, b"other").await;
    plan(UploadPlan::End(UploadError::Refused("too odd".into())));
    let refused = send(&h, &name, "2", other).await;
    let failed = h.settled(&name, refused, MessageState::Failed).await;
    assert_eq!(failed.failure.unwrap().reason, "MEDIA_REFUSED");
    plan(UploadPlan::Accept);
    for entry in walk(h.files.path()) {
        std::fs::write(entry, b"not what was stored").unwrap();
    }
    let lost = send(&h, &name, "2", other).await;
    let failed = h.settled(&name, lost, MessageState::Failed).await;
    assert_eq!(failed.failure.unwrap().reason, "MEDIA_LOST");
    assert_eq!(failed.attempts, 0);
    assert_eq!(wire(&h, &name).len(), 1);
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[tokio::test]
async fn a_connection_that_ends_during_an_upload_costs_only_time() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let file = upload(&h, &name, b"file").await;
    h.world.peer(&name, |peer| peer.upload = UploadPlan::Hang);
    let id = send(&h, &name, "1", file).await;
    eventually(|| async {
        let waiting = h.supervisor.status(&name).unwrap().queue.waiting;
        match waiting {
            1 => Ok(()),
            waiting => Err(waiting.to_string()),
        }
    })
    .await;
    h.world.peer(&name, |peer| peer.upload = UploadPlan::Accept);
    h.world.control(&name, Control::End(transient()));
    let sent = h.settled(&name, id, MessageState::Sent).await;
    assert_eq!((sent.attempts, files(&h, &name).len()), (1, 1));
}

#[tokio::test]
async fn a_message_canceled_during_its_upload_does_not_go() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let file = upload(&h, &name, b"file").await;
    h.world.peer(&name, |peer| {
        peer.upload = UploadPlan::End(UploadError::Temporary("scripted".into()));
    });
    let id = send(&h, &name, "1", file).await;
    let session = h.session(&name).await;
    h.supervisor.cancel(&session, id).await.unwrap();
    h.world.peer(&name, |peer| peer.upload = UploadPlan::Accept);
    // The same chat goes on behind it.
    let next = h.submit(&name, "1", "next").await.message;
    h.settled(&name, next.id, MessageState::Sent).await;
    assert_eq!(wire(&h, &name).len(), 1);
    assert_eq!(h.message(&name, id).await.state, MessageState::Canceled);
}

#[tokio::test]
async fn a_file_that_is_never_taken_ends_its_message_after_a_day() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let file = upload(&h, &name, b"file").await;
    let passing = UploadError::Temporary("scripted".into());
    h.world
        .peer(&name, |peer| peer.upload = UploadPlan::End(passing));
    let id = send(&h, &name, "1", file).await;
    eventually(|| async {
        match h.world.peer(&name, |peer| peer.upload_attempts) {
            0 => Err("not tried".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(h.message(&name, id).await.state, MessageState::Queued);
    h.clock.step(Duration::from_hours(25));
    let failed = h.settled(&name, id, MessageState::Failed).await;
    assert_eq!(failed.failure.unwrap().reason, "MEDIA_UNAVAILABLE");
}

#[tokio::test]
async fn the_most_urgent_file_goes_next_and_deadlines_hold_while_it_waits() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let film = upload(&h, &name, b"a film").await;
    h.world.peer(&name, |peer| peer.upload = UploadPlan::Hang);
    for to in ["1", "2"] {
        send(&h, &name, to, film).await;
    }
    eventually(|| async {
        match h.world.peer(&name, |peer| peer.upload_attempts) {
            2 => Ok(()),
            tried => Err(tried.to_string()),
        }
    })
    .await;
    // Both places are taken.
    let waiting = send(&h, &name, "3", film).await;
    let session = h.session(&name).await;
    h.supervisor.cancel(&session, waiting).await.unwrap();
    let soon = h.clock.now().plus(Duration::from_hours(1));
    let mut late = submission(&h, &name, "4", film).await;
    late.expire_at = Some(soon);
    let late = h.supervisor.submit(&session, late).await.unwrap().message;
    h.clock.step(Duration::from_hours(2));
    h.supervisor.nudge(&name);
    h.settled(&name, late.id, MessageState::Expired).await;
    assert_eq!(h.world.peer(&name, |peer| peer.upload_attempts), 2);
}
