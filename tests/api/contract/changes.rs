//! What holds for every method that changes what is there: etags, masks, and pairings, which no memory answers.

use serde_json::{Value, json};
use tonic::Code;
use trunkline::api::ports::PairingProgress;

use super::entries::{Entry, Stage};
use super::wire::Wire;
use super::{MethodDescriptor, contract, expect, fresh, has_field, ways};
use crate::harness::World;

/// The methods with such a field in their request.
fn with(field: &str) -> Vec<(MethodDescriptor, &'static Entry)> {
    let mut all = contract();
    all.retain(|(method, _)| has_field(method, field));
    all
}

fn entry(method: &str) -> (MethodDescriptor, &'static Entry) {
    let mut all = contract().into_iter();
    all.find(|(known, _)| known.name() == method).unwrap()
}

/// The resource that an update is about: the name of its field in JSON, which is that of its type.
fn resource(method: &MethodDescriptor) -> String {
    method
        .name()
        .strip_prefix("Update")
        .expect("masks belong to updates")
        .to_lowercase()
}

/// The resource as it is now.
async fn read(world: &World, wire: &Wire, update: &MethodDescriptor, name: &Value) -> Value {
    let kind = resource(update);
    let (get, _) = entry(&update.name().replace("Update", "Get"));
    let request = json!({ "name": name });
    let answer = wire.call(&get, Some(&world.token), &request).await;
    answer.unwrap()[kind].clone()
}

#[tokio::test]
async fn a_stale_etag_is_refused_by_every_method_that_takes_one() {
    let guarded = with("etag");
    assert!(guarded.len() >= 8);
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    for wire in ways(&world).await {
        for (method, entry) in &guarded {
            let mut request = entry.request(&stage, &stage.acme);
            request["etag"] = json!("stale");
            // Nothing of it happens: the next method finds everything in its place.
            for _ in 0..2 {
                let refused = wire.call(method, Some(&world.token), &request).await;
                expect(&refused, method, Code::Aborted, "ETAG_MISMATCH");
            }
        }
    }
}

#[tokio::test]
async fn an_update_takes_the_etag_that_was_read_and_gives_the_next() {
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    let updates = with("update_mask");
    assert!(updates.len() >= 2);
    for wire in ways(&world).await {
        for (method, entry) in &updates {
            let name = method.name();
            let kind = resource(method);
            let ask = async |request: &Value| wire.call(method, Some(&world.token), request).await;
            let mut request = entry.request(&stage, &stage.acme);
            let before = read(&world, &wire, method, &request[&kind]["name"]).await;
            request["etag"] = before["etag"].clone();
            let changed = ask(&request).await.unwrap();
            assert_ne!(changed[&kind]["etag"], before["etag"], "{name}");
            let now = read(&world, &wire, method, &request[&kind]["name"]).await;
            assert_eq!(now, changed[&kind], "{name}");
            // Remembered, although its etag is stale by now; anew, it is refused and changes nothing.
            assert_eq!(ask(&request).await.unwrap(), changed, "{name}");
            request["requestId"] = json!(fresh());
            expect(&ask(&request).await, method, Code::Aborted, "ETAG_MISMATCH");
            let after = read(&world, &wire, method, &request[&kind]["name"]).await;
            assert_eq!(after, now, "{name}");
        }
    }
}

#[tokio::test]
async fn a_mask_says_what_an_update_changes() {
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    for wire in ways(&world).await {
        for (method, entry) in with("update_mask") {
            let name = method.name();
            let kind = resource(&method);
            let given = entry.request(&stage, &stage.acme);
            let ask = async |mask: Option<&str>, display_name: &str| {
                let mut request = given.clone();
                request["requestId"] = json!(fresh());
                request[&kind]["displayName"] = json!(display_name);
                if let Some(mask) = mask {
                    request["updateMask"] = json!(mask);
                }
                wire.call(&method, Some(&world.token), &request).await
            };
            let before = read(&world, &wire, &method, &given[&kind]["name"]).await;
            for (mask, named) in [
                ("colour", "`colour`"),
                ("displayName,colour", "`colour`"),
                // What only the daemon writes, and what a resource is found by.
                ("name", "`name`"),
                ("createTime", "`create_time`"),
                ("etag", "`etag`"),
            ] {
                let refused = ask(Some(mask), "never").await;
                let failure = expect(&refused, &method, Code::InvalidArgument, "INVALID_FIELD");
                assert_eq!(failure.fields, ["update_mask"], "{name}");
                assert!(failure.message.contains(named), "{name}: {failure:?}");
            }
            // No mask and nothing set: nothing is meant.
            let refused = ask(None, "").await;
            let failure = expect(&refused, &method, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(failure.fields, ["update_mask"], "{name}");
            let unchanged = read(&world, &wire, &method, &given[&kind]["name"]).await;
            assert_eq!(unchanged, before, "{name}");

            for (mask, display_name) in [
                (None, "what is set"),
                (Some("displayName"), "what is named"),
                // Named and empty: taken away.
                (Some("displayName"), ""),
                (Some("*"), "everything"),
            ] {
                let answer = ask(mask, display_name).await.unwrap();
                assert_eq!(
                    answer[&kind]["displayName"], display_name,
                    "{name} {mask:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_repeated_pairing_is_a_pairing_of_its_own() {
    let (method, entry) = entry("PairSession");
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    for wire in ways(&world).await {
        let ask = async |request: &Value| wire.call(&method, Some(&world.token), request).await;
        let request = entry.request(&stage, &stage.acme);
        for bad in ["", "7", "00000000-0000-1000-8000-000000000000"] {
            let mut request = request.clone();
            request["requestId"] = json!(bad);
            let refused = ask(&request).await;
            let failure = expect(&refused, &method, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(failure.fields, ["request_id"]);
        }
        // A stream cannot be answered from memory: what ended is asked for again, by whatever way.
        let by_code = {
            let mut request = request.clone();
            request["phone"] = json!("+2348031234567");
            request
        };
        for (request, reason) in [
            (&request, "EXPIRED"),
            (&request, "PASSKEY_REQUIRED"),
            (&by_code, "CANCELED"),
        ] {
            *world.sessions.pairing.lock().unwrap() = Some(vec![PairingProgress::Failed {
                reason: reason.to_owned(),
            }]);
            let answer = ask(request).await.unwrap();
            assert_eq!(answer["failed"]["detail"], reason, "{answer}");
        }
        // And a session that is linked meanwhile is not linked again.
        let refused = ask(&request).await;
        expect(
            &refused,
            &method,
            Code::FailedPrecondition,
            "SESSION_ALREADY_PAIRED",
        );
    }
}
