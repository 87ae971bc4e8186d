//! Creating and changing groups, and telling every device of everybody concerned.

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node};

use super::roster::{ADDRESSING, GroupRole, participant};
use crate::directory::{AccountId, DeviceKey};
use crate::hub::Hub;
use crate::hub::mailbox::Class;
use crate::ledger::Fact;
use crate::wire::Addressing;

/// Longest name a group may have, in characters.
const SUBJECT_LENGTH: usize = 100;

/// What happened to one person in a change; the code WhatsApp gives.
pub(super) type Outcome = (AccountId, u16);

pub(super) const DONE: u16 = 200;
const NOT_A_MEMBER: u16 = 404;
const IS_SUPERADMIN: u16 = 406;
const ALREADY: u16 = 409;

/// A change to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupChange {
    Add(Vec<AccountId>),
    Remove(Vec<AccountId>),
    Promote(Vec<AccountId>),
    Demote(Vec<AccountId>),
    Subject(String),
    Leave,
}

impl GroupChange {
    fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "add",
            Self::Remove(_) | Self::Leave => "remove",
            Self::Promote(_) => "promote",
            Self::Demote(_) => "demote",
            Self::Subject(_) => "subject",
        }
    }
}

/// Why a group was not created or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// There is no such group.
    #[error("group: there is no group {0}")]
    NoSuchGroup(String),
    /// The person is not in it.
    #[error("group: {0} is not a member of {1}")]
    NotAMember(String, String),
    /// Members do not change who is in it.
    #[error("group: {0} is not an admin of {1}")]
    NotAnAdmin(String, String),
    /// Names have 1 to 100 characters.
    #[error("subject: must have 1 to 100 characters")]
    BadSubject,
    /// Nobody has this number.
    #[error("members: no account with number {0}")]
    NoSuchAccount(String),
}

impl Hub {
    /// Creates a group; its creator is its first admin. Everybody in it is told.
    pub(crate) fn create_group(
        &mut self,
        by: AccountId,
        subject: &str,
        members: &[AccountId],
    ) -> Result<Jid, GroupError> {
        check_subject(subject)?;
        let now = self.now();
        let seed = self.seed;
        let group = self
            .groups
            .found(seed, subject, by, members.iter().copied(), now);
        let jid = group.jid.clone();
        let all: Vec<AccountId> = group.members.keys().copied().collect();
        let announced = group.announce(&self.directory);
        let create = NodeBuilder::new("create")
            .attr("type", "new")
            .children([announced])
            .build();
        self.record_change(&jid, by, "create", &all);
        self.notify_group(&jid, by, &all, create);
        Ok(jid)
    }

    /// Changes a group; everybody in it is told of what really changed. Returns what happened to each
    /// person named.
    pub(crate) fn change_group(
        &mut self,
        by: AccountId,
        jid: &Jid,
        change: &GroupChange,
    ) -> Result<Vec<Outcome>, GroupError> {
        self.check_change(by, jid, change)?;
        let now = self.now();
        let Some(group) = self.groups.get_mut(jid) else {
            return Err(GroupError::NoSuchGroup(jid.to_string()));
        };
        let before: Vec<AccountId> = group.members.keys().copied().collect();
        let mut outcomes = Vec::new();
        match change {
            GroupChange::Subject(subject) => {
                subject.clone_into(&mut group.subject);
                (group.subject_by, group.subject_at) = (by, now);
            }
            GroupChange::Leave => {
                group.members.remove(&by);
                outcomes.push((by, DONE));
            }
            GroupChange::Add(people) => {
                for &account in people {
                    let added = group.members.contains_key(&account);
                    group.members.entry(account).or_insert(GroupRole::Member);
                    outcomes.push((account, if added { ALREADY } else { DONE }));
                }
            }
            GroupChange::Remove(people) => {
                for &account in people {
                    let code = match group.role(account) {
                        None => NOT_A_MEMBER,
                        Some(GroupRole::Superadmin) => IS_SUPERADMIN,
                        Some(_) => DONE,
                    };
                    if code == DONE {
                        group.members.remove(&account);
                    }
                    outcomes.push((account, code));
                }
            }
            GroupChange::Promote(people) => {
                for &account in people {
                    outcomes.push((account, set_role(group, account, GroupRole::Admin)));
                }
            }
            GroupChange::Demote(people) => {
                for &account in people {
                    outcomes.push((account, set_role(group, account, GroupRole::Member)));
                }
            }
        }
        let changed: Vec<AccountId> = outcomes
            .iter()
            .filter(|(_, code)| *code == DONE)
            .map(|(account, _)| *account)
            .collect();
        if !changed.is_empty() || matches!(change, GroupChange::Subject(_)) {
            self.record_change(jid, by, change.name(), &changed);
            self.announce_change(jid, by, change, &before, &changed);
        }
        Ok(outcomes)
    }

    fn check_change(
        &self,
        by: AccountId,
        jid: &Jid,
        change: &GroupChange,
    ) -> Result<(), GroupError> {
        let group = self
            .groups
            .get(jid)
            .ok_or_else(|| GroupError::NoSuchGroup(jid.to_string()))?;
        let who = || self.directory.account(by).pn.clone();
        if group.role(by).is_none() {
            return Err(GroupError::NotAMember(who(), jid.to_string()));
        }
        match change {
            GroupChange::Subject(subject) => check_subject(subject),
            GroupChange::Leave => Ok(()),
            _ if group.is_admin(by) => Ok(()),
            _ => Err(GroupError::NotAnAdmin(who(), jid.to_string())),
        }
    }

    /// Tells those who were there of the change, and newcomers of the whole group.
    fn announce_change(
        &mut self,
        jid: &Jid,
        by: AccountId,
        change: &GroupChange,
        before: &[AccountId],
        changed: &[AccountId],
    ) {
        let Some(group) = self.groups.get(jid) else {
            return;
        };
        let welcome = NodeBuilder::new("create")
            .children([group.announce(&self.directory)])
            .build();
        let action = NodeBuilder::new(change.name());
        let action = if let GroupChange::Subject(subject) = change {
            action
                .attr("subject", subject.as_str())
                .attr("s_t", group.subject_at)
                .attr("s_o", self.directory.account(by).jid(ADDRESSING))
                .attr("s_o_pn", self.directory.account(by).jid(Addressing::Pn))
                .build()
        } else {
            let participants = changed.iter().map(|&account| {
                let pn = self.directory.account(account).jid(Addressing::Pn);
                let member = participant(&self.directory, account, group.role(account));
                member.attr("phone_number", pn).build()
            });
            action.children(participants).build()
        };
        self.notify_group(jid, by, before, action);
        if matches!(change, GroupChange::Add(_)) {
            self.notify_group(jid, by, changed, welcome);
        }
    }

    /// A `w:gp2` notification to every companion of these people. Phones look the group up whenever
    /// they write to it.
    fn notify_group(&mut self, jid: &Jid, by: AccountId, audience: &[AccountId], action: Node) {
        let author = self.directory.account(by);
        let named = NodeBuilder::new("notification")
            .attr("from", jid)
            .attr("type", "w:gp2")
            .attr("participant", author.jid(ADDRESSING))
            .attr("participant_pn", author.jid(Addressing::Pn))
            .attr("addressing_mode", ADDRESSING.as_str())
            .attr("notify", author.name.as_str())
            .attr("t", self.now())
            .children([action])
            .build();
        for &account in audience {
            for device in self.directory.devices_of(account) {
                if device.is_phone() {
                    continue;
                }
                let mut node = named.clone();
                node.attrs.insert("id", self.stanza_id());
                self.notices.push((device, node));
            }
        }
    }

    /// Delivers what the last change has to tell. A client hears the answer to its own request first.
    pub(in crate::hub) fn send_notices(&mut self) {
        for (device, node) in std::mem::take(&mut self.notices) {
            self.deliver(
                device,
                crate::hub::notify::SERVER,
                Class::Notification,
                node,
            );
        }
    }

    fn record_change(&mut self, jid: &Jid, by: AccountId, what: &str, people: &[AccountId]) {
        let fact = Fact::GroupChanged {
            group: jid.to_string(),
            by: self.label(DeviceKey::phone(by)),
            what: what.to_owned(),
            members: people
                .iter()
                .map(|&account| self.directory.account(account).pn.clone())
                .collect(),
        };
        self.record(fact);
    }
}

fn set_role(group: &mut super::roster::Group, account: AccountId, role: GroupRole) -> u16 {
    match group.members.get_mut(&account) {
        None => NOT_A_MEMBER,
        Some(GroupRole::Superadmin) => IS_SUPERADMIN,
        Some(known) if *known == role => ALREADY,
        Some(known) => {
            *known = role;
            DONE
        }
    }
}

fn check_subject(subject: &str) -> Result<(), GroupError> {
    if subject.trim().is_empty() || subject.chars().count() > SUBJECT_LENGTH {
        return Err(GroupError::BadSubject);
    }
    Ok(())
}
