//! The schema of the configuration file, and the list of all keys read from it.

use serde_json::Value;

use super::Config;

/// The JSON schema of the configuration file, as `config/trunkline.schema.json` holds it.
pub fn schema() -> Value {
    schemars::SchemaGenerator::default()
        .into_root_schema_for::<Config>()
        .to_value()
}

/// One key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Dotted, such as `listen.grpc`.
    pub path: String,
    /// `string`, `integer` or `boolean`.
    pub kind: String,
}

/// Every key there is, in the order of the schema.
pub fn keys() -> Vec<Key> {
    let schema = schema();
    let mut found = Vec::new();
    walk(&schema, &schema, "", &mut found);
    found
}

/// The environment variable that sets a key: `listen.grpc` is `TRUNKLINE_LISTEN_GRPC`.
pub fn env_name(path: &str) -> String {
    format!("TRUNKLINE_{}", path.replace('.', "_").to_uppercase())
}

fn walk(root: &Value, node: &Value, path: &str, found: &mut Vec<Key>) {
    let node = node
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.trim_start_matches('#')))
        .unwrap_or(node);
    if let Some(properties) = node.get("properties").and_then(Value::as_object) {
        for (name, child) in properties {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            walk(root, child, &path, found);
        }
        return;
    }
    found.push(Key {
        path: path.to_owned(),
        kind: kind(node).to_owned(),
    });
}

/// The type of a leaf; optional leaves have a list of types with `null`.
fn kind(node: &Value) -> &str {
    match node.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => kinds
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null")
            .unwrap_or("string"),
        _ => "string",
    }
}
