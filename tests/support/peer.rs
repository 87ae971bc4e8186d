//! A client from `tests/peers`, driven over its lines of JSON (`tests/peers/README.md`).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

/// How long anything a peer is asked for may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(3);

/// A running client. Dropping it kills the process.
pub(crate) struct Peer {
    name: String,
    stdin: ChildStdin,
    /// Every line it wrote so far; the length is announced on `written`.
    said: Arc<Mutex<Vec<Value>>>,
    logged: Arc<Mutex<Vec<String>>>,
    written: watch::Receiver<usize>,
    next_id: u64,
    /// Events before this index were consumed by [`Peer::event`].
    consumed: Vec<usize>,
    _child: Child,
}

impl Peer {
    /// Starts `tests/peers/{folder}/harness.mjs`. `name` labels its output in failures.
    ///
    /// # Panics
    /// When node or the packages are missing, with the line that mends it.
    #[allow(
        dead_code,
        reason = "not every test has a client that trusts no media host"
    )]
    pub(crate) async fn spawn(folder: &str, name: &str) -> Self {
        Self::spawn_trusting(folder, name, None).await
    }

    /// Like [`Peer::spawn`], with TLS servers trusted that lead to the root in a PEM file, and with the
    /// place (`address:port`) of the media host that clients know by themselves.
    pub(crate) async fn spawn_trusting(
        folder: &str,
        name: &str,
        trusted: Option<(&Path, &str)>,
    ) -> Self {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        let installed = std::fs::read(peers.join("node_modules/.installed-from")).ok();
        assert!(
            installed == std::fs::read(peers.join("package-lock.json")).ok(),
            "the peer clients are not installed as locked; get them: scripts/peers (needs Node 20 or newer)"
        );
        let mut command = Command::new("node");
        if let Some((tls_root, media_host)) = trusted {
            command.env("NODE_EXTRA_CA_CERTS", tls_root);
            command.env("PEER_MEDIA_HOST", media_host);
        }
        let mut child = command
            .arg(peers.join(folder).join("harness.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run node ({error}); get Node 20 or newer: scripts/prereqs test says how"
                )
            });

        let said = Arc::new(Mutex::new(Vec::new()));
        let logged = Arc::new(Mutex::new(Vec::new()));
        let (announce, written) = watch::channel(0);

        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let sink = Arc::clone(&said);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let value = serde_json::from_str(&line)
                    .unwrap_or_else(|_| json!({ "event": "garbage", "line": line }));
                let mut said = sink.lock().unwrap();
                said.push(value);
                announce.send_replace(said.len());
            }
        });
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&logged);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sink.lock().unwrap().push(line);
            }
        });

        let mut peer = Self {
            name: name.to_owned(),
            stdin: child.stdin.take().unwrap(),
            said,
            logged,
            written,
            next_id: 0,
            consumed: Vec::new(),
            _child: child,
        };
        peer.event("ready", |_| true).await;
        peer
    }

    /// Points the client at a server and starts it; `dir` keeps its credentials.
    pub(crate) async fn start(&mut self, ws_url: &str, root_key_hex: &str, dir: &Path) {
        let dir: PathBuf = dir.join(&self.name);
        self.ask(
            "start",
            json!({ "wsUrl": ws_url, "rootKeyHex": root_key_hex, "authDir": dir }),
        )
        .await;
    }

    /// Runs a command and returns its result.
    ///
    /// # Panics
    /// When the client answers with an error.
    pub(crate) async fn ask(&mut self, command: &str, args: Value) -> Value {
        match self.try_ask(command, args).await {
            Ok(result) => result,
            Err(error) => self.fail(&format!("{command} failed: {error}")),
        }
    }

    /// Runs a command and returns its result or the error it answered.
    pub(crate) async fn try_ask(
        &mut self,
        command: &str,
        mut args: Value,
    ) -> Result<Value, String> {
        self.next_id += 1;
        let id = self.next_id;
        args["id"] = json!(id);
        args["command"] = json!(command);
        let line = format!("{args}\n");
        if let Err(error) = self.stdin.write_all(line.as_bytes()).await {
            self.fail(&format!("{command}: the process is gone: {error}"));
        }
        let reply = self.event("reply", |event| event["id"] == id).await;
        match reply.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(reply["result"].clone()),
        }
    }

    /// Waits for the first event of this kind that satisfies `wanted` and was not returned before.
    /// Events may already have arrived: nothing is missed between two waits.
    ///
    /// # Panics
    /// When it does not arrive in time, with everything the client said and logged.
    pub(crate) async fn event(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let seen = *self.written.borrow_and_update();
                if let Some(event) = self.take(seen, kind, &wanted) {
                    return Some(event);
                }
                if self.written.changed().await.is_err() {
                    let seen = *self.written.borrow();
                    return self.take(seen, kind, &wanted);
                }
            }
        })
        .await;
        match found {
            Ok(Some(event)) => event,
            Ok(None) => self.fail(&format!("ended before the event {kind}")),
            Err(_) => self.fail(&format!("no event {kind} within {PATIENCE:?}")),
        }
    }

    /// How many events of this kind satisfy `wanted`, consumed or not.
    pub(crate) fn count(&self, kind: &str, wanted: impl Fn(&Value) -> bool) -> usize {
        let said = self.said.lock().unwrap();
        said.iter()
            .filter(|e| e["event"] == kind && wanted(e))
            .count()
    }

    /// Waits until it has logged a line that contains `wanted`.
    ///
    /// # Panics
    /// When it does not, in time.
    #[allow(dead_code, reason = "not every peer is judged by what it logs")]
    pub(crate) async fn logged(&self, wanted: &str) {
        let found = tokio::time::timeout(PATIENCE, async {
            while !self
                .logged
                .lock()
                .unwrap()
                .iter()
                .any(|line| line.contains(wanted))
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        if found.await.is_err() {
            self.fail(&format!("did not log {wanted:?} within {PATIENCE:?}"));
        }
    }

    fn take(&mut self, seen: usize, kind: &str, wanted: &impl Fn(&Value) -> bool) -> Option<Value> {
        let said = self.said.lock().unwrap();
        let at = (0..seen).find(|at| {
            !self.consumed.contains(at) && said[*at]["event"] == kind && wanted(&said[*at])
        })?;
        self.consumed.push(at);
        Some(said[at].clone())
    }

    fn fail(&self, what: &str) -> ! {
        let said = self.said.lock().unwrap();
        let said: Vec<String> = said.iter().map(ToString::to_string).collect();
        let logged = self.logged.lock().unwrap();
        let tail = &logged[logged.len().saturating_sub(60)..];
        panic!(
            "{}: {what}\nit said:\n  {}\nit logged:\n  {}",
            self.name,
            said.join("\n  "),
            tail.join("\n  ")
        );
    }
}
