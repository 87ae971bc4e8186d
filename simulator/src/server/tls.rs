//! The simulator's own certificate authority for `wss://` and the media host.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// Names the server certificate is valid for: loopback, like the simulator, and the media host that clients
/// ask while no other was named to them, for those whose resolver says that it is here.
const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", "mmg.whatsapp.net"];

/// A self-made authority and a server certificate under it.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) root_pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

/// Why the certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Generating or signing a certificate failed.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not take them.
    #[error("TLS configuration: {0}")]
    Config(#[from] rustls::Error),
}

impl Tls {
    pub(crate) fn generate() -> Result<Self, TlsError> {
        let mut authority = CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "Trunkline simulator root");
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

        let mut server = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server
            .distinguished_name
            .push(DnType::CommonName, "Trunkline simulator");
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &issuer)?;

        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        Ok(Self {
            root_pem: issuer.pem(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}
