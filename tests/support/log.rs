//! Reads the daemon's log the way a strict log pipeline does.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

/// One line: its keys, each once.
#[derive(Debug)]
pub(crate) struct Line(BTreeMap<String, Value>);

impl Line {
    /// A field of the event, empty if it has none of that name.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of the event, 0 if it has none of that name.
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.0.get(key).and_then(Value::as_u64).unwrap_or_default()
    }

    /// Whether the event or a span around it carries this field.
    pub(crate) fn carries(&self, field: &str) -> bool {
        let spans = self.0.get("spans").and_then(Value::as_array);
        let in_span = |span: &Value| span.get(field).is_some();
        self.0.contains_key(field) || spans.is_some_and(|spans| spans.iter().any(in_span))
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Line;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(key.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("{key} is there twice")));
                    }
                }
                Ok(Line(fields))
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// Every line of a log.
///
/// # Panics
/// When one is not a JSON object whose keys are unique.
pub(crate) fn lines(log: &str) -> Vec<Line> {
    let read = |line: &str| match serde_json::from_str(line) {
        Ok(parsed) => parsed,
        Err(error) => panic!("{error} in the log line {line}"),
    };
    log.lines().map(read).collect()
}
