//! Sizes in bytes as people write them: `4KiB`, `64MiB`, `1GiB`, or a plain number of bytes in quotes.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer};

/// Units from the largest.
const UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads a size; the error says how to write one.
///
/// # Errors
/// A text that is not a whole number with a unit.
pub fn parse(text: &str) -> Result<u64, String> {
    let refuse =
        || format!("`{text}` is not a size; write it like \"64MiB\", \"512KiB\" or \"1GiB\"");
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| refuse())?;
    let unit = match trimmed[digits..].trim_start() {
        "" => 1,
        name => UNITS
            .iter()
            .find(|(unit, _)| *unit == name)
            .map(|(_, bytes)| *bytes)
            .ok_or_else(refuse)?,
    };
    number.checked_mul(unit).ok_or_else(refuse)
}

/// Writes a size in the largest unit that keeps it whole.
pub fn format(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || "0B".to_owned(),
            |(name, unit)| format!("{}{name}", bytes / unit),
        )
}

/// For `#[serde(with = "size")]`.
#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(crate) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*bytes))
}

/// For `#[serde(with = "size")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)
        .map_err(|_| serde::de::Error::custom("expected a size in quotes, such as \"64MiB\""))?;
    parse(&text).map_err(serde::de::Error::custom)
}

/// The schema of a size, for `#[schemars(with = "size::Text")]`.
pub(crate) struct Text;

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)?$" })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("1000B", 1000),
            ("0B", 0),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
            assert_eq!(format(bytes), text);
        }
        assert_eq!(parse("4096").unwrap(), 4096);
        assert_eq!(parse("4 KiB").unwrap(), 4096);
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for bad in [
            "",
            "MiB",
            "64MB",
            "64 mib",
            "-1B",
            "1.5GiB",
            "99999999999GiB",
        ] {
            assert!(parse(bad).unwrap_err().contains("64MiB"), "{bad}");
        }
    }
}
