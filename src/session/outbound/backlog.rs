//! Which message goes next: first in, first out per chat; urgent before the rest without starving it.
//!
//! Pure: time is passed in. A chat has at most one message on the wire, so that the order within it is
//! the order in which the server accepts. A chat is as urgent as its most urgent message, because that
//! message has to wait for those before it. A message that is scheduled for later joins its chat when it
//! is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::domain::clock::Timestamp;
use crate::domain::ids::MessageId;
use crate::domain::message::{MessageState, Priority};
use crate::store::{Hash, QueueEntry};

/// Classes, most urgent first.
const CLASSES: usize = 3;

/// How often a class may be passed over while it has work.
const PATIENCE: [u32; CLASSES] = [0, 4, 12];

fn class(priority: Priority) -> usize {
    match priority {
        Priority::Reply => 0,
        Priority::Transactional => 1,
        Priority::Bulk => 2,
    }
}

#[derive(Debug, Default)]
struct Chat {
    waiting: BTreeMap<u64, QueueEntry>,
    /// How many of them are in each class.
    classes: [usize; CLASSES],
    on_the_wire: bool,
    held_until: Option<Duration>,
    /// Its first message waits for a place among the uploads.
    parked: bool,
    /// Where it stands in `ready`.
    listed: Option<(usize, u64)>,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    chats: HashMap<Hash, Chat>,
    /// Chats whose first message may go, by the position of that message.
    ready: [BTreeMap<u64, Hash>; CLASSES],
    passed_over: [u32; CLASSES],
    scheduled: BTreeMap<(Timestamp, u64), QueueEntry>,
    held: BTreeSet<(Duration, Hash)>,
    parked: Vec<Hash>,
    /// Deadlines of messages that are not on the wire.
    deadlines: BTreeMap<(Timestamp, u64), Place>,
    /// Messages that are due, in the order of acceptance.
    due: BTreeMap<u64, MessageId>,
}

/// Where a message waits.
#[derive(Debug, Clone, Copy)]
enum Place {
    Chat(Hash),
    Schedule(Timestamp),
}

impl Backlog {
    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.due.len() + self.scheduled.len()
    }

    /// The message that has been due for longest, by acceptance.
    pub(super) fn oldest(&self) -> Option<MessageId> {
        self.due.values().next().copied()
    }

    /// Takes a message in.
    pub(super) fn add(&mut self, entry: QueueEntry, now: Timestamp) {
        if let Some(at) = entry.send_after.filter(|at| *at > now)
            && entry.state == MessageState::Queued
        {
            if let Some(end) = entry.expire_at {
                self.deadlines.insert((end, entry.seq), Place::Schedule(at));
            }
            self.scheduled.insert((at, entry.seq), entry);
            return;
        }
        if let Some(at) = entry.expire_at {
            self.deadlines
                .insert((at, entry.seq), Place::Chat(entry.chat));
        }
        let chat = self.chats.entry(entry.chat).or_default();
        if chat.waiting.insert(entry.seq, entry).is_none() {
            chat.classes[class(entry.priority)] += 1;
            self.due.insert(entry.seq, entry.id);
        }
        self.relist(entry.chat);
    }

    /// Lets in what has become due and releases what was held.
    pub(super) fn wake(&mut self, now: Timestamp, elapsed: Duration) {
        while let Some((at, seq)) = self
            .scheduled
            .keys()
            .next()
            .copied()
            .filter(|key| key.0 <= now)
        {
            if let Some(entry) = self.scheduled.remove(&(at, seq)) {
                self.add(entry, now);
            }
        }
        while let Some((at, hash)) = self.held.first().copied().filter(|held| held.0 <= elapsed) {
            self.held.remove(&(at, hash));
            if let Some(chat) = self.chats.get_mut(&hash) {
                chat.held_until = None;
            }
            self.relist(hash);
        }
    }

    /// Removes and returns messages whose deadline has passed before they reached the wire; they are
    /// QUEUED, or SENDING from an earlier connection.
    pub(super) fn take_expired(&mut self, now: Timestamp) -> Vec<QueueEntry> {
        let mut expired = Vec::new();
        while let Some((at, seq)) = self
            .deadlines
            .keys()
            .next()
            .copied()
            .filter(|key| key.0 <= now)
        {
            match self.deadlines.remove(&(at, seq)) {
                Some(Place::Chat(hash)) => expired.extend(self.remove(hash, seq)),
                Some(Place::Schedule(due)) => expired.extend(self.scheduled.remove(&(due, seq))),
                None => break,
            }
        }
        expired
    }

    /// The message that should go next, without taking it.
    pub(super) fn peek(&self) -> Option<QueueEntry> {
        let class = self.next_class()?;
        let (seq, hash) = self.ready[class].iter().next()?;
        self.chats.get(hash)?.waiting.get(seq).copied()
    }

    /// Takes what [`Self::peek`] gave: its chat is busy until [`Self::done`].
    pub(super) fn start(&mut self, entry: &QueueEntry) {
        if let Some(chosen) = self.next_class() {
            for class in 0..CLASSES {
                let waits = class != chosen && !self.ready[class].is_empty();
                let so_far = self.passed_over[class];
                self.passed_over[class] = if waits { so_far.saturating_add(1) } else { 0 };
            }
        }
        self.remove(entry.chat, entry.seq);
        let chat = self.chats.entry(entry.chat).or_default();
        chat.on_the_wire = true;
        self.relist(entry.chat);
    }

    /// The chat's message has left the wire, one way or another.
    pub(super) fn done(&mut self, hash: Hash) {
        if let Some(chat) = self.chats.get_mut(&hash) {
            chat.on_the_wire = false;
        }
        self.relist(hash);
    }

    /// Nothing of this chat goes before `until`.
    pub(super) fn hold(&mut self, hash: Hash, until: Duration) {
        let chat = self.chats.entry(hash).or_default();
        if let Some(before) = chat.held_until.replace(until) {
            self.held.remove(&(before, hash));
        }
        self.held.insert((until, hash));
        self.relist(hash);
    }

    /// Passes a chat over until [`Self::unpark`].
    pub(super) fn park(&mut self, hash: Hash) {
        if let Some(chat) = self.chats.get_mut(&hash)
            && !std::mem::replace(&mut chat.parked, true)
        {
            self.parked.push(hash);
        }
        self.relist(hash);
    }

    /// Looks at every chat again that was passed over.
    pub(super) fn unpark(&mut self) {
        for hash in std::mem::take(&mut self.parked) {
            if let Some(chat) = self.chats.get_mut(&hash) {
                chat.parked = false;
            }
            self.relist(hash);
        }
    }

    /// When something becomes due: by wall time (schedules and deadlines), by monotonic time (holds).
    pub(super) fn next_wake(&self) -> (Option<Timestamp>, Option<Duration>) {
        let scheduled = self.scheduled.keys().next().map(|key| key.0);
        let deadline = self.deadlines.keys().next().map(|key| key.0);
        let wall = match (scheduled, deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        (wall, self.held.first().map(|held| held.0))
    }

    fn next_class(&self) -> Option<usize> {
        let waiting = |class: &usize| !self.ready[*class].is_empty();
        let starving =
            |class: &usize| PATIENCE[*class] > 0 && self.passed_over[*class] >= PATIENCE[*class];
        let last_resort = (0..CLASSES)
            .rev()
            .find(|class| waiting(class) && starving(class));
        last_resort.or_else(|| (0..CLASSES).find(waiting))
    }

    fn remove(&mut self, hash: Hash, seq: u64) -> Option<QueueEntry> {
        let chat = self.chats.get_mut(&hash)?;
        let entry = chat.waiting.remove(&seq)?;
        chat.classes[class(entry.priority)] -= 1;
        self.due.remove(&seq);
        // What it was parked for may have been this one.
        chat.parked = false;
        if let Some(at) = entry.expire_at {
            self.deadlines.remove(&(at, seq));
        }
        self.relist(hash);
        Some(entry)
    }

    fn relist(&mut self, hash: Hash) {
        let Some(chat) = self.chats.get_mut(&hash) else {
            return;
        };
        if let Some((class, seq)) = chat.listed.take() {
            self.ready[class].remove(&seq);
        }
        let free = !chat.on_the_wire && chat.held_until.is_none() && !chat.parked;
        match chat.waiting.keys().next().copied() {
            Some(seq) if free => {
                let class = chat.classes.iter().position(|count| *count > 0);
                let class = class.unwrap_or(CLASSES - 1);
                self.ready[class].insert(seq, hash);
                chat.listed = Some((class, seq));
            }
            None if free => {
                self.chats.remove(&hash);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(seq: u64, chat: u8, priority: Priority) -> QueueEntry {
        QueueEntry {
            seq,
            id: MessageId(uuid::Uuid::from_u128(u128::from(seq))),
            chat: Hash([chat; 16]),
            priority,
            send_after: None,
            expire_at: None,
            state: MessageState::Queued,
            awaits_upload: false,
        }
    }

    #[test]
    fn a_chat_that_is_passed_over_keeps_its_place() {
        let mut backlog = Backlog::default();
        for (seq, chat, priority) in [
            (1, 1, Priority::Bulk),
            (2, 2, Priority::Reply),
            (3, 1, Priority::Bulk),
        ] {
            backlog.add(entry(seq, chat, priority), now());
        }
        backlog.park(Hash([1; 16]));
        backlog.park(Hash([2; 16]));
        assert_eq!((next(&mut backlog), backlog.len()), (None, 3));
        backlog.unpark();
        assert_eq!(next(&mut backlog), Some(2), "the urgent one first");
        assert_eq!(next(&mut backlog), Some(1));
        backlog.done(Hash([1; 16]));
        backlog.park(Hash([1; 16]));
        let expiring = QueueEntry {
            expire_at: Some(Timestamp(2_000)),
            ..entry(4, 3, Priority::Bulk)
        };
        backlog.add(expiring, now());
        backlog.park(Hash([3; 16]));
        let expired = backlog.take_expired(Timestamp(2_000));
        assert_eq!(expired.len(), 1, "deadlines hold for it too");
        backlog.unpark();
        assert_eq!(next(&mut backlog), Some(3));
    }

    fn now() -> Timestamp {
        Timestamp(1_000)
    }

    fn next(backlog: &mut Backlog) -> Option<u64> {
        let entry = backlog.peek()?;
        backlog.start(&entry);
        Some(entry.seq)
    }

    #[test]
    fn a_chat_has_one_message_on_the_wire_and_keeps_its_order() {
        let mut backlog = Backlog::default();
        for seq in [3, 1, 2] {
            backlog.add(entry(seq, 1, Priority::Bulk), now());
        }
        assert_eq!(next(&mut backlog), Some(1));
        assert_eq!(next(&mut backlog), None);
        backlog.done(Hash([1; 16]));
        assert_eq!(next(&mut backlog), Some(2));
        backlog.done(Hash([1; 16]));
        assert_eq!(next(&mut backlog), Some(3));
    }

    #[test]
    fn a_reply_lifts_what_stands_before_it_in_its_chat() {
        let mut backlog = Backlog::default();
        backlog.add(entry(1, 1, Priority::Transactional), now());
        backlog.add(entry(2, 2, Priority::Bulk), now());
        backlog.add(entry(3, 2, Priority::Reply), now());
        assert_eq!(next(&mut backlog), Some(2));
        backlog.done(Hash([2; 16]));
        assert_eq!(next(&mut backlog), Some(3));
        assert_eq!(next(&mut backlog), Some(1));
    }

    #[test]
    fn a_flood_of_replies_starves_nobody() {
        let mut backlog = Backlog::default();
        for seq in 0..200_u8 {
            backlog.add(entry(u64::from(seq), seq, Priority::Reply), now());
        }
        backlog.add(entry(1_000, 201, Priority::Transactional), now());
        backlog.add(entry(1_001, 202, Priority::Bulk), now());
        let order: Vec<_> = std::iter::from_fn(|| next(&mut backlog)).collect();
        let place = |seq| order.iter().position(|s| *s == seq).unwrap();
        assert_eq!(order.len(), 202);
        assert!(place(1_000) <= 4, "{}", place(1_000));
        assert!(place(1_001) <= 14, "{}", place(1_001));
    }

    #[test]
    fn schedules_holds_and_deadlines_are_kept() {
        let mut backlog = Backlog::default();
        let mut later = entry(1, 1, Priority::Reply);
        later.send_after = Some(Timestamp(5_000));
        backlog.add(later, now());
        backlog.add(entry(2, 1, Priority::Reply), now());
        let mut short = entry(3, 2, Priority::Reply);
        short.expire_at = Some(Timestamp(4_000));
        backlog.add(short, now());
        backlog.hold(Hash([2; 16]), Duration::from_secs(9));
        assert_eq!(
            backlog.next_wake(),
            (Some(Timestamp(4_000)), Some(Duration::from_secs(9)))
        );
        assert_eq!(next(&mut backlog), Some(2));
        backlog.done(Hash([1; 16]));
        assert_eq!(next(&mut backlog), None);
        backlog.wake(Timestamp(5_000), Duration::from_secs(1));
        assert_eq!(next(&mut backlog), Some(1));
        let expired = backlog.take_expired(Timestamp(4_000));
        assert_eq!(expired.len(), 1);
        backlog.wake(Timestamp(5_000), Duration::from_secs(9));
        assert_eq!(next(&mut backlog), None);
        assert_eq!(backlog.len(), 0);
    }

    proptest! {
        #[test]
        fn every_message_goes_once_and_in_order_within_its_chat(
            messages in prop::collection::vec((0_u8..6, 0_u8..3), 0..120),
            window in 1_usize..5,
        ) {
            let mut backlog = Backlog::default();
            for (seq, (chat, priority)) in messages.iter().enumerate() {
                let priority = [Priority::Reply, Priority::Transactional, Priority::Bulk][usize::from(*priority)];
                backlog.add(entry(seq as u64, *chat, priority), now());
            }
            let mut wire: Vec<QueueEntry> = Vec::new();
            let mut gone: Vec<QueueEntry> = Vec::new();
            loop {
                while wire.len() < window && let Some(entry) = backlog.peek() {
                    prop_assert!(wire.iter().all(|other| other.chat != entry.chat));
                    backlog.start(&entry);
                    wire.push(entry);
                }
                let Some(entry) = wire.pop() else { break };
                backlog.done(entry.chat);
                gone.push(entry);
            }
            prop_assert_eq!(gone.len(), messages.len());
            for chat in 0..6 {
                let order: Vec<_> = gone.iter().filter(|e| e.chat == Hash([chat; 16])).map(|e| e.seq).collect();
                prop_assert!(order.is_sorted());
            }
            prop_assert!(backlog.chats.is_empty());
        }
    }
}
