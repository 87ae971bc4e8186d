//! TLS of the command line: towards a daemon on the network, and for doctor's look at the endpoint.

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

/// Trusts the public roots and, if there is one, those of a PEM file.
///
/// # Errors
/// In words, when the file cannot be read or holds no certificate.
pub(super) fn client_config(roots_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = roots_file {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| error.to_string())?;
        if certificates.is_empty() {
            return Err("no certificate in it".to_owned());
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Connects to a daemon's `https://` address.
///
/// # Errors
/// When the roots cannot be used: the command line is wrong. Else what [`Endpoint`] says.
pub(super) async fn connect(
    endpoint: Endpoint,
    ca_certificate: Option<&Path>,
) -> Result<Result<Channel, tonic::transport::Error>, Failure> {
    let mut config = client_config(ca_certificate).map_err(|what| {
        let path = ca_certificate.unwrap_or(Path::new("")).display();
        let fix = "give a PEM file with the certificate that signed the daemon's";
        Failure::new(
            Exit::Usage,
            format!("--ca-certificate {path}: {what}; {fix}"),
        )
    })?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let connector = tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move {
            let host = uri.host().unwrap_or_default();
            let bare = host.trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(443);
            let stream = TcpStream::connect((bare.as_str(), port)).await?;
            let name = ServerName::try_from(bare).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    Ok(endpoint.connect_with_connector(connector).await)
}
