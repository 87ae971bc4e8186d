//! The command line against a daemon on the network, over TLS.

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

use crate::support::daemon::Daemon;

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_daemon_is_verified_and_the_token_opens_it() {
    let home = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let own = own.signed_by(&key, &ca).unwrap();
    let file = |name: &str, text: String| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let root = file("ca.pem", ca.pem());
    let certificate = file("daemon.pem", own.pem());
    let secret = file("daemon.key", key.serialize_pem());
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();

    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.change_config(|text| {
        let listen =
            format!("[listen]\ntls_certificate = \"{certificate}\"\ntls_key = \"{secret}\"\n");
        text.replacen("[listen]\n", &listen, 1)
    });
    daemon.start().await;
    let created = daemon
        .trunkline()
        .args(["token", "create", "--output", "json"])
        .output()
        .unwrap();
    let created: serde_json::Value = serde_json::from_slice(&created.stdout).unwrap();
    let token = created["secret"].as_str().unwrap();
    let address = daemon.address("grpc");
    let port = address.rsplit(':').next().unwrap();
    let run = |url: String, more: &[&str]| {
        let output = daemon
            .trunkline()
            .args(["session", "list", "--endpoint", &url, "--token", token])
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let trusted = ["--ca-certificate", root.as_str()];
    let (code, said) = run(format!("https://localhost:{port}"), &trusted);
    assert_eq!(code, Some(0), "{said}");
    // Signed by nobody it knows; another name than the certificate's; without TLS; not a certificate.
    let (code, said) = run(format!("https://localhost:{port}"), &[]);
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("certificate"), "{said}");
    let (code, said) = run(format!("https://127.0.0.1:{port}"), &trusted);
    assert_eq!(code, Some(69), "{said}");
    let (code, said) = run(format!("http://localhost:{port}"), &[]);
    assert_ne!(code, Some(0), "{said}");
    let (code, said) = run(
        format!("https://localhost:{port}"),
        &["--ca-certificate", secret.as_str()],
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("PEM"), "{said}");
}
