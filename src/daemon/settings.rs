//! From the configuration to what each part wants to know.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{BindError, Surroundings};
use crate::api::tls::TlsFiles;
use crate::config::{Config, KeySource};
use crate::provider::multidevice::MultideviceConfig;
use crate::session::SessionConfig;
use crate::store::Retention;
use crate::store::keyring::KekSource;
use crate::store::media::MediaOptions;

/// The multi-device provider's settings.
pub(super) fn multidevice(config: &Config) -> Result<MultideviceConfig, BindError> {
    let section = &config.multidevice;
    let mut settings = MultideviceConfig {
        endpoint: section.endpoint.clone(),
        device_name: section.device_name.clone(),
        history: section.history,
        scratch: config.state_dir.clone(),
        login_timeout: config.session.login_timeout,
        silence: config.stall.silence,
        probe_patience: config.stall.patience,
        ..MultideviceConfig::default()
    };
    if let Some(version) = section.version_numbers() {
        settings.version = version;
    }
    if let Some(path) = &section.tls_root {
        let fail = |detail: String| BindError::TlsRoot {
            path: path.clone(),
            detail,
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fail(error.to_string()))?;
        if certificates.is_empty() {
            return Err(fail("holds no certificate".to_owned()));
        }
        settings.extra_roots = certificates.iter().map(|der| der.to_vec()).collect();
    }
    Ok(settings)
}

/// What a workspace's journal may hold.
pub(super) fn retention(config: &Config) -> Retention {
    Retention {
        max_age: Some(config.store.journal_max_age),
        max_bytes: Some(config.store.journal_max_size),
    }
}

/// The session layer's settings.
pub(super) fn sessions(config: &Config) -> SessionConfig {
    let mut settings = SessionConfig {
        login_timeout: config.session.login_timeout,
        ..SessionConfig::default()
    };
    settings.outbound.ack_timeout = config.session.ack_timeout;
    settings.admission.per_second = config.admission.per_second;
    settings.admission.burst = config.admission.burst;
    settings.admission.simultaneous = config.admission.simultaneous;
    settings.rules.backoff.base = config.backoff.first;
    settings.rules.backoff.cap = config.backoff.max;
    settings.rules.stable_after = config.backoff.stable_after;
    settings.stall.silence = config.stall.silence;
    settings.stall.patience = config.stall.patience;
    let pacing = &config.pacing;
    settings.pacing.session.per_minute = pacing.per_minute;
    settings.pacing.session.burst = pacing.burst;
    settings.pacing.recipient.per_minute = pacing.recipient_per_minute;
    settings.pacing.recipient.burst = pacing.recipient_burst;
    settings.pacing.per_day = limit(pacing.per_day);
    settings.pacing.new_contacts_per_day = limit(pacing.new_contacts_per_day);
    settings
}

/// 0 stands for no limit.
fn limit(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

/// How uploaded files are kept.
pub(super) fn media(config: &Config) -> MediaOptions {
    MediaOptions {
        dir: config.state_dir.join("media"),
        max_file: config.media.max_file,
        max_workspace: config.media.max_workspace,
        keep: config.media.keep,
    }
}

/// What the API is encrypted with.
pub(super) fn tls(config: &Config) -> Option<TlsFiles> {
    let listen = &config.listen;
    Some(TlsFiles {
        certificate: listen.tls_certificate.clone()?,
        key: listen.tls_key.clone()?,
    })
}

/// Where the key encryption key is read from.
pub(super) fn kek(config: &Config, surroundings: &Surroundings) -> KekSource {
    let keys = &config.keys;
    let development = config.state_dir.join("development.kek");
    let credential = surroundings
        .credentials_dir
        .as_deref()
        .map(|dir| keys.credential_path(dir));
    match (keys.source, credential, &keys.file) {
        (KeySource::File, _, Some(file)) => KekSource::File(file.clone()),
        (KeySource::Credential, Some(path), _) => KekSource::Credential(path),
        // Without systemd the directory is unknown; reading the bare name fails and names it.
        (KeySource::Credential, None, _) => KekSource::Credential(keys.credential.clone().into()),
        (KeySource::Auto, Some(path), _) if path.exists() => KekSource::Credential(path),
        _ => KekSource::Development(development),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_file_are_the_defaults_of_the_parts() {
        assert_eq!(sessions(&Config::default()), SessionConfig::default());
    }

    #[test]
    fn a_credential_is_preferred_to_a_development_key_only_if_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            credentials_dir: Some(dir.path().to_owned()),
            ..Surroundings::default()
        };
        let mut config = Config::default();
        assert!(matches!(
            kek(&config, &surroundings),
            KekSource::Development(_)
        ));
        std::fs::write(dir.path().join("trunkline-kek"), "x").unwrap();
        assert_eq!(
            kek(&config, &surroundings),
            KekSource::Credential(dir.path().join("trunkline-kek"))
        );
        config.keys.source = KeySource::Development;
        assert!(matches!(
            kek(&config, &surroundings),
            KekSource::Development(_)
        ));
    }

    #[test]
    fn a_root_file_must_hold_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.pem");
        let mut config = Config::default();
        config.multidevice.tls_root = Some(path.clone());
        assert!(matches!(
            multidevice(&config),
            Err(BindError::TlsRoot { .. })
        ));
        std::fs::write(&path, "nothing here").unwrap();
        let error = multidevice(&config).unwrap_err().to_string();
        assert!(
            error.contains("tls_root") && error.contains("PEM"),
            "{error}"
        );
    }
}
