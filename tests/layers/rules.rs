//! Which module may name which: design in one table. Change it together with
//! `docs/architecture.md`, and with a reason.

use crate::paths::{Path, named};

/// A rule that was broken, ready to print.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// A layer (a module directly under `src/`) and the prefixes of our own modules it may name.
struct Layer {
    name: &'static str,
    may_import: &'static [&'static str],
}

const fn layer(name: &'static str, may_import: &'static [&'static str]) -> Layer {
    Layer { name, may_import }
}

/// From the bottom up.
const LAYERS: &[Layer] = &[
    layer("domain", &[]),
    layer("pb", &[]),
    layer("config", &["domain"]),
    layer("telemetry", &["domain", "config"]),
    layer("lifecycle", &["domain"]),
    layer("store", &["domain", "config"]),
    layer("provider", &["provider::contract", "store", "domain"]),
    layer("session", &["provider::contract", "store", "domain"]),
    layer("delivery", &["store", "domain"]),
    layer("api", &["session", "delivery", "store", "domain", "pb"]),
    layer("ops", &["session", "store", "domain", "telemetry"]),
    layer(
        "daemon",
        &[
            "api",
            "ops",
            "delivery",
            "session",
            "provider",
            "store",
            "config",
            "domain",
            "lifecycle",
            "telemetry",
        ],
    ),
    layer("cli", &["pb", "config"]),
];

/// What single files may name beyond their layer.
const FILES: &[(&str, &[&str])] = &[
    // `trunkline serve` is the daemon: parse, then hand over.
    ("src/cli/serve.rs", &["daemon", "telemetry", "lifecycle"]),
    // `trunkline config check` judges as the daemon does.
    ("src/cli/config.rs", &["daemon"]),
    // The store of a daemon that is stopped, and a store that is yet to be.
    ("src/cli/backup/mod.rs", &["daemon"]),
    ("src/cli/backup/make.rs", &["daemon"]),
    ("src/cli/backup/put_back.rs", &["daemon"]),
    // Doctor looks at the certificate and at a resting store as the next start would.
    ("src/cli/doctor/mod.rs", &["daemon"]),
    ("src/cli/doctor/store.rs", &["daemon"]),
];

/// A crate from outside, and where alone it may be named.
struct Guarded {
    matches: fn(&Path) -> bool,
    only_in: &'static [&'static str],
    reason: &'static str,
}

const GUARDED: &[Guarded] = &[
    Guarded {
        matches: |path| {
            let root = path.segments[0].as_str();
            root == "whatsapp_rust"
                || root == "waproto"
                || root == "wacore"
                || root.starts_with("wacore_")
        },
        only_in: &["src/provider/multidevice", "simulator"],
        reason: "the protocol library stays inside provider/multidevice",
    },
    Guarded {
        matches: |path| path.segments[0] == "sled",
        only_in: &["src/store/sled.rs"],
        reason: "the embedded engine is named by its adapter alone",
    },
    Guarded {
        matches: |path| {
            let root = path.segments[0].as_str();
            root == "tonic" || root.starts_with("tonic_")
        },
        only_in: &[
            "src/api",
            "src/pb",
            "src/cli",
            "simulator",
            "tests",
            "benches",
        ],
        reason: "gRPC is spoken by the api (server) and the cli (client) alone",
    },
    Guarded {
        matches: is_tonic_server,
        only_in: &["src/api", "src/pb", "tests", "benches"],
        reason: "only the api serves gRPC",
    },
    Guarded {
        matches: |path| path.segments[0] == "trunkline",
        only_in: &["src/main.rs", "src/cli", "tests", "benches"],
        reason: "the simulator judges the daemon, so it shares no code with it",
    },
];

/// What the pure layer must not touch.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_stream",
    "std::fs",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::process",
    "std::env",
    "std::thread",
];

fn is_tonic_server(path: &Path) -> bool {
    let root = path.segments[0].as_str();
    let service_side = root == "tonic_health"
        || root == "tonic_reflection"
        || root == "tonic"
            && path
                .segments
                .iter()
                .any(|s| s == "Server" || s == "server" || s == "NamedService");
    let generated = root == "crate" && path.segments.iter().skip(1).any(|s| s.ends_with("_server"));
    service_side || generated
}

/// Checks one file. `file` is its path in the repository, with `/`; it lies in `src/` or `simulator/`.
pub(crate) fn check(file: &str, source: &str) -> Vec<Violation> {
    let module = module_of(file);
    let named = named(source, &module);
    let mut violations = Vec::new();
    for path in &named.paths {
        let mut violate = |what: String| {
            violations.push(Violation {
                file: file.to_owned(),
                line: path.line,
                what,
            });
        };
        let local = named.children.contains(&path.segments[0]);
        if !local {
            for guarded in GUARDED {
                if (guarded.matches)(path)
                    && !guarded.only_in.iter().any(|place| within(file, place))
                {
                    violate(format!("names {}; {}", path.display(), guarded.reason));
                }
            }
        }
        if let Some(layer) = layer_of(file) {
            if layer.name == "domain" && IMPURE.iter().any(|banned| leads(&path.segments, banned)) {
                violate(format!(
                    "names {}; domain has no tokio and no I/O",
                    path.display()
                ));
            }
            if let Some(refusal) = refuse_edge(file, &module, layer, path) {
                violate(refusal);
            }
        }
    }
    violations
}

/// Why `layer` may not name `path`, or `None` if it may.
fn refuse_edge(file: &str, module: &[String], layer: &Layer, path: &Path) -> Option<String> {
    if path.segments[0] != "crate" {
        return None;
    }
    let target = &path.segments[1..];
    let first = target.first()?;
    let Some(known) = LAYERS.iter().find(|l| l.name == first) else {
        return Some(format!(
            "names {}, which is no layer; name the module that defines it",
            path.display()
        ));
    };
    let allowed = |prefixes: &[&str]| prefixes.iter().any(|prefix| leads(target, prefix));
    if known.name == layer.name {
        return refuse_sibling_provider(module, target);
    }
    let beyond = FILES.iter().find(|(name, _)| *name == file);
    if allowed(layer.may_import) || beyond.is_some_and(|(_, more)| allowed(more)) {
        return None;
    }
    Some(format!(
        "names {}; {} may import only {}",
        path.display(),
        layer.name,
        if layer.may_import.is_empty() {
            "nothing of ours".to_owned()
        } else {
            layer.may_import.join(", ")
        }
    ))
}

/// One provider never names another: they meet in `provider::contract`.
fn refuse_sibling_provider(module: &[String], target: &[String]) -> Option<String> {
    let ours = module.get(1)?;
    let theirs = target.get(1)?;
    let is_module = theirs.chars().next().is_some_and(char::is_lowercase);
    let crosses = module[0] == "provider" && is_module && ours != theirs && theirs != "contract";
    crosses.then(|| {
        format!("provider::{ours} names provider::{theirs}; providers meet in provider::contract")
    })
}

/// The module path of a file: `src/store/sled.rs` is `store::sled`, `src/lib.rs` the root.
fn module_of(file: &str) -> Vec<String> {
    let inside = file.split_once("src/").map_or(file, |(_, rest)| rest);
    let stem = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut parts: Vec<String> = stem.split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|p| p == "mod" || p == "lib" || p == "main")
    {
        parts.pop();
    }
    parts
}

/// The layer a file belongs to; the roots `lib.rs` and `main.rs` and the simulator have none.
fn layer_of(file: &str) -> Option<&'static Layer> {
    let name = layer_name(file)?;
    LAYERS.iter().find(|layer| layer.name == name)
}

/// The name of the layer a file would belong to, whether or not the table knows it.
pub(crate) fn layer_name(file: &str) -> Option<&str> {
    let inside = file.strip_prefix("src/")?;
    let top = inside.split('/').next()?;
    let name = top.strip_suffix(".rs").unwrap_or(top);
    (name != "lib" && name != "main").then_some(name)
}

/// Whether the table has a row for `name`.
pub(crate) fn is_layer(name: &str) -> bool {
    LAYERS.iter().any(|layer| layer.name == name)
}

fn leads(segments: &[String], prefix: &str) -> bool {
    let mut rest = segments.iter();
    prefix
        .split("::")
        .all(|part| rest.next().is_some_and(|s| s == part))
}

fn within(file: &str, place: &str) -> bool {
    file == place
        || file
            .strip_prefix(place)
            .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(file: &str, source: &str, reason: &str) {
        let found = check(file, source);
        assert!(
            found.iter().any(|v| v.what.contains(reason)),
            "{file} should be refused with {reason:?}, got {found:?}"
        );
    }

    #[track_caller]
    fn accepted(file: &str, source: &str) {
        assert_eq!(check(file, source), []);
    }

    #[test]
    fn every_upward_edge_is_refused() {
        for (index, lower) in LAYERS.iter().enumerate() {
            for upper in &LAYERS[index + 1..] {
                let file = format!("src/{}/x.rs", lower.name);
                refused(
                    &file,
                    &format!("use crate::{}::X;", upper.name),
                    "may import only",
                );
            }
        }
    }

    #[test]
    fn every_edge_of_the_table_is_accepted() {
        for layer in LAYERS {
            for target in layer.may_import {
                accepted(
                    &format!("src/{}/x.rs", layer.name),
                    &format!("use crate::{target}::X;"),
                );
            }
            accepted(
                &format!("src/{}/x.rs", layer.name),
                &format!("use crate::{}::X;", layer.name),
            );
        }
    }

    #[test]
    fn the_api_never_calls_a_provider() {
        refused(
            "src/api/messages.rs",
            "fn f() { crate::provider::multidevice::send() }",
            "api may import only",
        );
        refused(
            "src/api/messages.rs",
            "use super::super::provider;",
            "api may import only",
        );
        refused(
            "src/api.rs",
            "use crate::{domain::Jid, provider::contract::Provider};",
            "api may import only",
        );
    }

    #[test]
    fn sessions_see_the_contract_of_providers_and_nothing_else_of_them() {
        accepted(
            "src/session/actor.rs",
            "use crate::provider::contract::Provider;",
        );
        refused(
            "src/session/actor.rs",
            "use crate::provider::multidevice::Client;",
            "session may import only",
        );
        refused(
            "src/session/actor.rs",
            "use crate::provider;",
            "session may import only",
        );
        refused(
            "src/session/actor.rs",
            "use crate::provider::*;",
            "session may import only",
        );
    }

    #[test]
    fn providers_do_not_meet() {
        refused(
            "src/provider/cloud/mod.rs",
            "use crate::provider::multidevice::X;",
            "providers meet",
        );
        refused(
            "src/provider/cloud/mod.rs",
            "use super::multidevice::X;",
            "providers meet",
        );
        accepted(
            "src/provider/cloud/mod.rs",
            "use super::contract::X; use self::wire::Y;",
        );
        accepted("src/provider/mod.rs", "pub use crate::provider::cloud::X;");
    }

    #[test]
    fn serve_alone_reaches_the_daemon_from_the_command_line() {
        accepted("src/cli/serve.rs", "use crate::daemon::Daemon;");
        refused(
            "src/cli/send.rs",
            "use crate::daemon::Daemon;",
            "cli may import only",
        );
        refused(
            "src/cli/send.rs",
            "use crate::store::Engine;",
            "cli may import only",
        );
    }

    #[test]
    fn the_protocol_library_stays_in_its_provider() {
        for name in [
            "whatsapp_rust::Client",
            "wacore::send",
            "wacore_binary::Node",
            "waproto::whatsapp",
        ] {
            refused(
                "src/session/actor.rs",
                &format!("use {name};"),
                "provider/multidevice",
            );
            refused(
                "src/provider/contract.rs",
                &format!("fn f(x: {name}) {{}}"),
                "provider/multidevice",
            );
            accepted(
                "src/provider/multidevice/client.rs",
                &format!("use {name};"),
            );
            accepted("simulator/src/noise.rs", &format!("use {name};"));
        }
    }

    #[test]
    fn sled_stays_in_its_adapter() {
        refused("src/store/journal.rs", "use sled;", "embedded engine");
        refused(
            "src/store/mod.rs",
            "fn f() -> ::sled::Result<()> { sled::open(p) }",
            "embedded engine",
        );
        accepted("src/store/sled.rs", "use sled::Db;");
        accepted("src/store/mod.rs", "mod sled; pub use sled::SledEngine;");
        accepted("src/daemon.rs", "use crate::store::sled::SledEngine;");
    }

    #[test]
    fn only_the_api_serves_grpc() {
        refused(
            "src/daemon.rs",
            "use tonic::transport::Server;",
            "api (server)",
        );
        refused(
            "src/cli/send.rs",
            "use tonic::transport::Server;",
            "only the api serves",
        );
        refused(
            "src/cli/send.rs",
            "use crate::pb::messages_service_server::MessagesService;",
            "only the api serves",
        );
        refused(
            "src/session/actor.rs",
            "fn f() -> tonic::Status { todo() }",
            "api (server)",
        );
        accepted(
            "src/cli/send.rs",
            "use tonic::transport::Channel; use crate::pb::x_client::XClient;",
        );
        accepted(
            "src/api/mod.rs",
            "use tonic::transport::Server; use crate::pb::x_server::X;",
        );
    }

    #[test]
    fn the_simulator_shares_no_code_with_the_daemon() {
        refused(
            "simulator/src/lib.rs",
            "use trunkline::domain::Jid;",
            "shares no code",
        );
        refused(
            "simulator/src/lib.rs",
            "extern crate trunkline;",
            "shares no code",
        );
        accepted(
            "simulator/src/main.rs",
            "use trunkline_simulator::Simulator; use crate::phone::Phone;",
        );
    }

    #[test]
    fn the_domain_is_pure() {
        refused(
            "src/domain/clock.rs",
            "use tokio::time::Instant;",
            "no tokio and no I/O",
        );
        refused(
            "src/domain/ids.rs",
            "fn f() { std::fs::read(p) }",
            "no tokio and no I/O",
        );
        accepted("src/domain/clock.rs", "use std::time::Duration;");
    }

    #[test]
    fn a_reexport_at_the_root_is_no_way_round() {
        refused("src/domain/ids.rs", "use crate::Engine;", "no layer");
        refused("src/cli/mod.rs", "use crate::prelude::Engine;", "no layer");
    }

    #[test]
    fn a_violation_names_file_and_line() {
        let found = check(
            "src/domain/ids.rs",
            "//! Ids.\n\nuse std::fmt;\nuse crate::store::Engine;\n",
        );
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "src/domain/ids.rs:4: names crate::store::Engine; domain may import only nothing of ours"
            ]
        );
    }
}
