//! Groups: listed and shown as the session layer has them, over sessions that are online.

use tonic::Code;
use trunkline::pb;

use crate::harness::{World, check, fresh, group};

const SESSION: &str = "workspaces/default/sessions/main";

fn get(id: &str) -> pb::GetGroupRequest {
    pb::GetGroupRequest {
        name: format!("{SESSION}/groups/{id}"),
    }
}

fn list() -> pb::ListGroupsRequest {
    pb::ListGroupsRequest {
        parent: SESSION.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_group_is_listed_and_shown_with_everybody_in_it() {
    let world = World::new().await;
    world.session("main").await;
    *world.sessions.groups.lock().unwrap() =
        vec![group("1203631@g.us", "Team"), group("1203632@g.us", "Zoo")];
    let mut groups = world.client().await.groups;
    let listed = groups.list_groups(list()).await.unwrap().into_inner();
    assert_eq!(listed.next_page_token, "");
    let [team, zoo] = &listed.groups[..] else {
        panic!("not two: {listed:?}");
    };
    assert_eq!(team.name, format!("{SESSION}/groups/1203631@g.us"));
    assert_eq!(
        (team.jid.as_str(), team.subject.as_str()),
        ("1203631@g.us", "Team")
    );
    assert_eq!(team.observe_time.unwrap().seconds, 1_700_000_000);
    let members: Vec<_> = team
        .members
        .iter()
        .map(|member| {
            let person = member.person.clone().unwrap();
            (person.phone.unwrap(), person.lid.unwrap(), member.role())
        })
        .collect();
    let number = |n: u32| (format!("+1555000000{n}"), format!("{n}@lid"));
    let ((first, first_lid), (second, second_lid)) = (number(1), number(2));
    assert_eq!(
        members,
        [
            (first, first_lid, pb::GroupRole::Superadmin),
            (second, second_lid, pb::GroupRole::Member),
        ]
    );

    let shown = groups.get_group(get("1203632@g.us")).await.unwrap();
    assert_eq!(shown.into_inner().group.as_ref(), Some(zoo));
}

#[tokio::test]
async fn a_group_the_number_is_not_in_does_not_exist() {
    let world = World::new().await;
    world.session("main").await;
    *world.sessions.groups.lock().unwrap() = vec![group("1203632@g.us", "Team")];
    let mut groups = world.client().await.groups;
    for unknown in ["1203631@g.us", "1203633@g.us", "77@lid", "x"] {
        let refused = groups.get_group(get(unknown)).await;
        let status = check(refused, Code::NotFound, "RESOURCE_NOT_FOUND", None);
        let said = format!("{SESSION}/groups/{unknown} does not exist");
        assert_eq!(status.message(), said);
    }
    for rubbish in ["", "a b", "a/b"] {
        let refused = groups.get_group(get(rubbish)).await;
        check(
            refused,
            Code::InvalidArgument,
            "INVALID_FIELD",
            Some("name"),
        );
    }
}

#[tokio::test]
async fn a_session_that_is_not_online_says_so() {
    let world = World::new().await;
    world.session("main").await;
    let mut client = world.client().await;
    let stop = pb::StopSessionRequest {
        name: SESSION.to_owned(),
        request_id: fresh(),
        ..Default::default()
    };
    client.sessions.stop_session(stop).await.unwrap();
    let refused = client.groups.list_groups(list()).await;
    check(refused, Code::Unavailable, "SESSION_OFFLINE", None);
    let refused = client.groups.get_group(get("1203631@g.us")).await;
    check(refused, Code::Unavailable, "SESSION_OFFLINE", None);
}
