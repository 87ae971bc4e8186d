//! The verbs of a session, and pairing.

use tokio_stream::StreamExt as _;
use tonic::Code;
use trunkline::api::ports::PairingProgress;
use trunkline::domain::clock::{Clock as _, SystemClock};
use trunkline::domain::person::Person;
use trunkline::pb;
use trunkline::pb::pair_session_response::Step;

use crate::harness::{World, check, create_session, fresh, soon};

const NAME: &str = "workspaces/default/sessions/s";

fn stop(etag: &str) -> pb::StopSessionRequest {
    pb::StopSessionRequest {
        name: NAME.to_owned(),
        request_id: fresh(),
        etag: etag.to_owned(),
    }
}

fn state(session: &pb::Session) -> pb::ConnectionState {
    session.connection.as_ref().unwrap().state()
}

#[tokio::test]
async fn verbs_move_the_session() {
    let world = World::new().await;
    let mut client = world.client().await;
    let session = create_session(&mut client, "workspaces/default", "s")
        .await
        .unwrap();
    assert_eq!(session.provider, "multidevice");
    assert_eq!(session.login(), pb::LoginState::Unpaired);
    assert_eq!(state(&session), pb::ConnectionState::Unpaired);

    let stopped = client.sessions.stop_session(stop("")).await.unwrap();
    let stopped = stopped.into_inner().session.unwrap();
    assert_eq!(state(&stopped), pb::ConnectionState::Stopped);

    let refused = client.sessions.stop_session(stop("stale")).await;
    check(refused, Code::Aborted, "ETAG_MISMATCH", None);

    let start = pb::StartSessionRequest {
        name: NAME.to_owned(),
        request_id: fresh(),
        etag: stopped.etag,
    };
    let started = client.sessions.start_session(start.clone()).await.unwrap();
    let started = started.into_inner().session.unwrap();
    assert_eq!(state(&started), pb::ConnectionState::Connecting);
    client.sessions.stop_session(stop("")).await.unwrap();
    let replayed = client.sessions.start_session(start).await.unwrap();
    assert_eq!(replayed.into_inner().session.unwrap(), started);
    let live = world.sessions.live.lock().unwrap().clone();
    assert!(
        live.values()
            .all(|live| live.connection.name() == "STOPPED"),
        "a repeated request must not act again"
    );
}

#[tokio::test]
async fn an_illegal_verb_says_why() {
    let world = World::new().await;
    let mut client = world.client().await;
    create_session(&mut client, "workspaces/default", "dead")
        .await
        .unwrap();
    let refused = client
        .sessions
        .start_session(pb::StartSessionRequest {
            name: "workspaces/default/sessions/dead".to_owned(),
            request_id: fresh(),
            etag: String::new(),
        })
        .await;
    check(
        refused,
        Code::FailedPrecondition,
        "SESSION_LOGGED_OUT",
        None,
    );
    let refused = client
        .sessions
        .start_session(pb::StartSessionRequest {
            name: NAME.to_owned(),
            request_id: fresh(),
            etag: String::new(),
        })
        .await;
    check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
}

fn pair(phone: &str) -> pb::PairSessionRequest {
    pb::PairSessionRequest {
        name: NAME.to_owned(),
        request_id: fresh(),
        phone: phone.to_owned(),
    }
}

fn qr(payload: &str) -> PairingProgress {
    let now = SystemClock::new().now();
    PairingProgress::Qr {
        payload: payload.to_owned(),
        expires_at: now.plus(std::time::Duration::from_hours(1)),
    }
}

#[tokio::test]
async fn a_pairing_streams_codes_until_it_is_made() {
    let world = World::new().await;
    let mut client = world.client().await;
    create_session(&mut client, "workspaces/default", "s")
        .await
        .unwrap();
    let account = Person {
        phone: Some("+15551234567".to_owned()),
        ..Person::default()
    };
    let script = vec![qr("one"), qr("two"), PairingProgress::Succeeded { account }];
    *world.sessions.pairing.lock().unwrap() = Some(script);
    let stream = client.sessions.pair_session(pair("")).await.unwrap();
    let steps: Vec<_> = soon(stream.into_inner().collect()).await;
    let steps: Vec<_> = steps
        .into_iter()
        .map(|s| s.unwrap().step.unwrap())
        .collect();
    match &steps[..] {
        [Step::Qr(one), Step::Qr(two), Step::Succeeded(succeeded)] => {
            assert_eq!((one.payload.as_str(), two.payload.as_str()), ("one", "two"));
            let ttl = one.ttl.unwrap().seconds;
            assert!((3_000..=3_600).contains(&ttl), "{ttl}");
            let account = succeeded.account.as_ref().unwrap();
            assert_eq!(account.phone.as_deref(), Some("+15551234567"));
            assert_eq!(succeeded.session.as_ref().unwrap().name, NAME);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pairing_that_fails_says_so_with_a_type() {
    let world = World::new().await;
    let mut client = world.client().await;
    create_session(&mut client, "workspaces/default", "s")
        .await
        .unwrap();
    for (reason, known) in [
        ("EXPIRED", pb::PairingFailureReason::Expired),
        (
            "PASSKEY_REQUIRED",
            pb::PairingFailureReason::PasskeyRequired,
        ),
        ("SOMETHING_NEW", pb::PairingFailureReason::Refused),
    ] {
        let failed = PairingProgress::Failed {
            reason: reason.to_owned(),
        };
        *world.sessions.pairing.lock().unwrap() = Some(vec![failed]);
        let stream = client.sessions.pair_session(pair("")).await.unwrap();
        let steps: Vec<_> = soon(stream.into_inner().collect()).await;
        let Some(Step::Failed(failed)) = steps[0].as_ref().unwrap().step.clone() else {
            panic!("{steps:?}");
        };
        assert_eq!((failed.reason(), failed.detail.as_str()), (known, reason));
        assert!(!failed.message.is_empty());
    }
    let refused = client.sessions.pair_session(pair("")).await;
    check(
        refused,
        Code::FailedPrecondition,
        "SESSION_ALREADY_PAIRED",
        None,
    );
    let refused = client.sessions.pair_session(pair("0803")).await;
    check(
        refused,
        Code::InvalidArgument,
        "INVALID_PHONE_NUMBER",
        Some("phone"),
    );
}

#[tokio::test]
async fn leaving_cancels_a_pairing() {
    let world = World::new().await;
    let mut client = world.client().await;
    create_session(&mut client, "workspaces/default", "s")
        .await
        .unwrap();
    *world.sessions.pairing.lock().unwrap() = Some(vec![qr("one")]);
    let mut stream = client
        .sessions
        .pair_session(pair(""))
        .await
        .unwrap()
        .into_inner();
    soon(stream.message()).await.unwrap().unwrap();
    drop(stream);
    soon(world.sessions.left.notified()).await;
}
