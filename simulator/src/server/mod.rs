//! Sockets: listening, TLS, WebSocket, Noise; everything after that is the hub's.

mod connection;
mod https;
mod listener;
mod tls;

pub(crate) use https::TlsListener;
pub(crate) use listener::{Listener, Scheme};
pub(crate) use tls::Tls;
pub use tls::TlsError;
