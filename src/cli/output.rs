//! What commands print: tables for people, JSON for scripts. Nothing else writes to standard output.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::words::one_line;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For scripts: one JSON value per line.
    Json,
}

/// Standard output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    /// Prints in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether scripts read along.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether a person looks at a terminal that can be redrawn.
    pub(crate) fn is_screen(self) -> bool {
        !self.is_json() && io::stdout().is_terminal()
    }

    /// One line.
    ///
    /// # Errors
    /// When standard output is gone.
    #[allow(
        clippy::unused_self,
        reason = "only who was given the output may write to it"
    )]
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        write_out(&format!("{text}\n"))
    }

    /// Text as it is, with control sequences if the caller put some in.
    ///
    /// # Errors
    /// When standard output is gone.
    #[allow(
        clippy::unused_self,
        reason = "only who was given the output may write to it"
    )]
    pub(crate) fn raw(self, text: &str) -> Result<(), Failure> {
        write_out(text)
    }

    /// One JSON value on one line.
    ///
    /// # Errors
    /// When the value has no JSON form or standard output is gone.
    #[allow(
        clippy::unused_self,
        reason = "only who was given the output may write to it"
    )]
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| {
            Failure::new(Exit::Internal, format!("cannot be shown as JSON: {error}"))
        })?;
        write_out(&format!("{text}\n"))
    }

    /// What is known of one thing, a line for each; without those that are empty.
    ///
    /// # Errors
    /// When standard output is gone.
    pub(crate) fn fields(self, fields: &[(&str, String)]) -> Result<(), Failure> {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
            self.line(&format!("{name:<14} {}", one_line(value)))?;
        }
        Ok(())
    }

    /// A table with a header, or `empty` when there are no rows.
    ///
    /// # Errors
    /// When standard output is gone.
    pub(crate) fn table(
        self,
        header: &[&str],
        rows: Vec<Vec<String>>,
        empty: &str,
    ) -> Result<(), Failure> {
        if rows.is_empty() {
            return self.line(empty);
        }
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(header.iter().copied());
        for row in rows {
            table.add_row(row.iter().map(|cell| one_line(cell)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text: Vec<String> = table
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        write_out(&format!("{}\n", text.join("\n")))
    }
}

/// A reader that went away (`| head`) ends the command quietly, as if it had been interrupted.
fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(Exit::Interrupted),
            _ => Failure::new(Exit::Io, format!("standard output: {error}")),
        })
}

/// One line for people on standard error.
pub(crate) fn complain(text: &str) {
    // Nothing is left to tell it to when standard error is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
