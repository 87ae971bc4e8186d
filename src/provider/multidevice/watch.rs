//! What is known about the current connection: signs of life, and why it ended.
//!
//! One [`Watch`] per client, shared by its transport, hook, event handler, key backend and run loop.
//! The first verdict of an attempt stands; what the socket itself reports (an end of file, a read
//! error) counts only if nothing better is known, because a socket can end before the stanza that
//! explains it has been looked at.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::session::{Cause, Traffic};

/// Dead air after which an unexplained end is called a stall.
const STALLED_AFTER: Duration = Duration::from_secs(18);

/// How the socket ended, as far as it can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SocketEnd {
    /// It never opened.
    NotOpened(String),
    /// The server closed it in an orderly way, or just stopped.
    Closed,
    /// An I/O error, or a close frame that speaks of one.
    Broken(String),
}

#[derive(Debug, Default)]
struct Attempt {
    verdict: Option<Cause>,
    socket: Option<SocketEnd>,
    logged_in: bool,
    /// Ends the current socket.
    abort: CancellationToken,
    /// Set with a verdict that asks for the connection to be closed.
    close: CancellationToken,
    undecryptable: u64,
    decrypted: u64,
}

/// Times are milliseconds of the clock's monotonic side, plus one; zero means never.
#[derive(Debug, Default)]
struct Marks {
    frame: AtomicU64,
    node: AtomicU64,
    /// First frame since the last node.
    unread_since: AtomicU64,
    frames: AtomicU64,
    last_inbound: AtomicU64,
    last_ack: AtomicU64,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Watch {
    clock: Arc<dyn Clock>,
    attempt: Mutex<Attempt>,
    marks: Marks,
    poisoned: AtomicBool,
    told_paired: AtomicBool,
}

impl Watch {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            attempt: Mutex::default(),
            marks: Marks::default(),
            poisoned: AtomicBool::new(false),
            told_paired: AtomicBool::new(false),
        })
    }

    fn attempt(&self) -> MutexGuard<'_, Attempt> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn age(&self, mark: u64) -> Option<Duration> {
        (mark != 0).then(|| Duration::from_millis(self.mark().saturating_sub(mark)))
    }

    /// Monotonic time now.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Wall time now.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Forgets the previous attempt. Returns the token that asks for the connection to be closed.
    pub(super) fn begin(&self) -> CancellationToken {
        let mut attempt = self.attempt();
        *attempt = Attempt::default();
        for mark in [
            &self.marks.frame,
            &self.marks.node,
            &self.marks.unread_since,
            &self.marks.frames,
        ] {
            mark.store(0, Ordering::Relaxed);
        }
        attempt.close.clone()
    }

    /// Records why the connection ends or must end; the first verdict stands.
    pub(super) fn conclude(&self, cause: Cause) {
        let mut attempt = self.attempt();
        if attempt.verdict.is_none() {
            attempt.verdict = Some(cause);
        }
    }

    /// Records a verdict and asks for the connection to be closed.
    pub(super) fn conclude_and_close(&self, cause: Cause) {
        self.conclude(cause);
        let (close, abort) = {
            let attempt = self.attempt();
            (attempt.close.clone(), attempt.abort.clone())
        };
        close.cancel();
        abort.cancel();
    }

    /// Something could not be made durable: no further Signal state may be written by this client,
    /// or a message whose ratchet step is stored without its row would be acknowledged as a duplicate
    /// when it is delivered again. Closes the connection; the client must be rebuilt.
    pub(super) fn poison(&self, detail: impl Into<String>) {
        let first = !self.poisoned.swap(true, Ordering::SeqCst);
        let cause = Cause::StoreFailed {
            detail: detail.into(),
        };
        if first {
            // Whatever else ends this connection: the client behind it must not be used again.
            self.attempt().verdict = Some(cause.clone());
        }
        self.conclude_and_close(cause);
    }

    /// Whether [`Watch::poison`] was called.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::SeqCst)
    }

    /// Whether it still has to be told that the phone accepted the link; from then on it is told. The
    /// library says so on a task of its own, which the end of the connection may overtake.
    pub(super) fn tell_paired(&self) -> bool {
        !self.told_paired.swap(true, Ordering::SeqCst)
    }

    /// A new socket is about to be opened; cancelling the token ends it.
    pub(super) fn socket_token(&self) -> CancellationToken {
        let mut attempt = self.attempt();
        // A verdict that came before the socket did must still end it.
        if attempt.close.is_cancelled() {
            attempt.abort.cancel();
        } else if attempt.abort.is_cancelled() {
            attempt.abort = CancellationToken::new();
        }
        attempt.abort.clone()
    }

    /// Ends the current socket without saying why.
    pub(super) fn abort_socket(&self) {
        self.attempt().abort.cancel();
    }

    /// Records how the socket ended; the first report stands.
    pub(super) fn socket_ended(&self, end: SocketEnd) {
        let mut attempt = self.attempt();
        if attempt.socket.is_none() {
            attempt.socket = Some(end);
        }
    }

    /// The server accepted the login.
    pub(super) fn logged_in(&self) {
        self.attempt().logged_in = true;
    }

    /// Whether the server accepted the login on this connection.
    pub(super) fn is_logged_in(&self) -> bool {
        self.attempt().logged_in
    }

    /// Bytes arrived.
    pub(super) fn frame_arrived(&self) {
        let mark = self.mark();
        self.marks.frame.store(mark, Ordering::Relaxed);
        self.marks
            .last_inbound
            .store(self.clock.now().0, Ordering::Relaxed);
        // The first frame of a connection is the handshake's and never becomes a node.
        if self.marks.frames.fetch_add(1, Ordering::Relaxed) > 0 {
            let _ = self.marks.unread_since.compare_exchange(
                0,
                mark,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// A stanza was decoded.
    pub(super) fn node_arrived(&self) {
        self.marks.node.store(self.mark(), Ordering::Relaxed);
        self.marks.unread_since.store(0, Ordering::Relaxed);
    }

    /// Whether any stanza arrived on this connection.
    pub(super) fn has_nodes(&self) -> bool {
        self.marks.node.load(Ordering::Relaxed) != 0
    }

    /// The server acknowledged something we sent.
    pub(super) fn ack_arrived(&self) {
        self.marks
            .last_ack
            .store(self.clock.now().0, Ordering::Relaxed);
    }

    /// Messages were decrypted.
    pub(super) fn decrypted(&self, count: usize) {
        self.attempt().decrypted += count as u64;
    }

    /// A message could not be decrypted.
    pub(super) fn undecryptable(&self) {
        self.attempt().undecryptable += 1;
    }

    /// How long nothing has arrived on this connection; `None` before the first frame.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.age(self.marks.frame.load(Ordering::Relaxed))
    }

    /// How long frames have been arriving without one becoming a stanza.
    pub(super) fn undecodable_for(&self) -> Option<Duration> {
        self.age(self.marks.unread_since.load(Ordering::Relaxed))
    }

    /// The numbers for session status.
    pub(super) fn traffic(&self) -> Traffic {
        let time = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Timestamp(at)),
        };
        let attempt = self.attempt();
        Traffic {
            last_inbound: time(&self.marks.last_inbound),
            last_ack: time(&self.marks.last_ack),
            undecryptable: attempt.undecryptable,
            decrypted: attempt.decrypted,
        }
    }

    /// Why the attempt ended, from the best source there is.
    pub(super) fn cause(&self) -> Cause {
        let (verdict, socket, logged_in) = {
            let attempt = self.attempt();
            (
                attempt.verdict.clone(),
                attempt.socket.clone(),
                attempt.logged_in,
            )
        };
        if let Some(cause) = verdict {
            return cause;
        }
        let transient = |detail: &str| Cause::Transient {
            code: None,
            detail: detail.to_owned(),
        };
        match socket {
            Some(SocketEnd::NotOpened(detail)) => transient(&format!("cannot connect: {detail}")),
            Some(SocketEnd::Broken(detail)) => transient(&format!("connection lost: {detail}")),
            // A server that recycles connections does so to sessions that are logged in; before
            // that, reconnecting at once would hammer a server that turns us away.
            Some(SocketEnd::Closed) if logged_in => Cause::Recycled,
            Some(SocketEnd::Closed) => transient("closed by the server before the login finished"),
            None if logged_in && self.silence().is_some_and(|age| age >= STALLED_AFTER) => {
                Cause::Stalled
            }
            None if self.marks.node.load(Ordering::Relaxed) == 0
                && self.marks.frames.load(Ordering::Relaxed) > 0 =>
            {
                transient("the handshake with the server failed")
            }
            None => transient("the connection ended without an event"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::ManualClock;

    fn watch() -> (ManualClock, Arc<Watch>) {
        let clock = ManualClock::at(Timestamp(1_000_000));
        (clock.clone(), Watch::new(Arc::new(clock)))
    }

    #[test]
    fn the_first_verdict_stands_and_beats_the_socket() {
        let (_, watch) = watch();
        watch.begin();
        watch.socket_ended(SocketEnd::Closed);
        watch.conclude(Cause::LoggedOut { code: 401 });
        watch.conclude(Cause::Replaced);
        assert_eq!(watch.cause(), Cause::LoggedOut { code: 401 });
    }

    #[test]
    fn an_end_of_file_is_routine_only_after_login() {
        let (_, watch) = watch();
        watch.begin();
        watch.socket_ended(SocketEnd::Closed);
        assert!(matches!(watch.cause(), Cause::Transient { .. }));
        watch.logged_in();
        assert_eq!(watch.cause(), Cause::Recycled);
        watch.begin();
        assert!(
            matches!(watch.cause(), Cause::Transient { .. }),
            "a new attempt starts clean"
        );
    }

    #[test]
    fn a_quiet_death_after_silence_is_a_stall() {
        let (clock, watch) = watch();
        watch.begin();
        watch.logged_in();
        watch.frame_arrived();
        watch.node_arrived();
        assert!(matches!(watch.cause(), Cause::Transient { .. }));
        clock.advance(Duration::from_secs(20));
        assert_eq!(watch.cause(), Cause::Stalled);
    }

    #[test]
    fn frames_that_never_decode_are_noticed_but_the_handshake_is_not() {
        let (clock, watch) = watch();
        watch.begin();
        watch.frame_arrived();
        clock.advance(Duration::from_mins(1));
        assert_eq!(watch.undecodable_for(), None, "only the handshake so far");
        watch.frame_arrived();
        clock.advance(Duration::from_secs(5));
        watch.frame_arrived();
        assert_eq!(watch.undecodable_for(), Some(Duration::from_secs(5)));
        watch.node_arrived();
        assert_eq!(watch.undecodable_for(), None);
    }

    #[test]
    fn poison_closes_and_stays() {
        let (_, watch) = watch();
        let close = watch.begin();
        let socket = watch.socket_token();
        watch.conclude(Cause::Recycled);
        watch.poison("disk full");
        assert!(close.is_cancelled() && socket.is_cancelled() && watch.is_poisoned());
        assert!(matches!(watch.cause(), Cause::StoreFailed { .. }));
        assert!(
            watch.socket_token().is_cancelled(),
            "a socket opened too late ends at once"
        );
    }
}
