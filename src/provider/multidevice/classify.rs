//! Why the server ends a connection: stanzas into causes.
//!
//! The stanzas are looked at raw, because the library hides some of them (stream errors 503 and 429
//! leave it connected to a dead session) and folds others together.

use wacore_binary::NodeRef;

use crate::domain::clock::Timestamp;
use crate::domain::session::Cause;

/// What a stanza that may end a connection asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// Why.
    pub(super) cause: Cause,
    /// The library stays connected, so the connection must be closed here.
    pub(super) close: bool,
}

fn ending(cause: Cause) -> Ending {
    Ending {
        cause,
        close: false,
    }
}

fn transient(code: Option<u32>, detail: &str) -> Cause {
    Cause::Transient {
        code,
        detail: detail.to_owned(),
    }
}

/// A `<stream:error>`. `None` when the connection goes on (an unacknowledged stanza the server
/// complains about, for instance).
fn stream_error(code: Option<u32>, conflict: Option<&str>, child: Option<&str>) -> Option<Ending> {
    match (conflict, code, child) {
        (Some("replaced"), _, _) | (None, Some(409 | 440), _) => Some(ending(Cause::Replaced)),
        (Some(_), _, _) => Some(ending(Cause::LoggedOut {
            code: code.unwrap_or(401),
        })),
        (None, Some(515), _) => Some(ending(Cause::RestartRequired)),
        (None, Some(code @ (401 | 403 | 406 | 516)), _) => Some(Ending {
            cause: Cause::LoggedOut { code },
            // The library closes for 401 and 516 only.
            close: matches!(code, 403 | 406),
        }),
        (None, Some(405), _) => Some(Ending {
            cause: Cause::Outdated,
            close: true,
        }),
        (None, Some(402), _) => Some(Ending {
            cause: Cause::Banned {
                code: 402,
                until: None,
            },
            close: true,
        }),
        (None, Some(429), _) => Some(Ending {
            cause: Cause::RateLimited,
            close: true,
        }),
        (None, Some(code), _) => Some(Ending {
            cause: transient(Some(code), "stream error"),
            close: true,
        }),
        (None, None, Some("xml-not-well-formed")) => {
            Some(ending(transient(None, "stream error: xml-not-well-formed")))
        }
        (None, None, _) => None,
    }
}

/// A `<failure>`: the login was refused.
fn failure(reason: Option<u32>, ban: Option<u32>, until: Option<Timestamp>) -> Cause {
    match reason {
        Some(code @ (401 | 403 | 406)) => Cause::LoggedOut { code },
        Some(402) => Cause::Banned {
            code: ban.unwrap_or(402),
            until,
        },
        Some(405) => Cause::Outdated,
        Some(429) => Cause::RateLimited,
        code => transient(code, "the server refused the login"),
    }
}

fn number(node: &NodeRef<'_>, key: &str) -> Option<u32> {
    node.get_attr(key)?.as_str().parse().ok()
}

/// Looks at a stanza; `None` unless it ends the connection.
pub(super) fn classify(node: &NodeRef<'_>, now: Timestamp) -> Option<Ending> {
    match node.tag.as_ref() {
        "stream:error" => {
            let conflict = node.get_optional_child("conflict").map(|conflict| {
                conflict
                    .get_attr("type")
                    .map(|value| value.as_str().into_owned())
                    .unwrap_or_default()
            });
            let child = node.children().and_then(|children| children.first());
            let child = child.map(|child| child.tag.as_ref().to_owned());
            stream_error(number(node, "code"), conflict.as_deref(), child.as_deref())
        }
        "failure" => {
            // The wire's `expire` is a duration in seconds, not a deadline.
            let until = number(node, "expire")
                .map(|secs| now.plus(std::time::Duration::from_secs(u64::from(secs))));
            Some(ending(failure(
                number(node, "reason"),
                number(node, "code"),
                until,
            )))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use wacore_binary::builder::NodeBuilder;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn of(node: NodeBuilder) -> Option<Ending> {
        let node = node.build();
        classify(&node.as_node_ref(), NOW)
    }

    fn error(code: &str) -> NodeBuilder {
        NodeBuilder::new("stream:error").attr("code", code)
    }

    fn refused(reason: &str) -> NodeBuilder {
        NodeBuilder::new("failure").attr("reason", reason)
    }

    #[test]
    fn every_row_of_the_disconnect_table_has_its_cause() {
        let conflict = |kind: &str| {
            NodeBuilder::new("stream:error").children(vec![
                NodeBuilder::new("conflict").attr("type", kind).build(),
            ])
        };
        let logged_out = |code| Cause::LoggedOut { code };
        let table = [
            (error("515"), Cause::RestartRequired, false),
            (error("516"), logged_out(516), false),
            (error("401"), logged_out(401), false),
            (error("403"), logged_out(403), true),
            (error("406"), logged_out(406), true),
            (error("405"), Cause::Outdated, true),
            (error("409"), Cause::Replaced, false),
            (error("440"), Cause::Replaced, false),
            (conflict("replaced"), Cause::Replaced, false),
            (conflict("device_removed"), logged_out(401), false),
            (error("429"), Cause::RateLimited, true),
            (error("503"), transient(Some(503), "stream error"), true),
            (error("500"), transient(Some(500), "stream error"), true),
            (error("408"), transient(Some(408), "stream error"), true),
            (refused("401"), logged_out(401), false),
            (refused("403"), logged_out(403), false),
            (refused("406"), logged_out(406), false),
            (refused("405"), Cause::Outdated, false),
            (refused("429"), Cause::RateLimited, false),
            (
                refused("402").attr("code", "104").attr("expire", "60"),
                Cause::Banned {
                    code: 104,
                    until: Some(Timestamp(1_060_000)),
                },
                false,
            ),
            (
                refused("402"),
                Cause::Banned {
                    code: 402,
                    until: None,
                },
                false,
            ),
        ];
        for (node, cause, close) in table {
            let node = node.build();
            let got = classify(&node.as_node_ref(), NOW);
            assert_eq!(got, Some(Ending { cause, close }), "{node:?}");
        }
        for reason in ["500", "503", "409", "400", "415", "501"] {
            let cause = of(refused(reason)).unwrap().cause;
            let code = reason.parse().ok();
            assert_eq!(cause, transient(code, "the server refused the login"));
        }
    }

    #[test]
    fn complaints_that_do_not_end_the_connection_are_let_pass() {
        let ack = NodeBuilder::new("ack").attr("class", "receipt").build();
        let complaint = NodeBuilder::new("stream:error").children(vec![ack]);
        assert_eq!(of(complaint), None);
        assert_eq!(of(NodeBuilder::new("success")), None);
        let xml = NodeBuilder::new("xml-not-well-formed").build();
        let malformed = NodeBuilder::new("stream:error").children(vec![xml]);
        assert!(matches!(
            of(malformed).unwrap().cause,
            Cause::Transient { code: None, .. }
        ));
    }
}
