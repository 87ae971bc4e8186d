//! TLS: a certificate that is replaced while streams go on, and files that are refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use trunkline::api::server::{ApiServer, BindError, ServerOptions};
use trunkline::api::tls::{TlsError, TlsFiles};
use trunkline::domain::clock::SystemClock;
use trunkline::pb;
use trunkline::store::memory::MemoryEngine;

use crate::harness::{Client, World, create_session, soon};

/// Who signs, and what is signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        Self {
            issuer: issuer.unwrap(),
        }
    }

    /// A certificate for `localhost` that ends in `year`, and its key.
    fn issue(&self, year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A client that trusts this authority alone.
    fn connector(&self, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(self.issuer.der().to_vec()))
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// A channel to the server, if it shows a certificate of this authority.
    async fn connect(&self, world: &World) -> Result<Channel, tonic::transport::Error> {
        let address = world.server.tcp().unwrap();
        let connector = self.connector(b"h2");
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("localhost").unwrap();
                let stream = connector.connect(name, stream).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connect).await
    }
}

fn write(files: &TlsFiles, pair: &(String, String)) {
    let replace = |path: &Path, text: &str| {
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    };
    replace(&files.certificate, &pair.0);
    replace(&files.key, &pair.1);
}

fn files(directory: &Path) -> TlsFiles {
    TlsFiles {
        certificate: directory.join("tls.crt"),
        key: directory.join("tls.key"),
    }
}

/// How often the files are looked at when the test says when itself.
const NEVER: Duration = Duration::from_hours(1);

async fn encrypted(files: &TlsFiles, look_every: Duration) -> World {
    World::over(Arc::new(MemoryEngine::new()), |options| {
        options.tls = Some(files.clone());
        options.look_every = look_every;
    })
    .await
}

fn watch_request() -> pb::WatchRequest {
    pb::WatchRequest {
        parent: "workspaces/default".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_without_dropping_streams() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let (old, new) = (Authority::new(), Authority::new());
    write(&files, &old.issue(2100));
    let world = encrypted(&files, NEVER).await;
    let channel = soon(old.connect(&world)).await.unwrap();
    let mut client = Client::new(&channel, Some(&world.token));
    let mut watch = client
        .events
        .watch(watch_request())
        .await
        .unwrap()
        .into_inner();
    soon(watch.message()).await.unwrap().unwrap();
    assert!(soon(new.connect(&world)).await.is_err());

    write(&files, &new.issue(2100));
    assert!(world.server.certificate().unwrap().reload().unwrap());
    soon(new.connect(&world)).await.unwrap();
    assert!(soon(old.connect(&world)).await.is_err());
    // The connection that was open is none the wiser.
    for _ in 0..3 {
        soon(watch.message()).await.unwrap().unwrap();
    }
    create_session(&mut client, "workspaces/default", "s")
        .await
        .unwrap();
    assert!(!world.server.certificate().unwrap().reload().unwrap());
}

#[tokio::test]
async fn files_that_change_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let (old, new) = (Authority::new(), Authority::new());
    write(&files, &old.issue(2100));
    let world = encrypted(&files, Duration::from_millis(20)).await;
    soon(old.connect(&world)).await.unwrap();
    write(&files, &new.issue(2100));
    soon(async {
        while new.connect(&world).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_refused_and_the_old_certificate_stays() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let authority = Authority::new();
    write(&files, &authority.issue(2100));
    let world = encrypted(&files, NEVER).await;
    let certificate = world.server.certificate().unwrap();
    let (one, two) = (authority.issue(2100), authority.issue(2100));
    let expired = authority.issue(2021);
    let cases = [
        ((one.0.clone(), two.1), "does not belong to the certificate"),
        (expired, "expired at"),
        ((String::new(), one.1.clone()), "holds no certificate"),
        ((one.0, "rubbish".to_owned()), "holds no private key"),
    ];
    for (pair, words) in cases {
        write(&files, &pair);
        let refused = certificate.reload().unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
        assert!(refused.contains("listen.tls_"), "{refused}");
        soon(authority.connect(&world)).await.unwrap();
    }
    std::fs::remove_file(&files.key).unwrap();
    let refused = certificate.reload().unwrap_err();
    assert!(
        matches!(refused, TlsError::File { key: "tls_key", .. }),
        "{refused}"
    );

    let mut options = ServerOptions::new(
        world.store.clone(),
        Arc::clone(&world.sessions) as _,
        Arc::new(SystemClock::new()),
    );
    options.tls = Some(files);
    let refused = ApiServer::bind(options).await.unwrap_err();
    assert!(matches!(refused, BindError::Tls(_)), "{refused}");
}

#[tokio::test]
async fn plaintext_gets_no_answer_and_json_is_served_too() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let authority = Authority::new();
    write(&files, &authority.issue(2100));
    let world = encrypted(&files, NEVER).await;
    let address = world.server.tcp().unwrap();
    let ask = format!(
        "GET /v1/workspaces HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        world.token
    );
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server may close before it has read everything, which is an error on this side.
    let _ = soon(plain.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));

    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = authority
        .connector(b"http/1.1")
        .connect(name, stream)
        .await
        .unwrap();
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("workspaces/default"), "{answer}");
}
