//! Passphrases and lists of recipients, from files or a terminal.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use console::Term;
use zeroize::Zeroizing;

use crate::cli::exit::{Exit, Failure};

/// A passphrase instead of recipients and identities.
#[derive(Debug, Args)]
pub(super) struct PassphraseArgs {
    /// Use the passphrase in this file (its first line)
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase")]
    passphrase_file: Option<PathBuf>,
    /// Ask for a passphrase
    #[arg(long)]
    passphrase: bool,
}

impl PassphraseArgs {
    /// Whether one is to be used.
    pub(super) fn is_given(&self) -> bool {
        self.passphrase || self.passphrase_file.is_some()
    }

    /// The passphrase, if one is to be used; `twice`: a new one, asked for twice.
    pub(super) fn read(&self, twice: bool) -> Result<Option<Zeroizing<String>>, Failure> {
        let text = match &self.passphrase_file {
            Some(path) => {
                let text = Zeroizing::new(read(path)?);
                Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
            }
            None if self.passphrase => ask(twice)?,
            None => return Ok(None),
        };
        if text.is_empty() {
            return Err(Failure::new(Exit::Usage, "the passphrase is empty"));
        }
        Ok(Some(text))
    }
}

fn ask(twice: bool) -> Result<Zeroizing<String>, Failure> {
    let term = Term::stderr();
    if !term.is_term() {
        return Err(Failure::new(
            Exit::Usage,
            "--passphrase asks at a terminal, and there is none; use --passphrase-file",
        ));
    }
    let line = |prompt: &str| -> Result<Zeroizing<String>, Failure> {
        term.write_str(prompt)?;
        Ok(Zeroizing::new(term.read_secure_line()?))
    };
    let first = line("Passphrase: ")?;
    if twice && *first != *line("The same again: ")? {
        return Err(Failure::new(Exit::Usage, "the passphrases differ"));
    }
    Ok(first)
}

/// The text of a small file.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Io, format!("{}: {error}", path.display())))
}

/// Recipients as they stand in a file: one a line; empty lines and those that begin with `#` do not count.
pub(super) fn recipients(path: &Path) -> Result<Vec<String>, Failure> {
    let text = read(path)?;
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}
