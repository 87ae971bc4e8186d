//! Files that are sent: stored before OK, carried to the media host once, shown by the phone as they were,
//! whatever happens to the daemon meanwhile.

use std::collections::BTreeMap;

use trunkline::pb;
use trunkline_simulator::{Fact, Fault, FaultSpec, FaultTarget, MediaKind};

use crate::support::{core, eventually};
use crate::{CUSTOMER, PATIENCE, World, data};

impl World {
    async fn upload(
        &self,
        mime_type: &str,
        name: &str,
        bytes: &[u8],
    ) -> Result<String, tonic::Status> {
        core::upload(&self.channel, "main", mime_type, name, bytes).await
    }

    async fn send(&self, media: pb::OutboundMedia) -> pb::Message {
        core::send(&self.channel, &to_customer(media))
            .await
            .unwrap()
    }

    async fn reaches(&self, message: &pb::Message, state: pb::MessageState) -> pb::Message {
        let mut last = pb::Message::default();
        eventually(&format!("a message is {state:?}"), PATIENCE, async || {
            last = core::message(&self.channel, &message.name).await.unwrap();
            last.state() == state
        })
        .await;
        last
    }

    /// Files that the media host took, and how often it took none.
    fn uploads(&self) -> (usize, usize) {
        let ledger = self.simulator.ledger();
        let count = |of: &dyn Fn(&Fact) -> bool| {
            ledger
                .entries()
                .iter()
                .filter(|entry| of(&entry.fact))
                .count()
        };
        let taken =
            count(&|fact| matches!(fact, Fact::MediaStored { kind, .. } if kind == "image"));
        let refused = count(&|fact| matches!(fact, Fact::MediaRefused { .. }));
        (taken, refused)
    }

    fn refuse_uploads(&self, status: u16) {
        let spec = FaultSpec {
            target: FaultTarget::All,
            fault: Fault::RefuseUpload { status },
            times: None,
        };
        self.simulator.fault(spec).unwrap();
    }
}

fn to_customer(media: pb::OutboundMedia) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        content: Some(pb::send_message_request::Content::Media(media)),
        ..core::text_to("main", CUSTOMER, "")
    }
}

fn file(name: String) -> pb::OutboundMedia {
    pb::OutboundMedia {
        name,
        ..pb::OutboundMedia::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_file_arrives_as_it_was_sent() {
    let world = World::new().await;
    let caption = |text: &str| Some(text.to_owned());
    let kinds = [
        (
            "image/jpeg",
            "cat.jpg",
            300_000,
            pb::MediaKind::Unspecified,
            caption("look"),
            MediaKind::Image,
        ),
        (
            "video/mp4",
            "cat.mp4",
            700_000,
            pb::MediaKind::Unspecified,
            caption("watch"),
            MediaKind::Video,
        ),
        (
            "audio/mpeg",
            "cat.mp3",
            64,
            pb::MediaKind::Unspecified,
            None,
            MediaKind::Audio,
        ),
        (
            "audio/ogg; codecs=opus",
            "v",
            70_000,
            pb::MediaKind::Voice,
            None,
            MediaKind::Voice,
        ),
        // Long enough for the library to ask first whether a part is there already.
        (
            "application/pdf",
            "contract.pdf",
            6 << 20,
            pb::MediaKind::Unspecified,
            caption("sign"),
            MediaKind::Document,
        ),
        (
            "image/webp",
            "s.webp",
            1_000,
            pb::MediaKind::Sticker,
            None,
            MediaKind::Sticker,
        ),
    ];
    for (mime, name, length, kind, caption, shown_as) in kinds {
        let bytes = data(length);
        let uploaded = world.upload(mime, name, &bytes).await.unwrap();
        let mut media = file(uploaded);
        media.caption.clone_from(&caption);
        media.set_kind(kind);
        let message = world.send(media).await;
        let message = world.reaches(&message, pb::MessageState::Delivered).await;
        let inbox = world.customer.inbox();
        let shown = inbox.iter().find(|it| it.id == message.stanza_id).unwrap();
        assert_eq!(shown.text, caption.unwrap_or_default(), "{mime}");
        let seen = shown.media.as_ref().unwrap();
        assert_eq!(seen.kind, shown_as, "{mime}");
        assert_eq!(seen.mime_type, mime);
        let opened = world.customer.open_media(&message.stanza_id).unwrap();
        assert!(opened.unwrap() == bytes, "{mime} differs");
    }
    assert!(world.customer.violations().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_lost_its_keys_gets_the_same_file_again() {
    let world = World::new().await;
    let picture = data(100_000);
    let uploaded = world.upload("image/jpeg", "a.jpg", &picture).await.unwrap();
    let first = world.send(file(uploaded.clone())).await;
    world.reaches(&first, pb::MessageState::Delivered).await;
    world.customer.lose_sessions();
    let again = world.send(file(uploaded)).await;
    world.reaches(&again, pb::MessageState::Delivered).await;
    eventually("the phone reads the second", PATIENCE, async || {
        let inbox = world.customer.inbox();
        inbox.iter().any(|it| it.id == again.stanza_id)
    })
    .await;
    for message in [&first, &again] {
        let opened = world.customer.open_media(&message.stanza_id).unwrap();
        assert!(opened.unwrap() == picture);
    }
    assert_eq!(world.uploads().0, 1, "one upload serves both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_media_host_that_refuses_delays_or_fails_the_message_in_words() {
    let world = World::new().await;
    world.refuse_uploads(503);
    let uploaded = world
        .upload("image/jpeg", "a.jpg", &data(1_000))
        .await
        .unwrap();
    let patient = world.send(file(uploaded)).await;
    // The same chat waits behind it; OK was said, so nothing is lost.
    let behind = core::text_to("main", CUSTOMER, "behind the picture");
    let behind = core::send(&world.channel, &behind).await.unwrap();
    eventually("an upload is refused", PATIENCE, async || {
        world.uploads().1 > 0
    })
    .await;
    let waiting = core::message(&world.channel, &patient.name).await.unwrap();
    assert_eq!(
        (waiting.state(), waiting.attempts),
        (pb::MessageState::Queued, 0)
    );
    world.simulator.clear_faults();
    world.reaches(&patient, pb::MessageState::Delivered).await;
    world.reaches(&behind, pb::MessageState::Delivered).await;
    let order: Vec<_> = world.customer.inbox().into_iter().map(|it| it.id).collect();
    assert_eq!(order, [patient.stanza_id, behind.stanza_id]);

    world.refuse_uploads(415);
    let uploaded = world
        .upload("image/jpeg", "b.jpg", &data(2_000))
        .await
        .unwrap();
    let odd = world.send(file(uploaded)).await;
    let failed = world.reaches(&odd, pb::MessageState::Failed).await;
    assert_eq!(failed.failure.unwrap().reason, "MEDIA_REFUSED");
    assert_eq!(failed.attempts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_confirmed_arrives_once_however_often_the_daemon_is_killed() {
    let mut world = World::new().await;
    let mut expected = BTreeMap::new();
    for round in 0..5_u32 {
        let mut confirmed = Vec::new();
        for number in 0..4_u32 {
            let bytes = data(200_000 + 4 * (round * 10 + number));
            let uploaded = world.upload("image/jpeg", "a.jpg", &bytes).await.unwrap();
            let message = world.send(file(uploaded)).await;
            expected.insert(message.stanza_id.clone(), bytes);
            confirmed.push(message);
        }
        // Each round is cut at another place of its messages' way.
        let progress = usize::try_from(round).unwrap() % 4;
        eventually("the round has come so far", PATIENCE, async || {
            let inbox = world.customer.inbox();
            let there = confirmed
                .iter()
                .filter(|message| inbox.iter().any(|shown| shown.id == message.stanza_id));
            there.count() >= progress
        })
        .await;
        world.daemon.kill().await;
        world.daemon.start().await;
        world.channel = world.daemon.channel().await.unwrap();
        world.online().await;
        // A file that was confirmed is there after the crash, sent or not.
        for message in &confirmed {
            let content = message.content.clone().unwrap().content.unwrap();
            let pb::content::Content::Media(said) = content else {
                panic!("not a file");
            };
            let (_, kept) = core::download(&world.channel, &said.name).await.unwrap();
            assert!(kept == expected[&message.stanza_id]);
        }
    }
    eventually("everything has arrived", PATIENCE, async || {
        world.customer.inbox().len() == expected.len()
    })
    .await;
    for shown in world.customer.inbox() {
        assert_eq!(shown.displays, 1);
        let opened = world.customer.open_media(&shown.id).unwrap().unwrap();
        assert!(opened == expected[&shown.id], "another file");
    }
    assert!(world.customer.violations().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sends_a_file() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("invoice 7.pdf");
    let bytes = data(150_000);
    std::fs::write(&path, &bytes).unwrap();
    let id = core::request_id();
    let send = async |more: &[&str]| {
        let mut command = tokio::process::Command::from(world.daemon.trunkline());
        command
            .args(["send", CUSTOMER, "--request-id", &id, "--file"])
            .arg(&path)
            .args(more);
        command.output().await.unwrap()
    };
    for _ in 0..2 {
        let output = send(&["your invoice", "--until", "delivered"]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let inbox = world.customer.inbox();
    let [shown] = &inbox[..] else {
        panic!("repeated with the same id, sent once: {inbox:?}");
    };
    assert_eq!(shown.text, "your invoice");
    let seen = shown.media.as_ref().unwrap();
    assert_eq!(seen.mime_type, "application/pdf");
    let opened = world.customer.open_media(&shown.id).unwrap().unwrap();
    assert!(opened == bytes);

    let other = send(&["another text"]).await;
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.contains("IDEMPOTENCY_CONFLICT"), "{said}");
    let missing = tokio::process::Command::from(world.daemon.trunkline())
        .args(["send", CUSTOMER, "--file", "/nowhere/at.all"])
        .output()
        .await
        .unwrap();
    assert_eq!(missing.status.code(), Some(74));
    assert_eq!(String::from_utf8_lossy(&missing.stderr).lines().count(), 1);
}
