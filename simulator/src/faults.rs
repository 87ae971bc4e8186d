//! Faults that can be ordered, and the book of those in force.

use serde::{Deserialize, Serialize};

use crate::directory::DeviceKey;

/// What goes wrong.
///
/// *Events* ([`Close`](Fault::Close), [`StreamError`](Fault::StreamError),
/// [`Replaced`](Fault::Replaced), [`XmlNotWellFormed`](Fault::XmlNotWellFormed)) strike the open
/// connections of the target at once; what is left of `times` strikes at its next logins.
/// All others are *conditions*: they apply `times` times, or until they are cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The connection ends without a word.
    Close,
    /// `<stream:error code=…/>`. 515, 516, 401, 409 and others close the connection; 503 and 429
    /// leave it open and dead.
    StreamError {
        /// The code.
        code: u16,
    },
    /// `<stream:error><conflict type="replaced"/>`, then close.
    Replaced,
    /// `<stream:error><xml-not-well-formed/>`, then close.
    XmlNotWellFormed,
    /// Logins are answered with `<failure reason=…>`.
    ConnectFailure {
        /// 401, 402, 403, 405, 406, 409, 429, 500, 503…
        reason: u16,
        /// `code`, the kind of a temporary ban (402).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
        /// `expire`, seconds that a temporary ban lasts (402).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expire: Option<u64>,
    },
    /// IK handshakes of returning devices are declined, as after a change of the server's key: the server
    /// answers in the XX shape and both go on as `XXfallback`.
    DeclineIk,
    /// Requests for a pairing code are answered with this error. The clients that make them are not
    /// linked, so only `all` covers them.
    RefuseCode {
        /// 400, 403, 429 (asked too often), 452 (not for this account) or 500.
        error: u16,
    },
    /// Everything the server sends leaves late by this many milliseconds, in order.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
    /// Messages are accepted and delivered, but their ack is not sent.
    WithholdAcks,
    /// Messages are refused with this `error`.
    Nack {
        /// 463 is the reach-out time-lock.
        error: u16,
    },
    /// The media host refuses uploads with this HTTP status.
    RefuseUpload {
        /// 401 or 403 (the ticket is void), 413 (too long), 507 or another 5xx.
        status: u16,
    },
    /// The media host refuses downloads with this HTTP status. Requests without a ticket are nobody's:
    /// only `all` covers them.
    RefuseDownload {
        /// 404 or 410 (expired), 403, or a 5xx.
        status: u16,
    },
    /// Messages are delivered twice in a row.
    Duplicate,
    /// A message is delivered after the one that follows it.
    Reorder,
    /// The socket stays open, but nothing is answered and nothing is delivered. What the client
    /// sends meanwhile is lost.
    Silence,
    /// TCP connections are reset before a handshake. The server cannot know whose they are, so
    /// this is possible for everyone only.
    RefuseTcp,
}

impl Fault {
    /// Stable name, as in the JSON form.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::StreamError { .. } => "stream_error",
            Self::Replaced => "replaced",
            Self::XmlNotWellFormed => "xml_not_well_formed",
            Self::ConnectFailure { .. } => "connect_failure",
            Self::DeclineIk => "decline_ik",
            Self::RefuseCode { .. } => "refuse_code",
            Self::Delay { .. } => "delay",
            Self::WithholdAcks => "withhold_acks",
            Self::Nack { .. } => "nack",
            Self::RefuseUpload { .. } => "refuse_upload",
            Self::RefuseDownload { .. } => "refuse_download",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Silence => "silence",
            Self::RefuseTcp => "refuse_tcp",
        }
    }

    /// Whether it strikes once instead of lasting.
    pub fn is_event(&self) -> bool {
        matches!(
            self,
            Self::Close | Self::StreamError { .. } | Self::Replaced | Self::XmlNotWellFormed
        )
    }
}

/// Whom a fault hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultTarget {
    /// Every device, and clients that are not linked yet.
    All,
    /// Every companion of the account with this phone number.
    Account(String),
    /// One device of the account with this phone number.
    Device(String, u16),
}

/// An order for a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultSpec {
    /// Whom.
    pub target: FaultTarget,
    /// What.
    pub fault: Fault,
    /// How often. `None`: an event strikes the open connections once, a condition lasts until it
    /// is cleared.
    #[serde(default)]
    pub times: Option<u32>,
}

/// A target with its account looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Account(crate::directory::AccountId),
    Device(DeviceKey),
}

impl Scope {
    /// Whether the scope covers `device`; `None` is a client that is not linked.
    pub(crate) fn covers(self, device: Option<DeviceKey>) -> bool {
        match (self, device) {
            (Self::All, _) => true,
            (Self::Account(account), Some(device)) => {
                device.account == account && !device.is_phone()
            }
            (Self::Device(wanted), Some(device)) => wanted == device,
            (_, None) => false,
        }
    }
}

struct Order {
    scope: Scope,
    fault: Fault,
    left: Option<u32>,
}

/// Conditions in force and events still due.
#[derive(Default)]
pub(crate) struct FaultBook {
    orders: Vec<Order>,
}

impl FaultBook {
    pub(crate) fn add(&mut self, scope: Scope, fault: Fault, times: Option<u32>) {
        if times != Some(0) {
            self.orders.push(Order {
                scope,
                fault,
                left: times,
            });
        }
    }

    pub(crate) fn clear(&mut self) {
        self.orders.clear();
    }

    /// The first order for `device` that `pick` accepts, used up by one.
    pub(crate) fn take<T>(
        &mut self,
        device: Option<DeviceKey>,
        pick: impl Fn(&Fault) -> Option<T>,
    ) -> Option<T> {
        let position = self
            .orders
            .iter()
            .position(|order| order.scope.covers(device) && pick(&order.fault).is_some())?;
        let order = &mut self.orders[position];
        let picked = pick(&order.fault);
        if let Some(left) = &mut order.left {
            *left -= 1;
            if *left == 0 {
                self.orders.remove(position);
            }
        }
        picked
    }

    /// Like [`take`](Self::take) without using anything up.
    pub(crate) fn find<T>(
        &self,
        device: Option<DeviceKey>,
        pick: impl Fn(&Fault) -> Option<T>,
    ) -> Option<T> {
        self.orders
            .iter()
            .filter(|order| order.scope.covers(device))
            .find_map(|order| pick(&order.fault))
    }

    /// Orders in force: name, whom, how often still.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&Fault, Option<u32>)> {
        self.orders.iter().map(|order| (&order.fault, order.left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::AccountId;

    fn nack(fault: &Fault) -> Option<u16> {
        match fault {
            Fault::Nack { error } => Some(*error),
            _ => None,
        }
    }

    #[test]
    fn a_counted_condition_wears_off() {
        let mut book = FaultBook::default();
        let device = DeviceKey {
            account: AccountId(0),
            device: 1,
        };
        book.add(Scope::Device(device), Fault::Nack { error: 463 }, Some(2));
        assert_eq!(book.take(Some(device), nack), Some(463));
        assert_eq!(book.take(None, nack), None);
        assert_eq!(book.take(Some(device), nack), Some(463));
        assert_eq!(book.take(Some(device), nack), None);
    }

    #[test]
    fn an_account_scope_spares_the_phone_and_other_people() {
        let scope = Scope::Account(AccountId(3));
        let device = |account, device| {
            Some(DeviceKey {
                account: AccountId(account),
                device,
            })
        };
        assert!(scope.covers(device(3, 2)));
        assert!(!scope.covers(device(3, 0)));
        assert!(!scope.covers(device(4, 2)));
        assert!(!scope.covers(None));
    }

    #[test]
    fn orders_read_and_write_as_json() {
        let spec = FaultSpec {
            target: FaultTarget::Device("15550100".into(), 1),
            fault: Fault::ConnectFailure {
                reason: 402,
                code: Some(101),
                expire: Some(60),
            },
            times: Some(1),
        };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<FaultSpec>(&json).unwrap(), spec);
        let all = r#"{"target":"all","fault":{"kind":"close"}}"#;
        let parsed: FaultSpec = serde_json::from_str(all).unwrap();
        assert_eq!(parsed.target, FaultTarget::All);
        assert_eq!(parsed.fault, Fault::Close);
    }
}
