//! Pages: bounded answers with an opaque place to continue.

use thiserror::Error;

/// Longest page any listing returns.
pub const MAX_PAGE_SIZE: usize = 1_000;

/// Page length when the caller does not say.
pub const DEFAULT_PAGE_SIZE: usize = 100;

/// What part of a listing is wanted. Sizes are coerced into 1..=[`MAX_PAGE_SIZE`]; 0 means
/// [`DEFAULT_PAGE_SIZE`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageRequest {
    /// At most this many items.
    pub size: usize,
    /// Where the page before ended.
    pub after: Option<PageToken>,
}

impl PageRequest {
    /// The first page of `size` items.
    pub fn first(size: usize) -> Self {
        Self { size, after: None }
    }

    /// The size after coercion.
    pub fn rows(&self) -> usize {
        match self.size {
            0 => DEFAULT_PAGE_SIZE,
            size => size.min(MAX_PAGE_SIZE),
        }
    }
}

/// A place in a listing, of at most 64 bytes; only the listing that gave it understands it. Reveals no
/// names that people chose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageToken(Vec<u8>);

/// Text that is not a page token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("page_token is not one that a listing returned: start again without it")]
pub struct BadPageToken;

impl PageToken {
    pub(crate) fn new(place: impl Into<Vec<u8>>) -> Self {
        Self(place.into())
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.0.as_slice().try_into().ok().map(u64::from_be_bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The token as text for an API.
    pub fn encode(&self) -> String {
        hex::encode(&self.0)
    }

    /// Reads a token back; empty text is no token.
    ///
    /// # Errors
    /// [`BadPageToken`] for text no listing returned.
    pub fn decode(text: &str) -> Result<Option<Self>, BadPageToken> {
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = hex::decode(text).map_err(|_| BadPageToken)?;
        if bytes.len() > 64 {
            return Err(BadPageToken);
        }
        Ok(Some(Self(bytes)))
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in the listing's order.
    pub items: Vec<T>,
    /// Present when there may be more.
    pub next: Option<PageToken>,
}

impl<T> Page<T> {
    /// The same page with every item converted.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(convert).collect(),
            next: self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_rubbish_is_refused() {
        let token = PageToken::new(7_u64.to_be_bytes());
        assert_eq!(PageToken::decode(&token.encode()), Ok(Some(token.clone())));
        assert_eq!(token.number(), Some(7));
        assert_eq!(PageToken::decode(""), Ok(None));
        assert_eq!(PageToken::decode("zz"), Err(BadPageToken));
        assert_eq!(PageToken::decode(&"ab".repeat(65)), Err(BadPageToken));
    }

    #[test]
    fn sizes_are_coerced() {
        assert_eq!(PageRequest::first(0).rows(), DEFAULT_PAGE_SIZE);
        assert_eq!(PageRequest::first(5).rows(), 5);
        assert_eq!(PageRequest::first(9_999_999).rows(), MAX_PAGE_SIZE);
    }
}
