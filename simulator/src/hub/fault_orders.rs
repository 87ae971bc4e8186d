//! Ordered faults: looked up, struck, recorded.

use super::Hub;
use super::connection::{ConnectionId, State, conflict, stream_error, stream_error_child};
use crate::directory::DeviceKey;
use crate::faults::{Fault, Scope};
use crate::ledger::Fact;

/// Stream errors after which the socket stays open.
const LINGERING: [u16; 2] = [429, 503];

impl Hub {
    /// Puts an order in force. Returns how many connections it struck at once.
    pub(crate) fn order(&mut self, scope: Scope, fault: Fault, times: Option<u32>) -> usize {
        if !fault.is_event() {
            self.faults.add(scope, fault, times);
            return 0;
        }
        let mut targets: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| match &connection.state {
                State::Online(online) => scope.covers(Some(online.device)),
                State::Pairing(_) => scope.covers(None),
                State::Handshaking | State::Dead(_) => false,
            })
            .map(|(&id, _)| id)
            .collect();
        targets.sort_unstable();
        if let Some(times) = times {
            targets.truncate(times as usize);
        }
        for &id in &targets {
            self.strike_connection(id, &fault);
        }
        if let Some(times) = times {
            let struck = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            self.faults.add(scope, fault, Some(times - struck));
        }
        targets.len()
    }

    /// Lifts every order; what was held back flows again.
    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
        self.pump_all();
    }

    /// Orders in force.
    pub(crate) fn orders(&self) -> Vec<(Fault, Option<u32>)> {
        self.faults
            .list()
            .map(|(fault, left)| (fault.clone(), left))
            .collect()
    }

    /// Whether a new TCP connection is refused.
    pub(crate) fn refuses_tcp(&mut self) -> bool {
        let refused = self
            .faults
            .take(None, |f| matches!(f, Fault::RefuseTcp).then_some(()))
            .is_some();
        if refused {
            self.record(Fact::Refused);
        }
        refused
    }

    /// An event that was ordered for a later login.
    pub(super) fn strike_at_login(&mut self, id: ConnectionId, device: DeviceKey) {
        let due = self.faults.take(Some(device), |fault| {
            fault.is_event().then(|| fault.clone())
        });
        if let Some(fault) = due {
            self.strike_connection(id, &fault);
        }
    }

    fn strike_connection(&mut self, id: ConnectionId, fault: &Fault) {
        let device = self
            .device_of(id)
            .map_or_else(|| "unlinked".to_owned(), |device| self.label(device));
        self.record(Fact::Fault {
            fault: fault.name().to_owned(),
            device,
        });
        match fault {
            Fault::Close => self.cut(id),
            Fault::Replaced => self.end(id, Some(conflict("replaced", None))),
            Fault::XmlNotWellFormed => {
                self.end(id, Some(stream_error_child("xml-not-well-formed")));
            }
            Fault::StreamError { code } => {
                if LINGERING.contains(code) {
                    self.transmit(id, stream_error(*code));
                    self.bury(id);
                } else {
                    self.end(id, Some(stream_error(*code)));
                }
            }
            _ => {}
        }
    }
}
