//! Bars on standard error while something takes long: for a person at a terminal, and for nobody else.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Context;

/// How often a bar moves when nothing else moves it.
const TICK: Duration = Duration::from_millis(200);

/// A running account of bytes; `total` of them in all, if that is known.
pub(crate) fn bytes(context: &Context, what: &'static str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
        None => "{spinner} {msg} {bytes} {bytes_per_sec}",
    };
    bar(context, what, total, template)
}

/// A running account of things, of which nobody knows how many there are.
pub(crate) fn count(context: &Context, what: &'static str) -> ProgressBar {
    bar(context, what, None, "{spinner} {pos} {msg}")
}

fn bar(context: &Context, what: &'static str, total: Option<u64>, template: &str) -> ProgressBar {
    if context.output.is_json() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    // Otherwise what is over before the first tick is never shown.
    bar.tick();
    bar.enable_steady_tick(TICK);
    bar
}
