//! Which servers this build may talk to.
//!
//! A build with feature `simulator` does not verify WhatsApp's certificate chain (the protocol library
//! pins WhatsApp's root at compile time and can only skip it), so it must never leave the machine: it
//! refuses every endpoint that is not loopback, when the endpoint is parsed and again when a connection
//! is open. A build without the feature refuses plain `ws://`.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;
use tokio_tungstenite::tungstenite::http::Uri;

/// Whether this build can pair with a simulator and is therefore bound to loopback.
pub const SIMULATOR_BUILD: bool = cfg!(feature = "simulator");

/// Why an endpoint cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Not a WebSocket URL.
    #[error("`{0}` is not a WebSocket URL such as wss://web.whatsapp.com/ws/chat")]
    Malformed(String),
    /// Plain text outside a simulator build.
    #[error(
        "`{0}` is not encrypted; ws:// works only in a build with feature `simulator`, use wss://"
    )]
    Plain(String),
    /// A simulator build pointed at a real network.
    #[error(
        "`{0}` is not loopback; this build has feature `simulator`, which skips WhatsApp's certificate chain, and therefore talks to 127.0.0.1, ::1 or localhost only: build without the feature to reach WhatsApp"
    )]
    NotLoopback(String),
}

/// A server this build may talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

impl Endpoint {
    /// Parses an endpoint and checks that this build may use it.
    ///
    /// # Errors
    /// [`EndpointError`] shows the endpoint and the fix.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        Self::parse_for(text, SIMULATOR_BUILD)
    }

    fn parse_for(text: &str, simulator: bool) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(malformed()),
        };
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(malformed)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        if simulator && !is_loopback_name(&host) {
            return Err(EndpointError::NotLoopback(text.to_owned()));
        }
        if !simulator && !tls {
            return Err(EndpointError::Plain(text.to_owned()));
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self {
            uri,
            host,
            port,
            tls,
        })
    }

    /// Refuses a connection that ended up outside the machine (a hosts file can send `localhost`
    /// anywhere) in a build that is bound to loopback.
    ///
    /// # Errors
    /// [`EndpointError::NotLoopback`].
    pub fn check_peer(&self, peer: SocketAddr) -> Result<(), EndpointError> {
        if SIMULATOR_BUILD && !peer.ip().is_loopback() {
            return Err(EndpointError::NotLoopback(peer.to_string()));
        }
        Ok(())
    }

    /// The whole URL.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Host name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether TLS is spoken.
    pub fn tls(&self) -> bool {
        self.tls
    }
}

pub(super) fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulator_build_never_leaves_the_machine() {
        for good in [
            "ws://127.0.0.1:7000/ws/chat",
            "wss://localhost/ws/chat",
            "ws://[::1]:7000/",
        ] {
            assert!(Endpoint::parse_for(good, true).is_ok(), "{good}");
        }
        for bad in [
            "wss://web.whatsapp.com/ws/chat",
            "ws://10.0.0.1/ws/chat",
            "wss://localhost.example.com/",
        ] {
            assert_eq!(
                Endpoint::parse_for(bad, true),
                Err(EndpointError::NotLoopback(bad.into()))
            );
        }
    }

    #[test]
    fn a_real_build_never_speaks_plain_text() {
        assert!(Endpoint::parse_for("wss://web.whatsapp.com/ws/chat", false).is_ok());
        assert!(Endpoint::parse_for("wss://127.0.0.1:9/ws/chat", false).is_ok());
        let plain = "ws://127.0.0.1:9/ws/chat";
        assert_eq!(
            Endpoint::parse_for(plain, false),
            Err(EndpointError::Plain(plain.into()))
        );
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        let v6 = Endpoint::parse_for("ws://[::1]:7000/", true).unwrap();
        assert_eq!((v6.host(), v6.port(), v6.tls()), ("::1", 7000, false));
        let plain = Endpoint::parse_for("wss://web.whatsapp.com/ws/chat", false).unwrap();
        assert_eq!(plain.port(), 443);
        for bad in ["", "web.whatsapp.com", "http://127.0.0.1/", "wss://"] {
            assert!(
                matches!(
                    Endpoint::parse_for(bad, true),
                    Err(EndpointError::Malformed(_))
                ),
                "{bad}"
            );
        }
    }
}
