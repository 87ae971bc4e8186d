//! The `encrypt` namespace: counting, fetching, publishing and checking prekeys.

use wacore::prekeys::compute_key_bundle_digest;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::Hub;
use crate::directory::{DeviceKey, KeyError, Upload};
use crate::ledger::Fact;
use crate::phone::{OneTimePreKeyPart, PreKeyBundleParts, SignedPreKeyPart};
use crate::wire;

/// The only key type in use: Curve25519.
const KEY_TYPE: u8 = 5;
/// Codes inside a per-user `<error>`: nobody there, or the device is not registered.
const NO_SUCH_USER: u16 = 404;
const NO_SUCH_DEVICE: u16 = 406;

/// An iq answer: its content, or `(code, text)`.
pub(super) type Answer = Result<Vec<Node>, (u16, &'static str)>;

const BAD_REQUEST: (u16, &str) = (400, "bad-request");
const NOT_ACCEPTABLE: (u16, &str) = (406, "not-acceptable");

impl Hub {
    pub(super) fn on_encrypt(&mut self, from: DeviceKey, node: &Node) -> Answer {
        if node.get_optional_child("count").is_some() {
            let left = self
                .directory
                .device(from)
                .map_or(0, |device| device.keys.remaining());
            return Ok(vec![NodeBuilder::new("count").attr("value", left).build()]);
        }
        if node.get_optional_child("digest").is_some() {
            return Ok(self.digest(from).into_iter().collect());
        }
        if let Some(request) = node.get_optional_child("key") {
            return Ok(vec![self.bundles(from, request)]);
        }
        if let Some(rotate) = node.get_optional_child("rotate") {
            let signed = rotate
                .get_optional_child("skey")
                .and_then(signed_prekey)
                .ok_or(BAD_REQUEST)?;
            let done = self
                .directory
                .device_mut(from)
                .map(|d| d.keys.rotate(signed));
            return self.judge(from, done.unwrap_or(Ok(())));
        }
        if node.get_optional_child("list").is_some() {
            let upload = parse_upload(node).ok_or(BAD_REQUEST)?;
            return self.upload(from, upload);
        }
        Err((501, "feature-not-implemented"))
    }

    fn upload(&mut self, from: DeviceKey, upload: Upload) -> Answer {
        let Some(device) = self.directory.device_mut(from) else {
            return Err(NOT_ACCEPTABLE);
        };
        match device.keys.upload(upload) {
            Ok(count) => {
                let fact = Fact::PrekeysUploaded {
                    device: self.label(from),
                    count,
                };
                self.record(fact);
                self.share_app_state_key(from);
                Ok(Vec::new())
            }
            Err(error) => self.judge(from, Err(error)),
        }
    }

    fn judge(&mut self, from: DeviceKey, result: Result<(), KeyError>) -> Answer {
        match result {
            Ok(()) => Ok(Vec::new()),
            Err(error) => {
                self.violation(from, None, format!("prekeys: {error}"));
                Err(NOT_ACCEPTABLE)
            }
        }
    }

    fn digest(&self, from: DeviceKey) -> Option<Node> {
        let keys = &self.directory.device(from)?.keys;
        let publics: Vec<&[u8]> = keys.one_time().map(|key| key.public.as_slice()).collect();
        let signed = keys.signed();
        let hash =
            compute_key_bundle_digest(keys.identity(), &signed.public, &signed.signature, &publics);
        let ids = keys
            .one_time()
            .map(|key| wire::leaf("id", wire::prekey_id(key.id)));
        Some(
            NodeBuilder::new("digest")
                .children([
                    wire::leaf("registration", keys.registration_id().to_be_bytes()),
                    wire::leaf("type", [KEY_TYPE]),
                    wire::leaf("identity", *keys.identity()),
                    signed_node(signed),
                    NodeBuilder::new("list").children(ids).build(),
                    wire::leaf("hash", hash),
                ])
                .build(),
        )
    }

    fn bundles(&mut self, from: DeviceKey, request: &Node) -> Node {
        let wanted: Vec<Jid> = request
            .get_children_by_tag("user")
            .filter_map(|user| wire::jid_attr(user, "jid"))
            .collect();
        let users: Vec<Node> = wanted
            .into_iter()
            .map(|jid| self.bundle(from, jid))
            .collect();
        NodeBuilder::new("list").children(users).build()
    }

    fn bundle(&mut self, from: DeviceKey, jid: Jid) -> Node {
        let key = self.directory.resolve_device(&jid);
        let taken = key.and_then(|key| self.directory.take_bundle(key).map(|b| (key, b)));
        let user = NodeBuilder::new("user").attr("jid", jid);
        let Some((key, bundle)) = taken else {
            let code = if key.is_some() {
                NO_SUCH_DEVICE
            } else {
                NO_SUCH_USER
            };
            return user
                .children([NodeBuilder::new("error")
                    .attr("code", code)
                    .attr("text", "item-not-found")
                    .build()])
                .build();
        };
        self.record_taken(from, key, bundle.one_time.map(|k| k.id));
        user.attr("t", self.now())
            .children(bundle_nodes(bundle))
            .build()
    }
}

fn bundle_nodes(bundle: PreKeyBundleParts) -> Vec<Node> {
    let mut nodes = vec![
        wire::leaf("registration", bundle.registration_id.to_be_bytes()),
        wire::leaf("type", [KEY_TYPE]),
        wire::leaf("identity", bundle.identity),
    ];
    if let Some(key) = bundle.one_time {
        let parts = [
            wire::leaf("id", wire::prekey_id(key.id)),
            wire::leaf("value", key.public),
        ];
        nodes.push(NodeBuilder::new("key").children(parts).build());
    }
    nodes.push(signed_node(&bundle.signed));
    if let Some(identity) = bundle.device_identity {
        nodes.push(wire::leaf("device-identity", identity));
    }
    nodes
}

fn signed_node(signed: &SignedPreKeyPart) -> Node {
    NodeBuilder::new("skey")
        .children([
            wire::leaf("id", wire::prekey_id(signed.id)),
            wire::leaf("value", signed.public),
            wire::leaf("signature", signed.signature),
        ])
        .build()
}

fn signed_prekey(node: &Node) -> Option<SignedPreKeyPart> {
    Some(SignedPreKeyPart {
        id: wire::child_uint(node, "id")?,
        public: wire::child_array(node, "value")?,
        signature: wire::child_array(node, "signature")?,
    })
}

fn parse_upload(node: &Node) -> Option<Upload> {
    if wire::child_bytes(node, "type")? != [KEY_TYPE] {
        return None;
    }
    let one_time = node
        .get_optional_child("list")?
        .get_children_by_tag("key")
        .map(|key| {
            Some(OneTimePreKeyPart {
                id: wire::child_uint(key, "id")?,
                public: wire::child_array(key, "value")?,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Upload {
        registration_id: wire::child_uint(node, "registration")?,
        identity: wire::child_array(node, "identity")?,
        signed: signed_prekey(node.get_optional_child("skey")?)?,
        one_time,
    })
}
