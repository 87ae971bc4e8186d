//! Request bodies whose errors name the field.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::error::ControlError;

/// A JSON body. The `content-type` does not matter: the API is made for `curl`.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ControlError;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ControlError::bad("body", error))?;
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = error.to_string();
        ControlError::bad(field_of(&message), message.as_str())
    })
}

/// serde names a missing or unknown field in backquotes.
fn field_of(message: &str) -> &str {
    let about_a_field = ["missing field `", "unknown field `", "duplicate field `"];
    about_a_field
        .iter()
        .find_map(|prefix| message.split_once(prefix))
        .and_then(|(_, rest)| rest.split_once('`'))
        .map_or("body", |(field, _)| field)
}

#[cfg(test)]
mod tests {
    use super::field_of;

    #[test]
    fn the_field_is_named_when_serde_knows_it() {
        assert_eq!(field_of("missing field `qr` at line 1 column 2"), "qr");
        assert_eq!(field_of("unknown field `x`, expected `qr`"), "x");
        assert_eq!(field_of("expected value at line 1 column 1"), "body");
    }
}
