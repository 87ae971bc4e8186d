//! What is true while a fault lasts: looked at again and again, from its beginning to its end.

use std::time::Duration;

use trunkline::pb::{ConnectionState, LoginState};
use trunkline_simulator::Fact;

use crate::fleet::{Fleet, Line, PATIENCE, SIMULTANEOUS};
use crate::script::{During, Lasts, Reach, Socket, Step};
use crate::support::core::session;
use crate::support::eventually;
use crate::voices::Presence;

/// Looks at a fault that lasts until it is lifted.
const LOOKS: usize = 5;
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A place in the ledger.
pub(crate) struct Mark(u64);

impl Fleet {
    /// The present end of the ledger.
    pub(crate) fn mark(&self) -> Mark {
        let entries = self.simulator.look(|truth| truth.ledger().entries().len());
        Mark(entries as u64)
    }

    fn count(&self, mark: &Mark, wanted: impl Fn(&Fact) -> bool) -> usize {
        self.simulator.look(|truth| {
            let since = truth.ledger().since(mark.0).iter();
            since.filter(|entry| wanted(&entry.fact)).count()
        })
    }

    fn logins_since(&self, mark: &Mark, line: &Line) -> usize {
        let label = line.label();
        self.count(
            mark,
            |fact| matches!(fact, Fact::Login { device, .. } if *device == label),
        )
    }

    fn has_socket(&self, line: &Line) -> bool {
        let phone = line.owner.phone();
        self.simulator
            .look(|truth| truth.is_online(&phone, line.device))
    }

    async fn state_of(&self, line: &Line) -> (ConnectionState, LoginState) {
        let said = session(&self.channel, &line.name).await.unwrap();
        let connection = said.connection.clone().unwrap_or_default();
        (connection.state(), said.login())
    }

    /// Looks until the fault is over, or often enough if it lasts until it is lifted.
    pub(crate) async fn watch(&self, step: Step, line: usize, during: During, mark: &Mark) {
        let struck: Vec<usize> = match during.reach {
            Reach::Line => vec![line],
            Reach::Fleet => (0..self.lines.len()).collect(),
        };
        if during.socket != Socket::Changes {
            self.is_noticed(&struck, during).await;
        }
        let accepted = self.simulator.connections().accepted;
        let watched = async {
            let mut looks = 0;
            loop {
                let over = self.is_over(&struck, during, mark);
                self.look(step, &struck, during, mark).await;
                looks += 1;
                if over || (during.lasts == Lasts::UntilLifted && looks == LOOKS) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, watched).await;
        assert!(ended.is_ok(), "{step:?} does not end");
        if during.lasts == Lasts::UntilLifted {
            self.shows(line, during.states).await;
        }
        if step == Step::Unreachable {
            let now = self.simulator.connections();
            assert_eq!((now.accepted, now.handshaking), (accepted, 0), "{now:?}");
        }
    }

    /// A daemon may need a moment to notice. From then on it may not say anything else.
    async fn is_noticed(&self, struck: &[usize], during: During) {
        for &n in struck {
            let line = &self.lines[n];
            let what = format!("{} is in one of {:?}", line.name, during.states);
            eventually(&what, PATIENCE, async || {
                during.states.contains(&self.state_of(line).await.0)
            })
            .await;
        }
    }

    fn is_over(&self, struck: &[usize], during: During, mark: &Mark) -> bool {
        let back = |n: &usize| self.logins_since(mark, &self.lines[*n]) > 0;
        match during.lasts {
            Lasts::UntilLifted => false,
            Lasts::UntilBack => struck.iter().all(back),
            Lasts::Strikes(times) => struck.iter().all(|&n| {
                let label = self.lines[n].label();
                let strikes = self.count(
                    mark,
                    |fact| matches!(fact, Fact::Fault { device, .. } if *device == label),
                );
                strikes >= times
            }),
        }
    }

    async fn look(&self, step: Step, struck: &[usize], during: During, mark: &Mark) {
        for (n, line) in self.lines.iter().enumerate() {
            let before = self.has_socket(line);
            let (state, login) = self.state_of(line).await;
            let after = self.has_socket(line);
            let seen = format!(
                "{step:?} on {struck:?}: {} is {state:?}, {login:?}; a socket: {before}, {after}",
                line.name
            );
            if !struck.contains(&n) {
                assert_eq!(state, ConnectionState::Online, "not struck; {seen}");
                assert_eq!(login, LoginState::Paired, "not struck; {seen}");
                assert!(before && after, "not struck; {seen}");
                assert_eq!(self.logins_since(mark, line), 0, "not struck; {seen}");
                continue;
            }
            assert!(during.states.contains(&state), "{seen}");
            let unlinked = step == Step::Unlinked;
            let linked = if unlinked {
                LoginState::LoggedOut
            } else {
                LoginState::Paired
            };
            assert_eq!(login, linked, "{seen}");
            match during.socket {
                Socket::Kept => {
                    assert!(before && after, "{seen}");
                    assert_eq!(self.logins_since(mark, line), 0, "{seen}");
                }
                Socket::None => assert!(!before && !after, "{seen}"),
                Socket::Changes if state == ConnectionState::Online && !before && !after => {
                    self.is_taken_back(line).await;
                }
                Socket::Unheard | Socket::Changes => {}
            }
        }
        let handshakes = self.simulator.connections().peak_handshaking;
        assert!(
            handshakes <= SIMULTANEOUS,
            "{handshakes} handshakes at once"
        );
        self.is(Presence::Serving).await;
        self.counts_everybody(struck, during).await;
    }

    /// ONLINE without a socket is a lie, unless it is an old answer.
    async fn is_taken_back(&self, line: &Line) {
        let what = format!("{} is ONLINE only with a socket", line.name);
        eventually(&what, PATIENCE, async || {
            let state = self.state_of(line).await.0;
            state != ConnectionState::Online || self.has_socket(line)
        })
        .await;
    }

    /// The gauge, which is refreshed now and then, counts every session once, and those that are not struck
    /// as online.
    async fn counts_everybody(&self, struck: &[usize], during: During) {
        let spared = self.lines.len() - struck.len();
        eventually("the gauge counts everybody", PATIENCE, async || {
            let gauges = self.gauges().await;
            let online = gauges.get("online").copied().unwrap_or_default();
            let complete = gauges.values().sum::<usize>() == self.lines.len();
            match during.socket {
                Socket::Kept => complete && online == self.lines.len(),
                Socket::None | Socket::Unheard => complete && online == spared,
                Socket::Changes => complete && online >= spared,
            }
        })
        .await;
    }
}
