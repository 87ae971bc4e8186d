//! `GroupService`.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Request, Response, Status};

use super::convert;
use super::fields::{Listing as _, listing};
use super::gate::{Call, Gate};
use super::names::{GroupName, session_name};
use super::ports::{Groups, Sessions};
use super::status::ApiError;
use crate::domain::ids::SessionName;
use crate::pb::group_service_server::GroupService;
use crate::pb::{self, GetGroupRequest, GetGroupResponse, ListGroupsRequest, ListGroupsResponse};
use crate::store::{PageRequest, PageToken};

/// Encoded groups in a page, in bytes: a page ends with the group that reaches it. Clients take messages of
/// 4 MiB, and a group has at most a few thousand members.
const PAGE_BYTES: usize = 1 << 20;

/// Implements `GroupService`.
#[derive(Debug)]
pub(super) struct GroupsApi {
    gate: Gate,
    sessions: Arc<dyn Sessions>,
}

listing! {
    ListGroupsRequest is "ListGroups";
}

impl GroupsApi {
    pub(super) fn new(gate: Gate, sessions: Arc<dyn Sessions>) -> Self {
        Self { gate, sessions }
    }

    async fn get(
        &self,
        call: Call<GetGroupRequest, GroupName>,
    ) -> Result<GetGroupResponse, ApiError> {
        let GroupName { session, group } = &call.name;
        call.workspace.session(&session.session).await?;
        let known = self.sessions.groups(session).await?;
        // WhatsApp names the groups that this number is in, and no others: one that it is not in and one
        // that is not there look the same.
        let found = known
            .groups
            .binary_search_by(|candidate| candidate.id.as_str().cmp(group))
            .map_err(|_| ApiError::not_found(&call.name.to_string()))?;
        Ok(GetGroupResponse {
            group: Some(convert::group(session, &known.groups[found], known.at)),
        })
    }

    async fn list(
        &self,
        call: Call<ListGroupsRequest, SessionName>,
    ) -> Result<ListGroupsResponse, ApiError> {
        let (message, name) = (call.message, call.name);
        let page = message.page()?;
        call.workspace.session(&name.session).await?;
        let known = self.sessions.groups(&name).await?;
        let (groups, next) = cut(&name, &known, &page);
        Ok(ListGroupsResponse {
            groups,
            next_page_token: message.next(next),
        })
    }
}

/// One page, which begins after the group that the page before ended with, whether that is still there or
/// not.
fn cut(
    session: &SessionName,
    known: &Groups,
    page: &PageRequest,
) -> (Vec<pb::Group>, Option<PageToken>) {
    let start = page.after.as_ref().map_or(0, |after| {
        known
            .groups
            .partition_point(|group| group.id.as_bytes() <= after.bytes())
    });
    let (mut shown, mut bytes) = (Vec::new(), 0);
    for group in &known.groups[start..] {
        if shown.len() == page.rows() || bytes >= PAGE_BYTES {
            let last = start + shown.len() - 1;
            let token = PageToken::new(known.groups[last].id.as_bytes());
            return (shown, Some(token));
        }
        let group = convert::group(session, group, known.at);
        bytes += group.encoded_len();
        shown.push(group);
    }
    (shown, None)
}

#[tonic::async_trait]
impl GroupService for GroupsApi {
    async fn get_group(
        &self,
        request: Request<GetGroupRequest>,
    ) -> Result<Response<GetGroupResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| GroupName::parse("name", &message.name))
            .await?;
        let name = call.name.clone();
        let found = self.get(call).await;
        Ok(Response::new(found.map_err(|error| error.at(&name))?))
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        let call = self
            .gate
            .open(request, |message| session_name("parent", &message.parent))
            .await?;
        let name = call.name.clone();
        let listed = self.list(call).await;
        Ok(Response::new(listed.map_err(|error| error.at(&name))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::group::{Group, GroupMember, GroupRole};
    use crate::domain::person::Person;

    fn known(groups: usize, members: usize) -> Groups {
        let member = |n: usize| GroupMember {
            person: Person {
                phone: Some(format!("+1555{n:07}")),
                pn_jid: Some(format!("1555{n:07}@s.whatsapp.net")),
                lid: Some(format!("{n:015}@lid")),
                ..Person::default()
            },
            role: GroupRole::Member,
        };
        Groups {
            groups: (0..groups)
                .map(|n| Group {
                    id: format!("12036300000{n:04}@g.us"),
                    subject: format!("Group {n}"),
                    members: (0..members).map(member).collect(),
                })
                .collect(),
            at: Timestamp(1),
        }
    }

    fn pages(known: &Groups, size: usize) -> Vec<Vec<String>> {
        let session = SessionName::from_name("name", "workspaces/w/sessions/s").unwrap();
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let (groups, next) = cut(&session, known, &PageRequest { size, after });
            pages.push(groups.into_iter().map(|group| group.jid).collect());
            match next {
                Some(next) => after = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn a_page_ends_with_its_size_or_with_a_megabyte_and_nothing_is_left_out() {
        let few = known(5, 3);
        let all: Vec<String> = few.groups.iter().map(|group| group.id.clone()).collect();
        let sizes: Vec<usize> = pages(&few, 2).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(pages(&few, 2).concat(), all);
        assert_eq!(pages(&few, 5), [all]);
        assert_eq!(pages(&known(0, 0), 2), [Vec::<String>::new()]);

        let large = known(40, 1_024);
        let cut = pages(&large, 0);
        assert!(cut.len() > 1, "one page would be too large for a client");
        assert!(cut.iter().all(|page| page.len() < 20));
        assert_eq!(cut.concat().len(), 40);
    }

    #[test]
    fn a_listing_goes_on_where_it_was_although_the_group_there_is_gone() {
        let session = SessionName::from_name("name", "workspaces/w/sessions/s").unwrap();
        let mut known = known(4, 1);
        let (_, next) = cut(&session, &known, &PageRequest::first(2));
        known.groups.remove(1);
        let request = PageRequest {
            size: 2,
            after: next,
        };
        let (rest, next) = cut(&session, &known, &request);
        let rest: Vec<_> = rest.into_iter().map(|group| group.subject).collect();
        assert_eq!(rest, ["Group 2", "Group 3"]);
        assert_eq!(next, None);
    }
}
