//! The `OpenAPI` 3 document: made from the descriptors, comments included, so that it is never anything but
//! what is served.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{
    Cardinality, DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
};
use serde_json::{Map, Value, json};

use super::file;
use super::rules::Rule;
use super::upload;

const MAPPING: &str = "The API of the connection manager in JSON: protobuf's own JSON mapping of package trunkline.v1. Unknown fields are refused; 64-bit integers are strings.";

/// For whoever looks for the one method that has no rule.
const PULL: &str = "Everything that gRPC has is here but `EventService.Pull`, whose client speaks while it listens: instead of it, LeaseEvents (`POST /v1/{subscription}:lease`) takes events of a subscription and SettleLeases (`POST /v1/{subscription}:settle`) acknowledges them.";

/// Describes what the rules serve.
pub(super) fn describe(pool: &DescriptorPool, rules: &[Rule]) -> Value {
    let mut schemas = Schemas::new(pool);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut services = BTreeSet::new();
    for rule in rules {
        let (path, parameters) = rule.template();
        let operation = operation(&mut schemas, rule, &parameters);
        let verb = rule.verb.to_lowercase();
        paths.entry(path).or_default().insert(verb, operation);
        services.insert(rule.method.parent_service().name().to_owned());
    }
    let tags = pool
        .services()
        .filter(|service| services.contains(service.name()))
        .map(|service| {
            let said = schemas.comment(&service.parent_file(), service.path());
            json!({ "name": service.name(), "description": said })
        });
    let tags: Vec<_> = tags.collect();
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Trunkline",
            "version": "v1",
            "description": format!("{MAPPING} {PULL}"),
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "security": [{ "bearer": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token made by `trunkline token create`. The operator's socket asks for none.",
                },
            },
            "schemas": schemas.finish(),
        },
    })
}

fn operation(schemas: &mut Schemas, rule: &Rule, in_path: &[String]) -> Value {
    let method = &rule.method;
    let input = method.input();
    let mut parameters: Vec<_> = in_path
        .iter()
        .map(|name| {
            json!({
                "name": name, "in": "path", "required": true, "schema": { "type": "string" },
            })
        })
        .collect();
    let mut operation = Map::new();
    operation.insert("operationId".into(), json!(method.name()));
    operation.insert("tags".into(), json!([method.parent_service().name()]));
    let said = schemas.comment(&method.parent_service().parent_file(), method.path());
    operation.insert("description".into(), json!(said));
    if let Some(field) = rule.field {
        operation.insert("x-name-field".into(), json!(field));
    }
    if upload::is_upload(method) {
        let fields = upload::info(method).into_iter().flat_map(|info| {
            let fields: Vec<_> = info.fields().collect();
            fields
        });
        for field in fields {
            let in_path = rule.field.and_then(|name| name.split('.').next_back());
            if in_path != Some(field.name()) && upload::is_parameter(field.json_name()) {
                parameters.push(schemas.parameter(&field));
            }
        }
        operation.insert(
            "requestBody".into(),
            json!({
                "description": "The file itself; `Content-Type` says what it is.",
                "required": true,
                "content": { "*/*": { "schema": { "type": "string", "format": "binary" } } },
            }),
        );
    } else if rule.has_body() {
        let schema = schemas.reference(&input);
        operation.insert(
            "requestBody".into(),
            json!({ "content": { "application/json": { "schema": schema } } }),
        );
    } else {
        for field in input.fields() {
            if rule.field != Some(field.name()) {
                parameters.push(schemas.parameter(&field));
            }
        }
    }
    operation.insert("parameters".into(), json!(parameters));
    let schema = schemas.reference(&method.output());
    let (kind, answered) = if method.is_server_streaming() {
        (
            "text/event-stream",
            "A stream of events; the data of each is one of these.",
        )
    } else {
        ("application/json", "Done.")
    };
    let mut content = json!({ kind: { "schema": schema } });
    if file::is_file(method) {
        content[file::KIND] = json!({ "schema": { "type": "string", "format": "binary" } });
    }
    operation.insert(
        "responses".into(),
        json!({
            "200": {
                 "description": answered,
                "content": content,
            },
            "default": {
                "description": "An error.",
                "content": {
                    "application/json": { "schema": { "$ref": "#/components/schemas/Status" } },
                },
            },
        }),
    );
    Value::Object(operation)
}

/// Schemas by name, and what is still to be described.
struct Schemas {
    comments: BTreeMap<(String, Vec<i32>), String>,
    done: BTreeMap<String, Value>,
}

impl Schemas {
    fn new(pool: &DescriptorPool) -> Self {
        let mut comments = BTreeMap::new();
        for file in pool.files() {
            let proto = file.file_descriptor_proto();
            let locations = proto
                .source_code_info
                .iter()
                .flat_map(|info| &info.location);
            for location in locations {
                let said = location.leading_comments().trim();
                if !said.is_empty() {
                    let lines: Vec<_> = said.lines().map(str::trim).collect();
                    let place = (proto.name().to_owned(), location.path.clone());
                    comments.insert(place, lines.join(" "));
                }
            }
        }
        Self {
            comments,
            done: BTreeMap::from([("Status".to_owned(), status())]),
        }
    }

    fn comment(&self, file: &FileDescriptor, path: &[i32]) -> String {
        let place = (file.name().to_owned(), path.to_vec());
        self.comments.get(&place).cloned().unwrap_or_default()
    }

    fn finish(self) -> BTreeMap<String, Value> {
        self.done
    }

    /// A field as a parameter of the query.
    fn parameter(&mut self, field: &FieldDescriptor) -> Value {
        let file = field.parent_message().parent_file();
        json!({
            "name": field.json_name(),
            "in": "query",
            "description": self.comment(&file, field.path()),
            "schema": self.field(field),
        })
    }

    fn reference(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.name().to_owned();
        if !self.done.contains_key(&name) {
            // In the table before its fields, so that what refers to itself comes to an end.
            self.done.insert(name.clone(), Value::Null);
            let mut properties = Map::new();
            for field in message.fields() {
                let mut schema = self.field(&field);
                let said = self.comment(&message.parent_file(), field.path());
                if let Some(object) = schema.as_object_mut()
                    && !object.contains_key("$ref")
                {
                    object.insert("description".into(), json!(said));
                }
                properties.insert(field.json_name().to_owned(), schema);
            }
            let described = json!({
                "type": "object",
                "description": self.comment(&message.parent_file(), message.path()),
                "properties": properties,
            });
            self.done.insert(name.clone(), described);
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map()
            && let Kind::Message(entry) = field.kind()
        {
            let value = self.kind(&entry.map_entry_value_field().kind());
            return json!({ "type": "object", "additionalProperties": value });
        }
        let one = self.kind(&field.kind());
        match field.cardinality() {
            Cardinality::Repeated => json!({ "type": "array", "items": one }),
            _ => one,
        }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "format": "byte" }),
            Kind::Double | Kind::Float => json!({ "type": "number" }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": "string", "format": "int64" })
            }
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer" })
            }
            Kind::Enum(known) => {
                let values = known.values();
                let names: Vec<_> = values.map(|value| value.name().to_owned()).collect();
                json!({ "type": "string", "enum": names })
            }
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => {
                    json!({ "type": "string", "format": "date-time" })
                }
                "google.protobuf.Duration" => {
                    json!({ "type": "string", "example": "60s" })
                }
                "google.protobuf.FieldMask" => {
                    json!({ "type": "string", "example": "displayName,labels" })
                }
                _ => self.reference(message),
            },
        }
    }
}

/// `google.rpc.Status` as errors are answered.
fn status() -> Value {
    json!({
        "type": "object",
        "description": "google.rpc.Status. The details always hold a google.rpc.ErrorInfo, whose reason is for programs.",
        "properties": {
            "code": { "type": "integer", "description": "google.rpc.Code." },
            "message": { "type": "string", "description": "For people." },
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "@type": { "type": "string" } },
                    "additionalProperties": true,
                },
            },
        },
    })
}
