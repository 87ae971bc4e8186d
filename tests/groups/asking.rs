//! The groups of a number, as the API tells them.

use std::collections::BTreeMap;

use tonic::Code;
use tonic_types::StatusExt as _;
use trunkline::pb;
use trunkline::pb::group_service_client::GroupServiceClient;
use trunkline::pb::session_service_client::SessionServiceClient;
use trunkline_simulator::Group;

use crate::support::{core, eventually};
use crate::world::{PATIENCE, World, e164, is_change, phone_of};

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_of_a_number_are_asked_of_whatsapp_and_no_change_is_missed() {
    let world = World::new().await;
    let mut groups = GroupServiceClient::new(world.channel().await);
    let parent = core::session_name("shop");
    let list = pb::ListGroupsRequest {
        parent: parent.clone(),
        ..Default::default()
    };
    let get = |group: &Group| pb::GetGroupRequest {
        name: format!("{parent}/groups/{}", group.jid()),
    };
    let none = groups.list_groups(list.clone()).await.unwrap();
    assert_eq!(none.into_inner(), pb::ListGroupsResponse::default());

    // One it is in, one it is not.
    let group = world.group();
    let strangers = world
        .ben
        .create_group("Strangers", &[&world.ana.phone()])
        .unwrap();
    world
        .event("the group is announced", "shop", |p| is_change(p, "create"))
        .await;
    let listed = groups.list_groups(list.clone()).await.unwrap().into_inner();
    let [team] = &listed.groups[..] else {
        panic!("not one group: {listed:?}");
    };
    assert_eq!(
        (team.jid.clone(), team.subject.as_str()),
        (group.jid(), "Team")
    );
    let roles: BTreeMap<String, pb::GroupRole> = team
        .members
        .iter()
        .map(|member| (phone_of(member.person.as_ref()), member.role()))
        .collect();
    let expected = [
        (e164(&world.shop), pb::GroupRole::Member),
        (e164(&world.ana), pb::GroupRole::Member),
        (e164(&world.ben), pb::GroupRole::Superadmin),
    ];
    assert_eq!(roles, expected.into());
    let lids = team
        .members
        .iter()
        .filter_map(|m| m.person.as_ref()?.lid.clone());
    assert_eq!(lids.count(), 3, "under every name");
    for unknown in [
        get(&strangers),
        pb::GetGroupRequest {
            name: format!("{parent}/groups/120363000000000000@g.us"),
        },
    ] {
        let refused = groups.get_group(unknown.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!(
            refused.message(),
            format!("{} does not exist", unknown.name)
        );
    }

    // Whoever has read of a change is shown the group after it.
    for (change, done) in [("promote", true), ("demote", false)] {
        world
            .ben
            .set_group_admins(&group, &[&world.ana.phone()], done)
            .unwrap();
        world.event(change, "shop", |p| is_change(p, change)).await;
        let shown = groups.get_group(get(&group)).await.unwrap().into_inner();
        let members = shown.group.unwrap().members;
        let admins: Vec<String> = members
            .iter()
            .filter(|member| member.role() == pb::GroupRole::Admin)
            .map(|member| phone_of(member.person.as_ref()))
            .collect();
        let expected: Vec<String> = done.then(|| e164(&world.ana)).into_iter().collect();
        assert_eq!(admins, expected, "after {change}");
    }
    world.ben.set_group_subject(&group, "The team").unwrap();
    world
        .event("the new name", "shop", |p| is_change(p, "subject"))
        .await;
    let shown = groups.get_group(get(&group)).await.unwrap().into_inner();
    assert_eq!(shown.group.unwrap().subject, "The team");

    let stop = pb::StopSessionRequest {
        name: parent.clone(),
        request_id: core::request_id(),
        ..Default::default()
    };
    let mut sessions = SessionServiceClient::new(world.channel().await);
    sessions.stop_session(stop).await.unwrap();
    let mut refusal = None;
    eventually("it is offline", PATIENCE, async || {
        refusal = groups.list_groups(list.clone()).await.err();
        refusal.is_some()
    })
    .await;
    let refusal = refusal.unwrap();
    assert_eq!(refusal.code(), Code::Unavailable);
    let details = refusal.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "SESSION_OFFLINE");
    assert!(details.retry_info().is_some());
    world.assert_clean();
}
