//! Where a pairing is shown: drawn on a terminal, told line by line anywhere else.

use std::time::Duration;

use super::picture::{Picture, Size};
use crate::cli::exit::Failure;
use crate::cli::output::Output;

/// The part of standard output that shows the pairing.
#[derive(Debug)]
pub(crate) struct Screen {
    output: Output,
    picture: Picture,
}

impl Screen {
    /// Nothing is drawn yet.
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            picture: Picture::default(),
        }
    }

    /// Shows a QR instead of the previous one, or its text where no QR can be shown.
    pub(crate) fn qr(&mut self, payload: &str, ttl: Duration) -> Result<(), Failure> {
        if self.output.is_screen() {
            return self.output.raw(&self.picture.qr(payload, size()));
        }
        let seconds = ttl.as_secs();
        self.output
            .line(&format!("QR payload, valid for {seconds} s: {payload}"))
    }

    /// Shows a code to type on the phone.
    pub(crate) fn code(&mut self, code: &str, ttl: Duration) -> Result<(), Failure> {
        if self.output.is_screen() {
            return self.output.raw(&self.picture.code(code));
        }
        let seconds = ttl.as_secs();
        self.output
            .line(&format!("code, valid for {seconds} s: {code}"))
    }

    /// Rewrites the line below the drawing.
    pub(crate) fn countdown(&mut self, left: Duration) -> Result<(), Failure> {
        if self.output.is_screen() {
            self.output.raw(&self.picture.countdown(left, size()))?;
        }
        Ok(())
    }

    /// Leaves the countdown line behind.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        if self.output.is_screen() {
            self.output.raw(self.picture.end())?;
        }
        Ok(())
    }
}

/// The terminal's size; none where it does not say.
fn size() -> Option<Size> {
    let (rows, columns) = console::Term::stdout().size_checked()?;
    Some(Size {
        rows: rows.into(),
        columns: columns.into(),
    })
}
