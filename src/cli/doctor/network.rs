//! Whether WhatsApp can be reached from here, and whether its clock agrees with ours.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Uri;

use super::Finding;
use crate::cli::tls::client_config;
use crate::config::Multidevice;

const ENDPOINT: &str = "endpoint";
/// How long resolving, connecting and answering may take together.
const PATIENCE: Duration = Duration::from_secs(10);
/// Certificates and pairing codes bear with this much.
const SKEW: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are looked at.
const MOST: u64 = 8 << 10;

/// Both findings of this module.
pub(super) async fn look(settings: &Multidevice) -> Vec<Finding> {
    let asked = tokio::time::timeout(PATIENCE, ask(settings)).await;
    let answer =
        asked.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
    match answer {
        Ok(head) => vec![
            Finding::ok(ENDPOINT, format!("{} can be reached", settings.endpoint)),
            clock(&head),
        ],
        Err(why) => vec![Finding::problem(
            ENDPOINT,
            format!("{}: {why}", settings.endpoint),
            "let this machine resolve the name and open TCP connections to it (firewall, DNS, proxy); numbers cannot connect meanwhile",
        )],
    }
}

/// Connects, and asks for nothing in particular: any answer will do.
async fn ask(settings: &Multidevice) -> Result<String, String> {
    let uri: Uri = settings
        .endpoint
        .parse()
        .map_err(|_| "is not an address".to_owned())?;
    let host = uri.host().ok_or("names no host")?.to_owned();
    let is_tls = uri.scheme_str() == Some("wss");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|error| error.to_string())?;
    if !is_tls {
        return head_of(stream, &host).await;
    }
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|error| error.to_string())?;
    let config = client_config(settings.tls_root.as_deref())
        .map_err(|error| format!("multidevice.tls_root: {error}"))?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tls
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS: {error}"))?;
    head_of(stream, &host).await
}

/// The head of the answer to an HTTP request; empty when there is none.
async fn head_of(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
) -> Result<String, String> {
    let request = format!("HEAD / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // Some servers end without a proper close: what came is enough.
    let _ = stream.take(MOST).read_to_end(&mut answer).await;
    // A server that takes WebSockets alone says nothing to this, and is there all the same.
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Compares the `Date` of an answer with our clock.
#[allow(
    clippy::disallowed_methods,
    reason = "the machine's own clock is what is being examined"
)]
fn clock(head: &str) -> Finding {
    const CHECK: &str = "clock";
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| value.trim())
    });
    let Some(theirs) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else {
        return Finding::ok(CHECK, "the endpoint gives no time to compare with");
    };
    let ours = SystemTime::now();
    let skew = ours
        .duration_since(theirs)
        .unwrap_or_else(|behind| behind.duration());
    let found = format!("{} s from the endpoint's", skew.as_secs());
    if skew > SKEW {
        Finding::problem(
            CHECK,
            found,
            "synchronise it: timedatectl set-ntp true; with a wrong clock certificates look invalid and messages expire at the wrong time",
        )
    } else {
        Finding::ok(CHECK, found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_clock_that_is_years_off_is_a_problem() {
        let head = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        let finding = clock(head);
        assert_eq!(finding.level, Level::Problem);
        assert!(finding.fix.contains("timedatectl"));
        assert_eq!(clock("HTTP/1.1 200 OK\r\n\r\n").level, Level::Ok);
    }
}
