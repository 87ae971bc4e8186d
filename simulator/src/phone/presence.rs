//! Presence and chat state, out and in.

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::Phone;
use super::net::{Net, person};
use super::record::PresenceSeen;
use super::stanza::{attr, jid};

/// What a person is doing in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatState {
    /// Typing.
    Composing,
    /// Recording a voice note.
    Recording,
    /// Neither.
    Paused,
}

impl Phone {
    /// Announces the person as available or not, under the push name.
    pub fn set_presence(&mut self, available: bool) -> Vec<Node> {
        let kind = if available {
            "available"
        } else {
            "unavailable"
        };
        vec![
            NodeBuilder::new("presence")
                .attr("type", kind)
                .attr("name", self.name.as_str())
                .build(),
        ]
    }

    /// Asks the server for somebody's presence.
    pub fn subscribe_presence(&mut self, to: &Jid) -> Vec<Node> {
        vec![
            NodeBuilder::new("presence")
                .attr("type", "subscribe")
                .attr("to", to.to_non_ad())
                .build(),
        ]
    }

    /// Tells somebody what this person is doing in their chat.
    pub fn chatstate(&mut self, to: &Jid, state: ChatState) -> Vec<Node> {
        let state = match state {
            ChatState::Composing => NodeBuilder::new("composing"),
            ChatState::Recording => NodeBuilder::new("composing").attr("media", "audio"),
            ChatState::Paused => NodeBuilder::new("paused"),
        };
        vec![
            NodeBuilder::new("chatstate")
                .attr("to", to.to_non_ad())
                .children([state.build()])
                .build(),
        ]
    }

    /// What this person last saw of somebody.
    pub fn presence_of(&self, user: &Jid, net: &dyn Net) -> Option<&PresenceSeen> {
        self.presences.get(&person(user, net).to_string())
    }

    pub(super) fn on_presence(&mut self, stanza: &Node, net: &mut dyn Net) {
        let Some(from) = jid(stanza, "from") else {
            return;
        };
        let seen = self
            .presences
            .entry(person(&from, net).to_string())
            .or_insert(PresenceSeen {
                available: false,
                typing: None,
                at: 0,
            });
        seen.at = net.now();
        if stanza.tag == "presence" {
            seen.available = attr(stanza, "type").is_none_or(|kind| kind == "available");
            if !seen.available {
                seen.typing = None;
            }
            return;
        }
        let state = stanza.children().and_then(<[Node]>::first);
        seen.typing = state.and_then(|state| match state.tag.as_ref() {
            "composing" if attr(state, "media").is_some() => Some("recording".to_owned()),
            "composing" => Some("composing".to_owned()),
            _ => None,
        });
    }
}
