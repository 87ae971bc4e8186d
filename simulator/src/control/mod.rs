//! The HTTP control API: everything the Rust API can do, as JSON.
//!
//! | route | does |
//! |---|---|
//! | `POST /accounts {phone, name}` | creates a person |
//! | `GET /accounts`, `GET /accounts/{phone}` | people, their LIDs and devices |
//! | `POST /accounts/{phone}/scan {qr}` | scans a QR: links the client that shows it |
//! | `POST /accounts/{phone}/code {code}` | types a pairing code; the ledger tells whether it was right |
//! | `POST /accounts/{phone}/passkey {demanded}` | whether linking demands the account's passkey |
//! | `POST /accounts/{phone}/messages {to, text}` | sends a text from the phone, to a number or a group |
//! | `POST /accounts/{phone}/media?to=&kind=&mime_type=&caption=&file_name=` | sends the body as a file |
//! | `GET /accounts/{phone}/media/{id}` | the file of a message the phone has shown |
//! | `GET /accounts/{phone}/messages` | what the phone has shown |
//! | `GET /accounts/{phone}/sent` | what the account has sent, from any device |
//! | `POST /accounts/{phone}/chats {with, change}` | changes a chat or a contact: `{"pin":true}`, `{"mute":true}`, `{"archive":true}`, `{"contact":"Ana"}`, `"forget_contact"` |
//! | `POST /accounts/{phone}/read {ids}` | opens messages: read receipts go out |
//! | `POST /accounts/{phone}/reply {enabled, template}` | automatic replies |
//! | `POST /accounts/{phone}/presence {available}` | the person opens or leaves the app |
//! | `POST /accounts/{phone}/typing {to, typing}` | the person types to somebody |
//! | `POST /accounts/{phone}/props {code, value}` | sets a server property for the account's clients |
//! | `POST /accounts/{phone}/trust {phone}` | gives a number a token of a trusted contact |
//! | `POST /accounts/{phone}/lock {locked}` | whether the account's companions may write only to people who trust it (463) |
//! | `POST /accounts/{phone}/calls {to, video}` | calls a number; `video` may be left out |
//! | `POST /accounts/{phone}/calls/{call} {end}` | ends a call that rings: `hang_up` as its caller, `accept` or `reject` on the callee's phone |
//! | `POST /accounts/{phone}/reach {reachable}` | takes the phone out of the network's reach, or back |
//! | `POST /accounts/{phone}/groups {subject, members}` | creates a group; members are phone numbers |
//! | `POST /accounts/{phone}/groups/{group} {add, remove, promote, demote, subject, leave}` | changes a group, in that order |
//! | `GET /groups`, `GET /groups/{group}` | groups and their members |
//! | `DELETE /accounts/{phone}/devices/{device}` | unlinks a device |
//! | `GET /devices`, `GET /connections` | linked devices, connection counts |
//! | `POST /faults`, `GET /faults`, `DELETE /faults` | orders, lists, lifts faults |
//! | `GET /ledger?since=N` | the truth, from entry N on |
//! | `GET /root-key`, `GET /tls-root` | what clients must trust |
//! | `GET /healthz` | 200 when serving |

mod body;
mod calls;
mod error;
mod faults;
mod groups;
mod media;
mod people;
mod server;
mod standing;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};

use crate::core::Core;
use crate::media::MAX_BLOB;

/// What every handler gets.
#[derive(Clone)]
struct Control {
    core: Arc<Core>,
    tls_root: String,
}

/// All routes.
pub(crate) fn router(core: Arc<Core>, tls_root: String) -> Router {
    Router::new()
        .route("/accounts", post(people::create).get(people::list))
        .route("/accounts/{phone}", get(people::get))
        .route("/accounts/{phone}/scan", post(people::scan))
        .route("/accounts/{phone}/code", post(people::code))
        .route("/accounts/{phone}/passkey", post(people::passkey))
        .route(
            "/accounts/{phone}/messages",
            post(people::send).get(people::inbox),
        )
        .route(
            "/accounts/{phone}/media",
            post(media::send).layer(DefaultBodyLimit::max(MAX_BLOB)),
        )
        .route("/accounts/{phone}/media/{id}", get(media::open))
        .route("/accounts/{phone}/sent", get(people::sent))
        .route("/accounts/{phone}/chats", post(people::chats))
        .route("/accounts/{phone}/read", post(people::read))
        .route("/accounts/{phone}/reply", post(people::reply))
        .route("/accounts/{phone}/presence", post(people::presence))
        .route("/accounts/{phone}/typing", post(people::typing))
        .route("/accounts/{phone}/props", post(standing::props))
        .route("/accounts/{phone}/trust", post(standing::trust))
        .route("/accounts/{phone}/lock", post(standing::lock))
        .route("/accounts/{phone}/calls", post(calls::begin))
        .route("/accounts/{phone}/calls/{call}", post(calls::end))
        .route("/accounts/{phone}/reach", post(people::reach))
        .route("/accounts/{phone}/devices/{device}", delete(people::unlink))
        .route("/accounts/{phone}/groups", post(groups::create))
        .route("/accounts/{phone}/groups/{group}", post(groups::change))
        .route("/groups", get(groups::list))
        .route("/groups/{group}", get(groups::get))
        .route("/devices", get(server::devices))
        .route("/connections", get(server::connections))
        .route(
            "/faults",
            post(faults::order).get(faults::list).delete(faults::clear),
        )
        .route("/ledger", get(server::ledger))
        .route("/root-key", get(server::root_key))
        .route("/tls-root", get(server::tls_root))
        .route("/healthz", get(server::healthz))
        .fallback(error::no_such_route)
        .with_state(Control { core, tls_root })
}
