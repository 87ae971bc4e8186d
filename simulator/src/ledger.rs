//! The truth: what happened on the simulated server, in order, from its own point of view.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::noise::NoisePattern;

/// One fact. `device` fields read `<phone digits>:<device>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fact {
    /// A TCP connection was refused by an ordered fault.
    Refused,
    /// A Noise handshake completed.
    Handshake {
        /// Connection number, unique within the simulator.
        connection: u64,
        /// How it completed.
        pattern: NoisePattern,
    },
    /// A handshake or frame could not be read; the connection was closed.
    ProtocolError {
        /// Connection number.
        connection: u64,
        /// What was wrong.
        reason: String,
    },
    /// An unlinked client asked for pairing and got QR references.
    PairingStarted {
        /// Connection number.
        connection: u64,
    },
    /// A phone scanned the client's QR; `<pair-success>` was sent.
    Scanned {
        /// Connection number.
        connection: u64,
        /// The device number that was offered.
        device: String,
    },
    /// An unlinked client asked for a pairing code to be typed on a phone.
    CodeRequested {
        /// Connection number.
        connection: u64,
        /// The phone's number, digits only.
        phone: String,
    },
    /// A person typed a code; the waiting client was told (`primary_hello`). Whether it was the
    /// right one shows in the client's answer.
    CodeEntered {
        /// Connection number.
        connection: u64,
        /// The phone's number, digits only.
        phone: String,
    },
    /// The client's answer opened under the code; `<pair-success>` was sent.
    CodeAccepted {
        /// Connection number.
        connection: u64,
        /// The device number that was offered.
        device: String,
    },
    /// A request for a code, or an attempt to link by it, came to nothing.
    CodeRefused {
        /// Connection number.
        connection: u64,
        /// Why.
        reason: String,
    },
    /// The client was told that its code is void and to ask for another (`refresh_code`).
    CodeVoided {
        /// Connection number.
        connection: u64,
    },
    /// The client was asked for the account's passkey instead of being linked.
    PasskeyDemanded {
        /// Connection number.
        connection: u64,
        /// The account's phone number, digits only.
        phone: String,
    },
    /// The client proved the link; the device exists from here on.
    Paired {
        /// The new device.
        device: String,
    },
    /// The client's answer to `<pair-success>` was not accepted.
    PairingRefused {
        /// The device number that was offered.
        device: String,
        /// Why.
        reason: String,
    },
    /// A linked device logged in.
    Login {
        /// Connection number.
        connection: u64,
        /// Who.
        device: String,
    },
    /// A login was answered with `<failure>`.
    LoginRefused {
        /// Connection number.
        connection: u64,
        /// Who it claimed to be.
        device: String,
        /// The `reason` that was sent.
        reason: u16,
    },
    /// A logged-in device left passive mode; its queue starts to flow.
    Active {
        /// Who.
        device: String,
        /// Stanzas that waited for it.
        backlog: usize,
    },
    /// A connection ended.
    Closed {
        /// Connection number.
        connection: u64,
        /// Who, once known.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// A device is not linked any more.
    Unlinked {
        /// Who.
        device: String,
    },
    /// One-time prekeys were published.
    PrekeysUploaded {
        /// Whose.
        device: String,
        /// How many.
        count: usize,
    },
    /// A one-time prekey was handed out; it never is again.
    PrekeyTaken {
        /// Whose.
        device: String,
        /// To whom.
        by: String,
        /// Its id; none when the pool was empty.
        id: Option<u32>,
    },
    /// The server took a message for delivery.
    MessageAccepted {
        /// Stanza id.
        id: String,
        /// Sending device.
        from: String,
        /// The chat, as the sender addressed it.
        to: String,
        /// Devices it was queued for.
        recipients: Vec<String>,
    },
    /// The server answered a message with an error.
    MessageRefused {
        /// Stanza id.
        id: String,
        /// Sending device.
        from: String,
        /// The `error` that was sent.
        error: u16,
    },
    /// The server's ack for an accepted message was sent (not: withheld).
    MessageAcked {
        /// Stanza id.
        id: String,
        /// The device it was sent to.
        to: String,
    },
    /// A stanza left for a device.
    Delivered {
        /// `message`, `receipt`, `notification` or `call`.
        class: String,
        /// Stanza id.
        id: String,
        /// Sending device, or the server.
        from: String,
        /// Receiving device.
        to: String,
        /// 1 for the first time, then counting.
        attempt: u32,
        /// Whether it was sent as part of the offline backlog.
        offline: bool,
    },
    /// A device confirmed a stanza, which left its queue.
    Confirmed {
        /// `message`, `receipt`, `notification` or `call`.
        class: String,
        /// Stanza id.
        id: String,
        /// The confirming device.
        by: String,
        /// The `error` of a negative ack.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A device sent a receipt.
    Receipt {
        /// Message ids, all that were listed.
        ids: Vec<String>,
        /// Who sent it.
        from: String,
        /// To whom.
        to: String,
        /// `delivery` when the stanza had no type, `offer` when it says that a call rings.
        kind: String,
    },
    /// A token was given to somebody who is trusted with it.
    TokenGiven {
        /// The device that gave it.
        by: String,
        /// Who got it, as phone digits.
        to: String,
    },
    /// A message came with a token that its recipient had given to the sender.
    TokenShown {
        /// Stanza id of the message.
        id: String,
        /// Sending device.
        by: String,
        /// The recipient, as phone digits.
        to: String,
    },
    /// A call rang (`offer`), was given up (`terminate`), taken (`accept`) or refused (`reject`).
    Call {
        /// Call id.
        id: String,
        /// What.
        what: String,
        /// The device that did it.
        by: String,
        /// Who is called, as phone digits.
        to: String,
    },
    /// A group was created (`create`) or changed (`add`, `remove`, `promote`, `demote`, `subject`).
    GroupChanged {
        /// `<digits>@g.us`
        group: String,
        /// Who did it.
        by: String,
        /// What.
        what: String,
        /// Whom it concerned, as phone digits.
        members: Vec<String>,
    },
    /// A person's phone put a message on the screen.
    Displayed {
        /// Stanza id.
        id: String,
        /// Whose phone.
        by: String,
        /// The sending device as the stanza named it.
        from: String,
    },
    /// The media host took a blob.
    MediaStored {
        /// Media type, as in the path: `image`, `document`, `md-app-state`…
        kind: String,
        /// Where it is fetched from, on the media host.
        path: String,
        /// Length of the encrypted blob in bytes.
        size: u64,
        /// Who uploaded it; `server` for what the server itself put there.
        by: String,
    },
    /// The media host gave a blob away.
    MediaFetched {
        /// Media type, as in the path.
        kind: String,
        /// Where it was fetched from, without query.
        path: String,
        /// Who, if the request named a ticket: WhatsApp's hosts do not demand one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The media host refused a request.
    MediaRefused {
        /// `upload` or `download`.
        transfer: String,
        /// HTTP status.
        status: u16,
        /// Why.
        reason: String,
        /// Who, if the request named a ticket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A client did something WhatsApp would not accept.
    Violation {
        /// Who.
        device: String,
        /// What.
        what: String,
        /// Stanza id, when there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    /// A client asked for something this simulator does not know.
    Unknown {
        /// Who.
        device: String,
        /// What it was.
        what: String,
    },
    /// A fault took effect.
    Fault {
        /// Its name.
        fault: String,
        /// Whom it hit.
        device: String,
    },
}

/// A fact with its place and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Position, counting from 0 without gaps.
    pub seq: u64,
    /// Milliseconds since the Unix epoch, by the simulator's clock.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// Append-only list of facts.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
}

impl Ledger {
    pub(crate) fn append(&mut self, at: u64, fact: Fact) {
        let seq = self.entries.len() as u64;
        tracing::debug!(seq, ?fact, "ledger");
        self.entries.push(Entry { seq, at, fact });
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Entries with `seq` at or after `from`.
    pub fn since(&self, from: u64) -> &[Entry] {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.entries.get(from..).unwrap_or_default()
    }

    /// The facts alone, oldest first.
    pub fn facts(&self) -> impl DoubleEndedIterator<Item = &Fact> {
        self.entries.iter().map(|entry| &entry.fact)
    }

    /// How often the server accepted each message id of a sending device
    /// (`<phone digits>:<device>`): more than once means that the client sent it again.
    pub fn accepted_from(&self, device: &str) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for fact in self.facts() {
            if let Fact::MessageAccepted { id, from, .. } = fact
                && from == device
            {
                *counts.entry(id.as_str()).or_default() += 1;
            }
        }
        counts
    }

    /// How often each message id was put on the screen of a phone (digits).
    pub fn displayed_by(&self, phone: &str) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for fact in self.facts() {
            if let Fact::Displayed { id, by, .. } = fact
                && by == phone
            {
                *counts.entry(id.as_str()).or_default() += 1;
            }
        }
        counts
    }

    /// Everything clients did that WhatsApp would not accept.
    pub fn violations(&self) -> Vec<&Entry> {
        self.entries
            .iter()
            .filter(|entry| matches!(entry.fact, Fact::Violation { .. }))
            .collect()
    }
}
