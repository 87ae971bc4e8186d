//! Against a real TLS server on loopback.

use std::sync::Mutex;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::any;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::provider::multidevice::tls;

/// A media host: its address and the certificate to trust.
async fn media_host(routes: Router) -> (String, Vec<u8>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, routes) = (acceptor.clone(), routes.clone());
            tokio::spawn(async move {
                // A client that does not trust us hangs up.
                if let Ok(tls) = acceptor.accept(tcp).await {
                    let service = TowerToHyperService::new(routes);
                    let serving =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = serving.serve_connection(TokioIo::new(tls), service).await;
                }
            });
        }
    });
    (format!("https://{address}"), cert.der().to_vec())
}

fn trusting(root: Vec<u8>) -> MediaHttp {
    MediaHttp::new(&tls::client_config(&[root]).unwrap())
}

#[tokio::test]
async fn it_gets_and_posts_and_passes_every_status_on() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let routes = Router::new()
        .route("/blob", any(|| async { vec![7_u8; 100_000] }))
        .route("/gone", any(|| async { axum::http::StatusCode::GONE }))
        .route(
            "/upload",
            any({
                let seen = Arc::clone(&seen);
                move |headers: axum::http::HeaderMap, body: Bytes| async move {
                    let origin = headers["origin"].to_str().unwrap().to_owned();
                    seen.lock().unwrap().push((origin, body.len()));
                }
            }),
        );
    let (host, root) = media_host(routes).await;
    let http = trusting(root);
    let blob = HttpRequest::get(format!("{host}/blob"));
    let blob = http.execute(blob).await.unwrap();
    assert_eq!((blob.status_code, blob.body), (200, vec![7; 100_000]));
    let gone = HttpRequest::get(format!("{host}/gone"));
    assert_eq!(http.execute(gone).await.unwrap().status_code, 410);
    let upload = HttpRequest::post(format!("{host}/upload"))
        .with_header("origin", "here")
        .with_body(vec![1; 5_000]);
    assert_eq!(http.execute(upload).await.unwrap().status_code, 200);
    assert_eq!(*seen.lock().unwrap(), [("here".to_owned(), 5_000)]);
}

#[tokio::test]
async fn it_refuses_strangers_plain_text_and_endless_answers() {
    let endless = any(|| async { vec![0_u8; MAX_BODY + 1] }).layer(DefaultBodyLimit::disable());
    let routes = Router::new().route("/endless", endless);
    let (host, root) = media_host(routes).await;
    let get = |url: String, http: MediaHttp| async move {
        http.execute(HttpRequest::get(url)).await.unwrap_err()
    };
    let stranger = MediaHttp::new(&tls::client_config(&[]).unwrap());
    get(format!("{host}/endless"), stranger).await;
    let http = trusting(root);
    let plain = host.replace("https", "http");
    get(format!("{plain}/endless"), http.clone()).await;
    let error = get(format!("{host}/endless"), http.clone()).await;
    assert!(error.to_string().contains("too long"), "{error}");
    assert!(
        http.slots.available_permits() == AT_ONCE,
        "a refusal frees its slot"
    );
    if SIMULATOR_BUILD {
        let error = get("https://example.com/".into(), http).await;
        assert!(error.to_string().contains("loopback"), "{error}");
    }
}
