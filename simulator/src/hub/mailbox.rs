//! What waits for one device until it confirms it.

use std::collections::VecDeque;

use wacore_binary::Node;

/// Kinds of stanzas that are kept until confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Message,
    Receipt,
    Notification,
    Call,
}

impl Class {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Receipt => "receipt",
            Self::Notification => "notification",
            Self::Call => "call",
        }
    }
}

/// One waiting stanza.
pub(super) struct Letter {
    pub(super) number: u64,
    pub(super) class: Class,
    pub(super) id: String,
    /// `type` of a receipt: one message gets several receipts under one id.
    pub(super) kind: Option<String>,
    /// Sending device, for the ledger.
    pub(super) from: String,
    pub(super) node: Node,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// How often it was sent on the present connection.
    pub(super) copies: u32,
}

/// A device's queue, oldest first.
#[derive(Default)]
pub(super) struct Mailbox {
    letters: VecDeque<Letter>,
    next_number: u64,
    /// Acks still to come for second copies of confirmed letters.
    echoes: Vec<(Class, String)>,
}

impl Mailbox {
    pub(super) fn push(
        &mut self,
        class: Class,
        id: String,
        kind: Option<String>,
        from: String,
        node: Node,
    ) {
        let number = self.next_number;
        self.next_number += 1;
        self.letters.push_back(Letter {
            number,
            class,
            id,
            kind,
            from,
            node,
            attempts: 0,
            copies: 0,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    /// The number the next letter will get.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    pub(super) fn count(&self, class: Class) -> usize {
        self.letters.iter().filter(|l| l.class == class).count()
    }

    /// The first letter numbered `from` or later.
    pub(super) fn first_from(&mut self, from: u64) -> Option<&mut Letter> {
        let index = self.letters.partition_point(|letter| letter.number < from);
        self.letters.get_mut(index)
    }

    /// One `<ack>`: removes the oldest sent letter with this id. `kind`, when given, should match
    /// a receipt's. An ack for the second copy of a letter that was sent twice removes nothing:
    /// a resend of the same id may be waiting behind it.
    pub(super) fn confirm(&mut self, class: Class, id: &str, kind: Option<&str>) -> bool {
        if let Some(index) = self
            .echoes
            .iter()
            .position(|echo| echo.0 == class && echo.1 == id)
        {
            self.echoes.swap_remove(index);
            return false;
        }
        let find = |accept: &dyn Fn(&Letter) -> bool| {
            self.letters
                .iter()
                .position(|letter| letter.class == class && letter.id == id && accept(letter))
        };
        let found = find(&|l| l.copies > 0 && l.kind.as_deref() == kind)
            .or_else(|| find(&|l| l.copies > 0))
            .or_else(|| find(&|l| l.attempts > 0));
        let Some(letter) = found.and_then(|index| self.letters.remove(index)) else {
            return false;
        };
        for _ in 1..letter.copies {
            self.echoes.push((class, letter.id.clone()));
        }
        true
    }

    /// A delivery receipt: the message has arrived, so every sent letter with its id may go.
    /// Returns how many went.
    pub(super) fn confirm_message(&mut self, id: &str) -> usize {
        let before = self.letters.len();
        let arrived = |l: &Letter| l.class == Class::Message && l.id == id && l.attempts > 0;
        self.letters.retain(|letter| !arrived(letter));
        before - self.letters.len()
    }

    /// A new connection: nothing has been sent on it yet.
    pub(super) fn start_over(&mut self) {
        self.echoes.clear();
        for letter in &mut self.letters {
            letter.copies = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wacore_binary::builder::NodeBuilder;

    fn mailbox(ids: &[(&str, Option<&str>)]) -> Mailbox {
        let mut mailbox = Mailbox::default();
        for (id, kind) in ids {
            mailbox.push(
                Class::Receipt,
                (*id).into(),
                kind.map(str::to_owned),
                String::new(),
                NodeBuilder::new("receipt").build(),
            );
        }
        mailbox
    }

    fn sent(mailbox: &mut Mailbox, number: u64) {
        let letter = mailbox.first_from(number).unwrap();
        letter.attempts += 1;
        letter.copies += 1;
    }

    #[test]
    fn the_ack_of_a_second_copy_spares_a_resend_of_the_same_id() {
        let mut mailbox = mailbox(&[("a", None), ("a", None)]);
        sent(&mut mailbox, 0);
        sent(&mut mailbox, 0);
        sent(&mut mailbox, 1);
        assert!(mailbox.confirm(Class::Receipt, "a", None));
        assert!(!mailbox.confirm(Class::Receipt, "a", None));
        assert_eq!(mailbox.len(), 1);
        assert!(mailbox.confirm(Class::Receipt, "a", None));
    }

    #[test]
    fn a_late_ack_on_a_new_connection_still_counts() {
        let mut mailbox = mailbox(&[("a", None)]);
        sent(&mut mailbox, 0);
        mailbox.start_over();
        assert!(mailbox.confirm(Class::Receipt, "a", None));
    }

    #[test]
    fn only_what_was_sent_can_be_confirmed_and_only_once() {
        let mut mailbox = mailbox(&[("a", None)]);
        assert!(!mailbox.confirm(Class::Receipt, "a", None));
        sent(&mut mailbox, 0);
        assert!(!mailbox.confirm(Class::Message, "a", None));
        assert!(mailbox.confirm(Class::Receipt, "a", None));
        assert!(!mailbox.confirm(Class::Receipt, "a", None));
    }

    #[test]
    fn a_typed_ack_takes_the_receipt_of_that_type() {
        let mut mailbox = mailbox(&[("a", None), ("a", Some("read"))]);
        for number in 0..2 {
            sent(&mut mailbox, number);
        }
        assert!(mailbox.confirm(Class::Receipt, "a", Some("read")));
        assert_eq!(mailbox.first_from(0).unwrap().kind, None);
    }

    #[test]
    fn the_cursor_skips_what_was_confirmed() {
        let mut mailbox = mailbox(&[("a", None), ("b", None), ("c", None)]);
        sent(&mut mailbox, 1);
        mailbox.confirm(Class::Receipt, "b", None);
        assert_eq!(mailbox.first_from(1).unwrap().id, "c");
        assert_eq!(mailbox.next_number(), 3);
    }
}
