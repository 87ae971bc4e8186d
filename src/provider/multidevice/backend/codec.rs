//! How structured rows are encoded: a version byte, then JSON or a packed list.
//!
//! Rows that hold the library's own encodings (sessions, sender keys, messages) are stored as they
//! are: the library versions them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wacore::store::error::StoreError;

/// The version this release writes.
const VERSION: u8 = 1;

fn newer(what: &'static str, found: Option<u8>) -> StoreError {
    let detail = match found {
        Some(found) if found > VERSION => format!(
            "{what} was written by a newer release (version {found}, this one supports {VERSION})"
        ),
        _ => format!("{what} is damaged"),
    };
    StoreError::Validation(detail)
}

/// Encodes a row as JSON.
pub(in super::super) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let mut out = vec![VERSION];
    serde_json::to_writer(&mut out, value).map_err(|e| StoreError::Serialization(Box::new(e)))?;
    Ok(out)
}

/// Decodes a row that [`to_json`] encoded.
pub(in super::super) fn from_json<T: DeserializeOwned>(
    what: &'static str,
    row: &[u8],
) -> Result<T, StoreError> {
    match row.split_first() {
        Some((&VERSION, json)) => {
            serde_json::from_slice(json).map_err(|e| StoreError::Serialization(Box::new(e)))
        }
        other => Err(newer(what, other.map(|(version, _)| *version))),
    }
}

/// Encodes byte strings as lengths and contents.
pub(super) fn pack<'a>(items: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = vec![VERSION];
    for item in items {
        let len = u32::try_from(item.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(item);
    }
    out
}

/// Decodes what [`pack`] encoded.
pub(super) fn unpack(what: &'static str, row: &[u8]) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut rest = match row.split_first() {
        Some((&VERSION, rest)) => rest,
        other => return Err(newer(what, other.map(|(version, _)| *version))),
    };
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk::<4>().ok_or(newer(what, None))?;
        let len = u32::from_be_bytes(*len) as usize;
        let (item, tail) = tail.split_at_checked(len).ok_or(newer(what, None))?;
        items.push(item.to_vec());
        rest = tail;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_items_come_back_and_damage_is_noticed() {
        let items: [&[u8]; 3] = [b"", b"one", &[7; 300]];
        let packed = pack(items);
        assert_eq!(unpack("row", &packed).unwrap(), items);
        assert!(unpack("row", &packed[..packed.len() - 1]).is_err());
        assert!(unpack("row", &[]).is_err());
    }

    #[test]
    fn a_newer_row_is_refused_by_name() {
        let mut row = to_json(&5_u8).unwrap();
        assert_eq!(from_json::<u8>("device", &row).unwrap(), 5);
        row[0] = 9;
        let error = from_json::<u8>("device", &row).unwrap_err().to_string();
        assert!(
            error.contains("device") && error.contains("newer"),
            "{error}"
        );
    }
}
