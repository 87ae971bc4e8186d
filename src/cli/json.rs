//! API messages as JSON: protobuf's own mapping, so that scripts see the names of the proto files.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use super::exit::{Exit, Failure};
use crate::pb;

/// The canonical JSON of `message`, which is `trunkline.v1.{type_name}`.
///
/// # Errors
/// When `type_name` is not the message's type.
pub(crate) fn json(type_name: &str, message: &impl Message) -> Result<Value, Failure> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let odd = |detail: &str| Failure::new(Exit::Internal, format!("{type_name}: {detail}"));
    let descriptor = POOL
        .get_or_init(|| DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).ok())
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(&format!("trunkline.v1.{type_name}")))
        .ok_or_else(|| odd("is not in the API's descriptors"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| odd(&error.to_string()))?;
    dynamic
        .serialize_with_options(
            serde_json::value::Serializer,
            &SerializeOptions::new().stringify_64_bit_integers(false),
        )
        .map_err(|error| odd(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_enums_read_as_in_the_proto() {
        let session = pb::Session {
            name: "workspaces/default/sessions/main".into(),
            login: pb::LoginState::Paired.into(),
            create_time: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 0,
            }),
            ..pb::Session::default()
        };
        let value = json("Session", &session).unwrap();
        assert_eq!(value["name"], "workspaces/default/sessions/main");
        assert_eq!(value["login"], "LOGIN_STATE_PAIRED");
        assert_eq!(value["createTime"], "1970-01-01T00:00:01Z");
        let event = pb::Event {
            revision: 7,
            ..pb::Event::default()
        };
        assert_eq!(json("Event", &event).unwrap()["revision"], 7);
    }
}
