//! TLS towards the chat server: the public roots plus those configured.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::config::ConfigError;

/// The TLS settings shared by all connections.
///
/// # Errors
/// [`ConfigError::Root`] names the certificate that cannot be parsed.
pub(super) fn client_config(extra_roots: &[Vec<u8>]) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for (index, der) in extra_roots.iter().enumerate() {
        roots
            .add(CertificateDer::from(der.clone()))
            .map_err(|error| ConfigError::Root {
                index,
                detail: error.to_string(),
            })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_root_is_named_by_position() {
        let error = client_config(&[vec![1, 2, 3]]).unwrap_err();
        assert!(matches!(error, ConfigError::Root { index: 0, .. }));
        assert!(client_config(&[]).is_ok());
    }
}
