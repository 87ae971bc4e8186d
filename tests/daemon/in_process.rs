//! A whole daemon inside the test.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trunkline::config::{Config, KeySource, Listener, SocketSetting};
use trunkline::daemon::{BindError, Daemon, Surroundings, Trouble};
use trunkline::lifecycle::Shutdown;

use crate::support::eventually;

const GRACE: Duration = Duration::from_secs(90);

fn config(folder: &std::path::Path) -> Config {
    let mut config = Config {
        state_dir: folder.join("state"),
        ..Config::default()
    };
    config.listen.grpc = "127.0.0.1:0".parse().unwrap();
    config.listen.ops = "127.0.0.1:0".parse().unwrap();
    config.keys.source = KeySource::Development;
    "wss://127.0.0.1:9/ws/chat".clone_into(&mut config.multidevice.endpoint);
    config
}

async fn bind(config: &Config) -> Result<(Daemon, Shutdown), BindError> {
    let shutdown = Shutdown::new();
    let daemon = Daemon::bind(config, Surroundings::default(), shutdown.clone()).await?;
    Ok((daemon, shutdown))
}

/// Status line and body of a GET.
async fn get(address: std::net::SocketAddr, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_bound_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (daemon, shutdown) = bind(&config).await.unwrap();
    let ops = daemon.addresses().ops.unwrap();
    let socket = daemon.addresses().socket.clone().unwrap();
    assert!(socket.exists());

    let (status, body) = get(ops, "/readyz?verbose").await.unwrap();
    assert!(status.contains("200"), "{status}");
    assert!(
        body.contains("[+] store ok") && body.contains("[+] accepting ok"),
        "{body}"
    );
    let (status, body) = get(ops, "/livez").await.unwrap();
    assert!(
        status.contains("200") && body.contains("ok"),
        "{status} {body}"
    );
    let (_, metrics) = get(ops, "/metrics").await.unwrap();
    for name in [
        "trunkline_build_info",
        "trunkline_store_commits_in_flight",
        "trunkline_panics_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    let (status, _) = get(ops, "/elsewhere").await.unwrap();
    assert!(status.contains("404"), "{status}");
    assert!(daemon.heart().beats().await);

    shutdown.drain();
    daemon.join().await.unwrap();
    let (status, body) = get(ops, "/readyz?verbose").await.unwrap();
    assert!(
        status.contains("503") && body.contains("draining"),
        "{status} {body}"
    );
    let (status, _) = get(ops, "/livez").await.unwrap();
    assert!(status.contains("200"), "draining is not dying: {status}");
    assert!(
        daemon.shutdown(GRACE).await,
        "an idle daemon stops in good order"
    );
    assert!(!socket.exists());
    eventually("health is off", GRACE, async || {
        get(ops, "/livez").await.is_none()
    })
    .await;

    // The same state again, in the same process.
    let (daemon, _) = bind(&config).await.unwrap();
    assert!(daemon.shutdown(GRACE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_one_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let first = config(dir.path());
    let (daemon, _) = bind(&first).await.unwrap();
    let error = bind(&first).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Passing, "{error}");
    assert!(error.to_string().contains("in use by another"), "{error}");
    assert!(daemon.shutdown(GRACE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_names_its_key_and_gives_the_store_back() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = config(dir.path());
    for wrong in ["ops", "grpc"] {
        config.listen.ops = Listener::Off;
        config.listen.grpc = "127.0.0.1:0".parse().unwrap();
        match wrong {
            "ops" => config.listen.ops = Listener::At(address),
            _ => config.listen.grpc = Listener::At(address),
        }
        let error = bind(&config).await.unwrap_err();
        assert_eq!(error.trouble(), Trouble::Passing, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("listen") && text.contains(&address.to_string()),
            "{text}"
        );
    }
    config.listen.grpc = "127.0.0.1:0".parse().unwrap();
    let (daemon, _) = bind(&config).await.unwrap();
    assert!(daemon.shutdown(GRACE).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_the_stores_is_a_matter_of_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let (daemon, _) = bind(&config).await.unwrap();
    assert!(daemon.shutdown(GRACE).await);
    std::fs::remove_file(config.state_dir.join("development.kek")).unwrap();
    let error = bind(&config).await.unwrap_err();
    assert_eq!(error.trouble(), Trouble::Configuration, "{error}");
    assert!(
        error.to_string().contains("another key encryption key"),
        "{error}"
    );

    // And a socket that cannot be there.
    config.state_dir = dir.path().join("fresh");
    config.listen.socket = SocketSetting::At("/nowhere/at/all/trunkline.sock".into());
    let error = bind(&config).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}
