//! A whatsapp-rust client on a minimal WebSocket transport, driven by its events.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of this, and helpers fail by panicking"
)]

pub mod http;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message as Frame;
use trunkline_simulator::{Account, NewAccount, Simulator, SimulatorConfig};
use wacore::net::{
    DisconnectReason, HttpClient, HttpRequest, HttpResponse, Transport, TransportEvent,
    TransportFactory,
};
use wacore::store::in_memory::InMemoryBackend;
use wacore::types::events::{ChannelEventHandler, Event, InboundMessage, Subscription};
use whatsapp_rust::InboundDurabilityHook;
use whatsapp_rust::bytes::Bytes;
use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::{Client, ClientBuilder, async_channel, async_trait};

/// Generous: two cores are shared with everything else.
pub const PATIENCE: Duration = Duration::from_mins(3);

pub async fn simulator() -> Simulator {
    simulator_with(SimulatorConfig::default()).await
}

pub async fn simulator_with(config: SimulatorConfig) -> Simulator {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    Simulator::bind(config).await.unwrap()
}

pub fn person(simulator: &Simulator, number: u32) -> Account {
    let phone = format!("+1555010{number:04}");
    simulator
        .create_account(NewAccount::new(phone, format!("Person {number}")))
        .unwrap()
}

struct Factory {
    url: String,
}

struct Pipe {
    out: mpsc::UnboundedSender<Option<Bytes>>,
}

#[async_trait]
impl Transport for Pipe {
    async fn send(&self, data: Bytes) -> Result<(), anyhow::Error> {
        self.out
            .send(Some(data))
            .map_err(|_| anyhow::anyhow!("connection closed"))
    }

    async fn disconnect(&self) {
        let _ = self.out.send(None);
    }
}

#[async_trait]
impl TransportFactory for Factory {
    async fn create_transport(
        &self,
    ) -> Result<(Arc<dyn Transport>, async_channel::Receiver<TransportEvent>), anyhow::Error> {
        let (socket, _) = tokio_tungstenite::connect_async(&self.url).await?;
        let (mut sink, mut source) = socket.split();
        let (out, mut orders) = mpsc::unbounded_channel::<Option<Bytes>>();
        let (events, receiver) = async_channel::unbounded();
        events.send(TransportEvent::Connected).await?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    order = orders.recv() => match order {
                        Some(Some(data)) => {
                            if sink.send(Frame::Binary(data)).await.is_err() {
                                break;
                            }
                        }
                        Some(None) | None => break,
                    },
                    frame = source.next() => match frame {
                        Some(Ok(Frame::Binary(data))) => {
                            let _ = events.send(TransportEvent::DataReceived(data)).await;
                        }
                        Some(Ok(Frame::Close(_)) | Err(_)) | None => break,
                        Some(Ok(_)) => {}
                    },
                }
            }
            let _ = events
                .send(TransportEvent::Disconnected(DisconnectReason::StreamEnded))
                .await;
        });
        Ok((Arc::new(Pipe { out }), receiver))
    }
}

/// HTTPS that trusts the simulator's root, if the device has one.
struct Https {
    root_pem: Option<String>,
}

#[async_trait]
impl HttpClient for Https {
    async fn execute(&self, request: HttpRequest) -> Result<HttpResponse, anyhow::Error> {
        let Some(root) = &self.root_pem else {
            anyhow::bail!("no HTTP in this test");
        };
        let body = request.body.unwrap_or_default();
        let (status_code, body) = http::https(root, &request.url, &request.method, &body).await?;
        Ok(HttpResponse { status_code, body })
    }
}

/// Texts, as `(id, text)`, before the client acknowledged them.
type Committed = Arc<Mutex<Vec<(String, String)>>>;

/// The library reports a message after it has acknowledged it, if the connection lasts that long;
/// only what its hook was given is certain to be known.
struct Hook {
    committed: Committed,
}

#[async_trait]
impl InboundDurabilityHook for Hook {
    async fn on_messages(
        &self,
        _: Arc<Client>,
        batch: &[InboundMessage],
    ) -> Result<(), anyhow::Error> {
        let texts = batch
            .iter()
            .filter_map(|inbound| Some((inbound.info.id.clone(), text(inbound)?)));
        self.committed.lock().unwrap().extend(texts);
        Ok(())
    }
}

/// One library client and everything it reported.
pub struct Device {
    pub client: Arc<Client>,
    seen: watch::Receiver<usize>,
    events: Arc<Mutex<Vec<Arc<Event>>>>,
    committed: Committed,
    _subscription: Subscription,
    /// Connection attempts, started and finished.
    started: AtomicU64,
    finished: watch::Sender<u64>,
}

impl Device {
    /// A device with empty storage; nothing is connected yet.
    pub async fn new(url: String) -> Self {
        Self::with_prekeys(url, 812).await
    }

    /// Like [`new`](Self::new), able to move media.
    pub async fn with_media(simulator: &Simulator) -> Self {
        let root = simulator.tls_root_pem().to_owned();
        Self::build(simulator.ws_url(), 812, Some(root)).await
    }

    /// Like [`new`](Self::new), uploading fewer one-time prekeys.
    pub async fn with_prekeys(url: String, prekeys: usize) -> Self {
        Self::build(url, prekeys, None).await
    }

    async fn build(url: String, prekeys: usize, root_pem: Option<String>) -> Self {
        let backend = Arc::new(InMemoryBackend::new());
        let persistence = Arc::new(PersistenceManager::new(backend).await.unwrap());
        let committed = Committed::default();
        let hook = Hook {
            committed: Arc::clone(&committed),
        };
        let build = ClientBuilder::new()
            .with_runtime(whatsapp_rust::TokioRuntime)
            .with_persistence_manager(persistence)
            .with_transport_factory(Factory { url })
            .with_http_client(Https { root_pem })
            .with_version_override((2, 3000, 1_030_000_000))
            .with_skip_history_sync(true)
            .with_inbound_durability_hook_arc(Arc::new(hook))
            .with_wanted_pre_key_count(prekeys)
            .build()
            .await
            .unwrap();
        let client = build.into_client();
        client
            .enable_auto_reconnect
            .store(false, std::sync::atomic::Ordering::SeqCst);
        let (handler, receiver) = ChannelEventHandler::new();
        let subscription = client.subscribe_handler(handler);
        let events = Arc::new(Mutex::new(Vec::new()));
        let (counter, seen) = watch::channel(0);
        let log = Arc::clone(&events);
        tokio::spawn(async move {
            while let Ok(event) = receiver.recv().await {
                log.lock().unwrap().push(event);
                counter.send_modify(|n| *n += 1);
            }
        });
        Self {
            client,
            seen,
            events,
            committed,
            _subscription: subscription,
            started: AtomicU64::new(0),
            finished: watch::Sender::new(0),
        }
    }

    /// Starts one connection attempt.
    pub fn run(&self) {
        assert!(!self.is_running(), "the previous attempt is still running");
        self.started.fetch_add(1, Ordering::SeqCst);
        let client = Arc::clone(&self.client);
        let finished = self.finished.clone();
        tokio::spawn(async move {
            client.run().await;
            finished.send_modify(|n| *n += 1);
        });
    }

    /// Waits until the current attempt has ended.
    pub async fn ended(&self) {
        let mut finished = self.finished.subscribe();
        let started = self.started.load(Ordering::SeqCst);
        tokio::time::timeout(PATIENCE, finished.wait_for(|n| *n >= started))
            .await
            .expect("run() should have ended")
            .unwrap();
    }

    pub fn is_running(&self) -> bool {
        *self.finished.borrow() < self.started.load(Ordering::SeqCst)
    }

    /// Waits for an event that `pick` accepts, from event number `from` on.
    pub async fn event_from<T>(&self, from: usize, pick: impl Fn(&Event) -> Option<T>) -> T {
        let mut seen = self.seen.clone();
        let wait = async {
            loop {
                seen.mark_unchanged();
                if let Some(found) = self.events.lock().unwrap()[from..]
                    .iter()
                    .find_map(|event| pick(event))
                {
                    return found;
                }
                seen.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("event did not come; seen: {:#?}", self.kinds()))
    }

    /// Waits for an event that `pick` accepts, past or future.
    pub async fn event<T>(&self, pick: impl Fn(&Event) -> Option<T>) -> T {
        self.event_from(0, pick).await
    }

    /// How many events there are so far.
    pub fn mark(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| wanted(event)).count()
    }

    fn kinds(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .map(|event| format!("{event:?}").chars().take(120).collect())
            .collect()
    }

    /// All texts received, as `(id, text)` in order of dispatch.
    pub fn texts(&self) -> Vec<(String, String)> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter_map(|event| match &**event {
                Event::Messages(batch) => Some(batch),
                _ => None,
            })
            .flat_map(|batch| batch.messages.iter())
            .filter_map(|inbound| Some((inbound.info.id.clone(), text(inbound)?)))
            .collect()
    }

    /// All texts that were durable before they were acknowledged, as `(id, text)`; a redelivery is
    /// listed again.
    pub fn committed(&self) -> Vec<(String, String)> {
        self.committed.lock().unwrap().clone()
    }

    /// Waits for a text.
    pub async fn text(&self, wanted: &str) -> String {
        self.event(|event| match event {
            Event::Messages(batch) => batch
                .messages
                .iter()
                .find(|inbound| text(inbound).as_deref() == Some(wanted))
                .map(|inbound| inbound.info.id.clone()),
            _ => None,
        })
        .await
    }

    /// Pairs with a person's phone and stays connected.
    pub async fn pair(&self, account: &Account) -> u16 {
        self.run();
        let qr = self
            .event(|event| match event {
                Event::PairingQrCode(code) => Some(code.code.clone()),
                _ => None,
            })
            .await;
        let device = account.scan_qr(&qr).unwrap();
        self.event(|event| matches!(event, Event::PairSuccess(_)).then_some(()))
            .await;
        self.ended().await;
        self.connect().await;
        device
    }

    /// Connects and waits for `Connected`. An attempt may end without it: right after a 515 the
    /// library can close the next transport in place of the last one.
    pub async fn connect(&self) {
        let from = self.mark();
        loop {
            self.run();
            let connected = self.event_from(from, |event| {
                matches!(event, Event::Connected(_)).then_some(())
            });
            tokio::select! {
                () = connected => return,
                () = self.ended() => {}
            }
        }
    }
}

fn text(inbound: &InboundMessage) -> Option<String> {
    inbound.message.conversation.clone().or_else(|| {
        inbound
            .message
            .extended_text_message
            .as_option()
            .and_then(|m| m.text.clone())
    })
}
