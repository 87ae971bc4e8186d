//! The groups a number is in: one query (`w:g2`, `<participating>`) whose answer has all of them, with
//! their members. A group the number is not in is not in the answer, whether it exists or not.

use std::time::Duration;

use wacore_binary::Jid;
use whatsapp_rust::IqError;
use whatsapp_rust::features::{GroupError as LibraryError, GroupMetadata, GroupParticipant};

use super::client::{Built, Parts};
use super::convert::person::from_users;
use super::mappings::Mappings;
use crate::domain::group::{Group, GroupMember, GroupRole};
use crate::domain::person::Person;
use crate::provider::contract::GroupsError;

/// How long the server may take: an answer about many large groups is long.
const PATIENCE: Duration = Duration::from_secs(30);
/// `<error code>` of a server that was asked too often.
const TOO_OFTEN: u16 = 429;

/// Asks for all groups.
pub(super) async fn groups(built: &Built, parts: &Parts) -> Result<Vec<Group>, GroupsError> {
    let asked = built.client.groups();
    let answer = tokio::time::timeout(PATIENCE, asked.get_participating())
        .await
        .map_err(|_| GroupsError::Temporary("no answer in time".into()))?;
    let answer = answer.map_err(|error| match error {
        LibraryError::Iq(IqError::ServerError {
            code: TOO_OFTEN,
            backoff,
            ..
        }) => GroupsError::TooOften {
            wait: backoff.map(|seconds| Duration::from_secs(seconds.into())),
        },
        _ if !built.client.is_connected() => GroupsError::NotConnected,
        error => GroupsError::Temporary(error.to_string()),
    })?;
    let groups = answer.into_values();
    // What holds a community together is not a chat; the groups of it are listed beside it.
    let chats = groups.filter(|group| !group.is_parent_group);
    Ok(chats.map(|group| convert(group, &parts.mappings)).collect())
}

fn convert(group: GroupMetadata, mappings: &Mappings) -> Group {
    let members = group.participants.iter();
    Group {
        id: group.id.to_non_ad_string(),
        members: members
            .map(|member| GroupMember {
                person: who(member, mappings),
                role: role(member),
            })
            .collect(),
        subject: group.subject,
    }
}

fn role(member: &GroupParticipant) -> GroupRole {
    if member.is_super_admin() {
        GroupRole::Superadmin
    } else if member.is_admin() {
        GroupRole::Admin
    } else {
        GroupRole::Member
    }
}

/// A member under every name that the answer or the memory has. Nothing is learned from it: the members
/// of many groups would drive the people this number talks to out of the bounded memory.
fn who(member: &GroupParticipant, mappings: &Mappings) -> Person {
    let user = |wanted: fn(&Jid) -> bool| {
        [
            Some(&member.jid),
            member.phone_number.as_ref(),
            member.lid.as_ref(),
        ]
        .into_iter()
        .flatten()
        .find(|jid| wanted(jid))
        .map(|jid| jid.user_base().to_owned())
    };
    let phone = user(|jid| jid.server.is_pn_family());
    let lid = user(|jid| jid.server.is_lid_family());
    match (phone, lid) {
        (None, None) => Person {
            provider_id: Some(member.jid.to_non_ad_string()),
            ..Person::default()
        },
        (Some(phone), None) => from_users(Some(&phone), mappings.lid_of(&phone).as_deref()),
        (None, Some(lid)) => from_users(mappings.phone_of(&lid).as_deref(), Some(&lid)),
        (Some(phone), Some(lid)) => from_users(Some(&phone), Some(&lid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whatsapp_rust::features::ParticipantType;

    fn member(jid: &str, phone: Option<&str>, kind: ParticipantType) -> GroupParticipant {
        GroupParticipant {
            jid: jid.parse().unwrap(),
            phone_number: phone.map(|phone| phone.parse().unwrap()),
            lid: None,
            username: None,
            participant_type: kind,
            details: None,
        }
    }

    #[test]
    fn members_keep_their_roles_and_get_every_name_known() {
        let mappings = Mappings::new(16);
        mappings.learn("88", "15550000002");
        let group = GroupMetadata {
            id: "120363@g.us".parse().unwrap(),
            subject: "Team".to_owned(),
            participants: vec![
                member(
                    "77@lid",
                    Some("15550000001@s.whatsapp.net"),
                    ParticipantType::SuperAdmin,
                ),
                member("88@lid", None, ParticipantType::Admin),
                member("99@lid", None, ParticipantType::Member),
            ],
            ..GroupMetadata::default()
        };
        let group = convert(group, &mappings);
        assert_eq!(
            (group.id.as_str(), group.subject.as_str()),
            ("120363@g.us", "Team")
        );
        let phones: Vec<_> = group
            .members
            .iter()
            .map(|member| (member.person.phone.as_deref(), member.person.lid.as_deref()))
            .collect();
        assert_eq!(
            phones,
            [
                (Some("+15550000001"), Some("77@lid")),
                (Some("+15550000002"), Some("88@lid")),
                (None, Some("99@lid")),
            ]
        );
        let roles: Vec<_> = group.members.iter().map(|member| member.role).collect();
        assert_eq!(
            roles,
            [GroupRole::Superadmin, GroupRole::Admin, GroupRole::Member]
        );
        assert_eq!(mappings.phone_of("77"), None, "a listing teaches nothing");
    }
}
