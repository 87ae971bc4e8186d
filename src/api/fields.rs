//! Reading request fields: each check names the field and the fix.

use std::collections::BTreeMap;
use std::time::Duration;

use super::status::{ApiError, Reason};
use crate::domain::clock::Timestamp;
use crate::domain::ids::RequestId;
use crate::store::{PageRequest, PageToken};

/// Longest label for people, in characters.
const MAX_DISPLAY_NAME: usize = 200;

/// Most labels on a resource.
const MAX_LABELS: usize = 64;

/// Reads a `request_id`: required, and a random UUID so that two clients never choose the same.
pub(super) fn request_id(text: &str) -> Result<RequestId, ApiError> {
    let id = uuid::Uuid::parse_str(text)
        .ok()
        .filter(|id| id.get_version_num() == 4);
    id.map(RequestId).ok_or_else(|| {
        ApiError::field(
            "request_id",
            "must be a random UUID (version 4), such as 1b4e28ba-2fa1-4d2b-883f-0016d3cca427",
        )
    })
}

/// Reads the paging fields. Sizes are coerced, tokens must be ours.
pub(super) fn page(size: i32, token: &str) -> Result<PageRequest, ApiError> {
    let size = usize::try_from(size)
        .map_err(|_| ApiError::field("page_size", "must not be negative; 0 means the default"))?;
    let after = PageToken::decode(token).map_err(|error| {
        ApiError::field_with(Reason::InvalidPageToken, "page_token", error.to_string())
    })?;
    Ok(PageRequest { size, after })
}

/// Reads a label for people.
pub(super) fn display_name(text: String) -> Result<String, ApiError> {
    let length = text.chars().count();
    if length > MAX_DISPLAY_NAME || text.chars().any(char::is_control) {
        return Err(ApiError::field(
            "display_name",
            format!("must have at most {MAX_DISPLAY_NAME} characters and no control characters"),
        ));
    }
    Ok(text)
}

/// Reads labels for programs.
pub(super) fn labels(
    given: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ApiError> {
    if given.len() > MAX_LABELS {
        return Err(ApiError::field(
            "labels",
            format!(
                "has {} pairs; at most {MAX_LABELS} are allowed",
                given.len()
            ),
        ));
    }
    for (key, value) in &given {
        let key_length = key.chars().count();
        if !(1..=63).contains(&key_length) || value.chars().count() > 255 {
            let shown: String = key.chars().take(63).collect();
            return Err(ApiError::field(
                "labels",
                format!("pair `{shown}`: keys have 1 to 63 characters, values at most 255"),
            ));
        }
    }
    Ok(given)
}

/// Reads an optional moment.
pub(super) fn moment(
    field: &'static str,
    given: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, ApiError> {
    given
        .map(|given| {
            let secs = u64::try_from(given.seconds).ok();
            let millis = u64::try_from(given.nanos)
                .ok()
                .map(|nanos| nanos / 1_000_000);
            match (secs, millis) {
                (Some(secs), Some(millis)) if millis < 1_000 => {
                    Ok(Timestamp(secs.saturating_mul(1_000).saturating_add(millis)))
                }
                _ => Err(ApiError::field(field, "must be a time after 1970")),
            }
        })
        .transpose()
}

/// Reads an optional span and checks its bounds.
pub(super) fn span(
    field: &'static str,
    given: Option<prost_types::Duration>,
    allowed: std::ops::RangeInclusive<Duration>,
) -> Result<Option<Duration>, ApiError> {
    given
        .map(|given| {
            Duration::try_from(given)
                .ok()
                .filter(|span| allowed.contains(span))
                .ok_or_else(|| {
                    ApiError::field(
                        field,
                        format!(
                            "must lie between {} and {} seconds",
                            allowed.start().as_secs(),
                            allowed.end().as_secs()
                        ),
                    )
                })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_random_uuids_identify_requests() {
        assert!(request_id("1b4e28ba-2fa1-4d2b-883f-0016d3cca427").is_ok());
        for bad in [
            "",
            "7",
            "1b4e28ba-2fa1-1d2b-883f-0016d3cca427",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert!(request_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_before_1970_and_overlong_labels_are_refused() {
        let before = prost_types::Timestamp {
            seconds: -1,
            nanos: 0,
        };
        assert!(moment("send_after", Some(before)).is_err());
        let labels_in = BTreeMap::from([("k".repeat(64), String::new())]);
        assert!(labels(labels_in).is_err());
        assert!(display_name("x".repeat(201)).is_err());
        assert!(page(-1, "").is_err());
        assert!(page(0, "zz").is_err());
    }
}
