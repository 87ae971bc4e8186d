//! Server properties (`abt`): values that switch things on in clients, by account and by code.
//!
//! A client that names the hash of what it has gets what has changed since, every other client gets all of
//! them. Codes and their meaning are `WhatsApp`'s; what clients do with them is theirs.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use wacore_binary::Node;
use wacore_binary::builder::NodeBuilder;

use super::Hub;
use crate::directory::AccountId;
use crate::wire;

/// Seconds after which clients ask again by themselves.
const REFRESH: u32 = 86_400;

/// The values of one account, and which of them were ever given out together.
#[derive(Default)]
pub(super) struct Props {
    values: BTreeMap<u32, String>,
    /// Earlier values, by their hash.
    given: BTreeMap<String, BTreeMap<u32, String>>,
}

impl Props {
    fn hash(&self) -> String {
        let mut digest = Sha256::new();
        for (code, value) in &self.values {
            digest.update(format!("{code}={value};"));
        }
        hex::encode(digest.finalize())
    }

    /// The answer to a client that names `known`, or nothing.
    fn answer(&mut self, known: Option<&str>) -> Node {
        let hash = self.hash();
        let base = known.and_then(|known| self.given.get(known));
        let news = self
            .values
            .iter()
            .filter(|(code, value)| base.and_then(|base| base.get(code)) != Some(value));
        let news: Vec<Node> = news
            .map(|(code, value)| {
                NodeBuilder::new("prop")
                    .attr("config_code", *code)
                    .attr("config_value", value.as_str())
                    .build()
            })
            .collect();
        let delta = base.is_some();
        self.given.insert(hash.clone(), self.values.clone());
        let mut props = NodeBuilder::new("props")
            .attr("protocol", 1)
            .attr("ab_key", "simulator")
            .attr("hash", hash)
            .attr("refresh", REFRESH);
        if delta {
            props = props.attr("delta_update", "true");
        }
        props.children(news).build()
    }
}

impl Hub {
    pub(crate) fn set_prop(&mut self, account: AccountId, code: u32, value: &str) {
        let props = self.props.entry(account).or_default();
        props.values.insert(code, value.to_owned());
    }

    /// `abt`: `<props protocol=1 [hash]>`.
    pub(super) fn on_props(&mut self, account: AccountId, node: &Node) -> Node {
        let known = node.get_optional_child("props");
        let known = known.and_then(|props| wire::attr(props, "hash"));
        let props = self.props.entry(account).or_default();
        props.answer(known.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(answer: &Node) -> Vec<u64> {
        let props = answer.get_children_by_tag("prop");
        props
            .filter_map(|prop| wire::uint_attr(prop, "config_code"))
            .collect()
    }

    fn hash(answer: &Node) -> String {
        wire::attr(answer, "hash").unwrap().into_owned()
    }

    #[test]
    fn who_names_the_hash_of_what_it_has_gets_what_has_changed() {
        let mut props = Props::default();
        props.values.insert(1, "a".into());
        props.values.insert(2, "b".into());
        let all = props.answer(None);
        assert_eq!(codes(&all), [1, 2]);
        assert!(!wire::attr_is(&all, "delta_update", "true"));

        let nothing = props.answer(Some(&hash(&all)));
        assert_eq!(codes(&nothing), [] as [u64; 0]);
        assert!(wire::attr_is(&nothing, "delta_update", "true"));
        assert_eq!(hash(&nothing), hash(&all));

        props.values.insert(2, "c".into());
        let changed = props.answer(Some(&hash(&all)));
        assert_eq!(codes(&changed), [2]);
        assert_ne!(hash(&changed), hash(&all));
        let unknown = props.answer(Some("stranger"));
        assert_eq!(codes(&unknown), [1, 2]);
        assert!(!wire::attr_is(&unknown, "delta_update", "true"));
    }
}
