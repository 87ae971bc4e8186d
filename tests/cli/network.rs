//! The command line against a daemon on the network, over TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

use crate::support::daemon::Daemon;
use crate::support::eventually;

/// A certificate for localhost with its key, by an authority of its own, whose root is returned.
fn issue(certificate: &Path, secret: &Path) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let own = own.signed_by(&key, &ca).unwrap();
    std::fs::write(certificate, own.pem()).unwrap();
    std::fs::write(secret, key.serialize_pem()).unwrap();
    std::fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    ca.pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_up_a_new_certificate() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let (certificate, secret, root) = (path("daemon.pem"), path("daemon.key"), path("root.pem"));
    issue(&certificate, &secret);
    let mut daemon = Daemon::prepare("ws://127.0.0.1:9/ws/chat", "");
    daemon.change_config(|text| {
        let (certificate, secret) = (certificate.display(), secret.display());
        let listen =
            format!("[listen]\ntls_certificate = \"{certificate}\"\ntls_key = \"{secret}\"\n");
        text.replacen("[listen]\n", &listen, 1)
    });
    daemon.start().await;
    let hang_up = || {
        let pid = daemon.pid().unwrap().to_string();
        let status = Command::new("kill").args(["-s", "HUP", &pid]).status();
        assert!(status.unwrap().success());
    };
    let reloads = || daemon.log().matches("\"reloaded\"").count();
    let patience = Duration::from_mins(2);
    // The daemon also looks by itself every few seconds: of several new ones, a reload is first with one.
    eventually("a reload takes it up", patience, async || {
        std::fs::write(&root, issue(&certificate, &secret)).unwrap();
        let before = reloads();
        hang_up();
        eventually("it is reloaded", patience, async || reloads() > before).await;
        daemon
            .log()
            .contains("\"applied\":\"listen.tls_certificate\"")
    })
    .await;
    let created = daemon.trunkline().args(["token", "create"]).output();
    let token = String::from_utf8(created.unwrap().stdout).unwrap();
    let port = daemon.address("grpc");
    let url = format!("https://localhost:{}", port.rsplit(':').next().unwrap());
    let listed = daemon
        .trunkline()
        .args([
            "session",
            "list",
            "--endpoint",
            &url,
            "--token",
            token.trim(),
        ])
        .arg("--ca-certificate")
        .arg(&root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "{said}");

    // One that cannot be used changes nothing.
    std::fs::write(&certificate, "rubbish").unwrap();
    hang_up();
    eventually("it is refused in words", patience, async || {
        daemon.log().contains("the certificate in use stays")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_daemon_is_verified_and_the_token_opens_it() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (root, certificate, secret) = (file("ca.pem"), file("daemon.pem"), file("daemon.key"));
    std::fs::write(&root, issue(certificate.as_ref(), secret.as_ref())).unwrap();

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
