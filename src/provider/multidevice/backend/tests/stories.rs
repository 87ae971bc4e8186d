//! What a backend is asked, told in sentences: two backends that behave alike tell the same story.

use wacore::store::traits::{
    AppStateSyncKey, DeviceInfo, DeviceListRecord, LidPnMappingEntry, MsgSecretEntry,
    PendingInboundKey, PendingInboundRow, TcTokenEntry,
};
use whatsapp_rust::wacore::appstate::processor::AppStateMutationMAC;

use super::*;

pub(super) fn key(byte: u8) -> Bytes {
    Bytes::from(vec![byte; 70])
}

pub(super) fn mac(index: u8, value: u8) -> AppStateMutationMAC {
    AppStateMutationMAC {
        index_mac: vec![index; 32],
        value_mac: vec![value; 32],
    }
}

pub(super) fn mapping(lid: &str, phone: &str) -> LidPnMappingEntry {
    LidPnMappingEntry {
        lid: lid.into(),
        phone_number: phone.into(),
        created_at: 1,
        updated_at: 2,
        learning_source: "usync".into(),
    }
}

/// One sentence per answer.
pub(super) async fn signal(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    let (alice, phone) = ("15551:2@s.whatsapp.net", "15551@s.whatsapp.net");
    told.push(format!("{:?}", backend.load_identity(alice).await.unwrap()));
    told.push(format!(
        "{}",
        backend.has_signal_state_for_user("15551").await.unwrap()
    ));
    backend.put_identity(alice, [3; 32]).await.unwrap();
    told.push(format!("{:?}", backend.load_identity(alice).await.unwrap()));
    told.push(format!(
        "{}",
        backend.has_signal_state_for_user("15551").await.unwrap()
    ));
    told.push(format!(
        "{}",
        backend.has_signal_state_for_user("1555").await.unwrap()
    ));
    backend.delete_identity(alice).await.unwrap();
    let sessions = [(Arc::from(alice), key(1)), (Arc::from(phone), key(2))];
    backend.put_sessions_batch(&sessions).await.unwrap();
    backend.put_session(phone, &key(3)).await.unwrap();
    for address in [alice, phone, "15559@lid"] {
        told.push(format!("{:?}", backend.get_session(address).await.unwrap()));
        told.push(format!("{}", backend.has_session(address).await.unwrap()));
    }
    backend.delete_session(alice).await.unwrap();
    told.push(format!("{:?}", backend.get_session(alice).await.unwrap()));

    told.push(format!("{}", backend.get_max_prekey_id().await.unwrap()));
    let prekeys: Vec<_> = (60..200)
        .map(|id| (id, key(u8::try_from(id).unwrap())))
        .collect();
    backend.store_prekeys_batch(&prekeys, false).await.unwrap();
    backend.store_prekey(5, &key(5), true).await.unwrap();
    told.push(format!("{}", backend.get_max_prekey_id().await.unwrap()));
    backend.remove_prekey(199).await.unwrap();
    backend.remove_prekey(62).await.unwrap();
    backend.remove_prekey(7777).await.unwrap();
    backend.mark_prekeys_uploaded(&[61, 62, 63]).await.unwrap();
    told.push(format!("{}", backend.get_max_prekey_id().await.unwrap()));
    for id in [5, 60, 61, 62, 126, 198, 199] {
        told.push(format!("{id} {:?}", backend.load_prekey(id).await.unwrap()));
    }
    told.push(format!(
        "{:?}",
        backend.load_prekeys_batch(&[198, 1, 5, 62]).await.unwrap()
    ));

    backend.store_signed_prekey(2, &key(2)).await.unwrap();
    backend.store_signed_prekey(9, &key(9)).await.unwrap();
    let mut signed = backend.load_all_signed_prekeys().await.unwrap();
    signed.sort();
    told.push(format!("{signed:?}"));
    backend.remove_signed_prekey(2).await.unwrap();
    told.push(format!(
        "{:?}",
        backend.load_signed_prekey(2).await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend.load_signed_prekey(9).await.unwrap()
    ));

    let group = "120363@g.us:15551@s.whatsapp.net";
    backend
        .put_sender_keys_batch(&[(Arc::from(group), key(4))])
        .await
        .unwrap();
    backend.put_sender_key("other", &key(5)).await.unwrap();
    backend.delete_sender_key("other").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_sender_key(group).await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend.get_sender_key("other").await.unwrap()
    ));
    told
}

pub(super) async fn sync(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    told.push(format!(
        "{:?}",
        backend.get_latest_sync_key_id().await.unwrap()
    ));
    for id in [[1_u8, 2], [3, 4]] {
        let key = AppStateSyncKey {
            key_data: id.to_vec(),
            fingerprint: vec![9],
            timestamp: 7,
        };
        backend.set_sync_key(&id, key).await.unwrap();
    }
    told.push(format!(
        "{:?}",
        backend.get_latest_sync_key_id().await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend
            .get_sync_key(&[1, 2])
            .await
            .unwrap()
            .map(|k| k.key_data)
    ));
    told.push(format!(
        "{}",
        backend.get_sync_key(&[8]).await.unwrap().is_none()
    ));

    told.push(format!(
        "{:?}",
        backend.get_version("regular").await.unwrap().version
    ));
    let mut state = HashState {
        version: 4,
        ..HashState::default()
    };
    state.hash[3] = 8;
    backend.set_version("regular", state).await.unwrap();
    let stored = backend.get_version("regular").await.unwrap();
    told.push(format!("{} {:?}", stored.version, &stored.hash[..5]));

    let macs: Vec<_> = (0..40).map(|n| mac(n, n + 1)).collect();
    backend
        .put_mutation_macs("regular", 1, &macs)
        .await
        .unwrap();
    backend
        .put_mutation_macs("regular_low", 1, &macs[..2])
        .await
        .unwrap();
    backend
        .put_mutation_macs("regular", 2, &[mac(3, 99)])
        .await
        .unwrap();
    backend
        .delete_mutation_macs("regular", &[vec![5; 32], vec![77; 32]])
        .await
        .unwrap();
    for index in [3_u8, 4, 5, 20] {
        let mac = backend
            .get_mutation_mac("regular", &[index; 32])
            .await
            .unwrap();
        told.push(format!("{index} {:?}", mac.map(|m| m[0])));
    }
    let many = backend
        .get_mutation_macs("regular", &[[3; 32], [5; 32], [20; 32]])
        .await
        .unwrap();
    let mut many: Vec<_> = many.into_iter().map(|(i, v)| (i[0], v[0])).collect();
    many.sort_unstable();
    told.push(format!("{many:?}"));
    backend.clear_mutation_macs("regular").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_mutation_mac("regular", &[3; 32]).await.unwrap()
    ));
    told.push(format!(
        "{:?}",
        backend
            .get_mutation_mac("regular_low", &[1; 32])
            .await
            .unwrap()
    ));
    told
}

pub(super) async fn protocol(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    backend
        .set_sender_key_status("g1", &[("a", true), ("b", false)])
        .await
        .unwrap();
    backend
        .set_sender_key_status("g1", &[("b", true), ("c", false)])
        .await
        .unwrap();
    backend
        .set_sender_key_status("g2", &[("a", true)])
        .await
        .unwrap();
    backend
        .delete_sender_key_device_rows(&["a", "z"])
        .await
        .unwrap();
    for group in ["g1", "g2", "g3"] {
        let mut devices = backend.get_sender_key_devices(group).await.unwrap();
        devices.sort();
        told.push(format!("{devices:?}"));
    }
    backend.clear_sender_key_devices("g1").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_sender_key_devices("g1").await.unwrap()
    ));
    backend
        .set_sender_key_status("g2", &[("d", true)])
        .await
        .unwrap();
    backend.clear_all_sender_key_devices().await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_sender_key_devices("g2").await.unwrap()
    ));

    backend
        .put_lid_mapping(&mapping("77", "15551"))
        .await
        .unwrap();
    backend
        .put_lid_mappings(&[mapping("88", "15552"), mapping("77", "15553")])
        .await
        .unwrap();
    for phone in ["15551", "15552", "15553"] {
        let row = backend.get_pn_mapping(phone).await.unwrap();
        told.push(format!("{phone} {:?}", row.map(|row| row.lid)));
    }
    let row = backend.get_lid_mapping("77").await.unwrap();
    told.push(format!("{:?}", row.map(|row| row.phone_number)));

    backend.save_base_key("addr", "M1", &[1, 2]).await.unwrap();
    told.push(format!(
        "{}",
        backend
            .has_same_base_key("addr", "M1", &[1, 2])
            .await
            .unwrap()
    ));
    told.push(format!(
        "{}",
        backend.has_same_base_key("addr", "M1", &[2]).await.unwrap()
    ));
    backend.delete_base_key("addr", "M1").await.unwrap();
    told.push(format!(
        "{}",
        backend
            .has_same_base_key("addr", "M1", &[1, 2])
            .await
            .unwrap()
    ));

    let list = |user: &str, devices: Vec<DeviceInfo>| DeviceListRecord {
        user: user.into(),
        devices,
        timestamp: 5,
        phash: Some("2:x".into()),
        raw_id: Some(3),
    };
    let devices = vec![DeviceInfo::new(0, None), DeviceInfo::new(3, Some(1))];
    backend
        .update_device_lists(vec![list("u1", devices), list("u2", Vec::new())])
        .await
        .unwrap();
    told.push(format!("{:?}", backend.get_devices("u1").await.unwrap()));
    backend.delete_devices("u2").await.unwrap();
    told.push(format!("{:?}", backend.get_devices("u2").await.unwrap()));

    backend.put_group_metadata("g1", b"blob").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_group_metadata("g1").await.unwrap()
    ));
    backend.delete_group_metadata("g1").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_group_metadata("g1").await.unwrap()
    ));
    told
}

pub(super) async fn token(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    backend
        .touch_tc_token_sender_timestamp("a@lid", 50)
        .await
        .unwrap();
    backend
        .touch_tc_token_sender_timestamp("a@lid", 40)
        .await
        .unwrap();
    backend
        .store_received_tc_token("a@lid", &[1], 10)
        .await
        .unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("a@lid").await.unwrap()
    ));
    backend
        .store_received_tc_token("a@lid", &[2], 5)
        .await
        .unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("a@lid").await.unwrap()
    ));
    backend
        .store_received_tc_token("a@lid", &[3], 20)
        .await
        .unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("a@lid").await.unwrap()
    ));
    let entry = TcTokenEntry {
        token: vec![9],
        token_timestamp: 1,
        sender_timestamp: None,
    };
    backend.put_tc_token("b@lid", &entry).await.unwrap();
    let mut jids = backend.get_all_tc_token_jids().await.unwrap();
    jids.sort();
    told.push(format!("{jids:?}"));
    backend.delete_tc_token("b@lid").await.unwrap();
    told.push(format!(
        "{:?}",
        backend.get_tc_token("b@lid").await.unwrap()
    ));
    told
}

pub(super) async fn message(backend: &dyn Backend) -> Vec<String> {
    let mut told = Vec::new();
    let row = |id: &'static str, message: &'static [u8]| PendingInboundRow {
        chat: "c",
        sender: "s",
        id,
        message,
    };
    backend
        .store_pending_inbound_batch(&[row("1", b"one"), row("2", b"two")])
        .await
        .unwrap();
    backend
        .store_pending_inbound("c", "other", "1", b"elsewhere")
        .await
        .unwrap();
    for (sender, id) in [("s", "1"), ("s", "2"), ("other", "1"), ("s", "3")] {
        told.push(format!(
            "{:?}",
            backend.get_pending_inbound("c", sender, id).await.unwrap()
        ));
    }
    let gone = |id: &'static str| PendingInboundKey {
        chat: "c",
        sender: "s",
        id,
    };
    backend
        .delete_pending_inbound_batch(&[gone("1"), gone("9")])
        .await
        .unwrap();
    backend.delete_pending_inbound("c", "s", "2").await.unwrap();
    for (sender, id) in [("s", "1"), ("s", "2"), ("other", "1")] {
        told.push(format!(
            "{:?}",
            backend.get_pending_inbound("c", sender, id).await.unwrap()
        ));
    }

    let entry = |id: &str, secret: u8, expires_at, message_ts| MsgSecretEntry {
        chat: "c".into(),
        sender: "s".into(),
        msg_id: id.into(),
        secret: [secret; 32],
        expires_at,
        message_ts,
    };
    let far = 4_000_000_000;
    let batch = vec![
        entry("1", 1, far, 10),
        entry("1", 2, far + 5, 0),
        entry("2", 3, 0, 0),
    ];
    told.push(format!("{}", backend.put_msg_secrets(batch).await.unwrap()));
    backend
        .put_msg_secrets(vec![entry("1", 4, far - 9, 30)])
        .await
        .unwrap();
    backend
        .put_msg_secret("c", "s", "3", &[6; 32])
        .await
        .unwrap();
    for id in ["1", "2", "3", "4"] {
        let secret = backend.get_msg_secret_with_ts("c", "s", id).await.unwrap();
        told.push(format!("{:?}", secret.map(|(secret, ts)| (secret[0], ts))));
        told.push(format!(
            "{}",
            backend
                .get_msg_secret("c", "s", id)
                .await
                .unwrap()
                .is_some()
        ));
    }
    told
}
