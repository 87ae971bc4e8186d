//! From an HTTP request to the message it means: the path's name, and the body or the query, in protobuf's
//! own JSON mapping.

use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::rules::{Captured, Rule};
use crate::api::status::ApiError;

/// The encoded message of a request.
///
/// # Errors
/// What cannot be read, with the field if there is one to blame.
pub(super) fn read(
    rule: &Rule,
    captured: &Captured,
    query: &str,
    body: &[u8],
) -> Result<Vec<u8>, ApiError> {
    let mut object = if rule.has_body() {
        if !query.is_empty() {
            return Err(ApiError::field(
                "request",
                "carries a query, but this method takes its fields from the body",
            ));
        }
        from_body(body)?
    } else {
        from_query(&rule.method.input(), query)?
    };
    if let Some(field) = rule.field {
        fill(&mut object, field, &captured.name)?;
    }
    encode(rule, Value::Object(object))
}

/// The encoding of a method's message.
///
/// # Errors
/// What cannot be read.
pub(super) fn encode(rule: &Rule, object: Value) -> Result<Vec<u8>, ApiError> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message =
        DynamicMessage::deserialize_with_options(rule.method.input(), object, &options)
            .map_err(|error| ApiError::field("request", format!("cannot be read: {error}")))?;
    Ok(message.encode_to_vec())
}

fn from_body(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ApiError::field("request", "must be a JSON object")),
        Err(error) => Err(ApiError::field("request", format!("is not JSON: {error}"))),
    }
}

/// Puts the name of the path where it belongs; a body may repeat it but not contradict it.
pub(super) fn fill(
    object: &mut Map<String, Value>,
    field: &str,
    name: &str,
) -> Result<(), ApiError> {
    let (outer, inner) = match field.split_once('.') {
        Some((outer, inner)) => (Some(outer), inner),
        None => (None, field),
    };
    let place = match outer {
        None => object,
        Some(outer) => {
            let nested = object
                .entry(outer)
                .or_insert_with(|| Value::Object(Map::new()));
            nested
                .as_object_mut()
                .ok_or_else(|| ApiError::field(outer.to_owned(), "must be a JSON object"))?
        }
    };
    match place.insert(inner.to_owned(), Value::String(name.to_owned())) {
        Some(Value::String(given)) if given != name && !given.is_empty() => Err(ApiError::field(
            field.to_owned(),
            "differs from the name in the path: leave it out",
        )),
        _ => Ok(()),
    }
}

pub(super) fn from_query(
    descriptor: &MessageDescriptor,
    query: &str,
) -> Result<Map<String, Value>, ApiError> {
    let mut object = Map::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let field = descriptor
            .get_field_by_json_name(&key)
            .or_else(|| descriptor.get_field_by_name(&key));
        let Some(field) = field else {
            let shown: String = key.chars().take(80).collect();
            return Err(ApiError::field(shown, "is not a parameter of this method"));
        };
        let value = match field.kind() {
            Kind::Bool => match &*value {
                "true" | "" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => {
                    let name = field.name().to_owned();
                    return Err(ApiError::field(name, "must be true or false"));
                }
            },
            Kind::Enum(_) => match value.parse::<i32>() {
                Ok(number) => Value::from(number),
                Err(_) => Value::String(value.into_owned()),
            },
            _ => Value::String(value.into_owned()),
        };
        let name = field.json_name().to_owned();
        if field.is_list() {
            let list = object
                .entry(name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = list {
                items.push(value);
            }
        } else {
            object.insert(name, value);
        }
    }
    Ok(object)
}
