//! Groups.

use super::{moment, person};
use crate::domain::clock::Timestamp;
use crate::domain::group::{Group, GroupRole};
use crate::domain::ids::SessionName;
use crate::pb;

/// A group of a session, as it was at a moment.
pub(in crate::api) fn group(session: &SessionName, group: &Group, at: Timestamp) -> pb::Group {
    let members = group.members.iter().map(|member| pb::GroupMember {
        person: Some(person(&member.person)),
        role: role(member.role).into(),
    });
    pb::Group {
        name: format!("{session}/groups/{}", group.id),
        jid: group.id.clone(),
        subject: group.subject.clone(),
        members: members.collect(),
        observe_time: Some(moment(at)),
    }
}

fn role(role: GroupRole) -> pb::GroupRole {
    match role {
        GroupRole::Member => pb::GroupRole::Member,
        GroupRole::Admin => pb::GroupRole::Admin,
        GroupRole::Superadmin => pb::GroupRole::Superadmin,
    }
}
