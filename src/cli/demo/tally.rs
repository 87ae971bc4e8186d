//! The reckoning: every message id that was sent is looked up on the other side.
//!
//! The simulator's log says what reached whom: what the customer's screen showed and the server
//! acknowledged, and what the number's device confirmed. What a messaging core would read, the journal,
//! has to hold the same, once. The daemon's own opinion of itself does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::simulator::Entry;

/// One direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Direction {
    /// Ids whose sender was told that they are safe.
    pub(super) sent: BTreeSet<String>,
    /// Ids that are settled between server and device, by the simulator's log.
    pub(super) settled: BTreeSet<String>,
    /// How often each id turned up on the other side.
    pub(super) arrived: BTreeMap<String, usize>,
}

impl Direction {
    /// Ids that never turned up, or that the simulator still has to settle.
    pub(super) fn lost(&self) -> Vec<&String> {
        self.sent
            .iter()
            .filter(|id| !(self.arrived.contains_key(*id) && self.settled.contains(*id)))
            .collect()
    }

    /// How often ids turned up more than once, and ids that nobody sent.
    fn surplus(&self) -> usize {
        self.arrived
            .iter()
            .map(|(id, times)| {
                if self.sent.contains(id) {
                    times - 1
                } else {
                    *times
                }
            })
            .sum()
    }

    fn received(&self) -> usize {
        self.sent.len() - self.lost().len()
    }
}

/// Both directions and everything else that must not happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// From the number to the customer, by stanza id.
    pub(super) outbound: Direction,
    /// From the customer to the number, by stanza id.
    pub(super) inbound: Direction,
    /// What the simulator would not have accepted from a real client.
    pub(super) violations: Vec<String>,
}

impl Tally {
    /// Reads what happened to the messages between `number` and `customer`, and the violations, off the
    /// simulator's ledger.
    pub(super) fn read_ledger(&mut self, ledger: &[Entry], number: &str, customer: &str) {
        let of_number = |device: Option<&str>| {
            device.and_then(|device| device.split(':').next()) == Some(number)
        };
        for entry in ledger {
            let id = entry.text("id").map(str::to_owned);
            match entry.event.as_str() {
                "message_acked" if of_number(entry.text("to")) => self.outbound.settled.extend(id),
                "confirmed"
                    if entry.text("class") == Some("message")
                        && entry.text("error").is_none()
                        && of_number(entry.text("by")) =>
                {
                    self.inbound.settled.extend(id);
                }
                "displayed" if entry.text("by") == Some(customer) => {
                    if let Some(id) = id {
                        *self.outbound.arrived.entry(id).or_default() += 1;
                    }
                }
                "violation" => self.violations.push(format!(
                    "{}: {}",
                    entry.text("device").unwrap_or("?"),
                    entry.text("what").unwrap_or("?")
                )),
                _ => {}
            }
        }
    }

    /// Whether everything arrived exactly once and nothing odd happened.
    pub(super) fn is_clean(&self) -> bool {
        let directions = [&self.outbound, &self.inbound];
        directions
            .iter()
            .all(|d| d.lost().is_empty() && d.surplus() == 0)
            && self.violations.is_empty()
    }

    /// The last line of the demo.
    pub(super) fn verdict(&self) -> String {
        let of = |count: fn(&Direction) -> usize| count(&self.outbound) + count(&self.inbound);
        format!(
            "demo: sent {} received {} lost {} duplicated {}",
            of(|d| d.sent.len()),
            of(Direction::received),
            of(|d| d.lost().len()),
            of(Direction::surplus),
        )
    }

    /// What is wrong, for people; empty when nothing is.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, direction) in [("outbound", &self.outbound), ("inbound", &self.inbound)] {
            for id in direction.lost() {
                lines.push(format!("{name} message {id} was lost"));
            }
            for (id, times) in &direction.arrived {
                if !direction.sent.contains(id) {
                    lines.push(format!("{name} message {id} was sent by nobody"));
                } else if *times > 1 {
                    lines.push(format!("{name} message {id} arrived {times} times"));
                }
            }
        }
        let violations = self.violations.iter();
        lines.extend(violations.map(|what| format!("WhatsApp would have refused: {what}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(sent: &[&str], arrived: &[(&str, usize)]) -> Direction {
        Direction {
            sent: sent.iter().map(|id| (*id).to_owned()).collect(),
            settled: arrived.iter().map(|(id, _)| (*id).to_owned()).collect(),
            arrived: arrived
                .iter()
                .map(|(id, times)| ((*id).to_owned(), *times))
                .collect(),
        }
    }

    #[test]
    fn everything_once_is_clean() {
        let tally = Tally {
            outbound: direction(&["a", "b"], &[("a", 1), ("b", 1)]),
            inbound: direction(&["c"], &[("c", 1)]),
            violations: Vec::new(),
        };
        assert!(tally.is_clean() && tally.complaints().is_empty());
        assert_eq!(
            tally.verdict(),
            "demo: sent 3 received 3 lost 0 duplicated 0"
        );
    }

    #[test]
    fn losses_doubles_and_strangers_are_told() {
        let tally = Tally {
            outbound: direction(&["a", "b"], &[("a", 3)]),
            inbound: direction(&["c"], &[("c", 1), ("x", 1)]),
            violations: vec!["1:1: reused a message counter".into()],
        };
        assert!(!tally.is_clean());
        assert_eq!(
            tally.verdict(),
            "demo: sent 3 received 2 lost 1 duplicated 3"
        );
        assert_eq!(tally.complaints().len(), 4, "{:?}", tally.complaints());
    }

    #[test]
    fn what_the_simulator_has_not_settled_is_not_received() {
        let mut inbound = direction(&["c", "d"], &[("c", 1), ("d", 1)]);
        inbound.settled.remove("d");
        let tally = Tally {
            inbound,
            ..Tally::default()
        };
        assert!(!tally.is_clean());
        assert_eq!(
            tally.verdict(),
            "demo: sent 2 received 1 lost 1 duplicated 0"
        );
    }

    #[test]
    fn the_ledger_is_read_as_the_simulator_writes_it() {
        let ledger: Vec<Entry> = serde_json::from_str(
            r#"[{"seq":0,"at":1,"event":"displayed","id":"A","by":"2348030000002","from":"x:1"},
                {"seq":1,"at":1,"event":"displayed","id":"A","by":"2348030000009","from":"x:1"},
                {"seq":2,"at":2,"event":"violation","device":"x:1","what":"reused"},
                {"seq":3,"at":2,"event":"scanned","connection":1,"device":1},
                {"seq":4,"at":2,"event":"message_acked","id":"A","to":"2348030000001:1"},
                {"seq":5,"at":2,"event":"confirmed","class":"message","id":"B","by":"2348030000001:1"},
                {"seq":6,"at":2,"event":"confirmed","class":"receipt","id":"C","by":"2348030000001:1"},
                {"seq":7,"at":2,"event":"confirmed","class":"message","id":"D","by":"2348030000009:1"}]"#,
        )
        .unwrap();
        let mut tally = Tally::default();
        tally.read_ledger(&ledger, "2348030000001", "2348030000002");
        assert_eq!(
            tally.outbound.arrived,
            BTreeMap::from([("A".to_owned(), 1)])
        );
        assert_eq!(tally.outbound.settled, BTreeSet::from(["A".to_owned()]));
        assert_eq!(tally.inbound.settled, BTreeSet::from(["B".to_owned()]));
        assert_eq!(tally.violations, ["x:1: reused"]);
    }
}
