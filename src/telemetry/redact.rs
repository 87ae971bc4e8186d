//! Masks phone numbers and JIDs in log lines above debug.
//!
//! A safety net, not a licence: in our own lines it knows `+` and digits, and digits before an `@`. A number
//! written any other way (`tel 2348031234567`) looks like any other number there and passes. In the lines of
//! libraries every long number is masked; names of people are not.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Fewest digits that can be somebody's number or LID.
const MIN_DIGITS: usize = 7;
/// How many digits stay, so that lines about the same person can be told apart a little.
const KEPT: usize = 2;

/// Where our own log lines come from; libraries write about people in any form.
const OURS: &str = "trunkline";

/// A writer for log lines that masks personal ids in those above debug.
#[derive(Debug, Clone)]
pub struct Redactor<M> {
    inner: M,
}

impl<M> Redactor<M> {
    /// Masks what goes to `inner`.
    pub fn new(inner: M) -> Self {
        Self { inner }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Redactor<M> {
    type Writer = Line<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line {
            inner: self.inner.make_writer(),
            mask: Mask::Everything,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line {
            inner: self.inner.make_writer_for(meta),
            mask: match (
                *meta.level() < Level::DEBUG,
                meta.target().starts_with(OURS),
            ) {
                (false, _) => Mask::Nothing,
                (true, true) => Mask::Ids,
                (true, false) => Mask::Everything,
            },
        }
    }
}

/// How much of a line is masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mask {
    Nothing,
    /// International numbers and JIDs.
    Ids,
    /// Every number long enough to be somebody's.
    Everything,
}

/// One line on its way; the formatter hands lines over whole.
#[derive(Debug)]
pub struct Line<W> {
    inner: W,
    mask: Mask,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(buf) {
            Ok(text) if self.mask != Mask::Nothing => {
                self.inner.write_all(masked(text, self.mask).as_bytes())?;
            }
            _ => self.inner.write_all(buf)?,
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Masks the digits of international numbers (`+2348031234567`) and of JIDs (`2348031234567:3@…`),
/// leaving the last two.
pub fn scrub(text: &str) -> Cow<'_, str> {
    masked(text, Mask::Ids)
}

fn masked(text: &str, mask: Mask) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        at += bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let is_id =
            mask == Mask::Everything || plus_before(bytes, start) || jid_after(&bytes[at..]);
        if at - start >= MIN_DIGITS && is_id {
            out.push_str(&text[copied..start]);
            out.push('…');
            copied = at - KEPT;
        }
    }
    if copied == 0 && out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

fn plus_before(bytes: &[u8], start: usize) -> bool {
    start > 0 && bytes[start - 1] == b'+'
}

/// Whether a device part (`_1:12`, `:12`, a group's `-1600000000`) and an `@` follow.
fn jid_after(rest: &[u8]) -> bool {
    let tail = rest
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'_' | b'.' | b'-'))
        .count();
    rest.get(tail) == Some(&b'@')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn numbers_and_jids_are_masked_and_nothing_else() {
        for (text, want) in [
            ("to +2348031234567 now", "to +…67 now"),
            ("2348031234567@s.whatsapp.net", "…67@s.whatsapp.net"),
            (
                "from 2348031234567:12@s.whatsapp.net!",
                "from …67:12@s.whatsapp.net!",
            ),
            (
                "123456789012345@lid and 98765432:1@lid",
                "…45@lid and …32:1@lid",
            ),
            ("120363000000000000-1600000000@g.us", "…00-…00@g.us"),
            (
                "2026-11-21T03:14:15.123456789Z took 1234567890 ns",
                "2026-11-21T03:14:15.123456789Z took 1234567890 ns",
            ),
            (
                "port 7433, id 3EB0C767D097E9ECFE5F",
                "port 7433, id 3EB0C767D097E9ECFE5F",
            ),
            ("", ""),
        ] {
            assert_eq!(scrub(text), want);
        }
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_masked_above_debug_only() {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(Redactor::new(move || writer.clone())),
        );
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("library chatter about 2348031234567@s.whatsapp.net");
            tracing::debug!("details about +15551234567");
            tracing::info!(target: "some_library", "a mapping 933403864117800 <-> 15550100001");
            tracing::info!("took 1234567890 ns");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("about …67@s.whatsapp.net"), "{text}");
        assert!(text.contains("about +15551234567"), "{text}");
        assert!(text.contains("a mapping …00 <-> …01"), "{text}");
        assert!(text.contains("took 1234567890 ns"), "{text}");
    }
}
