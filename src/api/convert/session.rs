//! Sessions, connections and why they end.

use super::{moment, person};
use crate::api::ports::Live;
use crate::domain::session::{Cause, Connection, Desired, Login, Traffic};
use crate::pb::{self, CauseKind, ConnectionState, DesiredState, LoginState};
use crate::store::SessionRecord;

/// A session: its record, and what is going on with it.
pub(in crate::api) fn session(record: SessionRecord, live: &Live) -> pb::Session {
    pb::Session {
        name: record.name.to_string(),
        provider: record.provider,
        labels: record.labels,
        desired: desired(record.desired).into(),
        connection: Some(connection(&live.connection)),
        login: login(record.login).into(),
        account: record.account.as_ref().map(person),
        traffic: Some(traffic(&live.traffic)),
        create_time: Some(moment(record.created_at)),
        update_time: Some(moment(record.updated_at)),
        etag: record.etag,
        display_name: record.display_name,
    }
}

fn desired(desired: Desired) -> DesiredState {
    match desired {
        Desired::Running => DesiredState::Running,
        Desired::Stopped => DesiredState::Stopped,
    }
}

pub(super) fn login(login: Login) -> LoginState {
    match login {
        Login::Unpaired => LoginState::Unpaired,
        Login::Paired => LoginState::Paired,
        Login::LoggedOut => LoginState::LoggedOut,
    }
}

fn traffic(traffic: &Traffic) -> pb::Traffic {
    pb::Traffic {
        last_inbound_time: traffic.last_inbound.map(moment),
        last_ack_time: traffic.last_ack.map(moment),
        decrypted_count: traffic.decrypted,
        undecryptable_count: traffic.undecryptable,
    }
}

pub(super) fn connection(connection: &Connection) -> pb::Connection {
    let state = match connection {
        Connection::Unpaired => ConnectionState::Unpaired,
        Connection::Pairing => ConnectionState::Pairing,
        Connection::Connecting => ConnectionState::Connecting,
        Connection::Online => ConnectionState::Online,
        Connection::Backoff { .. } => ConnectionState::Backoff,
        Connection::Replaced => ConnectionState::Replaced,
        Connection::LoggedOut => ConnectionState::LoggedOut,
        Connection::Banned { .. } => ConnectionState::Banned,
        Connection::Outdated => ConnectionState::Outdated,
        Connection::Failed { .. } => ConnectionState::Failed,
        Connection::Stopped => ConnectionState::Stopped,
    };
    let mut shown = pb::Connection {
        state: state.into(),
        ..pb::Connection::default()
    };
    match connection {
        Connection::Backoff {
            until,
            attempt,
            reason,
        } => {
            shown.until = Some(moment(*until));
            shown.attempt = *attempt;
            shown.cause = Some(cause(reason));
        }
        Connection::Banned { until, code } => {
            shown.until = until.map(moment);
            shown.cause = Some(cause(&Cause::Banned {
                code: *code,
                until: *until,
            }));
        }
        Connection::Failed { reason } => {
            shown.cause = Some(cause(&Cause::Internal {
                detail: reason.clone(),
            }));
        }
        _ => {}
    }
    shown
}

pub(super) fn cause(cause: &Cause) -> pb::Cause {
    let kind = match cause {
        Cause::Requested => CauseKind::Requested,
        Cause::Recycled => CauseKind::Recycled,
        Cause::RestartRequired => CauseKind::RestartRequired,
        Cause::Transient { .. } => CauseKind::Transient,
        Cause::Stalled => CauseKind::Stalled,
        Cause::LoginTimeout => CauseKind::LoginTimeout,
        Cause::RateLimited => CauseKind::RateLimited,
        Cause::Outdated => CauseKind::Outdated,
        Cause::Replaced => CauseKind::Replaced,
        Cause::LoggedOut { .. } => CauseKind::LoggedOut,
        Cause::Banned { .. } => CauseKind::Banned,
        Cause::PairingExpired => CauseKind::PairingExpired,
        Cause::PairingFailed { .. } => CauseKind::PairingFailed,
        Cause::StoreFailed { .. } => CauseKind::StoreFailed,
        Cause::WorkspaceFull => CauseKind::WorkspaceFull,
        Cause::Internal { .. } => CauseKind::Internal,
    };
    let mut shown = pb::Cause {
        kind: kind.into(),
        ..pb::Cause::default()
    };
    match cause {
        Cause::Transient { code, detail } => {
            shown.code = *code;
            shown.detail.clone_from(detail);
        }
        Cause::LoggedOut { code } => shown.code = Some(*code),
        Cause::Banned { code, until } => {
            shown.code = Some(*code);
            shown.until = until.map(moment);
        }
        Cause::PairingFailed { reason: detail }
        | Cause::StoreFailed { detail }
        | Cause::Internal { detail } => shown.detail.clone_from(detail),
        _ => {}
    }
    shown
}
