//! A group's members and properties.

use std::collections::BTreeMap;

use rand::RngExt as _;
use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, JidExt as _, Node};

use crate::directory::{AccountId, DeviceKey, Directory};
use crate::hub::Hub;
use crate::seed::Seed;
use crate::wire::Addressing;

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupRole {
    /// Reads and writes.
    Member,
    /// Also changes the group.
    Admin,
    /// Made the group; also cannot be demoted.
    Superadmin,
}

impl GroupRole {
    /// The `type` of a participant; members have none.
    fn wire(self) -> Option<&'static str> {
        match self {
            Self::Member => None,
            Self::Admin => Some("admin"),
            Self::Superadmin => Some("superadmin"),
        }
    }
}

/// One member, as everybody sees them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GroupMember {
    /// Phone number, digits only.
    pub phone: String,
    /// What they may do.
    pub role: GroupRole,
}

/// A group, as its members see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GroupInfo {
    /// `<digits>@g.us`
    pub jid: String,
    /// Its name.
    pub subject: String,
    /// Everybody in it, oldest account first.
    pub members: Vec<GroupMember>,
}

/// One group.
pub(super) struct Group {
    pub(super) jid: Jid,
    pub(super) subject: String,
    pub(super) subject_by: AccountId,
    pub(super) subject_at: u64,
    creator: AccountId,
    created: u64,
    pub(super) members: BTreeMap<AccountId, GroupRole>,
}

impl Group {
    pub(super) fn role(&self, account: AccountId) -> Option<GroupRole> {
        self.members.get(&account).copied()
    }

    /// Whether the account may change who is in the group.
    pub(super) fn is_admin(&self, account: AccountId) -> bool {
        self.role(account) >= Some(GroupRole::Admin)
    }

    /// Every device of every member.
    pub(super) fn devices(&self, directory: &Directory) -> Vec<DeviceKey> {
        let members = self.members.keys();
        members
            .flat_map(|&account| directory.devices_of(account))
            .collect()
    }

    /// Every member's JID in the addressing of the group.
    pub(super) fn jids(&self, directory: &Directory) -> Vec<Jid> {
        let members = self.members.keys();
        members
            .map(|&account| directory.account(account).jid(ADDRESSING))
            .collect()
    }

    /// `<group>` with everything a member may know.
    pub(super) fn describe(&self, directory: &Directory) -> Node {
        let named = |account: AccountId, addressing| directory.account(account).jid(addressing);
        let participants = self.members.iter().map(|(&account, &role)| {
            let member = participant(directory, account, Some(role));
            member
                .attr("phone_number", named(account, Addressing::Pn))
                .build()
        });
        self.outline(directory).children(participants).build()
    }

    /// `<group>` as the notification of its creation carries it: members by JID alone.
    pub(super) fn announce(&self, directory: &Directory) -> Node {
        let members = self.members.iter();
        let participants =
            members.map(|(&account, &role)| participant(directory, account, Some(role)).build());
        self.outline(directory).children(participants).build()
    }

    fn outline(&self, directory: &Directory) -> NodeBuilder {
        let named = |account: AccountId, addressing| directory.account(account).jid(addressing);
        NodeBuilder::new("group")
            .attr("id", self.jid.user.as_str())
            .attr("subject", self.subject.as_str())
            .attr("s_t", self.subject_at)
            .attr("s_o", named(self.subject_by, ADDRESSING))
            .attr("s_o_pn", named(self.subject_by, Addressing::Pn))
            .attr("creation", self.created)
            .attr("creator", named(self.creator, ADDRESSING))
            .attr("creator_pn", named(self.creator, Addressing::Pn))
            .attr("addressing_mode", ADDRESSING.as_str())
            .attr("size", self.members.len())
    }

    fn info(&self, directory: &Directory) -> GroupInfo {
        let members = self.members.iter().map(|(&account, &role)| GroupMember {
            phone: directory.account(account).pn.clone(),
            role,
        });
        GroupInfo {
            jid: self.jid.to_string(),
            subject: self.subject.clone(),
            members: members.collect(),
        }
    }
}

/// Groups made today address their members by LID.
pub(super) const ADDRESSING: Addressing = Addressing::Lid;

/// `<participant jid=… [type=…]>`
pub(super) fn participant(
    directory: &Directory,
    account: AccountId,
    role: Option<GroupRole>,
) -> NodeBuilder {
    let builder =
        NodeBuilder::new("participant").attr("jid", directory.account(account).jid(ADDRESSING));
    match role.and_then(GroupRole::wire) {
        Some(role) => builder.attr("type", role),
        None => builder,
    }
}

/// All groups of one simulator, by the user part of their JID.
#[derive(Default)]
pub(crate) struct Groups {
    by_id: BTreeMap<String, Group>,
}

impl Groups {
    pub(super) fn get(&self, jid: &Jid) -> Option<&Group> {
        self.by_id.get(jid.user.as_str()).filter(|_| jid.is_group())
    }

    pub(super) fn get_mut(&mut self, jid: &Jid) -> Option<&mut Group> {
        self.by_id
            .get_mut(jid.user.as_str())
            .filter(|_| jid.is_group())
    }

    pub(super) fn of(&self, account: AccountId) -> impl Iterator<Item = &Group> {
        let groups = self.by_id.values();
        groups.filter(move |group| group.role(account).is_some())
    }

    /// Everybody who shares a group with the account.
    pub(in crate::hub) fn companions_of(&self, account: AccountId) -> Vec<AccountId> {
        self.of(account)
            .flat_map(|group| group.members.keys().copied())
            .filter(|&member| member != account)
            .collect()
    }

    /// Everybody in a group, in its addressing; empty for an unknown group.
    pub(in crate::hub) fn subject(&self, jid: &Jid) -> Option<String> {
        self.get(jid).map(|group| group.subject.clone())
    }

    pub(in crate::hub) fn members(&self, jid: &Jid, directory: &Directory) -> Vec<Jid> {
        self.get(jid)
            .map(|group| group.jids(directory))
            .unwrap_or_default()
    }

    /// Adds a group under a number that the seed decides.
    pub(super) fn found(
        &mut self,
        seed: Seed,
        subject: &str,
        creator: AccountId,
        members: impl IntoIterator<Item = AccountId>,
        now: u64,
    ) -> &mut Group {
        let mut rng = seed.stream(&format!("group:{}", self.by_id.len()));
        let number: u64 = rng.random_range(100_000_000_000..1_000_000_000_000);
        let id = format!("120363{number}");
        let mut roster: BTreeMap<AccountId, GroupRole> = members
            .into_iter()
            .map(|account| (account, GroupRole::Member))
            .collect();
        roster.insert(creator, GroupRole::Superadmin);
        let group = Group {
            jid: Jid::group(id.as_str()),
            subject: subject.to_owned(),
            subject_by: creator,
            subject_at: now,
            creator,
            created: now,
            members: roster,
        };
        self.by_id.entry(id).or_insert(group)
    }
}

impl Hub {
    /// Every group, in order of its number.
    pub(crate) fn group_infos(&self) -> Vec<GroupInfo> {
        let groups = self.groups.by_id.values();
        groups.map(|group| group.info(&self.directory)).collect()
    }

    /// One group; nothing when there is none.
    pub(crate) fn group_info(&self, jid: &Jid) -> Option<GroupInfo> {
        self.groups
            .get(jid)
            .map(|group| group.info(&self.directory))
    }
}
