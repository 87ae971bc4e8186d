//! The `w:g2` namespace: asking about groups, and changing them.

use wacore::messages::MessageUtils;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, JidExt as _, Node};

use super::change::{DONE, GroupChange, GroupError, Outcome};
use super::roster::participant;
use crate::directory::{AccountId, DeviceKey};
use crate::hub::Hub;
use crate::hub::keys::Answer;
use crate::wire;

const BAD_REQUEST: (u16, &str) = (400, "bad-request");
const FORBIDDEN: (u16, &str) = (403, "forbidden");
const NOT_FOUND: (u16, &str) = (404, "item-not-found");
const NOT_ACCEPTABLE: (u16, &str) = (406, "not-acceptable");
const NOT_IMPLEMENTED: (u16, &str) = (501, "feature-not-implemented");

impl Hub {
    /// Answers an iq to `@g.us` or to one group.
    pub(in crate::hub) fn on_groups(&mut self, from: DeviceKey, kind: &str, node: &Node) -> Answer {
        let to = wire::jid_attr(node, "to").filter(Jid::is_group);
        let to = to.ok_or(BAD_REQUEST)?;
        let request = node.children().and_then(<[Node]>::first);
        let request = request.ok_or(BAD_REQUEST)?;
        match (kind, request.tag.as_ref()) {
            ("get", "participating") => Ok(vec![self.participating(from.account)]),
            ("get", "query") => self.group_query(from.account, &to, request),
            ("set", "create") => self.group_create(from.account, request),
            ("set", "leave") => self.groups_leave(from.account, request),
            ("set", "subject") => {
                let subject = String::from_utf8_lossy(wire::bytes(request)).into_owned();
                self.change_group(from.account, &to, &GroupChange::Subject(subject))
                    .map_err(refusal)?;
                Ok(Vec::new())
            }
            ("set", "add") => self.participants_change(from, &to, request, GroupChange::Add),
            ("set", "remove") => self.participants_change(from, &to, request, GroupChange::Remove),
            ("set", "promote") => {
                self.participants_change(from, &to, request, GroupChange::Promote)
            }
            ("set", "demote") => self.participants_change(from, &to, request, GroupChange::Demote),
            _ => Err(NOT_IMPLEMENTED),
        }
    }

    fn participating(&self, account: AccountId) -> Node {
        let groups = self.groups.of(account);
        let described = groups.map(|group| group.describe(&self.directory));
        NodeBuilder::new("groups").children(described).build()
    }

    /// `<query [phash]>`: nothing new is said to whoever knows the present members.
    fn group_query(&self, account: AccountId, jid: &Jid, request: &Node) -> Answer {
        let group = self.groups.get(jid).ok_or(NOT_FOUND)?;
        if group.role(account).is_none() {
            return Err(FORBIDDEN);
        }
        let known = MessageUtils::participant_list_hash(&group.jids(&self.directory)).ok();
        if known.is_some_and(|known| wire::attr_is(request, "phash", &known)) {
            return Ok(Vec::new());
        }
        Ok(vec![group.describe(&self.directory)])
    }

    fn group_create(&mut self, by: AccountId, request: &Node) -> Answer {
        let subject = wire::attr(request, "subject").unwrap_or_default();
        let named = self.named_people(request)?;
        let jid = self.create_group(by, &subject, &named).map_err(refusal)?;
        let group = self.groups.get(&jid).ok_or(NOT_FOUND)?;
        Ok(vec![group.describe(&self.directory)])
    }

    fn groups_leave(&mut self, by: AccountId, request: &Node) -> Answer {
        let mut left = Vec::new();
        for group in request.get_children_by_tag("group") {
            let jid = wire::jid_attr(group, "id").ok_or(BAD_REQUEST)?;
            self.change_group(by, &jid, &GroupChange::Leave)
                .map_err(refusal)?;
            left.push(NodeBuilder::new("group").attr("id", jid).build());
        }
        if left.is_empty() {
            return Err(BAD_REQUEST);
        }
        Ok(vec![NodeBuilder::new("leave").children(left).build()])
    }

    fn participants_change(
        &mut self,
        from: DeviceKey,
        jid: &Jid,
        request: &Node,
        change: impl FnOnce(Vec<AccountId>) -> GroupChange,
    ) -> Answer {
        let people = self.named_people(request)?;
        let outcomes = self
            .change_group(from.account, jid, &change(people))
            .map_err(refusal)?;
        let told = outcomes.into_iter().map(|outcome| self.told(outcome));
        let tag = request.tag.clone().into_owned();
        Ok(vec![NodeBuilder::new_dynamic(tag).children(told).build()])
    }

    fn told(&self, (account, code): Outcome) -> Node {
        let builder = participant(&self.directory, account, None);
        if code == DONE {
            builder.build()
        } else {
            builder.attr("error", code).build()
        }
    }

    fn named_people(&self, request: &Node) -> Result<Vec<AccountId>, (u16, &'static str)> {
        request
            .get_children_by_tag("participant")
            .map(|person| {
                let jid = wire::jid_attr(person, "jid").ok_or(BAD_REQUEST)?;
                self.directory.resolve(&jid).ok_or(NOT_ACCEPTABLE)
            })
            .collect()
    }
}

/// How WhatsApp words a refusal.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands over"
)]
fn refusal(error: GroupError) -> (u16, &'static str) {
    match error {
        GroupError::NoSuchGroup(_) => NOT_FOUND,
        GroupError::NotAMember(..) | GroupError::NotAnAdmin(..) => FORBIDDEN,
        GroupError::BadSubject | GroupError::NoSuchAccount(_) => NOT_ACCEPTABLE,
    }
}
