//! What a service manager sees: the notifications, the signals, the exit codes.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::eventually;

const PATIENCE: Duration = Duration::from_mins(3);

/// Listens for what the daemon says, all the time: who is not listened to waits at a full socket.
fn listen(socket: UnixDatagram) -> Arc<Mutex<String>> {
    let said = Arc::<Mutex<String>>::default();
    let heard = Arc::clone(&said);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read) = socket.recv(&mut buffer) {
            let mut heard = heard.lock().unwrap();
            heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
            heard.push('\n');
        }
    });
    said
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reports_ready_status_and_stopping_and_pings_the_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let said = listen(socket);
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon
        .start_with(&[
            ("NOTIFY_SOCKET", &path),
            ("WATCHDOG_USEC", Path::new("200000")),
        ])
        .await;
    eventually("ready, a status and three pings", PATIENCE, async || {
        let said = said.lock().unwrap();
        said.matches("WATCHDOG=1").count() >= 3
            && said.contains("READY=1")
            && said.contains("STATUS=0/0 connected, backlog 0")
    })
    .await;

    // SIGHUP does not end it.
    let pid = daemon.pid().unwrap();
    signal("HUP", pid);
    eventually("the reload is logged", PATIENCE, async || {
        daemon.log().contains("SIGHUP")
    })
    .await;
    assert!(daemon.channel().await.is_ok());

    signal("TERM", pid);
    assert_eq!(daemon.wait().await, Some(0), "{}", daemon.log());
    eventually("it says that it stops", PATIENCE, async || {
        said.lock().unwrap().contains("STOPPING=1")
    })
    .await;
    assert!(!daemon.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_starter_is_gone_stops() {
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.start().await;
    // `stop` lets go of the daemon's standard input, as a killed starter would.
    assert_eq!(daemon.stop().await, Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("\"stopped\""), "{}", daemon.log());
}
