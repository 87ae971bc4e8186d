//! Reading and building stanzas.

use std::borrow::Cow;

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node, NodeContent, SERVER_JID, Server};

/// The string form of attribute `key`.
pub(crate) fn attr<'a>(node: &'a Node, key: &str) -> Option<Cow<'a, str>> {
    node.attrs.get(key).map(wacore_binary::NodeValue::as_str)
}

/// Attribute `key` when it has exactly the value `value`.
pub(crate) fn attr_is(node: &Node, key: &str, value: &str) -> bool {
    attr(node, key).is_some_and(|v| v == value)
}

/// Attribute `key` as a JID.
pub(crate) fn jid_attr(node: &Node, key: &str) -> Option<Jid> {
    node.attrs
        .get(key)
        .and_then(wacore_binary::NodeValue::to_jid)
}

/// Attribute `key` as a number.
pub(crate) fn uint_attr(node: &Node, key: &str) -> Option<u64> {
    attr(node, key).and_then(|v| v.parse().ok())
}

/// The content as bytes, whichever of the two encodings the sender chose.
pub(crate) fn bytes(node: &Node) -> &[u8] {
    match &node.content {
        Some(NodeContent::Bytes(bytes)) => bytes,
        Some(NodeContent::String(text)) => text.as_bytes(),
        _ => &[],
    }
}

/// The content of child `tag` as bytes.
pub(crate) fn child_bytes<'a>(node: &'a Node, tag: &str) -> Option<&'a [u8]> {
    node.get_optional_child(tag).map(bytes)
}

/// The content of child `tag` as exactly `N` bytes.
pub(crate) fn child_array<const N: usize>(node: &Node, tag: &str) -> Option<[u8; N]> {
    child_bytes(node, tag).and_then(|b| b.try_into().ok())
}

/// The content of child `tag` as a big-endian number of at most four bytes.
pub(crate) fn child_uint(node: &Node, tag: &str) -> Option<u32> {
    big_endian(child_bytes(node, tag)?)
}

/// Up to four big-endian bytes as a number.
pub(crate) fn big_endian(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    Some(bytes.iter().fold(0, |n, b| (n << 8) | u32::from(*b)))
}

/// The three-byte form of prekey ids.
pub(crate) fn prekey_id(id: u32) -> Vec<u8> {
    id.to_be_bytes()[1..].to_vec()
}

/// Whether the stanza's `to` is the server itself.
pub(crate) fn server() -> Jid {
    Jid::new("", Server::Pn)
}

/// A leaf `<tag>` holding bytes.
pub(crate) fn leaf(tag: &'static str, content: impl Into<Vec<u8>>) -> Node {
    NodeBuilder::new(tag).bytes(content).build()
}

/// `<iq type="result">` answering the iq `id`.
pub(crate) fn iq_result(id: &str, children: impl IntoIterator<Item = Node>) -> Node {
    let children: Vec<Node> = children.into_iter().collect();
    let builder = NodeBuilder::new("iq")
        .attr("from", SERVER_JID)
        .attr("type", "result")
        .attr("id", id);
    if children.is_empty() {
        builder.build()
    } else {
        builder.children(children).build()
    }
}

/// `<iq type="error">` answering the iq `id`.
pub(crate) fn iq_error(id: &str, code: u16, text: &'static str) -> Node {
    NodeBuilder::new("iq")
        .attr("from", SERVER_JID)
        .attr("type", "error")
        .attr("id", id)
        .children([NodeBuilder::new("error")
            .attr("code", code)
            .attr("text", text)
            .build()])
        .build()
}

/// `<ib>` around one child.
pub(crate) fn ib(child: Node) -> Node {
    NodeBuilder::new("ib")
        .attr("from", SERVER_JID)
        .children([child])
        .build()
}

/// Phone-number or LID addressing of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Addressing {
    /// `<digits>@s.whatsapp.net`
    Pn,
    /// `<digits>@lid`
    Lid,
}

impl Addressing {
    /// The addressing a person's JID uses; `None` for groups, broadcasts and the server.
    pub(crate) fn of(jid: &Jid) -> Option<Self> {
        match jid.server {
            _ if jid.user.is_empty() => None,
            Server::Pn | Server::Legacy | Server::Hosted => Some(Self::Pn),
            Server::Lid | Server::HostedLid => Some(Self::Lid),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pn => "pn",
            Self::Lid => "lid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_endian_reads_what_clients_write() {
        assert_eq!(big_endian(&[0, 0, 1]), Some(1));
        assert_eq!(big_endian(&7u32.to_be_bytes()), Some(7));
        assert_eq!(big_endian(&[]), None);
        assert_eq!(big_endian(&[1; 5]), None);
    }

    #[test]
    fn content_is_bytes_in_either_encoding() {
        let text = NodeBuilder::new("id").string_content("abc").build();
        assert_eq!(bytes(&text), b"abc");
        assert_eq!(bytes(&leaf("id", b"abc".to_vec())), b"abc");
    }
}
