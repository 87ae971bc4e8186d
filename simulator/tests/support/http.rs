//! Just enough HTTP/1.1 to drive the control API.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of this, and helpers fail by panicking"
)]

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends one request; returns status and body. `base` is `http://host:port`.
pub async fn request(base: &str, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
    let host = base.strip_prefix("http://").unwrap();
    let body = body.map(|b| b.to_string()).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Like [`request`], with the body read as JSON.
pub async fn json(base: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let (status, body) = request(base, method, path, body).await;
    (status, serde_json::from_str(&body).unwrap())
}
