//! Phone numbers as people type them.

use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat};
use thiserror::Error;

/// Why a typed phone number cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PhoneError {
    /// No country code, letters, or too few digits.
    #[error(
        "{field} is not an international phone number: write it with `+` and the country code, such as +234 803 123 4567"
    )]
    Unreadable {
        /// The request field at fault.
        field: &'static str,
    },
    /// Outside what E.164 allows.
    #[error("{field} has {digits} digits; E.164 numbers have 7 to 15")]
    Length {
        /// The request field at fault.
        field: &'static str,
        /// How many digits were given.
        digits: usize,
    },
}

/// Normalises a typed number to E.164 with `+`. Only the *form* is checked: numbers the numbering
/// plan calls invalid exist on WhatsApp (Mexican `+521…`, Brazilian numbers without the ninth digit).
///
/// # Errors
/// [`PhoneError`] names `field` and the fix.
pub fn normalise(field: &'static str, typed: &str) -> Result<String, PhoneError> {
    let trimmed = typed.trim();
    if !trimmed.starts_with('+') || trimmed.chars().any(char::is_alphabetic) {
        return Err(PhoneError::Unreadable { field });
    }
    let parsed = PHONE_NUMBER_UTIL
        .parse(trimmed, None)
        .map_err(|_| PhoneError::Unreadable { field })?;
    let e164 = PHONE_NUMBER_UTIL
        .format(&parsed, PhoneNumberFormat::E164)
        .into_owned();
    let digits = e164.len().saturating_sub(1);
    if (7..=15).contains(&digits) {
        Ok(e164)
    } else {
        Err(PhoneError::Length { field, digits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_becomes_e164() {
        for (typed, want) in [
            ("+234 803 123 4567", "+2348031234567"),
            (" +1 (555) 123-4567 ", "+15551234567"),
            ("+5219991234567", "+5219991234567"),
            ("+551187654321", "+551187654321"),
        ] {
            assert_eq!(normalise("to", typed).unwrap(), want, "{typed}");
        }
    }

    #[test]
    fn rubbish_names_the_field() {
        for bad in [
            "",
            "+",
            "hello",
            "0803 123 4567",
            "+1",
            "+12345678901234567890",
            "+1555CALLNOW",
        ] {
            let err = normalise("to.phone", bad).unwrap_err();
            assert!(err.to_string().contains("to.phone"), "{bad}: {err}");
        }
    }
}
