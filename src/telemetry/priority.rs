//! Tells journald how serious each line is, so that `journalctl --priority=warning` finds it.
//!
//! Lines go to standard error either way, whole and as JSON: journald takes `<4>` at the start of a line
//! as its priority (sd-daemon(3)). The journal's own protocol would carry fields instead of JSON, but
//! past the mask of personal ids, which works on text.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// A writer for log lines that puts journald's priority before each.
#[derive(Debug, Clone)]
pub struct Prioritized<M> {
    inner: M,
    enabled: bool,
}

impl<M> Prioritized<M> {
    /// Marks what goes to `inner` if `enabled`.
    pub fn new(inner: M, enabled: bool) -> Self {
        Self { inner, enabled }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Prioritized<M> {
    type Writer = Marked<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Marked {
            inner: self.inner.make_writer(),
            mark: None,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Marked {
            inner: self.inner.make_writer_for(meta),
            mark: self.enabled.then(|| priority(*meta.level())),
        }
    }
}

/// One line on its way; the formatter hands lines over whole.
#[derive(Debug)]
pub struct Marked<W> {
    inner: W,
    mark: Option<&'static str>,
}

impl<W: Write> Write for Marked<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.mark {
            // In one write, so that no other line comes between the mark and its line.
            Some(mark) => self.inner.write_all(&[mark.as_bytes(), buf].concat())?,
            None => self.inner.write_all(buf)?,
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The priority of syslog(3) for a level.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Whether standard error is the stream that `$JOURNAL_STREAM` names: `device:inode`.
pub(super) fn stderr_is_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|stream| {
        named.to_str() == Some(format!("{}:{}", stream.dev(), stream.ino()).as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_and_its_line_are_one_write() {
        struct Once(Vec<Vec<u8>>);
        impl Write for Once {
            fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
                self.0.push(buf.to_vec());
                Ok(buf.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut line = Marked {
            inner: Once(Vec::new()),
            mark: Some(priority(Level::WARN)),
        };
        line.write_all(b"{\"level\":\"WARN\"}\n").unwrap();
        assert_eq!(line.inner.0, [b"<4>{\"level\":\"WARN\"}\n".to_vec()]);
    }
}
