//! The server around the services: health, reflection, the socket, limits, panics, draining.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};
use trunkline::api::server::{ApiServer, BindError, MAX_REQUEST, ServerOptions};
use trunkline::domain::clock::SystemClock;
use trunkline::pb;
use trunkline::pb::recipient::Recipient;
use trunkline::pb::send_message_request::Content;
use trunkline::store::memory::MemoryEngine;

use crate::harness::{Client, World, check, create_session, fresh, soon};

/// Every service of the API.
fn services() -> Vec<String> {
    let pool = prost_reflect::DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    let names: Vec<_> = pool
        .services()
        .map(|it| it.full_name().to_owned())
        .collect();
    assert!(names.len() >= 9, "{names:?}");
    names
}

#[tokio::test]
async fn health_is_served_for_every_service_without_a_token() {
    let world = World::new().await;
    let mut health = HealthClient::new(world.channel().await);
    for service in services().into_iter().chain([String::new()]) {
        let request = HealthCheckRequest {
            service: service.clone(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest {
        service: "nobody".to_owned(),
    };
    let refused = health.check(unknown).await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
}

#[tokio::test]
async fn health_says_what_it_is_told_until_the_end() {
    let world = World::new().await;
    let mut health = HealthClient::new(world.channel().await);
    let mut said = async |service: &str| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        health.check(request).await.unwrap().into_inner().status()
    };
    let shown = world.server.health().clone();
    for serving in [false, true, false, true] {
        shown.set(serving).await;
        let expected = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in services().iter().map(String::as_str).chain([""]) {
            assert_eq!(said(service).await, expected, "{service}");
        }
    }
    world.server.drain(Duration::from_secs(5)).await;
    shown.set(true).await;
    assert_eq!(said("").await, ServingStatus::NotServing, "it drains");
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let world = World::new().await;
    let mut reflection = ServerReflectionClient::new(world.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = listed.service.into_iter().map(|s| s.name).collect();
    for service in services()
        .into_iter()
        .chain(["grpc.health.v1.Health".to_owned()])
    {
        assert!(names.contains(&service), "{service}: {names:?}");
    }
}

async fn over_socket(path: std::path::PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://socket");
    endpoint.connect_with_connector(connector).await.unwrap()
}

#[tokio::test]
async fn the_socket_makes_an_administrator_unless_a_token_says_less() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let world = World::over(Arc::new(MemoryEngine::new()), |options| {
        options.socket = Some(path.clone());
        options.tcp = None;
    })
    .await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let channel = over_socket(path.clone()).await;
    let mut operator = Client::new(&channel, None);
    create_session(&mut operator, "workspaces/default", "s")
        .await
        .unwrap();
    let mut stranger = Client::new(&channel, Some("tl_guess"));
    let refused = create_session(&mut stranger, "workspaces/default", "t").await;
    check(refused, Code::Unauthenticated, "TOKEN_INVALID", None);

    let mut second = ServerOptions::new(
        world.store.clone(),
        Arc::clone(&world.sessions) as _,
        Arc::new(SystemClock::new()),
    );
    second.socket = Some(path.clone());
    let refused = ApiServer::bind(second.clone()).await.unwrap_err();
    assert!(
        matches!(refused, BindError::SocketInUse { .. }),
        "{refused}"
    );
    world.server.shutdown(Duration::from_secs(5)).await;
    assert!(!path.exists());
    // A socket that a crash left over is replaced; anything else is not touched.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = ApiServer::bind(second.clone()).await.unwrap();
    server.shutdown(Duration::from_secs(5)).await;
    std::fs::write(&path, "precious").unwrap();
    let refused = ApiServer::bind(second).await.unwrap_err();
    assert!(matches!(refused, BindError::Socket { .. }), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

fn message(text: String) -> pb::SendMessageRequest {
    pb::SendMessageRequest {
        parent: "workspaces/default/sessions/s".to_owned(),
        request_id: fresh(),
        to: Some(pb::Recipient {
            recipient: Some(Recipient::Phone("+15551234567".to_owned())),
        }),
        content: Some(Content::Text(pb::TextContent { text })),
        ..Default::default()
    }
}

#[tokio::test]
async fn oversized_and_undecodable_requests_are_told_apart() {
    let world = World::new().await;
    world.session("s").await;
    let mut client = world.client().await;
    let huge = message("x".repeat(MAX_REQUEST));
    let refused = client.messages.send_message(huge).await;
    check(refused, Code::ResourceExhausted, "MESSAGE_TOO_LARGE", None);

    // The bytes of one message sent as another: field 3 is a string there and a message here.
    let mut raw = tonic::client::Grpc::new(world.channel().await);
    raw.ready().await.unwrap();
    let codec =
        tonic_prost::ProstCodec::<pb::PairSessionRequest, pb::SendMessageResponse>::default();
    let path = "/trunkline.v1.MessageService/SendMessage".parse().unwrap();
    let garbled = pb::PairSessionRequest {
        phone: "\u{ff}\u{ff}\u{ff}".to_owned(),
        ..Default::default()
    };
    let refused = raw.unary(tonic::Request::new(garbled), path, codec).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_FIELD",
        Some("request"),
    );

    raw.ready().await.unwrap();
    let codec =
        tonic_prost::ProstCodec::<pb::PairSessionRequest, pb::SendMessageResponse>::default();
    let path = "/trunkline.v1.MessageService/Teleport".parse().unwrap();
    let request = tonic::Request::new(pb::PairSessionRequest::default());
    let refused = raw.unary(request, path, codec).await;
    check(refused, Code::Unimplemented, "METHOD_UNKNOWN", None);
}

#[tokio::test]
async fn a_panic_in_a_call_is_answered_and_harms_nobody() {
    let world = World::new().await;
    world.session("s").await;
    let mut client = world.client().await;
    let refused = client
        .messages
        .send_message(message("panic".to_owned()))
        .await;
    check(refused, Code::Internal, "INTERNAL", None);
    client
        .messages
        .send_message(message("calm".to_owned()))
        .await
        .unwrap();
}

#[tokio::test]
async fn shutdown_ends_streams_with_a_reason() {
    let world = World::new().await;
    let mut client = world.client().await;
    let mut watch = client
        .events
        .watch(pb::WatchRequest {
            parent: "workspaces/default".to_owned(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    soon(watch.message()).await.unwrap().unwrap();
    let open = pb::PullRequest {
        request: Some(pb::pull_request::Request::Open(pb::PullOpen {
            subscription: "workspaces/default/subscriptions/default".to_owned(),
            max_events: 1,
            max_bytes: 1,
        })),
    };
    let asks = tokio_stream::iter([open]).chain(tokio_stream::pending());
    let mut pull = client.events.pull(asks).await.unwrap().into_inner();
    soon(pull.message()).await.unwrap().unwrap();
    let down = tokio::spawn(world.server.shutdown(Duration::from_secs(10)));
    let ended = loop {
        match soon(watch.message()).await {
            Ok(Some(_progress)) => {}
            Ok(None) => panic!("ended without a reason"),
            Err(status) => break Err::<(), _>(status),
        }
    };
    check(ended, Code::Unavailable, "DRAINING", None);
    let ended = soon(pull.message()).await;
    check(ended, Code::Unavailable, "DRAINING", None);
    soon(down).await.unwrap();
}
