//! Files that customers send: described in the event, fetched on demand, checked, and refused in words when
//! they cannot be had.

use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic_types::StatusExt as _;
use trunkline::pb;
use trunkline_simulator::{Attachment, MediaKind};

use crate::support::terminal::shown_to_a_person;
use crate::support::{core, eventually};
use crate::{PATIENCE, World, data, reason};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_described_in_its_event_and_fetched_on_demand() {
    let mut world = World::new().await;
    let contract = data(3 << 20);
    let file = Attachment {
        caption: "please sign".to_owned(),
        ..Attachment::document(contract.clone(), "application/pdf", "contract.pdf")
    };
    let said = world.receive(&file).await;
    assert_eq!(said.kind(), pb::MediaKind::Document);
    assert_eq!(said.mime_type, "application/pdf");
    assert_eq!(said.size, contract.len() as u64);
    assert_eq!(said.sha256, hex::encode(Sha256::digest(&contract)));
    assert_eq!(said.file_name.as_deref(), Some("contract.pdf"));
    assert_eq!(said.caption.as_deref(), Some("please sign"));
    let (info, fetched) = core::download(&world.channel, &said.name).await.unwrap();
    assert_eq!(info, said);
    assert!(fetched == contract, "the file differs");

    let voice = Attachment {
        kind: MediaKind::Voice,
        ..Attachment::document(data(64), "audio/ogg", "")
    };
    let said_voice = world.receive(&voice).await;
    assert_eq!(said_voice.kind(), pb::MediaKind::Voice);

    // What is journaled can be fetched by the next process too.
    world.daemon.kill().await;
    world.daemon.start().await;
    world.channel = world.daemon.channel().await.unwrap();
    world.online().await;
    for (said, data) in [(said, contract), (said_voice, data(64))] {
        let (_, fetched) = core::download(&world.channel, &said.name).await.unwrap();
        assert!(fetched == data, "{} differs", said.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_had_is_refused_with_its_reason() {
    let world = World::new().await;
    let file = Attachment::jpeg(data(1000), "look");
    let said = world.receive(&file).await;
    for (status, code, why) in [
        (410, Code::NotFound, "MEDIA_GONE"),
        (404, Code::NotFound, "MEDIA_GONE"),
        (503, Code::Unavailable, "MEDIA_UNAVAILABLE"),
    ] {
        world.refuse_downloads(status);
        let refused = core::download(&world.channel, &said.name).await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (code, why),
            "{refused}"
        );
        world.simulator.clear_faults();
    }
    let stop = pb::StopSessionRequest {
        name: core::session_name("main"),
        request_id: core::request_id(),
        ..Default::default()
    };
    pb::session_service_client::SessionServiceClient::new(world.channel.clone())
        .stop_session(stop)
        .await
        .unwrap();
    eventually("the line is offline", PATIENCE, async || {
        !core::is_online(&world.channel, "main").await
    })
    .await;
    let refused = core::download(&world.channel, &said.name).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unavailable, "SESSION_OFFLINE")
    );
    assert!(refused.get_error_details().retry_info().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_fetches_a_file_and_overwrites_none() {
    let world = World::new().await;
    let photo = data(300_000);
    let said = world
        .receive(&Attachment::jpeg(photo.clone(), "look"))
        .await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("photo.jpg");
    let get = async || {
        let mut command = tokio::process::Command::from(world.daemon.trunkline());
        command
            .args(["media", "get", &said.name, "-o"])
            .arg(&target);
        command.output().await.unwrap()
    };
    let got = get().await;
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    assert!(std::fs::read(&target).unwrap() == photo, "the file differs");
    let again = get().await;
    assert_eq!(again.status.code(), Some(74));
    assert!(
        !String::from_utf8_lossy(&got.stderr).contains("fetching"),
        "not to a pipe"
    );
    let entries = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 1, "nothing else is left");

    // A person sees how far it is.
    let mut command = world.daemon.trunkline();
    command.args(["media", "get", &said.name, "-o"]);
    command.arg(folder.path().join("again.jpg"));
    let shown = tokio::task::block_in_place(|| shown_to_a_person(&command));
    assert!(
        shown.contains("fetching") && shown.contains("KiB"),
        "{shown}"
    );
}
