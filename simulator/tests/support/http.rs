//! Just enough HTTP/1.1 to drive the control API.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of this, and helpers fail by panicking"
)]

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

/// Sends one request over TLS to `https://127.0.0.1:port`, trusting the root in `root_pem`; returns
/// status and body.
pub async fn https(
    root_pem: &str,
    url: &str,
    method: &str,
    body: &[u8],
) -> anyhow::Result<(u16, Vec<u8>)> {
    let rest = url.strip_prefix("https://").expect("an https URL");
    let (host, path) = rest.split_at(rest.find('/').expect("a path"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(host).await?;
    let name = ServerName::try_from("127.0.0.1")?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a whole head");
    let status = std::str::from_utf8(&answer[..end])?
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()?;
    Ok((status, answer.split_off(end + 4)))
}

/// Like [`request`], with the body read as JSON.
pub async fn json(base: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let (status, body) = request(base, method, path, body).await;
    (status, serde_json::from_str(&body).unwrap())
}
