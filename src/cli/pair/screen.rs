//! What a pairing looks like on a terminal: one QR, redrawn in place, with the seconds it has left.

use std::time::Duration;

use super::qr;
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// The part of the terminal that shows the pairing.
#[derive(Debug)]
pub(crate) struct Screen {
    output: Output,
    /// Lines drawn so far that the next drawing replaces.
    drawn: usize,
}

impl Screen {
    /// Nothing is drawn yet.
    pub(crate) fn new(output: Output) -> Self {
        Self { output, drawn: 0 }
    }

    /// Shows a QR instead of the previous one, or its text where no QR can be shown.
    pub(crate) fn qr(&mut self, payload: &str, ttl: Duration) -> Result<(), Failure> {
        if !self.output.is_screen() {
            return self.output.line(&format!(
                "QR payload, valid for {} s: {payload}",
                ttl.as_secs()
            ));
        }
        let mut text = self.back();
        let lines = qr::draw(payload).unwrap_or_else(|| vec![payload.to_owned()]);
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len();
        self.output.raw(&text)
    }

    /// Shows a code to type on the phone.
    pub(crate) fn code(&mut self, code: &str, ttl: Duration) -> Result<(), Failure> {
        if !self.output.is_screen() {
            return self
                .output
                .line(&format!("code, valid for {} s: {code}", ttl.as_secs()));
        }
        let text = format!(
            "{}On the phone: WhatsApp, Linked devices, Link with phone number instead. Type:\n\n    {code}\n\n",
            self.back()
        );
        self.drawn = 4;
        self.output.raw(&text)
    }

    /// Rewrites the line below the drawing.
    pub(crate) fn countdown(&self, left: Duration) -> Result<(), Failure> {
        if !self.output.is_screen() {
            return Ok(());
        }
        let text = if left.is_zero() {
            "waiting for the next code …".to_owned()
        } else {
            format!(
                "scan with WhatsApp: Settings > Linked devices > Link a device ({:>2} s left)",
                left.as_secs()
            )
        };
        self.output.raw(&format!("\r\x1b[K{text}"))
    }

    /// Leaves the countdown line behind.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        if self.output.is_screen() && self.drawn > 0 {
            self.output.raw("\r\x1b[K")?;
        }
        Ok(())
    }

    /// Moves over what is drawn and wipes it.
    fn back(&self) -> String {
        if self.drawn == 0 {
            String::new()
        } else {
            format!("\r\x1b[{}A\x1b[J", self.drawn)
        }
    }
}
