//! Files both ways between people's phones and a real client, and what the media host refuses.

// The helpers are test code too; clippy only knows the functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use support::http::{self, https};
use support::{Device, PATIENCE, person, simulator, simulator_with};
use trunkline_simulator::phone::ContentKind;
use trunkline_simulator::{
    Attachment, Fact, Fault, FaultSpec, FaultTarget, MediaKind, SimulatorConfig,
};
use wacore::download::MediaType;
use wacore::types::events::Event;
use wacore_binary::Jid;
use waproto::buffa::MessageField;
use waproto::whatsapp as wa;
use whatsapp_rust::upload::UploadOptions;

fn photo(seed: u8) -> Vec<u8> {
    (0..100_000_u32)
        .map(|n| n.to_le_bytes()[usize::from(seed) % 3] ^ seed)
        .collect()
}

fn image_of(event: &Event) -> Option<wa::message::ImageMessage> {
    let Event::Messages(batch) = event else {
        return None;
    };
    batch
        .messages
        .iter()
        .find_map(|inbound| inbound.message.image_message.as_option().cloned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_passes_both_ways() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::with_media(&simulator).await;
    device.pair(&owner).await;

    let theirs = photo(1);
    let sent = customer
        .send_media(&owner.phone(), &Attachment::jpeg(theirs.clone(), "look"))
        .unwrap();
    let image = device.event(image_of).await;
    assert_eq!(image.caption.as_deref(), Some("look"));
    assert_eq!(image.file_length, Some(theirs.len() as u64));
    assert_eq!(device.client.download(&image).await.unwrap(), theirs);
    assert_eq!(customer.sent()[0].id, sent);

    let ours = photo(2);
    let uploaded = device
        .client
        .upload(ours.clone(), MediaType::Image, UploadOptions::new())
        .await
        .unwrap();
    let message = wa::Message {
        image_message: MessageField::some(wa::message::ImageMessage {
            url: Some(uploaded.url),
            direct_path: Some(uploaded.direct_path),
            mimetype: Some("image/jpeg".into()),
            caption: Some("here".into()),
            file_sha256: Some(uploaded.file_sha256.to_vec()),
            file_enc_sha256: Some(uploaded.file_enc_sha256.to_vec()),
            file_length: Some(uploaded.file_length),
            media_key: Some(uploaded.media_key.to_vec()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let to = Jid::pn(customer.phone());
    device.client.send_message(to, message).await.unwrap();
    let phone = customer.phone();
    simulator
        .wait_until(|truth| truth.inbox(&phone).len() == 1, PATIENCE)
        .await
        .unwrap();
    let shown = customer.inbox().remove(0);
    assert_eq!(
        (shown.kind, shown.text.as_str()),
        (ContentKind::Media, "here")
    );
    let media = shown.media.unwrap();
    assert!(media.opened);
    assert_eq!(media.kind, MediaKind::Image);
    assert_eq!(media.sha256, hex::encode(Sha256::digest(&ours)));
    assert_eq!(customer.open_media(&shown.id).unwrap().unwrap(), ours);

    // The owner's phone got the companion's copy, and all of it is in the ledger.
    assert_eq!(owner.sent()[0].media.as_ref().unwrap().sha256, media.sha256);
    let device = format!("{}:1", owner.phone());
    let ledger = simulator.ledger();
    assert!(ledger.violations().is_empty(), "{:#?}", ledger.violations());
    assert!(ledger.facts().any(|fact| matches!(fact,
        Fact::MediaStored { kind, by, .. } if kind == "image" && *by == device)));
    assert!(ledger.facts().any(|fact| matches!(fact,
        Fact::MediaFetched { kind, by, .. } if kind == "image" && by.as_ref() == Some(&device))));
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_file_reaches_a_phone() {
    let simulator = simulator().await;
    let (ana, ben) = (person(&simulator, 1), person(&simulator, 2));
    let kinds = [
        MediaKind::Image,
        MediaKind::Video,
        MediaKind::Audio,
        MediaKind::Voice,
        MediaKind::Document,
        MediaKind::Sticker,
    ];
    for kind in kinds {
        let file = Attachment {
            kind,
            ..Attachment::document(photo(3), "application/x-test", "notes.bin")
        };
        ana.send_media(&ben.phone(), &file).unwrap();
    }
    let seen: Vec<_> = ben
        .inbox()
        .into_iter()
        .map(|inbound| inbound.media.unwrap())
        .collect();
    assert_eq!(
        seen.iter().map(|media| media.kind).collect::<Vec<_>>(),
        kinds
    );
    assert!(seen.iter().all(|media| media.opened));
    let names: Vec<_> = seen.iter().filter_map(|m| m.file_name.as_deref()).collect();
    assert_eq!(names, ["notes.bin"]);
    assert!(ben.violations().is_empty(), "{:#?}", ben.violations());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_pass_over_the_control_api() {
    let config = SimulatorConfig {
        control: Some(([127, 0, 0, 1], 0).into()),
        ..SimulatorConfig::default()
    };
    let simulator = simulator_with(config).await;
    let (ana, ben) = (person(&simulator, 1), person(&simulator, 2));
    let base = simulator.control_url().unwrap();
    let path = |query: &str| format!("/accounts/{}/media?{query}", ana.phone());
    let query = format!("to={}&kind=document&file_name=a.json", ben.phone());
    let file = json!({ "a": 1 });
    let (status, sent) = http::json(&base, "POST", &path(&query), Some(file.clone())).await;
    assert_eq!(status, 200, "{sent}");
    let id = sent["id"].as_str().unwrap();
    let get = format!("/accounts/{}/media/{id}", ben.phone());
    assert_eq!(http::json(&base, "GET", &get, None).await, (200, file));
    let messages = format!("/accounts/{}/messages", ben.phone());
    let (_, inbox) = http::json(&base, "GET", &messages, None).await;
    assert_eq!(inbox["messages"][0]["media"]["file_name"], "a.json");
    assert_eq!(inbox["messages"][0]["media"]["kind"], "document");

    let wrong = path("to=1&kind=hologram");
    assert_eq!(http::request(&base, "POST", &wrong, None).await.0, 400);
    let none = format!("/accounts/{}/media/none", ben.phone());
    assert_eq!(http::request(&base, "GET", &none, None).await.0, 404);
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_file_is_missing_is_objected_to() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::with_media(&simulator).await;
    device.pair(&owner).await;
    let message = wa::Message {
        image_message: MessageField::some(wa::message::ImageMessage {
            direct_path: Some("/v/image/none.enc".into()),
            media_key: Some(vec![1; 32]),
            file_sha256: Some(vec![2; 32]),
            file_enc_sha256: Some(vec![3; 32]),
            file_length: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    let to = Jid::pn(customer.phone());
    device.client.send_message(to, message).await.unwrap();
    let phone = customer.phone();
    simulator
        .wait_until(|truth| truth.inbox(&phone).len() == 1, PATIENCE)
        .await
        .unwrap();
    let shown = customer.inbox().remove(0);
    assert!(!shown.media.unwrap().opened);
    assert_eq!(customer.violations().len(), 1);
    assert!(customer.open_media(&shown.id).unwrap().is_err());
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_refusals_reach_the_client_and_wear_off() {
    let simulator = simulator().await;
    let (owner, customer) = (person(&simulator, 1), person(&simulator, 2));
    let device = Device::with_media(&simulator).await;
    device.pair(&owner).await;
    let order = |fault| {
        let spec = FaultSpec {
            target: FaultTarget::Account(owner.phone()),
            fault,
            times: Some(1),
        };
        simulator.fault(spec).unwrap();
    };
    let upload = || {
        device
            .client
            .upload(photo(4), MediaType::Document, UploadOptions::new())
    };
    order(Fault::RefuseUpload { status: 507 });
    let error = format!("{:#}", upload().await.unwrap_err());
    assert!(error.contains("507"), "{error}");
    // A void ticket makes the client ask for another.
    order(Fault::RefuseUpload { status: 401 });
    upload().await.unwrap();

    let file = Attachment::jpeg(photo(5), "");
    customer.send_media(&owner.phone(), &file).unwrap();
    let image = device.event(image_of).await;
    for _ in 0..2 {
        order(Fault::RefuseDownload { status: 410 });
    }
    let error = format!("{:#}", device.client.download(&image).await.unwrap_err());
    assert!(error.contains("410"), "{error}");
    assert_eq!(device.client.download(&image).await.unwrap(), photo(5));
    simulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_takes_only_what_a_ticket_and_the_hash_allow() {
    let simulator = simulator().await;
    let owner = person(&simulator, 1);
    let device = Device::with_media(&simulator).await;
    device.pair(&owner).await;
    let (root, base) = (simulator.tls_root_pem(), simulator.media_url());
    let body = photo(6);
    let token = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&body));
    let auth = device.client.refresh_media_conn(false).await.unwrap().auth;
    let cases = [
        (format!("/mms/image/{token}?auth={auth}"), 200),
        (format!("/mms/image/{token}?auth={auth}&resume=1"), 200),
        (format!("/mms/image/{token}?auth=forged"), 401),
        (format!("/mms/image/{token}"), 401),
        (format!("/mms/image/other?auth={auth}"), 400),
        (format!("/mms/nothing/{token}?auth={auth}"), 404),
    ];
    for (path, expected) in cases {
        let (status, answer) = https(root, &format!("{base}{path}"), "POST", &body)
            .await
            .unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(status, expected, "{path}: {answer}");
    }
    let (status, _) = https(root, &format!("{base}/v/image/none.enc"), "GET", b"")
        .await
        .unwrap();
    assert_eq!(status, 404);
    let stored = simulator
        .ledger()
        .facts()
        .filter(|fact| matches!(fact, Fact::MediaStored { .. }))
        .count();
    assert_eq!(stored, 1);
    simulator.shutdown().await;
}
