//! TLS towards a daemon that is reached over the network.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::exit::{Exit, Failure};

/// gRPC's protocol, as the handshake names it.
const HTTP2: &[u8] = b"h2";

/// Opens TLS connections that trust the public roots and, if there is one, a file with others.
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Reads the roots.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub(super) fn new(ca_certificate: Option<&Path>) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(path) = ca_certificate {
            let wrong = |what: &dyn std::fmt::Display| {
                let path = path.display();
                Failure::new(
                    Exit::Usage,
                    format!(
                        "--ca-certificate {path}: {what}; give a PEM file with the certificate that signed the daemon's"
                    ),
                )
            };
            let mut count = 0;
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))? {
                let certificate = certificate.map_err(|e| wrong(&e))?;
                roots.add(certificate).map_err(|e| wrong(&e))?;
                count += 1;
            }
            if count == 0 {
                return Err(wrong(&"no certificate in it"));
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Connects to an `https://` address.
    ///
    /// # Errors
    /// When nobody listens there, or cannot prove to be the one.
    pub(super) async fn connect(
        self,
        endpoint: Endpoint,
    ) -> Result<Channel, tonic::transport::Error> {
        let connector = tower::service_fn(move |uri: Uri| {
            let tls = self.0.clone();
            async move {
                let host = uri.host().unwrap_or_default();
                let bare = host
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned();
                let stream =
                    TcpStream::connect((bare.as_str(), uri.port_u16().unwrap_or(443))).await?;
                let name = ServerName::try_from(bare).map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
            }
        });
        endpoint.connect_with_connector(connector).await
    }
}
