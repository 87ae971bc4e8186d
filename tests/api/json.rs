//! JSON over HTTP where it differs from gRPC: paths, queries, codes, server-sent events, its description.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use trunkline::api::server::MAX_REQUEST;
use trunkline::domain::clock::Timestamp;

use crate::harness::{World, arrive, arrive_with_file, fresh, soon};

/// One answer, read to its end.
struct Answer {
    code: StatusCode,
    body: Value,
}

async fn open(world: &World, request: Request<Body>) -> axum::http::Response<Body> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let (mut head, body) = request.into_parts();
    let address = world.server.tcp().unwrap();
    head.uri = format!("http://{address}{}", head.uri).parse().unwrap();
    head.headers
        .entry("authorization")
        .or_insert(format!("Bearer {}", world.token).parse().unwrap());
    let request = Request::from_parts(head, body);
    soon(client.request(request)).await.unwrap().map(Body::new)
}

async fn ask(world: &World, verb: &str, path: &str, body: impl Into<Body>) -> Answer {
    let request = Request::builder().method(verb).uri(path);
    let answer = open(world, request.body(body.into()).unwrap()).await;
    let (head, body) = answer.into_parts();
    let body = soon(axum::body::to_bytes(body, usize::MAX)).await.unwrap();
    Answer {
        code: head.status,
        body: serde_json::from_slice(&body).unwrap(),
    }
}

fn reason(answer: &Answer) -> &str {
    answer.body["details"][0]["reason"].as_str().unwrap()
}

/// The next server-sent event: its id, its name and its data.
async fn event(
    stream: &mut axum::body::BodyDataStream,
    text: &mut String,
) -> (String, String, Value) {
    loop {
        if let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let line = |name: &str| {
                let line = event.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().to_owned()
            };
            let data = serde_json::from_str(&line("data: ")).unwrap();
            return (line("id: "), line("event: "), data);
        }
        let chunk = soon(stream.next()).await.expect("more events").unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test]
async fn a_file_comes_as_it_is_to_whoever_asks_for_bytes() {
    let world = World::new().await;
    let session = world.session("main").await;
    let revision = arrive_with_file(&session, "bob", b"the whole file").await;
    let path = format!("/v1/workspaces/default/sessions/main/media/{revision}:download");
    let plain = |path: &str| {
        let request = Request::get(path).header("accept", "application/octet-stream");
        open(&world, request.body(Body::empty()).unwrap())
    };
    let answer = plain(&path).await;
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("content-length"), "14");
    assert_eq!(header("x-content-type-options"), "nosniff");
    let body = soon(axum::body::to_bytes(answer.into_body(), 100)).await;
    assert_eq!(body.unwrap(), "the whole file");

    let missing = plain("/v1/workspaces/default/sessions/main/media/9:download").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);

    let request = Request::get(&path).body(Body::empty()).unwrap();
    let mut stream = open(&world, request).await.into_body().into_data_stream();
    let mut text = String::new();
    let (_, name, data) = event(&mut stream, &mut text).await;
    assert_eq!(
        (name.as_str(), &data["info"]["size"]),
        ("info", &json!("14"))
    );
    let (_, name, data) = event(&mut stream, &mut text).await;
    assert_eq!(
        (name.as_str(), &data["chunk"]),
        ("chunk", &json!("dGhlIHdobw=="))
    );
}

#[tokio::test]
async fn a_session_lives_and_dies_in_json() {
    let world = World::new().await;
    let body = json!({ "sessionId": "s", "labels": { "team": "sales" }, "requestId": fresh() });
    let path = "/v1/workspaces/default/sessions";
    let created = ask(&world, "POST", path, body.to_string()).await;
    assert_eq!(created.code, StatusCode::OK, "{}", created.body);
    let name = "workspaces/default/sessions/s";
    assert_eq!(created.body["session"]["name"], name);
    assert_eq!(created.body["session"]["login"], "LOGIN_STATE_UNPAIRED");

    let listed = ask(
        &world,
        "GET",
        &format!("{path}?labels=team%3Dsales&pageSize=5"),
        "",
    )
    .await;
    assert_eq!(listed.body["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(listed.body["nextPageToken"], "");
    let listed = ask(&world, "GET", &format!("{path}?labels=team%3Dsupport"), "").await;
    assert!(listed.body["sessions"].as_array().unwrap().is_empty());

    let change = json!({
        "session": { "displayName": "Front desk" },
        "updateMask": "displayName",
        "requestId": fresh(),
    });
    let changed = ask(&world, "PATCH", &format!("/v1/{name}"), change.to_string()).await;
    assert_eq!(
        changed.body["session"]["displayName"], "Front desk",
        "{}",
        changed.body
    );
    assert_eq!(changed.body["session"]["labels"]["team"], "sales");

    let gone = format!("/v1/{name}?requestId={}&logout=true", fresh());
    assert_eq!(ask(&world, "DELETE", &gone, "").await.code, StatusCode::OK);
    assert_eq!(world.sessions.logouts.lock().unwrap().len(), 1);
    let missing = ask(&world, "GET", &format!("/v1/{name}"), "").await;
    assert_eq!(
        (missing.code, reason(&missing)),
        (StatusCode::NOT_FOUND, "RESOURCE_NOT_FOUND")
    );
    assert_eq!(missing.body["code"], 5);
}

#[tokio::test]
async fn errors_have_their_http_codes_and_name_what_is_wrong() {
    let world = World::new().await;
    let sessions = "/v1/workspaces/default/sessions";
    let large = format!("{{\"sessionId\":\"{}\"}}", "x".repeat(MAX_REQUEST));
    let contradicting = json!({ "parent": "workspaces/other", "sessionId": "s" }).to_string();
    for (verb, path, body, code, reason_wanted, field) in [
        (
            "GET",
            "/v1/elsewhere",
            String::new(),
            404,
            "METHOD_UNKNOWN",
            None,
        ),
        ("PUT", sessions, String::new(), 404, "METHOD_UNKNOWN", None),
        (
            "POST",
            sessions,
            "[]".to_owned(),
            400,
            "INVALID_FIELD",
            Some("request"),
        ),
        (
            "POST",
            sessions,
            "{".to_owned(),
            400,
            "INVALID_FIELD",
            Some("request"),
        ),
        (
            "POST",
            sessions,
            "{\"x\":1}".to_owned(),
            400,
            "INVALID_FIELD",
            Some("request"),
        ),
        (
            "POST",
            sessions,
            "{\"sessionId\":\"s\"}".to_owned(),
            400,
            "INVALID_FIELD",
            Some("request_id"),
        ),
        (
            "POST",
            sessions,
            contradicting,
            400,
            "INVALID_FIELD",
            Some("parent"),
        ),
        (
            "POST",
            "/v1/tokens?x=1",
            "{}".to_owned(),
            400,
            "INVALID_FIELD",
            Some("request"),
        ),
        ("POST", sessions, large, 413, "MESSAGE_TOO_LARGE", None),
        (
            "GET",
            "/v1/workspaces?nonsense=1",
            String::new(),
            400,
            "INVALID_FIELD",
            Some("nonsense"),
        ),
        (
            "GET",
            "/v1/workspaces?pageToken=x",
            String::new(),
            400,
            "INVALID_PAGE_TOKEN",
            Some("page_token"),
        ),
        (
            "GET",
            "/v1/workspaces/none",
            String::new(),
            404,
            "RESOURCE_NOT_FOUND",
            None,
        ),
    ] {
        let answer = ask(&world, verb, path, body).await;
        assert_eq!(answer.code.as_u16(), code, "{verb} {path}: {}", answer.body);
        assert_eq!(reason(&answer), reason_wanted, "{verb} {path}");
        let named = answer.body["details"][1]["fieldViolations"][0]["field"].as_str();
        assert_eq!(named, field, "{verb} {path}");
    }
    let bare = Request::get("/v1/workspaces").header("authorization", "Bearer tl_guess");
    let answer = open(&world, bare.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn a_watch_is_a_stream_of_events_that_goes_on_where_it_was_lost() {
    let world = World::new().await;
    let session = world.session("s").await;
    for n in 1..=3 {
        arrive(&session, "bob", &format!("m{n}"), Timestamp(n)).await;
    }
    let path = "/v1/workspaces/default/events:watch?fromRevision=0&types=EVENT_TYPE_MESSAGE";
    let watch = async |last: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = open(&world, request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        answer.into_body().into_data_stream()
    };
    let mut stream = watch(None).await;
    let mut text = String::new();
    let (id, kind, data) = event(&mut stream, &mut text).await;
    assert_eq!(kind, "event");
    assert_eq!(data["event"]["message"]["stanzaId"], "m1");
    assert_eq!(data["event"]["revision"], id.as_str());
    drop(stream);

    let mut stream = watch(Some(&id)).await;
    let mut text = String::new();
    let (_, _, data) = event(&mut stream, &mut text).await;
    assert_eq!(data["event"]["message"]["stanzaId"], "m2");
    event(&mut stream, &mut text).await;
    let (_, kind, _) = event(&mut stream, &mut text).await;
    assert_eq!(kind, "progress");

    let down = tokio::spawn(world.server.shutdown(std::time::Duration::from_secs(10)));
    let error = loop {
        let (_, kind, data) = event(&mut stream, &mut text).await;
        if kind == "error" {
            break data;
        }
    };
    assert_eq!(error["details"][0]["reason"], "DRAINING");
    drop(stream);
    soon(down).await.unwrap();
}

#[tokio::test]
async fn the_description_is_served_and_fresh() {
    let world = World::new().await;
    let bare = Request::get("/openapi.json").header("authorization", "none");
    let answer = open(&world, bare.body(Body::empty()).unwrap()).await;
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX)
        .await
        .unwrap();
    let served: Value = serde_json::from_slice(&body).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&served).unwrap());
    if std::env::var_os("TRUNKLINE_REFRESH").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == text,
        "docs/openapi.json is stale: TRUNKLINE_REFRESH=1 cargo test --features simulator --test api description"
    );
    // Every reference leads somewhere, and everything has words.
    let schemas = served["components"]["schemas"].as_object().unwrap();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    for (path, verbs) in served["paths"].as_object().unwrap() {
        for (verb, operation) in verbs.as_object().unwrap() {
            let said = operation["description"].as_str().unwrap();
            assert!(!said.is_empty(), "{verb} {path}");
        }
    }
}
