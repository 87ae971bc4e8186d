//! Which HTTP request is which method: the resource's name is the path, and verbs that are not HTTP's own
//! follow a colon (the mapping of AIP-127, AIP-131 to AIP-136).

use percent_encoding::percent_decode_str;
use prost_reflect::{DescriptorPool, MethodDescriptor};

/// The version every path begins with.
pub(super) const ROOT: &str = "/v1/";

/// Every method but `EventService.Pull`, whose client speaks while it listens: that needs gRPC. The paths
/// are written as in `google.api.http`: braces say which field the name in the path fills.
const RULES: &str = "
WorkspaceService.CreateWorkspace       POST   /v1/workspaces
WorkspaceService.GetWorkspace          GET    /v1/{name=workspaces/*}
WorkspaceService.ListWorkspaces        GET    /v1/workspaces
WorkspaceService.UpdateWorkspace       PATCH  /v1/{workspace.name=workspaces/*}
WorkspaceService.DeleteWorkspace       DELETE /v1/{name=workspaces/*}
SessionService.CreateSession           POST   /v1/{parent=workspaces/*}/sessions
SessionService.GetSession              GET    /v1/{name=workspaces/*/sessions/*}
SessionService.ListSessions            GET    /v1/{parent=workspaces/*}/sessions
SessionService.UpdateSession           PATCH  /v1/{session.name=workspaces/*/sessions/*}
SessionService.DeleteSession           DELETE /v1/{name=workspaces/*/sessions/*}
SessionService.StartSession            POST   /v1/{name=workspaces/*/sessions/*}:start
SessionService.StopSession             POST   /v1/{name=workspaces/*/sessions/*}:stop
SessionService.RestartSession          POST   /v1/{name=workspaces/*/sessions/*}:restart
SessionService.LogoutSession           POST   /v1/{name=workspaces/*/sessions/*}:logout
SessionService.PairSession             POST   /v1/{name=workspaces/*/sessions/*}:pair
MessageService.SendMessage             POST   /v1/{parent=workspaces/*/sessions/*}/messages
MessageService.GetMessage              GET    /v1/{name=workspaces/*/sessions/*/messages/*}
MessageService.ListMessages            GET    /v1/{parent=workspaces/*/sessions/*}/messages
MessageService.CancelMessage           POST   /v1/{name=workspaces/*/sessions/*/messages/*}:cancel
MediaService.UploadMedia               POST   /v1/{info.parent=workspaces/*/sessions/*}/media
MediaService.DownloadMedia             GET    /v1/{name=workspaces/*/sessions/*/media/*}:download
GroupService.GetGroup                  GET    /v1/{name=workspaces/*/sessions/*/groups/*}
GroupService.ListGroups                GET    /v1/{parent=workspaces/*/sessions/*}/groups
EventService.Watch                     GET    /v1/{parent=workspaces/*}/events:watch
EventService.LeaseEvents               POST   /v1/{subscription=workspaces/*/subscriptions/*}:lease
EventService.SettleLeases              POST   /v1/{subscription=workspaces/*/subscriptions/*}:settle
SubscriptionService.CreateSubscription POST   /v1/{parent=workspaces/*}/subscriptions
SubscriptionService.GetSubscription    GET    /v1/{name=workspaces/*/subscriptions/*}
SubscriptionService.ListSubscriptions  GET    /v1/{parent=workspaces/*}/subscriptions
SubscriptionService.DeleteSubscription DELETE /v1/{name=workspaces/*/subscriptions/*}
SubscriptionService.GetDelivery        GET    /v1/{name=workspaces/*/subscriptions/*/deliveries/*}
SubscriptionService.ListDeadLetters    GET    /v1/{parent=workspaces/*/subscriptions/*}/deadLetters
SubscriptionService.DeleteDeadLetter   DELETE /v1/{name=workspaces/*/subscriptions/*/deadLetters/*}
SubscriptionService.RedriveDeadLetters POST   /v1/{parent=workspaces/*/subscriptions/*}/deadLetters:redrive
TokenService.CreateToken               POST   /v1/tokens
TokenService.ListTokens                GET    /v1/tokens
TokenService.RevokeToken               POST   /v1/{name=tokens/*}:revoke
BackupService.Backup                   POST   /v1/backups
";

/// A method as HTTP sees it.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) method: MethodDescriptor,
    /// `GET`, `POST`, `PATCH` or `DELETE`.
    pub(super) verb: &'static str,
    /// The field that holds the name in the path.
    pub(super) field: Option<&'static str>,
    pattern: &'static str,
    rest: &'static str,
}

/// What a path says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Captured {
    pub(super) name: String,
}

impl Rule {
    /// All rules, over these descriptors.
    ///
    /// # Errors
    /// The first rule that does not fit the descriptors.
    pub(super) fn all(pool: &DescriptorPool) -> Result<Vec<Self>, String> {
        let rows = RULES.lines().filter(|row| !row.is_empty());
        rows.map(|row| {
            Self::read(pool, row).ok_or_else(|| format!("not a rule of this API: {row}"))
        })
        .collect()
    }

    fn read(pool: &DescriptorPool, row: &'static str) -> Option<Self> {
        let mut columns = row.split_whitespace();
        let (service, method) = columns.next()?.split_once('.')?;
        let (verb, path) = (columns.next()?, columns.next()?.strip_prefix(ROOT)?);
        let (field, pattern, rest) = match path.strip_prefix('{') {
            None => (None, "", path),
            Some(path) => {
                let (name, rest) = path.split_once('}')?;
                let (field, pattern) = name.split_once('=')?;
                (Some(field), pattern, rest)
            }
        };
        let service = pool.get_service_by_name(&format!("trunkline.v1.{service}"))?;
        let method = service.methods().find(|known| known.name() == method)?;
        Some(Self {
            method,
            verb,
            field,
            pattern,
            rest,
        })
    }

    /// The path as gRPC calls it.
    pub(super) fn grpc_path(&self) -> String {
        let service = self.method.parent_service().full_name();
        format!("/{service}/{}", self.method.name())
    }

    /// Whether a request's body carries the message; otherwise the query does.
    pub(super) fn has_body(&self) -> bool {
        matches!(self.verb, "POST" | "PATCH")
    }

    /// Whether a path (after [`ROOT`]) is this rule's.
    pub(super) fn matches(&self, path: &str) -> Option<Captured> {
        if self.pattern.is_empty() {
            return (path == self.rest).then(|| Captured {
                name: String::new(),
            });
        }
        let name = path.strip_suffix(self.rest)?;
        let mut given = name.split('/');
        let fits = self.pattern.split('/').all(|wanted| {
            given.next().is_some_and(|given| match wanted {
                "*" => !given.is_empty() && !given.contains(':'),
                literal => given == literal,
            })
        });
        // A group's id has an `@`, which clients may or may not encode.
        let plain = percent_decode_str(name).decode_utf8().ok()?;
        (fits && given.next().is_none()).then(|| Captured {
            name: plain.into_owned(),
        })
    }

    /// The path with a parameter for each part of the name, as `OpenAPI` writes it, and the parameters.
    pub(super) fn template(&self) -> (String, Vec<String>) {
        let mut parameters = Vec::new();
        let mut path = ROOT.trim_end_matches('/').to_owned();
        let mut collection = "";
        for part in self.pattern.split('/').filter(|part| !part.is_empty()) {
            path.push('/');
            if part == "*" {
                let parameter = one_of(collection);
                path.push('{');
                path.push_str(&parameter);
                path.push('}');
                parameters.push(parameter);
            } else {
                path.push_str(part);
                collection = part;
            }
        }
        if self.pattern.is_empty() {
            path.push('/');
        }
        path.push_str(self.rest);
        (path, parameters)
    }
}

/// The word for one member of a collection.
fn one_of(collection: &str) -> String {
    match collection.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None => collection
            .strip_suffix('s')
            .unwrap_or(collection)
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<Rule> {
        let pool = DescriptorPool::decode(crate::pb::FILE_DESCRIPTOR_SET).unwrap();
        Rule::all(&pool).unwrap()
    }

    #[test]
    fn every_method_but_pull_has_a_rule() {
        let pool = DescriptorPool::decode(crate::pb::FILE_DESCRIPTOR_SET).unwrap();
        let rules = rules();
        for method in pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
        {
            let name = method.full_name();
            let has_rule = rules.iter().any(|rule| rule.method.full_name() == name);
            let speaks_while_it_listens =
                method.is_client_streaming() && method.is_server_streaming();
            assert_ne!(has_rule, speaks_while_it_listens, "{name}");
        }
    }

    #[test]
    fn a_request_fits_one_rule_at_most() {
        let rules = rules();
        for rule in &rules {
            let (template, _) = rule.template();
            let path = template.replace(['{', '}'], "");
            let path = path.strip_prefix(ROOT).unwrap();
            let fit: Vec<_> = rules
                .iter()
                .filter(|other| other.verb == rule.verb && other.matches(path).is_some())
                .map(|other| other.method.name().to_owned())
                .collect();
            assert_eq!(fit, [rule.method.name()], "{path}");
        }
    }

    #[test]
    fn names_are_taken_from_the_path_whole() {
        let rules = rules();
        let name = |method: &str, path: &str| {
            let rule = rules
                .iter()
                .find(|rule| rule.method.name() == method)
                .unwrap();
            rule.matches(path).map(|captured| captured.name)
        };
        assert_eq!(
            name("StopSession", "workspaces/w/sessions/s:stop").unwrap(),
            "workspaces/w/sessions/s"
        );
        assert_eq!(
            name("ListSessions", "workspaces/w/sessions").unwrap(),
            "workspaces/w"
        );
        assert_eq!(
            name("Watch", "workspaces/w/events:watch").unwrap(),
            "workspaces/w"
        );
        for group in ["120363@g.us", "120363%40g.us"] {
            let path = format!("workspaces/w/sessions/s/groups/{group}");
            let name = name("GetGroup", &path).unwrap();
            assert_eq!(name, "workspaces/w/sessions/s/groups/120363@g.us");
        }
        for odd in [
            "workspaces//sessions/s",
            "workspaces/w/sessions/s%ff",
            "workspaces/w/sessions/s/",
            "workspaces/w/sessions/s:go",
        ] {
            assert_eq!(name("GetSession", odd), None, "{odd}");
        }
    }
}
