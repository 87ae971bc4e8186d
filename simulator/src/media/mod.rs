//! The media host: encrypted blobs by path, over HTTPS, as WhatsApp's media servers hold them.
//!
//! The host knows neither keys nor contents. Clients learn its name and a ticket from `media_conn`,
//! upload under the hash of what they upload, and fetch by the path that the upload answered.

mod host;
mod shelf;

pub(crate) use host::{Media, Refusal, router};
pub(crate) use shelf::{MAX_BLOB, Shelf};
