//! What a person does about groups.

use std::sync::Arc;

use super::{Account, phone_digits};
use crate::directory::AccountId;
use crate::group::Group;
use crate::hub::{GroupChange, GroupError, Hub, PeopleError};

impl Account {
    /// Creates a group with the people who have these phone numbers; this person is its first admin.
    pub fn create_group(&self, subject: &str, members: &[&str]) -> Result<Group, GroupError> {
        let jid = self.core.with(|hub| {
            let people = people(hub, members)?;
            hub.create_group(self.id, subject, &people)
        })?;
        Ok(Group::new(Arc::clone(&self.core), jid))
    }

    /// Writes a text to a group this person is in. Returns the message id.
    pub fn send_to_group(&self, group: &Group, text: &str) -> Result<String, PeopleError> {
        self.core
            .with(|hub| hub.send_group_text(self.id, group.address(), text))
    }

    /// Leaves a group.
    pub fn leave_group(&self, group: &Group) -> Result<(), GroupError> {
        self.change_group(group, |_| Ok(GroupChange::Leave))
    }

    /// Takes people into a group; only admins can. Who is in it already stays.
    pub fn add_to_group(&self, group: &Group, members: &[&str]) -> Result<(), GroupError> {
        self.change_group(group, |hub| Ok(GroupChange::Add(people(hub, members)?)))
    }

    /// Throws people out of a group; only admins can. Who is not in it is ignored.
    pub fn remove_from_group(&self, group: &Group, members: &[&str]) -> Result<(), GroupError> {
        self.change_group(group, |hub| Ok(GroupChange::Remove(people(hub, members)?)))
    }

    /// Makes members admins, or takes that back; only admins can.
    pub fn set_group_admins(
        &self,
        group: &Group,
        members: &[&str],
        admin: bool,
    ) -> Result<(), GroupError> {
        self.change_group(group, |hub| {
            let people = people(hub, members)?;
            Ok(if admin {
                GroupChange::Promote(people)
            } else {
                GroupChange::Demote(people)
            })
        })
    }

    /// Renames a group.
    pub fn set_group_subject(&self, group: &Group, subject: &str) -> Result<(), GroupError> {
        self.change_group(group, |_| Ok(GroupChange::Subject(subject.to_owned())))
    }

    fn change_group(
        &self,
        group: &Group,
        change: impl FnOnce(&Hub) -> Result<GroupChange, GroupError>,
    ) -> Result<(), GroupError> {
        self.core.with(|hub| {
            let change = change(hub)?;
            hub.change_group(self.id, group.address(), &change)
                .map(|_| ())
        })
    }
}

/// The accounts with these numbers.
fn people(hub: &Hub, phones: &[&str]) -> Result<Vec<AccountId>, GroupError> {
    let find = |phone: &&str| {
        phone_digits(phone)
            .and_then(|digits| hub.directory.by_phone(&digits))
            .ok_or_else(|| GroupError::NoSuchAccount((*phone).to_owned()))
    };
    phones.iter().map(find).collect()
}
