//! TLS on the network listener, with a certificate that can be replaced while the daemon runs.
//!
//! The files are read again when they change and when asked to ([`Certificate::reload`]). A pair that
//! cannot be used is refused in words and the one in use stays. Connections keep the certificate they
//! were made with.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::domain::clock::{Clock, Timestamp};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long a client may take to finish its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at the same time; more wait in the kernel's queue.
const HANDSHAKES: usize = 256;

/// When the certificate in use ends, in seconds since 1970.
const EXPIRY: &str = "trunkline_tls_certificate_expiry_timestamp_seconds";

/// Where the certificate and its key are, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why a pair of files cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of what it should.
    #[error("listen.{key} {path}: {detail}", path = path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and how to put it right.
        detail: String,
    },
    /// The key is of another certificate.
    #[error("listen.tls_key {path} does not belong to the certificate: give the key it was issued for", path = path.display())]
    Mismatch {
        /// The key's file.
        path: PathBuf,
    },
    /// The certificate's time has passed.
    #[error("listen.tls_certificate {path} expired at {until}: renew it", path = path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When.
        until: String,
    },
    /// The library refuses them.
    #[error("TLS cannot be set up: {0}")]
    Rejected(#[from] rustls::Error),
}

/// The certificate of a listener.
#[derive(Debug)]
pub struct Certificate {
    files: TlsFiles,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Loaded>,
}

#[derive(Debug, Clone)]
struct Loaded {
    pair: Arc<CertifiedKey>,
    /// Of the files' bytes.
    digest: [u8; 32],
    /// When it ends.
    until: Timestamp,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the fix.
    pub fn load(files: TlsFiles, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let loaded = read(&files, &provider, clock.now())?;
        Ok(Self {
            files,
            clock,
            provider,
            current: RwLock::new(loaded),
        })
    }

    /// Reads the files again. Returns whether new connections get another certificate from now on; the
    /// one in use stays when the files cannot be used.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the fix.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let loaded = read(&self.files, &self.provider, self.clock.now())?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.digest != loaded.digest;
        *current = loaded;
        Ok(changed)
    }

    /// When the certificate in use ends.
    pub fn expires(&self) -> Timestamp {
        self.current().until
    }

    fn current(&self) -> Loaded {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Looks at the files every now and then, until `stop`. What cannot be used is told once for each
    /// change of the files.
    pub(super) async fn watch(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let mut looked_at = self.current().digest;
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => return,
            }
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || digest_of(&files)).await;
            // A file that is missing for a moment is being replaced.
            let Ok(Ok(digest)) = read else { continue };
            let known = digest == looked_at || digest == self.current().digest;
            looked_at = digest;
            if known {
                continue;
            }
            match self.reload() {
                Ok(_) => tracing::info!("the certificate was replaced"),
                Err(error) => tracing::error!(%error, "the certificate in use stays"),
            }
        }
    }

    /// The settings of a listener that uses this certificate.
    ///
    /// # Errors
    /// When the library offers no protocol version, which a build error would be.
    fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().pair)
    }
}

fn read_file(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::File {
        key,
        path: path.to_owned(),
        detail: format!("{error}; the daemon's user must be able to read it"),
    })
}

fn digest(certificate: &[u8], key: &[u8]) -> [u8; 32] {
    let parts = Sha256::new()
        .chain_update((certificate.len() as u64).to_be_bytes())
        .chain_update(certificate)
        .chain_update(key);
    parts.finalize().into()
}

fn digest_of(files: &TlsFiles) -> Result<[u8; 32], TlsError> {
    let certificate = read_file("tls_certificate", &files.certificate)?;
    let key = zeroize::Zeroizing::new(read_file("tls_key", &files.key)?);
    Ok(digest(&certificate, &key))
}

fn read(files: &TlsFiles, provider: &CryptoProvider, now: Timestamp) -> Result<Loaded, TlsError> {
    let wrong = |key: &'static str, path: &Path, detail: &str| TlsError::File {
        key,
        path: path.to_owned(),
        detail: detail.to_owned(),
    };
    let certificate = read_file("tls_certificate", &files.certificate)?;
    let key = zeroize::Zeroizing::new(read_file("tls_key", &files.key)?);
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| {
            let detail = "holds no certificate; give PEM with the certificate first";
            wrong("tls_certificate", &files.certificate, detail)
        })?;
    let secret = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| wrong("tls_key", &files.key, "holds no private key; give PEM"))?;
    let until = expiry(&chain).ok_or_else(|| {
        let detail = "its first certificate cannot be read; give X.509 in PEM";
        wrong("tls_certificate", &files.certificate, detail)
    })?;
    if until.0 <= i64::try_from(now.secs()).unwrap_or(i64::MAX) {
        return Err(TlsError::Expired {
            path: files.certificate.clone(),
            until: until.1,
        });
    }
    let pair = CertifiedKey::from_der(chain, secret, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
            path: files.key.clone(),
        },
        other => TlsError::Rejected(other),
    })?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact for the next 285 million years"
    )]
    metrics::gauge!(EXPIRY).set(until.0 as f64);
    Ok(Loaded {
        pair: Arc::new(pair),
        digest: digest(&certificate, &key),
        until: Timestamp::from_secs(until.0.unsigned_abs()),
    })
}

/// When the first certificate of a chain ends: seconds since 1970, and for people.
fn expiry(chain: &[CertificateDer<'_>]) -> Option<(i64, String)> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let until = certificate.validity().not_after;
    Some((until.timestamp(), until.to_string()))
}

/// Connections whose handshake is done. Ends with `close`.
///
/// # Errors
/// [`TlsError`] when the certificate cannot be served at all.
pub(super) fn incoming(
    listener: TcpListener,
    certificate: &Arc<Certificate>,
    close: CancellationToken,
) -> Result<ReceiverStream<io::Result<Connection>>, TlsError> {
    let acceptor = certificate.acceptor()?;
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            };
            let (stream, slot) = tokio::select! {
                (accepted, slot) = accepted => match accepted {
                    Ok((stream, _)) => (stream, slot),
                    Err(error) => {
                        // Out of file descriptors, or a client that was gone already: others may fare better.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = close.cancelled() => return,
            };
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                if let Some(connection) = shake_hands(&acceptor, stream).await {
                    // The server has ended: so does the connection.
                    let _ = ready.send(Ok(connection)).await;
                }
                drop(slot);
            });
        }
    });
    Ok(ReceiverStream::new(connections))
}

async fn shake_hands(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<Connection> {
    // Latency only; it works without.
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(Connection(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            None
        }
    }
}

/// A connection over TLS.
#[derive(Debug)]
pub(super) struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.get_ref().0.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
