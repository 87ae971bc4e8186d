//! Reading request fields: each check names the field and the fix.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;

use super::status::{ApiError, Reason};
use crate::domain::clock::Timestamp;
use crate::domain::ids::RequestId;
use crate::store::{BodyHash, PageRequest, PageToken};

/// Longest label for people, in characters.
const MAX_DISPLAY_NAME: usize = 200;

/// Most terms of a label filter.
const MAX_LABEL_TERMS: usize = 16;

/// Most labels on a resource.
const MAX_LABELS: usize = 64;

/// The end of the year 9999: no later moment is a valid protobuf `Timestamp`.
const LAST_SECOND: u64 = 253_402_300_799;

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

/// A request for a page of a listing.
pub(super) trait Listing: Message + Clone {
    /// Its method's name.
    const METHOD: &'static str;

    /// The paging fields.
    fn paging(&self) -> (i32, &str);

    /// The same request for the first page.
    fn unpaged(&self) -> Self;

    /// Which page is wanted. Sizes are coerced; a token must come from this very listing, with the same
    /// filter.
    ///
    /// # Errors
    /// The field that is wrong.
    fn page(&self) -> Result<PageRequest, ApiError> {
        let (size, token) = self.paging();
        let size = usize::try_from(size).map_err(|_| {
            ApiError::field("page_size", "must not be negative; 0 means the default")
        })?;
        let foreign = || {
            ApiError::field_with(
                Reason::InvalidPageToken,
                "page_token",
                "is not one that this listing returned: start again without it",
            )
        };
        let after = match token {
            "" => None,
            token => {
                let place = token.strip_prefix(&self.mark()).ok_or_else(foreign)?;
                Some(
                    PageToken::decode(place)
                        .ok()
                        .flatten()
                        .ok_or_else(foreign)?,
                )
            }
        };
        Ok(PageRequest { size, after })
    }

    /// The token for the page after.
    fn next(&self, place: Option<PageToken>) -> String {
        place.map_or_else(String::new, |place| self.mark() + &place.encode())
    }

    /// What all tokens of this listing begin with. It tells listings apart, no more: a token reveals and
    /// opens nothing.
    fn mark(&self) -> String {
        let digest = BodyHash::of(Self::METHOD, &self.unpaged().encode_to_vec());
        hex::encode(&digest.0[..8])
    }
}

/// Says of request messages that they are listings.
macro_rules! listing {
    ($($request:ident is $method:literal;)+) => {$(
        impl $crate::api::fields::Listing for $crate::pb::$request {
            const METHOD: &'static str = $method;

            fn paging(&self) -> (i32, &str) {
                (self.page_size, &self.page_token)
            }

            fn unpaged(&self) -> Self {
                let mut first = self.clone();
                first.page_size = 0;
                first.page_token.clear();
                first
            }
        }
    )+};
}
pub(super) use listing;

/// Reads which fields an update changes. `is_set` says which are set in the resource given, for a client
/// that sends no mask.
pub(super) fn mask(
    given: Option<&prost_types::FieldMask>,
    known: &[&'static str],
    is_set: impl Fn(&str) -> bool,
) -> Result<Vec<&'static str>, ApiError> {
    let paths = given.map_or(&[][..], |mask| &mask.paths);
    if paths.iter().any(|path| path == "*") {
        return Ok(known.to_vec());
    }
    for path in paths {
        if !known.contains(&path.as_str()) {
            let shown: String = path.chars().take(80).collect();
            return Err(ApiError::field(
                "update_mask",
                format!(
                    "`{shown}` cannot be changed by an update: use {} or *",
                    known.join(", ")
                ),
            ));
        }
    }
    let chosen = |field: &&str| match paths {
        [] => is_set(field),
        paths => paths.iter().any(|path| path == field),
    };
    let fields: Vec<_> = known.iter().copied().filter(chosen).collect();
    if fields.is_empty() {
        return Err(ApiError::field(
            "update_mask",
            format!("names nothing to change: use {} or *", known.join(", ")),
        ));
    }
    Ok(fields)
}

/// Which labels a listing asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelFilter(Vec<(String, Option<String>)>);

impl LabelFilter {
    /// Reads `key=value` and `key`.
    pub(super) fn read(given: &[String]) -> Result<Self, ApiError> {
        if given.len() > MAX_LABEL_TERMS {
            return Err(ApiError::field(
                "labels",
                format!(
                    "has {} terms; at most {MAX_LABEL_TERMS} are allowed",
                    given.len()
                ),
            ));
        }
        let terms = given.iter().map(|term| {
            let (key, value) = match term.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (term.as_str(), None),
            };
            if key.is_empty() {
                return Err(ApiError::field(
                    "labels",
                    "each term must be `key=value`, or `key` for any value",
                ));
            }
            Ok((key.to_owned(), value))
        });
        terms.collect::<Result<_, _>>().map(Self)
    }

    /// Whether these labels have all that is asked for.
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| {
            let found = labels.get(key);
            found.is_some() && (value.is_none() || found == value.as_ref())
        })
    }

    /// Whether everything matches.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
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
        let lengths_fit = (1..=63).contains(&key_length) && value.chars().count() <= 255;
        if !lengths_fit || key.chars().chain(value.chars()).any(char::is_control) {
            let shown: String = key
                .chars()
                .take(63)
                .flat_map(char::escape_default)
                .collect();
            return Err(ApiError::field(
                "labels",
                format!(
                    "pair `{shown}`: keys have 1 to 63 characters, values at most 255, and no control characters"
                ),
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
                (Some(secs), Some(millis)) if secs <= LAST_SECOND && millis < 1_000 => {
                    Ok(Timestamp(secs.saturating_mul(1_000).saturating_add(millis)))
                }
                _ => Err(ApiError::field(field, "must be a time from 1970 to 9999")),
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
    fn moments_out_of_range_and_odd_labels_are_refused() {
        let before = prost_types::Timestamp {
            seconds: -1,
            nanos: 0,
        };
        assert!(moment("send_after", Some(before)).is_err());
        let last = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        assert!(moment("send_after", Some(last(253_402_300_799))).is_ok());
        assert!(moment("send_after", Some(last(253_402_300_800))).is_err());
        for odd in ["\u{1b}[31m", "a\nb"] {
            assert!(labels(BTreeMap::from([("k".to_owned(), odd.to_owned())])).is_err());
            assert!(labels(BTreeMap::from([(odd.to_owned(), String::new())])).is_err());
        }
        let labels_in = BTreeMap::from([("k".repeat(64), String::new())]);
        assert!(labels(labels_in).is_err());
        assert!(display_name("x".repeat(201)).is_err());
    }

    #[test]
    fn page_tokens_fit_their_listing_alone() {
        let asked = |parent: &str, label: &str| crate::pb::ListSessionsRequest {
            parent: parent.to_owned(),
            labels: vec![label.to_owned()],
            ..Default::default()
        };
        let place = PageToken::decode("0007").unwrap();
        let token = asked("a", "x").next(place.clone());
        let with = |page_token: &str, request: crate::pb::ListSessionsRequest| {
            let request = crate::pb::ListSessionsRequest {
                page_token: page_token.to_owned(),
                page_size: 7,
                ..request
            };
            request.page()
        };
        assert_eq!(with(&token, asked("a", "x")).unwrap().after, place);
        for foreign in [asked("b", "x"), asked("a", "y")] {
            assert!(with(&token, foreign).is_err());
        }
        for bad in ["zz", "0007", &token[..16], &token[..17]] {
            assert!(with(bad, asked("a", "x")).is_err(), "{bad}");
        }
        let negative = crate::pb::ListSessionsRequest {
            page_size: -1,
            ..Default::default()
        };
        assert!(negative.page().is_err());
    }

    #[test]
    fn masks_choose_what_is_named_or_set() {
        let known = ["display_name", "labels"];
        let mask = |paths: &[&str]| {
            let paths = paths.iter().map(|path| (*path).to_owned()).collect();
            mask(Some(&prost_types::FieldMask { paths }), &known, |field| {
                field == "labels"
            })
        };
        assert_eq!(mask(&[]).unwrap(), ["labels"]);
        assert_eq!(mask(&["display_name"]).unwrap(), ["display_name"]);
        assert_eq!(mask(&["*"]).unwrap(), known);
        assert!(mask(&["login"]).is_err());
        assert!(super::mask(None, &known, |_| false).is_err());
    }

    #[test]
    fn label_terms_are_all_required() {
        let labels = BTreeMap::from([("team".to_owned(), "a=b".to_owned())]);
        let matches = |terms: &[&str]| {
            let terms: Vec<_> = terms.iter().map(|term| (*term).to_owned()).collect();
            LabelFilter::read(&terms).unwrap().matches(&labels)
        };
        assert!(matches(&[]) && matches(&["team"]) && matches(&["team=a=b"]));
        assert!(!matches(&["team=a"]) && !matches(&["team", "shift"]));
        assert!(LabelFilter::read(&["=x".to_owned()]).is_err());
    }
}
