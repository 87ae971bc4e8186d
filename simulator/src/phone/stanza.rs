//! Reading and writing the few stanza parts a phone uses.

use std::borrow::Cow;

use wacore_binary::{Jid, Node, NodeContent, NodeValue};

/// An attribute as text.
pub(super) fn attr<'a>(node: &'a Node, key: &str) -> Option<Cow<'a, str>> {
    node.attrs.get(key).map(|value| value.as_str())
}

/// An attribute as a JID; `None` when absent or malformed.
pub(super) fn jid(node: &Node, key: &str) -> Option<Jid> {
    node.attrs.get(key).and_then(NodeValue::to_jid)
}

/// An attribute as a number; `None` when absent or malformed.
pub(super) fn number<N: std::str::FromStr>(node: &Node, key: &str) -> Option<N> {
    attr(node, key).and_then(|text| text.parse().ok())
}

/// Binary content.
pub(super) fn bytes(node: &Node) -> Option<&[u8]> {
    match &node.content {
        Some(NodeContent::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}

/// Binary content of a child.
pub(super) fn child_bytes<'a>(node: &'a Node, tag: &str) -> Option<&'a [u8]> {
    node.get_optional_child(tag).and_then(bytes)
}

/// Binary content of a child, when it has exactly the wanted length.
pub(super) fn child_array<const N: usize>(node: &Node, tag: &str) -> Option<[u8; N]> {
    child_bytes(node, tag).and_then(|bytes| bytes.try_into().ok())
}

/// A big-endian unsigned integer of at most four bytes, as ids travel.
pub(super) fn child_uint(node: &Node, tag: &str) -> Option<u32> {
    let bytes = child_bytes(node, tag)?;
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    Some(
        bytes
            .iter()
            .fold(0, |value, byte| value << 8 | u32::from(*byte)),
    )
}

/// Every message id a receipt speaks of: its list items, then its own id.
pub(super) fn receipt_ids(node: &Node) -> Vec<String> {
    let listed = node
        .get_optional_child("list")
        .into_iter()
        .flat_map(|list| {
            list.get_children_by_tag("item")
                .filter_map(|item| attr(item, "id"))
        });
    let mut ids: Vec<String> = listed
        .chain(attr(node, "id"))
        .map(Cow::into_owned)
        .collect();
    // Aggregating clients repeat the first id as the receipt's own.
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    ids
}
