//! The server's side of WhatsApp's Noise handshake and the channel it yields.

mod cert;
mod channel;
mod responder;

pub(crate) use cert::ServerIdentity;
#[cfg(test)]
pub(crate) use cert::public_bytes;
pub(crate) use channel::{OpenError, Opener, Sealer};
pub use responder::NoisePattern;
pub(crate) use responder::{Established, HelloOutcome, on_client_hello};
