//! Encrypted blobs in memory, and the tickets to upload with.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};

use crate::directory::DeviceKey;
use crate::phone::MediaPlace;

/// Longest blob, in bytes. WhatsApp takes more; a machine that runs tests should not have to.
pub(crate) const MAX_BLOB: usize = 100 << 20;
/// What all blobs together may take, in bytes; beyond it the oldest are forgotten, as if expired.
const CAPACITY: usize = 512 << 20;
/// Tickets remembered; beyond it the oldest are void.
const MAX_TICKETS: usize = 10_000;

struct Blob {
    kind: String,
    bytes: Bytes,
}

struct Ticket {
    device: DeviceKey,
    /// Unix seconds.
    until: u64,
}

/// See the module documentation.
pub(crate) struct Shelf {
    /// `host:port`
    host: String,
    rng: ChaCha20Rng,
    capacity: usize,
    held: usize,
    /// By path, without the query.
    blobs: HashMap<String, Blob>,
    oldest: VecDeque<String>,
    /// The path of each blob by kind and hash: the same upload has the same place.
    places: HashMap<(String, [u8; 32]), String>,
    tickets: HashMap<String, Ticket>,
    oldest_tickets: VecDeque<String>,
}

impl Shelf {
    /// An empty shelf served under `host`.
    pub(crate) fn new(host: String, rng: ChaCha20Rng) -> Self {
        Self {
            host,
            rng,
            capacity: CAPACITY,
            held: 0,
            blobs: HashMap::new(),
            oldest: VecDeque::new(),
            places: HashMap::new(),
            tickets: HashMap::new(),
            oldest_tickets: VecDeque::new(),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// A new ticket for a device, good until then (Unix seconds).
    pub(crate) fn issue(&mut self, device: DeviceKey, until: u64) -> String {
        let ticket = self.random();
        if self.oldest_tickets.len() == MAX_TICKETS
            && let Some(oldest) = self.oldest_tickets.pop_front()
        {
            self.tickets.remove(&oldest);
        }
        self.oldest_tickets.push_back(ticket.clone());
        self.tickets
            .insert(ticket.clone(), Ticket { device, until });
        ticket
    }

    /// Whose ticket this is, while it is good.
    pub(crate) fn holder(&self, ticket: &str, now: u64) -> Option<DeviceKey> {
        self.tickets
            .get(ticket)
            .filter(|ticket| now < ticket.until)
            .map(|ticket| ticket.device)
    }

    /// Keeps a blob of a media type (`image`, `md-app-state`, …); the same bytes of the same type have
    /// one place.
    pub(crate) fn put(&mut self, kind: &str, bytes: Bytes) -> MediaPlace {
        let place = (kind.to_owned(), Sha256::digest(&bytes).into());
        if let Some(path) = self.places.get(&place) {
            return self.stored(path.clone());
        }
        let path = format!("/v/{kind}/{}.enc", self.random());
        self.held += bytes.len();
        self.oldest.push_back(path.clone());
        self.places.insert(place, path.clone());
        self.blobs.insert(
            path.clone(),
            Blob {
                kind: kind.to_owned(),
                bytes,
            },
        );
        while self.held > self.capacity && self.oldest.len() > 1 {
            self.forget_oldest();
        }
        self.stored(path)
    }

    /// The blob at a direct path, whatever query follows it, and its media type.
    pub(crate) fn get(&self, direct_path: &str) -> Option<(&str, Bytes)> {
        let path = direct_path.split_once('?').map_or(direct_path, |(p, _)| p);
        let blob = self.blobs.get(path)?;
        Some((&blob.kind, blob.bytes.clone()))
    }

    fn forget_oldest(&mut self) {
        let Some(path) = self.oldest.pop_front() else {
            return;
        };
        if let Some(blob) = self.blobs.remove(&path) {
            self.held -= blob.bytes.len();
        }
        self.places.retain(|_, kept| *kept != path);
    }

    fn stored(&self, path: String) -> MediaPlace {
        // Clients append further parameters with `&`, as WhatsApp's own paths have a query already.
        let direct_path = path + "?ccb=11-4";
        MediaPlace {
            url: format!("https://{}{direct_path}", self.host),
            direct_path,
        }
    }

    fn random(&mut self) -> String {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        hex::encode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::AccountId;
    use crate::seed::Seed;

    fn shelf() -> Shelf {
        Shelf::new("127.0.0.1:1".into(), Seed::new(1).stream("shelf"))
    }

    #[test]
    fn a_blob_is_found_by_path_whatever_the_client_appends() {
        let mut shelf = shelf();
        let stored = shelf.put("image", Bytes::from_static(b"blob"));
        assert_eq!(
            stored.url,
            format!("https://127.0.0.1:1{}", stored.direct_path)
        );
        for tail in ["", "&hash=x", "?auth=a&token=t"] {
            let (kind, bytes) = shelf.get(&format!("{}{tail}", stored.direct_path)).unwrap();
            assert_eq!((kind, &bytes[..]), ("image", &b"blob"[..]));
        }
        assert!(shelf.get("/v/image/none.enc").is_none());
    }

    #[test]
    fn the_same_bytes_have_one_place_per_type() {
        let mut shelf = shelf();
        let first = shelf.put("image", Bytes::from_static(b"blob"));
        let again = shelf.put("image", Bytes::from_static(b"blob"));
        let other = shelf.put("document", Bytes::from_static(b"blob"));
        assert_eq!(first.direct_path, again.direct_path);
        assert_ne!(first.direct_path, other.direct_path);
        assert_eq!(shelf.held, 8);
    }

    #[test]
    fn the_oldest_is_forgotten_when_the_shelf_is_full() {
        let mut shelf = shelf();
        shelf.capacity = 10;
        let first = shelf.put("image", Bytes::from_static(b"123456"));
        let second = shelf.put("image", Bytes::from_static(b"abcdef"));
        assert!(shelf.get(&first.direct_path).is_none());
        assert!(shelf.get(&second.direct_path).is_some());
        let again = shelf.put("image", Bytes::from_static(b"123456"));
        assert_ne!(again.direct_path, first.direct_path);
        assert_eq!(shelf.held, 6);
    }

    #[test]
    fn a_ticket_is_good_until_its_time() {
        let mut shelf = shelf();
        let device = DeviceKey {
            account: AccountId(0),
            device: 1,
        };
        let ticket = shelf.issue(device, 100);
        assert_eq!(shelf.holder(&ticket, 99), Some(device));
        assert_eq!(shelf.holder(&ticket, 100), None);
        assert_eq!(shelf.holder("simulator", 0), None);
    }
}
