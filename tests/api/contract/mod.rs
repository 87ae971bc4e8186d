//! What every method must hold, driven from the descriptors: a new method without an entry in [`entries`]
//! fails. Each rule is tried through gRPC and through JSON.

mod changes;
mod entries;
mod wire;

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde_json::{Value, json};
use tonic::Code;
use trunkline::pb;

use self::entries::{ENTRIES, Entry, Kind, Stage};
use self::wire::{Failure, Outcome, Wire};
use crate::harness::{World, fresh};

fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let services: Vec<_> = pool.services().collect();
    let all = services
        .iter()
        .flat_map(|service| service.methods().collect::<Vec<_>>());
    all.collect()
}

/// Every method with its entry.
fn contract() -> Vec<(MethodDescriptor, &'static Entry)> {
    let entry = |method: &MethodDescriptor| {
        let name = method.name();
        let found = ENTRIES.iter().find(|entry| entry.method == name);
        found.unwrap_or_else(|| panic!("{name} has no entry: say what it must hold"))
    };
    methods()
        .into_iter()
        .map(|method| (method.clone(), entry(&method)))
        .collect()
}

async fn ways(world: &World) -> [Wire; 2] {
    [Wire::grpc(world).await, Wire::json(world).await]
}

fn has_field(method: &MethodDescriptor, field: &str) -> bool {
    method.input().get_field_by_name(field).is_some()
}

#[test]
fn every_method_has_an_entry_and_every_entry_a_method() {
    let names: BTreeSet<_> = methods().iter().map(|m| m.name().to_owned()).collect();
    let known: BTreeSet<_> = ENTRIES
        .iter()
        .map(|entry| entry.method.to_owned())
        .collect();
    assert_eq!(names, known);
}

/// The one exception, and what stands in for it, is where a reader of either page looks.
#[tokio::test]
async fn json_has_every_method_but_pull_and_says_what_to_use_instead() {
    let world = World::new().await;
    let Wire::Json { description, .. } = Wire::json(&world).await else {
        unreachable!("that is what was asked for");
    };
    let paths = description["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|verbs| verbs.as_object().unwrap().values());
    let described: BTreeSet<_> = operations
        .map(|operation| operation["operationId"].as_str().unwrap().to_owned())
        .collect();
    let all: BTreeSet<_> = methods().iter().map(|m| m.name().to_owned()).collect();
    let missing: Vec<_> = all.difference(&described).map(String::as_str).collect();
    assert_eq!(missing, ["Pull"]);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md"));
    let page = page.unwrap();
    let table = page.lines().filter(|line| line.starts_with('|'));
    let table: String = table.collect();
    let said = description["info"]["description"].as_str().unwrap();
    for place in [said, &table] {
        for named in ["Pull`", "LeaseEvents", "SettleLeases"] {
            assert!(place.contains(named), "{named} is not in: {place}");
        }
    }
}

#[tokio::test]
async fn without_a_token_that_is_good_nothing_is_answered() {
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    for wire in ways(&world).await {
        for (method, entry) in contract() {
            if !wire.has(&method) {
                continue;
            }
            let request = entry.request(&stage, &stage.acme);
            let missing = wire.call(&method, None, &request).await;
            expect(&missing, &method, Code::Unauthenticated, "TOKEN_MISSING");
            for bad in ["tl_guess", stage.revoked.as_str()] {
                let invalid = wire.call(&method, Some(bad), &request).await;
                expect(&invalid, &method, Code::Unauthenticated, "TOKEN_INVALID");
            }
        }
    }
}

#[tokio::test]
async fn what_is_for_administrators_is_for_nobody_else() {
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    for wire in ways(&world).await {
        for (method, entry) in contract() {
            if !wire.has(&method) || entry.kind != Kind::Administrator {
                continue;
            }
            let request = entry.request(&stage, &stage.acme);
            let refused = wire.call(&method, Some(&stage.acme_token), &request).await;
            let denied = (Code::PermissionDenied, "ADMINISTRATOR_REQUIRED");
            expect(&refused, &method, denied.0, denied.1);
        }
    }
}

#[tokio::test]
async fn a_token_of_the_workspace_is_enough_for_what_lies_in_it() {
    for (method, entry) in contract() {
        if entry.kind == Kind::Administrator {
            continue;
        }
        for json in [false, true] {
            let world = World::new().await;
            let stage = Stage::set(&world).await;
            let wire = if json {
                Wire::json(&world).await
            } else {
                Wire::grpc(&world).await
            };
            if wire.has(&method) {
                let request = entry.request(&stage, &stage.acme);
                let answer = wire.call(&method, Some(&stage.acme_token), &request).await;
                assert!(answer.is_ok(), "{}: {answer:?}", method.name());
            }
        }
    }
}

#[tokio::test]
async fn another_workspace_is_as_unknown_as_one_that_does_not_exist() {
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    for wire in ways(&world).await {
        for (method, entry) in contract() {
            if !wire.has(&method) || entry.kind != Kind::Workspace {
                continue;
            }
            let mut answers = BTreeSet::new();
            // There but not theirs; nowhere; theirs, but not in it.
            for (place, token) in [
                (&stage.acme, &stage.globex_token),
                (&stage.nowhere, &stage.globex_token),
                (&stage.nowhere, &world.token),
                (&stage.globex, &stage.globex_token),
            ] {
                let owned = std::ptr::eq(place, &raw const stage.globex);
                if owned && !entry.names_a_resource {
                    continue;
                }
                let request = entry.request(&stage, place);
                let refused = wire.call(&method, Some(token), &request).await;
                let failure = expect(&refused, &method, Code::NotFound, "RESOURCE_NOT_FOUND");
                assert!(failure.fields.is_empty(), "{failure:?}");
                answers.insert(failure.message.replace(&place.workspace, "WORKSPACE"));
            }
            assert_eq!(
                answers.len(),
                1,
                "an oracle in {}: {answers:?}",
                method.name()
            );
        }
    }
}

#[tokio::test]
async fn listings_come_in_pages() {
    let world = World::new().await;
    let stage = Stage::set(&world).await;
    let listings: Vec<_> = contract()
        .into_iter()
        .filter(|(method, _)| has_field(method, "page_token"))
        .collect();
    assert!(listings.len() >= 6);
    for wire in ways(&world).await {
        let mut tokens: Vec<(String, String)> = Vec::new();
        for (method, entry) in &listings {
            let ask = async |size: i64, token: &str| {
                let mut request = entry.request(&stage, &stage.acme);
                request["pageSize"] = json!(size);
                request["pageToken"] = json!(token);
                wire.call(method, Some(&world.token), &request).await
            };
            let name = method.name();
            let refused = ask(-1, "").await;
            let failure = expect(&refused, method, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(failure.fields, ["page_size"], "{name}");
            let refused = ask(1, "rubbish").await;
            let failure = expect(
                &refused,
                method,
                Code::InvalidArgument,
                "INVALID_PAGE_TOKEN",
            );
            assert_eq!(failure.fields, ["page_token"], "{name}");

            let whole = items(&ask(1_000_000, "").await.unwrap());
            assert!(whole.len() >= 2, "{name} lists {} items", whole.len());
            assert_eq!(items(&ask(0, "").await.unwrap()), whole, "{name}");
            let (mut paged, mut token) = (Vec::new(), String::new());
            loop {
                let page = ask(1, &token).await.unwrap();
                assert!(items(&page).len() <= 1, "{name}");
                paged.extend(items(&page));
                page["nextPageToken"]
                    .as_str()
                    .unwrap()
                    .clone_into(&mut token);
                if token.is_empty() {
                    break;
                }
                tokens.push((name.to_owned(), token.clone()));
            }
            assert_eq!(paged, whole, "{name}");
        }
        for (method, entry) in &listings {
            for (from, token) in &tokens {
                if from != method.name() {
                    let mut request = entry.request(&stage, &stage.acme);
                    request["pageToken"] = json!(token);
                    let refused = wire.call(method, Some(&world.token), &request).await;
                    expect(
                        &refused,
                        method,
                        Code::InvalidArgument,
                        "INVALID_PAGE_TOKEN",
                    );
                }
            }
        }
    }
}

/// The items of a page: its one repeated field.
fn items(page: &Value) -> Vec<Value> {
    let mut lists = page
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_array);
    lists.next().expect("a list").clone()
}

#[tokio::test]
async fn a_repeated_request_gets_its_answer_and_another_body_is_refused() {
    let mutations: Vec<_> = contract()
        .into_iter()
        .filter(|(method, _)| has_field(method, "request_id") && !method.is_server_streaming())
        .collect();
    assert!(mutations.len() >= 15);
    for (method, entry) in mutations {
        for json in [false, true] {
            let world = World::new().await;
            let stage = Stage::set(&world).await;
            let wire = if json {
                Wire::json(&world).await
            } else {
                Wire::grpc(&world).await
            };
            idempotent(&world, &stage, &wire, &method, entry).await;
        }
    }
}

async fn idempotent(
    world: &World,
    stage: &Stage,
    wire: &Wire,
    method: &MethodDescriptor,
    entry: &Entry,
) {
    let name = method.name();
    let ask = async |request: &Value| wire.call(method, Some(&world.token), request).await;
    let request = entry.request(stage, &stage.acme);
    for bad in ["", "7", "00000000-0000-1000-8000-000000000000"] {
        let mut request = request.clone();
        request["requestId"] = json!(bad);
        let refused = ask(&request).await;
        let failure = expect(&refused, method, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(failure.fields, ["request_id"], "{name}");
    }
    let first = ask(&request).await;
    let first = first.unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
    let again = ask(&request).await;
    if entry.keeps_no_answer {
        expect(&again, method, Code::AlreadyExists, "IDEMPOTENCY_CONFLICT");
    } else {
        assert_eq!(again.unwrap(), first, "{name}");
    }
    let mut other = request.clone();
    let (pointer, value) = entry.other;
    let place = other.pointer_mut(pointer);
    match place {
        Some(place) => *place = json!(value),
        None => other[pointer.trim_start_matches('/')] = json!(value),
    }
    assert_ne!(other, request, "{name}");
    let refused = ask(&other).await;
    expect(
        &refused,
        method,
        Code::AlreadyExists,
        "IDEMPOTENCY_CONFLICT",
    );
    // A fresh id is a fresh request.
    other["requestId"] = json!(fresh());
    let fresh = ask(&other).await;
    if let Err(failure) = fresh {
        assert_ne!(failure.reason, "IDEMPOTENCY_CONFLICT", "{name}");
    }
}

#[track_caller]
fn expect(outcome: &Outcome, method: &MethodDescriptor, code: Code, reason: &str) -> Failure {
    match outcome {
        Err(failure) if failure.is(code, reason) => failure.clone(),
        other => panic!(
            "{} should be refused with {reason}: {other:?}",
            method.name()
        ),
    }
}
