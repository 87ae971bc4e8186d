//! What the handler makes of stanzas and events.

use std::sync::atomic::AtomicBool;

use wacore::types::events::Connected;
use wacore_binary::builder::NodeBuilder;
use waproto::whatsapp as wa;

use super::*;
use crate::domain::clock::ManualClock;
use crate::domain::event::Payload;
use crate::provider::multidevice::testing::PausedSink;

struct Setup {
    sink: Arc<PausedSink>,
    watch: Arc<Watch>,
    chores: Arc<Chores>,
    handler: Handler,
}

fn setup() -> Setup {
    let sink = Arc::new(PausedSink::default());
    let watch = Watch::new(Arc::new(ManualClock::at(Timestamp(1_000))));
    watch.begin();
    let chores = Arc::new(Chores::default());
    let handler = Handler {
        sink: sink.clone(),
        watch: Arc::clone(&watch),
        mappings: Mappings::new(16),
        shared: Arc::default(),
        chores: Arc::clone(&chores),
        account: Arc::default(),
        presence: false,
        show_qr: Arc::new(AtomicBool::new(true)),
    };
    Setup {
        sink,
        watch,
        chores,
        handler,
    }
}

impl Setup {
    fn stanza(&self, node: NodeBuilder) {
        let wire = wacore_binary::marshal::marshal(&node.build()).unwrap();
        // The first byte says whether what follows is compressed.
        let node = OwnedNodeRef::new(wire[1..].to_vec()).unwrap();
        self.handler.stanza(&Arc::new(node), Timestamp(1_000));
    }
}

#[test]
fn a_newsletter_post_is_taken_from_its_stanza() {
    let setup = setup();
    let post = wa::Message {
        conversation: Some("news".into()),
        ..Default::default()
    };
    let body = NodeBuilder::new("plaintext")
        .bytes(waproto::codec::message_to_vec(&post))
        .build();
    setup.stanza(
        NodeBuilder::new("message")
            .attr("from", "1234@newsletter")
            .attr("id", "N1")
            .attr("t", "1700000000")
            .children(vec![body]),
    );
    let arrivals = setup.sink.arrivals.lock().unwrap();
    let [Arrival::Event(event)] = &arrivals[..] else {
        panic!("{arrivals:?}");
    };
    let Payload::Message { message, .. } = &event.payload else {
        panic!("{event:?}");
    };
    assert_eq!(message.chat.canonical(), "1234@newsletter");
    assert_eq!(message.sent_at.secs(), 1_700_000_000);
}

#[test]
fn hidden_stream_errors_close_the_connection_and_others_leave_it_to_the_library() {
    for (code, closes) in [("503", true), ("429", true), ("515", false), ("401", false)] {
        let setup = setup();
        let socket = setup.watch.socket_token();
        setup.stanza(NodeBuilder::new("stream:error").attr("code", code));
        assert_eq!(socket.is_cancelled(), closes, "{code}");
    }
}

#[test]
fn an_announced_change_is_owed() {
    let setup = setup();
    let collection = NodeBuilder::new("collection")
        .attr("name", "regular_high")
        .build();
    setup.stanza(
        NodeBuilder::new("notification")
            .attr("type", "server_sync")
            .children(vec![collection]),
    );
    assert_eq!(setup.chores.take_owed(), [WAPatchName::RegularHigh]);
}

#[test]
fn success_and_readiness_become_chores() {
    let setup = setup();
    setup.stanza(NodeBuilder::new("success"));
    assert!(setup.watch.is_logged_in() && setup.chores.take_logged_in());
    assert!(!setup.chores.take_online());
    let ready = Event::Connected(Connected::builder().build());
    setup.handler.handle_event(Arc::new(ready));
    assert!(setup.chores.take_online());
}

#[test]
fn only_acks_of_messages_are_reported() {
    let setup = setup();
    let ack = |class: &str, error: Option<&str>| {
        ServerAck::builder()
            .id("A1".into())
            .class(class.into())
            .maybe_error(error.map(Into::into))
            .build()
    };
    for ack in [
        ack("receipt", None),
        ack("message", None),
        ack("message", Some("463")),
        ack("message", Some("odd")),
    ] {
        setup.handler.handle_event(Arc::new(Event::ServerAck(ack)));
    }
    let signals = setup.sink.signals.lock().unwrap();
    let errors: Vec<_> = signals
        .iter()
        .map(|signal| match signal {
            Signal::ServerAck { error, .. } => *error,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(errors, [None, Some(463), Some(0)]);
}

#[test]
fn a_passkey_demand_ends_the_pairing_by_name() {
    use wacore::types::events::PairPasskeyRequest;
    let setup = setup();
    let demand = PairPasskeyRequest::builder()
        .request_options_json("{}".into())
        .build();
    setup
        .handler
        .handle_event(Arc::new(Event::PairPasskeyRequest(demand)));
    assert_eq!(
        setup.watch.cause(),
        Cause::PairingFailed {
            reason: "PASSKEY_REQUIRED".into()
        }
    );
}

#[test]
fn presence_is_journalled_only_when_wanted() {
    use wacore::types::events::PresenceUpdate;
    let mut setup = setup();
    let update = || {
        let update = PresenceUpdate::builder()
            .from("15551234567@s.whatsapp.net".parse().unwrap())
            .unavailable(false)
            .build();
        Arc::new(Event::Presence(update))
    };
    setup.handler.handle_event(update());
    assert!(setup.sink.arrivals.lock().unwrap().is_empty());
    setup.handler.presence = true;
    setup.handler.handle_event(update());
    assert_eq!(setup.sink.arrivals.lock().unwrap().len(), 1);
}
